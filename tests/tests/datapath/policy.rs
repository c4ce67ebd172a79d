//! What rule sets allow and forbid, for each kind of rule and on each way a packet
//! can take.

use std::net::Ipv4Addr;

use aya::maps::Array;
use vxplane_common::{
    abi::{
        BLOCK_PREFIX, BlockKey, Endpoint, EndpointDrops, MemberKey, Neighbour, NeighbourKey,
        RULE_PREFIX_ANY, RULE_PREFIX_PROTOCOL, RuleKey, map,
    },
    drop::{
        Direction,
        DropReason::{self, FragmentUnknown, PolicyEgress, PolicyIngress, Rewrite},
    },
};

use crate::{
    bed::{
        A, A_IP, A_MAC, B, B_IP, B_MAC, BROADCAST, Bed, C_IP, Device, NET, PEER, R_IP, R_MAC,
        Shape, VTEP, neighbour,
    },
    fallback::fragments,
    ingress::tunnelled,
    packets::{ARP, IPV4, Ip, Mac, arp, ethernet, icmp, tcp, udp},
    programs::Program,
    wire::Wire,
};

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

/// The classes of the rule sets here.
const EVERYONE: u32 = 0;
const FRIENDS: u32 = 1;
const OUTSIDE: u32 = 2;
/// The identity of [`FRIENDS`].
pub(crate) const FRIEND: u32 = 1000;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Where a packet of the bed is sent from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    A,
    B,
    /// R, by the wire.
    Wire,
}

impl Bed {
    /// Sends an IPv4 packet between the endpoints' own addresses and says whether
    /// it was let through, or why not.
    pub(crate) fn send(&self, from: From, to: (Mac, Ipv4Addr), ip: &[u8]) -> Option<DropReason> {
        self.send_frame(from, to.0, IPV4, ip)
    }

    pub(crate) fn send_frame(
        &self,
        from: From,
        to: Mac,
        ethertype: u16,
        payload: &[u8],
    ) -> Option<DropReason> {
        self.programs.reset();
        let (verdict, _) = match from {
            From::A => {
                let frame = ethernet(to, A_MAC, ethertype, payload);
                self.run(Program::FromContainer, Device::A, &frame)
            }
            From::B => {
                let frame = ethernet(to, B_MAC, ethertype, payload);
                self.run(Program::FromContainer, Device::B, &frame)
            }
            From::Wire => {
                let frame = ethernet(to, R_MAC, ethertype, payload);
                let packet = tunnelled(PEER, NET, &frame);
                self.run(Program::FromUnderlay, Device::Underlay, &packet)
            }
        };
        let drops = self.programs.counters().drops;
        let reason = drops.keys().next().map(|(_, reason, _)| *reason);
        assert_eq!(reason.is_some(), verdict == 2 && !drops.is_empty());
        reason
    }

    /// Gives an endpoint rule sets; 0 for none.
    pub(crate) fn select(&self, device: Device, egress: u32, ingress: u32) {
        let ifindex = self.ifindex(device);
        let endpoint: Endpoint = self.programs.get(map::ENDPOINTS, &ifindex).unwrap();
        let endpoint = Endpoint {
            egress,
            ingress,
            ..endpoint
        };
        self.programs.put(map::ENDPOINTS, ifindex, endpoint);
        self.programs.bump_epoch();
    }

    /// Says who an endpoint is.
    pub(crate) fn identify(&self, device: Option<Device>, ip: Ipv4Addr, mac: Mac, identity: u32) {
        if let Some(device) = device {
            let ifindex = self.ifindex(device);
            let endpoint: Endpoint = self.programs.get(map::ENDPOINTS, &ifindex).unwrap();
            let endpoint = Endpoint {
                identity,
                ..endpoint
            };
            self.programs.put(map::ENDPOINTS, ifindex, endpoint);
        }
        let key = NeighbourKey {
            vni: NET,
            ipv4: ip.octets(),
        };
        let entry = Neighbour {
            identity,
            ..neighbour(mac)
        };
        self.programs.put(map::NEIGHBOURS, key, entry);
        self.programs.bump_epoch();
    }

    /// Allows a class a protocol and a port, or ports: those with the first `bits`
    /// of `port`.
    pub(crate) fn allow(&self, ruleset: u32, class: u32, what: Option<(u8, u16, u32)>) {
        let (protocol, port, bits) = what
            .map_or((0, 0, RULE_PREFIX_ANY), |(protocol, port, bits)| {
                (protocol, port, RULE_PREFIX_PROTOCOL + bits)
            });
        let key = RuleKey {
            ruleset,
            class,
            protocol,
            pad: 0,
            port: port.to_be_bytes(),
        };
        self.programs.put_prefix(map::RULES, bits, key, 77);
    }

    pub(crate) fn member(&self, ruleset: u32, identity: u32, class: u32) {
        let key = MemberKey { ruleset, identity };
        self.programs.put(map::MEMBERS, key, class);
    }

    fn block(&self, ruleset: u32, ip: Ipv4Addr, bits: u32, class: u32) {
        let key = BlockKey {
            ruleset,
            ipv4: ip.octets(),
        };
        self.programs
            .put_prefix(map::BLOCKS, BLOCK_PREFIX + bits, key, class);
    }
}

pub(crate) const TO_A: (Mac, Ipv4Addr) = (A_MAC, A_IP);
pub(crate) const TO_B: (Mac, Ipv4Addr) = (B_MAC, B_IP);
pub(crate) const TO_R: (Mac, Ipv4Addr) = (R_MAC, R_IP);

pub(crate) fn udp_from(src: Ipv4Addr, dst: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    Ip::udp(src, dst).packet(&udp(ports.0, ports.1, b"x"))
}

pub(crate) fn tcp_from(src: Ipv4Addr, dst: Ipv4Addr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let ip = Ip::udp(src, dst).protocol(TCP);
    ip.packet(&tcp(ports.0, ports.1, flags, b""))
}

#[test]
fn nothing_is_allowed_by_an_empty_rule_set() {
    let bed = Bed::new();
    let to_b = |port| udp_from(A_IP, B_IP, (5000, port));
    assert_eq!(bed.send(From::A, TO_B, &to_b(1)), None);
    bed.select(Device::A, 9, 0);
    assert_eq!(
        bed.send(From::A, TO_B, &to_b(1)),
        Some(PolicyEgress),
        "a known flow"
    );
    assert_eq!(bed.send(From::A, TO_B, &to_b(2)), Some(PolicyEgress));
    bed.select(Device::A, 0, 0);
    bed.select(Device::B, 0, 9);
    assert_eq!(bed.send(From::A, TO_B, &to_b(1)), Some(PolicyIngress));
    assert_eq!(bed.send(From::A, TO_B, &to_b(2)), Some(PolicyIngress));
    let from_r = udp_from(R_IP, B_IP, (5000, 1));
    assert_eq!(bed.send(From::Wire, TO_B, &from_r), Some(PolicyIngress));
    let to_r = udp_from(A_IP, R_IP, (5000, 1));
    assert_eq!(bed.send(From::A, TO_R, &to_r), None, "others");
}

#[test]
fn whose_policy_forbids_it_has_the_drop() {
    let bed = Bed::new();
    let slot = |device| {
        let endpoint: Option<Endpoint> = bed.programs.get(map::ENDPOINTS, &bed.ifindex(device));
        endpoint.unwrap().slot
    };
    let drops = |device, reason: DropReason| {
        let slot = slot(device);
        let programs = bed.programs.lock();
        let drops = programs.map(map::ENDPOINT_DROPS).unwrap();
        let drops: Array<_, EndpointDrops> = Array::try_from(drops).unwrap();
        drops.get(&slot, 0).unwrap().packets[reason as usize]
    };
    let direction = || {
        let drops = bed.programs.counters().drops;
        let keys: Vec<_> = drops.keys().map(|(.., direction)| *direction).collect();
        keys
    };
    let datagram = udp_from(A_IP, B_IP, (5000, 1));
    bed.select(Device::B, 0, 9);
    assert_eq!(bed.send(From::A, TO_B, &datagram), Some(PolicyIngress));
    assert_eq!(direction(), [Direction::Ingress]);
    assert_eq!(drops(Device::B, PolicyIngress), 1);
    assert_eq!(drops(Device::A, PolicyIngress), 0);
    bed.select(Device::A, 9, 0);
    assert_eq!(bed.send(From::A, TO_B, &datagram), Some(PolicyEgress));
    assert_eq!(direction(), [Direction::Egress]);
    assert_eq!(drops(Device::A, PolicyEgress), 1);
    assert_eq!(drops(Device::B, PolicyEgress), 0);
}

#[test]
fn rules_for_ports() {
    let bed = Bed::new();
    bed.select(Device::B, 0, 9);
    bed.allow(9, EVERYONE, Some((UDP, 53, 16)));
    // 8000 to 8007.
    bed.allow(9, EVERYONE, Some((TCP, 8000, 13)));
    let datagram = |port| bed.send(From::A, TO_B, &udp_from(A_IP, B_IP, (5000, port)));
    let connect = |port| bed.send(From::A, TO_B, &tcp_from(A_IP, B_IP, (40_000, port), SYN));
    let ping = Ip::udp(A_IP, B_IP).protocol(1).packet(&icmp(8, 53, b"x"));
    assert_eq!(datagram(53), None);
    assert_eq!(datagram(54), Some(PolicyIngress));
    assert_eq!(datagram(8000), Some(PolicyIngress), "another protocol");
    assert_eq!([8000, 8005, 8007].map(connect), [None; 3]);
    assert_eq!([7999, 8008, 53].map(connect), [Some(PolicyIngress); 3]);
    assert_eq!(bed.send(From::A, TO_B, &ping), Some(PolicyIngress));
    let gre = Ip::udp(A_IP, B_IP).protocol(47).packet(b"anything");
    assert_eq!(bed.send(From::A, TO_B, &gre), Some(PolicyIngress));
    let udp_only = Some((UDP, 0, 0));
    bed.allow(9, EVERYONE, udp_only);
    assert_eq!(datagram(1234), None, "any port");
    assert_eq!(bed.send(From::A, TO_B, &ping), Some(PolicyIngress));
    bed.allow(9, EVERYONE, None);
    assert_eq!(bed.send(From::A, TO_B, &ping), None, "any protocol");
    assert_eq!(bed.send(From::A, TO_B, &gre), None);
}

#[test]
fn rules_for_identities() {
    let bed = Bed::new();
    bed.select(Device::B, 0, 9);
    bed.member(9, FRIEND, FRIENDS);
    bed.allow(9, FRIENDS, None);
    let mut port = 5000;
    let mut send = |from| {
        port += 1;
        let src = if matches!(from, From::A) { A_IP } else { R_IP };
        bed.send(from, TO_B, &udp_from(src, B_IP, (port, 1)))
    };
    assert_eq!(send(From::A), Some(PolicyIngress));
    bed.identify(Some(Device::A), A_IP, A_MAC, FRIEND);
    assert_eq!(send(From::A), None, "of this host");
    assert_eq!(send(From::Wire), Some(PolicyIngress));
    bed.identify(None, R_IP, R_MAC, FRIEND);
    assert_eq!(send(From::Wire), None, "of another host");
    bed.select(Device::B, 9, 0);
    let to_a = udp_from(B_IP, A_IP, (1, 2));
    let to_c = udp_from(B_IP, C_IP, (1, 2));
    assert_eq!(bed.send(From::B, TO_A, &to_a), None, "egress to it");
    assert_eq!(bed.send(From::B, TO_R, &to_c), Some(PolicyEgress));
}

#[test]
fn rules_for_address_blocks() {
    let bed = Bed::new();
    bed.select(Device::A, 9, 0);
    bed.allow(9, OUTSIDE, Some((UDP, 53, 16)));
    bed.block(9, Ipv4Addr::new(172, 16, 0, 0), 12, OUTSIDE);
    // Of which a part is excepted, and of that a part is not.
    bed.block(9, Ipv4Addr::new(172, 16, 8, 0), 24, EVERYONE);
    bed.block(9, Ipv4Addr::new(172, 16, 8, 128), 32, OUTSIDE);
    let send = |ip: [u8; 4], port| {
        bed.send(
            From::A,
            (R_MAC, ip.into()),
            &udp_from(A_IP, ip.into(), (5000, port)),
        )
    };
    assert_eq!(send([172, 16, 0, 1], 53), None);
    assert_eq!(send([172, 31, 255, 255], 53), None);
    assert_eq!(send([172, 16, 0, 1], 54), Some(PolicyEgress));
    assert_eq!(send([172, 32, 0, 1], 53), Some(PolicyEgress));
    assert_eq!(send([172, 16, 8, 1], 53), Some(PolicyEgress), "excepted");
    assert_eq!(send([172, 16, 8, 128], 53), None);
    bed.allow(9, EVERYONE, Some((UDP, 54, 16)));
    assert_eq!(send([172, 16, 8, 1], 54), None, "for everyone");
    assert_eq!(
        send([172, 16, 0, 1], 54),
        None,
        "for everyone, hence also for those"
    );
}

#[test]
fn what_is_not_ipv4() {
    let bed = Bed::new();
    let reply = arp(2, (A_MAC, A_IP), (B_MAC, B_IP));
    let send = |bed: &Bed| {
        [
            bed.send_frame(From::A, B_MAC, ARP, &reply),
            bed.send_frame(From::A, B_MAC, 0x88b5, b"anything"),
        ]
    };
    assert_eq!(send(&bed), [None, None]);
    bed.select(Device::B, 0, 9);
    assert_eq!(send(&bed), [None, Some(PolicyIngress)], "ARP always passes");
    bed.allow(9, EVERYONE, Some((UDP, 0, 0)));
    assert_eq!(send(&bed), [None, Some(PolicyIngress)]);
    bed.allow(9, EVERYONE, None);
    assert_eq!(send(&bed), [None, None]);
    bed.select(Device::A, 8, 0);
    assert_eq!(send(&bed), [None, Some(PolicyEgress)]);
}

#[test]
fn each_receiver_of_a_flooded_frame_is_asked_for() {
    let bed = Bed::new();
    let broadcast = ethernet(
        BROADCAST,
        A_MAC,
        IPV4,
        &udp_from(A_IP, Ipv4Addr::BROADCAST, (68, 67)),
    );
    let flood = || {
        bed.programs.reset();
        bed.run(Program::FromContainer, Device::A, &broadcast);
        let counters = bed.programs.counters();
        let received = counters.traffic.get(&B).is_some_and(|count| count[2] == 1);
        (received, counters.drops.into_keys().next())
    };
    assert_eq!(flood(), (true, None));
    bed.select(Device::B, 0, 9);
    let key = (NET, PolicyIngress, Direction::Ingress);
    assert_eq!(flood(), (false, Some(key)));
    bed.allow(9, EVERYONE, Some((UDP, 67, 16)));
    assert_eq!(flood(), (true, None));
    bed.select(Device::A, 8, 0);
    let key = (NET, PolicyEgress, Direction::Egress);
    assert_eq!(flood(), (false, Some(key)));
    // To everyone's MAC address, but to somebody's IP address: a flow, and besides
    // each receiver's own rules.
    bed.select(Device::A, 0, 0);
    let to_b = ethernet(BROADCAST, A_MAC, IPV4, &udp_from(A_IP, B_IP, (68, 68)));
    bed.programs.reset();
    bed.run(Program::FromContainer, Device::A, &to_b);
    let drops = bed.programs.counters().drops;
    assert_eq!(drops.len(), 1, "{drops:?}");
}

/// A flow to an address is allowed or not whatever MAC address its packets go to.
#[test]
fn another_mac_address_is_no_way_around() {
    let bed = Bed::new();
    bed.select(Device::B, 0, 9);
    let packet = udp_from(A_IP, B_IP, (5000, 1));
    // By R's MAC address it is not for B, as far as this host knows.
    assert_eq!(bed.send(From::A, TO_R, &packet), None);
    assert_eq!(bed.send(From::A, TO_B, &packet), Some(PolicyIngress));
    // What B is to pass on is for B to take as well.
    let beyond = udp_from(A_IP, C_IP, (5000, 1));
    assert_eq!(bed.send(From::A, TO_B, &beyond), Some(PolicyIngress));
    bed.allow(9, EVERYONE, Some((UDP, 1, 16)));
    bed.programs.bump_epoch();
    assert_eq!(bed.send(From::A, TO_B, &beyond), None);
    assert_eq!(bed.send(From::A, TO_B, &packet), None);
}

#[test]
fn fragments_follow_their_first() {
    let bed = Bed::new();
    bed.select(Device::B, 0, 9);
    bed.allow(9, EVERYONE, Some((UDP, 53, 16)));
    let part =
        |id: u16, at: u16, payload: &[u8]| Ip::udp(A_IP, B_IP).id(id).fragment(at).packet(payload);
    let first = |id, port| part(id, 0x2000, &udp(5000, port, &[1; 8]));
    let middle = |id| part(id, 0x2002, &[2; 16]);
    let last = |id| part(id, 0x0004, &[3; 16]);
    let send = |packet: Vec<u8>| bed.send(From::A, TO_B, &packet);
    assert_eq!(send(middle(1)), Some(FragmentUnknown), "before the first");
    assert_eq!([first(1, 53), middle(1), last(1)].map(send), [None; 3]);
    assert_eq!(send(last(2)), Some(FragmentUnknown), "of another packet");
    let forbidden = [first(3, 54), middle(3), last(3)];
    assert_eq!(forbidden.map(send), [Some(PolicyIngress); 3]);
    bed.select(Device::B, 0, 0);
    assert_eq!(send(last(9)), None, "where no policy asks");
    let to_r = Ip::udp(A_IP, R_IP).id(9).fragment(0x0004).packet(&[3; 16]);
    assert_eq!(bed.send(From::A, TO_R, &to_r), None);
}

/// A super-packet is decided as one packet, on its way out and in.
#[test]
fn super_packets() {
    let bed = Bed::new();
    let shape = Shape {
        gso: 1000,
        ..Shape::default()
    };
    let super_packet = |src, dst, port| {
        let tcp = tcp(40_000, port, ACK, &[0; 3000]);
        Ip::udp(src, dst).protocol(TCP).packet(&tcp)
    };
    let send = |program, device, packet: &[u8]| {
        bed.programs.reset();
        let (verdict, _) = bed.run_with(program, device, shape, packet);
        let drops = bed.programs.counters().drops;
        (verdict, drops.keys().next().map(|(_, reason, _)| *reason))
    };
    let out = |port| {
        let frame = ethernet(R_MAC, A_MAC, IPV4, &super_packet(A_IP, R_IP, port));
        send(Program::FromContainer, Device::A, &frame)
    };
    let within = |port| {
        let frame = ethernet(B_MAC, A_MAC, IPV4, &super_packet(A_IP, B_IP, port));
        send(Program::FromContainer, Device::A, &frame)
    };
    let into = |port| {
        let frame = ethernet(B_MAC, R_MAC, IPV4, &super_packet(R_IP, B_IP, port));
        send(
            Program::FromUnderlay,
            Device::Underlay,
            &tunnelled(PEER, NET, &frame),
        )
    };
    bed.select(Device::A, 8, 0);
    bed.allow(8, EVERYONE, Some((TCP, 80, 16)));
    assert_eq!(out(80), (7, None));
    assert_eq!(out(81), (2, Some(PolicyEgress)));
    bed.select(Device::A, 0, 0);
    bed.select(Device::B, 0, 9);
    bed.allow(9, EVERYONE, Some((TCP, 80, 16)));
    assert_eq!(within(80), (7, None));
    assert_eq!(within(81), (2, Some(PolicyIngress)));
    // It is let through, but a test's super-packet the kernel does not cut short.
    assert_eq!(into(80), (2, Some(Rewrite)));
    assert_eq!(into(81), (2, Some(PolicyIngress)));
}

/// What the programs leave to the kernel is decided by the same rules: before that
/// on the way out, behind it on the way in.
#[test]
fn the_slow_path() {
    let bed = Bed::new();
    bed.programs.attach(Program::FromUnderlay, &bed.netns, "u0");
    bed.programs
        .attach(Program::FromFallback, &bed.netns, "vxplane0");
    bed.programs
        .attach(Program::FromContainer, &bed.netns, "a0");
    let [underlay, a, b] = ["u1", "a1", "b1"].map(|device| Wire::open(&bed.far, device));
    bed.select(Device::A, 8, 0);
    bed.select(Device::B, 0, 9);
    for ruleset in [8, 9] {
        bed.allow(ruleset, EVERYONE, Some((UDP, 53, 16)));
    }
    let reasons = || {
        let drops = bed.programs.counters().drops;
        let reasons = drops.into_keys().map(|(_, reason, _)| reason);
        reasons.collect::<Vec<_>>()
    };
    // Too large to be encapsulated here: two fragments outside.
    let large = |port| {
        let ip = Ip::udp(A_IP, R_IP).packet(&udp(5000, port, &[0; 1440]));
        ethernet(R_MAC, A_MAC, IPV4, &ip)
    };
    a.send(&large(53));
    assert_eq!((underlay.received().len(), reasons()), (2, vec![]));
    a.send(&large(54));
    assert_eq!(
        (underlay.received().len(), reasons()),
        (0, vec![PolicyEgress])
    );
    // In outer fragments, with inner fragments, and to what B is to pass on.
    let bring = |ips: &[Vec<u8>]| {
        bed.programs.reset();
        for ip in ips {
            let frame = ethernet(B_MAC, R_MAC, IPV4, ip);
            for part in fragments(Ip::udp(PEER, VTEP), NET, &frame) {
                underlay.send(&part);
            }
        }
        (b.received().len(), reasons())
    };
    let whole = |to, port| vec![udp_from(R_IP, to, (5000, port))];
    let parts = |id, port| {
        let first = udp(5000, port, &[1; 8]);
        let part = |at, payload: &[u8]| Ip::udp(R_IP, B_IP).id(id).fragment(at).packet(payload);
        vec![part(0x2000, &first), part(0x0002, &[2; 16])]
    };
    assert_eq!(bring(&whole(B_IP, 53)), (1, vec![]));
    assert_eq!(bring(&whole(B_IP, 54)), (0, vec![PolicyIngress]));
    assert_eq!(bring(&whole(C_IP, 53)), (1, vec![]), "it forwards");
    assert_eq!(bring(&whole(C_IP, 54)), (0, vec![PolicyIngress]));
    assert_eq!(bring(&parts(1, 53)), (2, vec![]));
    assert_eq!(bring(&parts(2, 54)), (0, vec![PolicyIngress]));
    assert_eq!(bring(&parts(3, 53)[1..]), (0, vec![FragmentUnknown]));
}

#[test]
fn counters_name_the_network_and_the_slot_counts_nothing() {
    let bed = Bed::new();
    bed.select(Device::A, 9, 0);
    let packet = udp_from(A_IP, B_IP, (1, 2));
    assert_eq!(bed.send(From::A, TO_B, &packet), Some(PolicyEgress));
    let counters = bed.programs.counters();
    let len = packet.len() as u64 + 14;
    assert_eq!(
        counters.drops[&(NET, PolicyEgress, Direction::Egress)],
        (1, len)
    );
    assert!(!counters.traffic.contains_key(&A));
}
