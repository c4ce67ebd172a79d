//! The test bed: one host in a network namespace with the programs loaded, maps
//! of their own, and entries written by hand.
//!
//! ```text
//! network 100:  A 10.1.0.2 on a0     B 10.1.0.3 on b0     R 10.1.0.4 behind VTEP .2
//! network 200:  C 10.2.0.2 on c0
//! VTEPs:        192.0.2.1 this host (u0)   .2 and .3 peers of 100   .4 peer of 200
//! ```

use std::{net::Ipv4Addr, time::Duration};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use vxplane_common::{
    abi::{
        Config, Endpoint, FDB_LOCAL, FDB_REMOTE, FdbEntry, FdbKey, FloodKey, FloodTarget,
        LearnBudget, Neighbour, NeighbourKey, Network, Outer, PEER_LEARN, Peer, PeerKey, map,
    },
    types::{MacAddr, Vni},
};
use vxplane_harness::Netns;

use crate::{
    packets::{IPV4, Mac, ethernet},
    programs::{Program, Programs, TRACE_MARK},
    wire::index,
};

pub(crate) const PORT: u16 = 4789;
pub(crate) const MTU: u32 = 1500;
pub(crate) const SOURCE_PORTS: std::ops::Range<u16> = 40_000..41_000;

pub(crate) const NET: u32 = 100;
pub(crate) const OTHER_NET: u32 = 200;
/// No network of this host.
pub(crate) const NO_NET: u32 = 300;

pub(crate) const A_IP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub(crate) const B_IP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
pub(crate) const R_IP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 4);
pub(crate) const C_IP: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
pub(crate) const A_MAC: Mac = [2, 0x42, 10, 1, 0, 2];
pub(crate) const B_MAC: Mac = [2, 0x42, 10, 1, 0, 3];
pub(crate) const R_MAC: Mac = [2, 0x42, 10, 1, 0, 4];
pub(crate) const C_MAC: Mac = [2, 0x42, 10, 2, 0, 2];
/// Nobody's, until it is learned.
pub(crate) const X_MAC: Mac = [0x0a, 0, 0, 0, 0, 0x77];
pub(crate) const BROADCAST: Mac = [0xff; 6];

/// How the kernel holds a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// A super-packet with segments of this payload.
    pub(crate) gso: u32,
    /// XDP: this much is in the first buffer, the rest in others.
    pub(crate) split: Option<usize>,
    /// It is only traced.
    pub(crate) traced: bool,
}

/// Of the underlay device.
pub(crate) const UNDERLAY_MAC: Mac = [2, 0, 0, 0, 0, 1];
const UNDERLAY_MAC_TEXT: &str = "02:00:00:00:00:01";
/// Of the next hop on the underlay.
pub(crate) const ROUTER_MAC: Mac = [2, 0, 0, 0, 0, 0x99];

pub(crate) const VTEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const PEER_2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
pub(crate) const OTHER_PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 4);
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// Traffic slots.
pub(crate) const A: u32 = 1;
pub(crate) const B: u32 = 2;
pub(crate) const C: u32 = 3;

/// MAC addresses the network may learn.
pub(crate) const BUDGET: u64 = 4;

/// A device of the bed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    A,
    B,
    C,
    Underlay,
    Fallback,
    /// Attached to nothing.
    Stray,
}

impl Device {
    const ALL: [(Self, &'static str); 6] = [
        (Self::A, "a0"),
        (Self::B, "b0"),
        (Self::C, "c0"),
        (Self::Underlay, "u0"),
        (Self::Fallback, "vxplane0"),
        (Self::Stray, "s0"),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(device, _)| *device == self)
            .map(|(_, name)| *name)
            .unwrap()
    }
}

pub(crate) struct Bed {
    pub(crate) netns: Netns,
    /// Where the far ends of the veths are, as in life: `redirect_peer` refuses
    /// to stay in its namespace.
    pub(crate) far: Netns,
    pub(crate) programs: Programs,
}

pub(crate) fn config(fallback_ifindex: u32) -> Config {
    Config {
        vtep: VTEP.octets(),
        port: PORT.to_be_bytes(),
        source_port_min: SOURCE_PORTS.start,
        source_port_range: SOURCE_PORTS.end - SOURCE_PORTS.start,
        gbp: 0,
        fallback_ifindex,
        underlay_mtu: MTU,
    }
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::load("", config)
    }

    /// With the Group Policy extension.
    pub(crate) fn with_groups() -> Self {
        Self::load("gbp", |fallback| Config {
            gbp: 1,
            ..config(fallback)
        })
    }

    fn load(options: &str, config: impl FnOnce(u32) -> Config) -> Self {
        let netns = Netns::new("bed").unwrap();
        let far = Netns::new("bed-far").unwrap();
        for (device, name) in Device::ALL {
            if device != Device::Fallback {
                netns
                    .join(name, &far, &name.replace('0', "1"), MTU)
                    .unwrap();
            }
        }
        netns
            .ip(&format!("link set u0 address {UNDERLAY_MAC_TEXT}"))
            .unwrap();
        netns.address("u0", VTEP, 24).unwrap();
        let external = format!("link add vxplane0 type vxlan external dstport {PORT} {options}");
        netns.ip(&external).unwrap();
        netns.ip("link set vxplane0 up").unwrap();
        for peer in [PEER, PEER_2, OTHER_PEER] {
            netns
                .ip(&format!("neigh add {peer} lladdr 02:00:00:00:00:99 dev u0"))
                .unwrap();
        }
        let fallback = index(&netns, "vxplane0");
        let bed = Self {
            programs: Programs::load(&config(fallback)),
            netns,
            far,
        };
        bed.write_entries();
        bed
    }

    pub(crate) fn ifindex(&self, device: Device) -> u32 {
        index(&self.netns, device.name())
    }

    fn write_entries(&self) {
        let networks = [(NET, 4), (OTHER_NET, 2)];
        for (vni, flood_len) in networks {
            self.programs.put(map::NETWORKS, vni, Network { flood_len });
        }
        self.refill();
        for (device, vni, ip, mac, slot) in [
            (Device::A, NET, A_IP, A_MAC, A),
            (Device::B, NET, B_IP, B_MAC, B),
            (Device::C, OTHER_NET, C_IP, C_MAC, C),
        ] {
            self.attach(device, vni, ip, mac, slot);
        }
        self.programs
            .put(map::FDB, key(NET, R_MAC), self.remote(NET, PEER));
        self.programs.put(
            map::NEIGHBOURS,
            NeighbourKey {
                vni: NET,
                ipv4: R_IP.octets(),
            },
            neighbour(R_MAC),
        );
        for (vni, vtep) in [(NET, PEER), (NET, PEER_2), (OTHER_NET, OTHER_PEER)] {
            self.programs.put(
                map::PEERS,
                peer_key(vni, vtep),
                self.peer(vni, vtep, PEER_LEARN),
            );
        }
        let here = |device, slot| FloodTarget {
            ifindex: self.ifindex(device),
            vtep: [0; 4],
            slot,
        };
        let there = |vtep: Ipv4Addr| FloodTarget {
            ifindex: 0,
            vtep: vtep.octets(),
            slot: 0,
        };
        for (vni, targets) in [
            (
                NET,
                vec![
                    here(Device::A, A),
                    here(Device::B, B),
                    there(PEER),
                    there(PEER_2),
                ],
            ),
            (OTHER_NET, vec![here(Device::C, C), there(OTHER_PEER)]),
        ] {
            for (slot, target) in (0..).zip(targets) {
                self.programs
                    .put(map::FLOOD, FloodKey { vni, slot }, target);
            }
        }
    }

    fn attach(&self, device: Device, vni: u32, ip: Ipv4Addr, mac: Mac, slot: u32) {
        let ifindex = self.ifindex(device);
        let endpoint = Endpoint {
            vni,
            ipv4: ip.octets(),
            mac: MacAddr(mac),
            pad: [0; 2],
            slot,
            identity: 0,
            egress: 0,
            ingress: 0,
        };
        self.programs.put(map::ENDPOINTS, ifindex, endpoint);
        self.programs
            .put(map::FDB, key(vni, mac), local(ifindex, ip, slot));
        let asked = NeighbourKey {
            vni,
            ipv4: ip.octets(),
        };
        self.programs.put(map::NEIGHBOURS, asked, neighbour(mac));
    }

    /// An FDB entry for what is behind a VTEP.
    pub(crate) fn remote(&self, vni: u32, vtep: Ipv4Addr) -> FdbEntry {
        FdbEntry {
            kind: FDB_REMOTE,
            ifindex: self.ifindex(Device::Underlay),
            ipv4: vtep.octets(),
            slot: 0,
            outer: outer(vni, vtep),
        }
    }

    /// A peer entry.
    pub(crate) fn peer(&self, vni: u32, vtep: Ipv4Addr, flags: u32) -> Peer {
        Peer::new(flags, self.ifindex(Device::Underlay), outer(vni, vtep))
    }

    /// Sets every counter to zero, forgets what was learned, and lets the networks
    /// learn again.
    pub(crate) fn reset(&self) {
        self.programs.reset();
        self.refill();
    }

    /// Leaves [`NET`] with its VTEPs and no endpoint to flood to.
    pub(crate) fn put_network_without_endpoints(&self) {
        for slot in 0..2 {
            let vtep = FloodTarget {
                ifindex: 0,
                vtep: PEER.octets(),
                slot: 0,
            };
            self.programs
                .put(map::FLOOD, FloodKey { vni: NET, slot }, vtep);
        }
    }

    /// Lets the networks learn again.
    fn refill(&self) {
        let budget = LearnBudget {
            remaining: BUDGET,
            refused: 0,
        };
        for vni in [NET, OTHER_NET] {
            self.programs.put(map::LEARN_BUDGET, vni, budget);
        }
    }

    /// Runs a program on a packet that came in by `device`; returns its verdict
    /// and the packet afterwards.
    pub(crate) fn run(&self, program: Program, device: Device, packet: &[u8]) -> (i32, Vec<u8>) {
        self.run_with(program, device, Shape::default(), packet)
    }

    /// Runs a program so many times and returns how long one run took.
    pub(crate) fn time(
        &self,
        program: Program,
        device: Device,
        packet: &[u8],
        repeat: u32,
    ) -> Duration {
        let ctx = skb_context(self.ifindex(device), Shape::default());
        let programs = self.programs.lock();
        let options = TestRunOptions {
            data_in: Some(packet),
            ctx_in: Some(&ctx),
            repeat,
            ..TestRunOptions::new()
        };
        let loaded = programs.program(program.name()).unwrap();
        let loaded = <&SchedClassifier>::try_from(loaded).unwrap();
        let result = self.netns.enter(|| loaded.test_run(options));
        result.unwrap().unwrap().duration
    }

    /// Sends a packet of A's to B, whatever becomes of it.
    pub(crate) fn scan(&self, ip: &[u8]) {
        let frame = ethernet(B_MAC, A_MAC, IPV4, ip);
        self.run(Program::FromContainer, Device::A, &frame);
    }

    /// The same with a packet that is not just its bytes.
    pub(crate) fn run_with(
        &self,
        program: Program,
        device: Device,
        shape: Shape,
        packet: &[u8],
    ) -> (i32, Vec<u8>) {
        let ctx = match program {
            Program::Guard => xdp_context(shape.split.unwrap_or(packet.len())),
            _ => skb_context(self.ifindex(device), shape),
        };
        let mut out = vec![0; packet.len() + 256];
        let programs = self.programs.lock();
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&ctx),
            ..TestRunOptions::new()
        };
        let loaded = programs.program(program.name()).unwrap();
        let run = || match program {
            Program::Guard => <&Xdp>::try_from(loaded).unwrap().test_run(options),
            _ => <&SchedClassifier>::try_from(loaded)
                .unwrap()
                .test_run(options),
        };
        // The kernel looks the device up in the namespace of the caller.
        let result = self.netns.enter(run).unwrap().unwrap();
        out.truncate(usize::try_from(result.data_size_out).unwrap());
        (result.return_value.cast_signed(), out)
    }
}

/// A `struct __sk_buff` of such a packet.
fn skb_context(ifindex: u32, shape: Shape) -> Vec<u8> {
    let mut ctx = vec![0; 192];
    let mark = if shape.traced { TRACE_MARK } else { 0 };
    ctx[8..12].copy_from_slice(&mark.to_ne_bytes());
    ctx[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    ctx[176..180].copy_from_slice(&shape.gso.to_ne_bytes());
    ctx
}

/// A `struct xdp_md` for a packet with this much in its first buffer.
fn xdp_context(len: usize) -> Vec<u8> {
    let mut ctx = vec![0; 24];
    ctx[4..8].copy_from_slice(&u32::try_from(len).unwrap().to_ne_bytes());
    ctx
}

pub(crate) fn key(vni: u32, mac: Mac) -> FdbKey {
    FdbKey::new(vni, MacAddr(mac))
}

pub(crate) fn peer_key(vni: u32, vtep: Ipv4Addr) -> PeerKey {
    PeerKey {
        vni,
        vtep: vtep.octets(),
    }
}

pub(crate) fn outer(vni: u32, vtep: Ipv4Addr) -> Outer {
    Outer::new(VTEP, vtep, PORT, Vni::new(vni).unwrap())
}

pub(crate) fn local(ifindex: u32, ip: Ipv4Addr, slot: u32) -> FdbEntry {
    FdbEntry {
        kind: FDB_LOCAL,
        ifindex,
        ipv4: ip.octets(),
        slot,
        outer: Outer {
            ipv4_sum: 0,
            header: [0; 36],
            next_hop: [0; 4],
        },
    }
}

pub(crate) fn neighbour(mac: Mac) -> Neighbour {
    Neighbour {
        mac: MacAddr(mac),
        pad: [0; 2],
        identity: 0,
    }
}
