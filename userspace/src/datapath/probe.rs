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
    checksum,
    outer::{self, PerPacket},
    types::{MacAddr, Vni},
    wire::OuterHeaders,
};

use super::{Error, Maps, attach::Program, guard, learned::Ageing, object};

/// The device packets are run on by `BPF_PROG_TEST_RUN`: `lo`, which is always
/// the first.
const LOOPBACK: u32 = 1;
const PORT: u16 = 4789;
/// Ourselves and a peer, of the addresses for documentation.
const VTEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// An endpoint here, whose MAC address is that of `lo` so that test packets are
/// for the host, and one behind the peer.
const HERE: ([u8; 4], MacAddr) = ([198, 51, 100, 1], MacAddr([0; 6]));
const THERE: ([u8; 4], MacAddr) = ([198, 51, 100, 2], MacAddr([2, 0, 0, 0, 0, 2]));

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
            pad: [0; 2],
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
        let frame = frame(HERE, THERE);
        let length = self.run(Program::FromContainer, &frame)?;
        Ok(length == frame.len() + OVERHEAD_IPV4 as usize)
    }

    /// Whether a packet from the wire loses its outer headers by the program
    /// itself.
    pub fn decapsulates(&mut self, vni: Vni) -> Result<bool, Error> {
        let frame = frame(THERE, HERE);
        let length = self.run(Program::FromUnderlay, &wire_packet(&frame, vni))?;
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
        ipv4: HERE.0,
        mac: HERE.1,
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
    maps.fdb
        .put(FdbKey::new(number, HERE.1), entry(FDB_LOCAL, HERE.0))?;
    let remote = entry(FDB_REMOTE, PEER.octets());
    maps.fdb.put(FdbKey::new(number, THERE.1), remote)?;
    let key = PeerKey {
        vni: number,
        vtep: PEER.octets(),
    };
    maps.peers.put(key, Peer::new(PEER_LEARN, LOOPBACK, outer))
}

/// A UDP datagram from one endpoint to another, in its Ethernet frame.
fn frame(from: ([u8; 4], MacAddr), to: ([u8; 4], MacAddr)) -> Vec<u8> {
    const PAYLOAD: [u8; 18] = *b"vxplane was here..";
    let length = |headers: usize| u16::try_from(headers + PAYLOAD.len()).unwrap_or(u16::MAX);
    let mut ipv4 = [
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    ipv4[2..4].copy_from_slice(&length(28).to_be_bytes());
    ipv4[12..16].copy_from_slice(&from.0);
    ipv4[16..20].copy_from_slice(&to.0);
    let sum = !checksum::sum(&ipv4);
    ipv4[10..12].copy_from_slice(&sum.to_be_bytes());
    let [high, low] = length(8).to_be_bytes();
    let mut frame = Vec::new();
    frame.extend(to.1.0);
    frame.extend(from.1.0);
    frame.extend([0x08, 0x00]);
    frame.extend(ipv4);
    // Ports 7 to 7; no checksum.
    frame.extend([0, 7, 0, 7, high, low, 0, 0]);
    frame.extend(PAYLOAD);
    frame
}

/// `frame` as the peer would send it to us.
fn wire_packet(frame: &[u8], vni: Vni) -> Vec<u8> {
    let mut headers = OuterHeaders([0; outer::HEADER_LEN as usize]);
    let length = u32::try_from(frame.len()).ok().and_then(outer::total_len);
    let per_packet = PerPacket {
        total_len: length.unwrap_or(u16::MAX),
        inner_tos: 0,
        id: 1,
        source_port: 40_000,
    };
    Outer::new(PEER, VTEP, PORT, vni).write(&mut headers, per_packet);
    // Ethernet from and to `lo`.
    let mut packet = vec![0; 12];
    packet.extend([0x08, 0x00]);
    packet.extend(headers.0);
    packet.extend(frame);
    packet
}
