//! Trying the programs out, upon maps that nobody else sees and in a network
//! namespace that is thrown away: what a kernel can do is what it does.

use std::{net::Ipv4Addr, time::Duration};

use aya::{
    Ebpf,
    maps::MapType,
    programs::{
        LinkOrder, ProgramError, ProgramType, SchedClassifier, TcAttachType, TestRun as _,
        TestRunOptions, Xdp, XdpMode,
        tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
    },
    sys::{BpfHelper, is_helper_supported, is_map_supported},
};
use vxplane_common::{
    abi::{
        Config, Endpoint, FDB_LOCAL, FDB_REMOTE, FdbEntry, FdbKey, MAX_LEARNED_PER_NETWORK,
        Network, OVERHEAD_IPV4, Outer, PEER_LEARN, Peer, PeerKey,
    },
    types::{MacAddr, Vni},
};

use super::{
    Error, Maps,
    attach::Program,
    frames::{self, Station, Transport},
    guard,
    learned::Ageing,
    object,
};

/// The device packets are run on by `BPF_PROG_TEST_RUN`: `lo`, which is always
/// the first.
const LOOPBACK: u32 = 1;
const PORT: u16 = 4789;
/// Ourselves and a peer, of the addresses for documentation.
const VTEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// An endpoint here, whose MAC address is that of `lo` so that test packets are
/// for the host, and one behind the peer.
const HERE: Station = Station {
    ip: Ipv4Addr::new(198, 51, 100, 1),
    mac: MacAddr([0; 6]),
};
const THERE: Station = Station {
    ip: Ipv4Addr::new(198, 51, 100, 2),
    mac: MacAddr([2, 0, 0, 0, 0, 2]),
};
/// What they send each other.
const ECHO: Transport = Transport::Udp { from: 7, to: 7 };

/// Whether this kernel has ring buffers.
pub fn has_ring_buffer() -> bool {
    is_map_supported(MapType::RingBuf).unwrap_or(false)
}

/// Whether this kernel hands packets straight into another namespace.
pub fn has_redirect_peer() -> bool {
    is_helper_supported(
        ProgramType::SchedClassifier,
        BpfHelper::BPF_FUNC_redirect_peer,
    )
    .unwrap_or(false)
}

/// The programs, loaded for trying them out.
pub struct Trial {
    programs: Ebpf,
}

impl Trial {
    /// Loads them, as the daemon would.
    pub fn load() -> Result<Self, Error> {
        let config = Config {
            vtep: VTEP.octets(),
            port: PORT.to_be_bytes(),
            source_port_min: 32768,
            source_port_range: 1000,
            gbp: 0,
            fallback_ifindex: LOOPBACK,
            underlay_mtu: 1500,
        };
        let programs = object::load(None, &config)?.programs;
        Ok(Self { programs })
    }

    /// Whether they were compiled to machine code.
    pub fn is_jitted(&self) -> bool {
        let jitted = |program: Program| {
            let program = self.programs.program(program.name())?;
            Some(program.info().ok()?.size_jitted() > 0)
        };
        Program::ALL.into_iter().all(|p| jitted(p) == Some(true))
    }

    /// Attaches one to `device` by TCX and takes it off.
    pub fn attach_tcx(&mut self, device: &str) -> Result<(), Error> {
        self.attach(device, TcAttachOptions::TcxOrder(LinkOrder::default()))
    }

    /// Attaches one to `device` by a clsact qdisc and takes it off.
    pub fn attach_clsact(&mut self, device: &str) -> Result<(), Error> {
        let failed = |source: ProgramError| failed(device, source);
        qdisc_add_clsact(device).map_err(|error| failed(error.into()))?;
        self.attach(device, TcAttachOptions::Netlink(NlOptions::default()))
    }

    fn attach(&mut self, device: &str, options: TcAttachOptions) -> Result<(), Error> {
        let program = self.classifier(Program::FromFallback)?;
        program
            .attach_with_options(device, TcAttachType::Ingress, options)
            .and_then(|id| program.detach(id))
            .map_err(|source| failed(device, source))
    }

    /// Attaches the guard to `device` in its driver and takes it off.
    pub fn attach_native_xdp(&mut self, device: &str) -> Result<(), Error> {
        let program = self.programs.program_mut(guard::PROGRAM);
        let program: &mut Xdp = program
            .and_then(|program| program.try_into().ok())
            .ok_or(Error::Missing(guard::PROGRAM))?;
        program
            .attach(device, XdpMode::Driver)
            .and_then(|id| program.detach(id))
            .map_err(|source| failed(device, source))
    }

    /// Whether a frame from an endpoint gets its outer headers from the program
    /// itself, not by the detour of the slow path.
    pub fn encapsulates(&mut self, vni: Vni) -> Result<bool, Error> {
        // Nothing is learned and aged here.
        let mut maps = Maps::take(&mut self.programs, Ageing::new(Duration::MAX))?;
        wire_up(&mut maps, vni)?;
        let frame = frames::frame(HERE, THERE, ECHO);
        let length = self.run(Program::FromContainer, &frame)?;
        Ok(length == frame.len() + OVERHEAD_IPV4 as usize)
    }

    /// Whether a packet from the wire loses its outer headers by the program
    /// itself.
    pub fn decapsulates(&mut self, vni: Vni) -> Result<bool, Error> {
        let frame = frames::frame(THERE, HERE, ECHO);
        // Its outer MAC addresses are those of `lo`.
        let packet = frames::in_tunnel(&frame, PEER, VTEP, PORT, vni);
        let length = self.run(Program::FromUnderlay, &packet)?;
        Ok(length == frame.len())
    }

    /// Runs a program on a packet and returns how long that is afterwards.
    fn run(&mut self, program: Program, packet: &[u8]) -> Result<usize, Error> {
        let mut after = vec![0; packet.len() + 256];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut after),
            ..TestRunOptions::new()
        };
        let classifier = self.classifier(program)?;
        let result = classifier.test_run(options);
        let result = result.map_err(|source| Error::Verify {
            program: program.name(),
            source: Box::new(source),
        })?;
        Ok(result.data_size_out as usize)
    }

    fn classifier(&mut self, program: Program) -> Result<&mut SchedClassifier, Error> {
        self.programs
            .program_mut(program.name())
            .and_then(|program| program.try_into().ok())
            .ok_or(Error::Missing(program.name()))
    }
}

fn failed(device: &str, source: ProgramError) -> Error {
    Error::Attach {
        program: "a program",
        device: device.to_owned(),
        source: Box::new(source),
    }
}

/// An endpoint here, one there, and the peer between them.
fn wire_up(maps: &mut Maps, vni: Vni) -> Result<(), Error> {
    let outer = Outer::new(VTEP, PEER, PORT, vni);
    let number = vni.get();
    let local = Endpoint {
        vni: number,
        ipv4: HERE.ip.octets(),
        mac: HERE.mac,
        pad: [0; 2],
        slot: 0,
        identity: 0,
        egress: 0,
        ingress: 0,
    };
    maps.endpoints.put(LOOPBACK, local)?;
    maps.networks.put(number, Network { flood_len: 0 })?;
    let budget = vxplane_common::abi::LearnBudget {
        remaining: u64::from(MAX_LEARNED_PER_NETWORK),
        refused: 0,
    };
    maps.learn_budget.put(number, budget)?;
    let entry = |kind, ipv4| FdbEntry {
        kind,
        ifindex: LOOPBACK,
        ipv4,
        slot: 0,
        outer,
    };
    maps.fdb.put(
        FdbKey::new(number, HERE.mac),
        entry(FDB_LOCAL, HERE.ip.octets()),
    )?;
    let remote = entry(FDB_REMOTE, PEER.octets());
    maps.fdb.put(FdbKey::new(number, THERE.mac), remote)?;
    let key = PeerKey {
        vni: number,
        vtep: PEER.octets(),
    };
    maps.peers.put(key, Peer::new(PEER_LEARN, LOOPBACK, outer))
}
