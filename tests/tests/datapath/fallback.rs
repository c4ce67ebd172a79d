//! The slow path in: what `from_underlay` leaves to the kernel, as it comes back
//! to `from_fallback`. Packets go in at the far end of the underlay; who gets
//! what, and every counter, is compared.

use std::net::Ipv4Addr;

use vxplane_common::drop::{
    Direction::Ingress,
    DropReason::{
        self, MalformedFrame, NoDestination, SourceIpIsLocal, SourceIsLocal, UnknownMac,
        UnknownVni, UnknownVtep, VlanTag, WrongDestination,
    },
};

use crate::{
    bed::{
        A, A_IP, A_MAC, B, B_IP, B_MAC, BROADCAST, Bed, C_IP, NET, NO_NET, OTHER_NET, OTHER_PEER,
        PEER, PORT, R_IP, ROUTER_MAC, STRANGER, UNDERLAY_MAC, VTEP, X_MAC,
    },
    ingress::{FROM, TO_A, inner, udp_checksum},
    packets::{ARP, IPV4, IPV6, Ip, Mac, arp, ethernet, udp, vxlan, with_byte},
    programs::{Counters, Program},
    wire::Wire,
};

/// Our address that is no VTEP address.
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// What goes in, and all that is to follow.
struct Row {
    name: &'static str,
    packets: Vec<Vec<u8>>,
    /// What A and B get.
    delivered: [Option<Vec<u8>>; 2],
    counters: Counters,
}

impl Row {
    fn new(name: &'static str, packets: Vec<Vec<u8>>) -> Self {
        Self {
            name,
            packets,
            delivered: [None, None],
            counters: Counters::default(),
        }
    }

    fn to(mut self, slot: u32, frame: &[u8]) -> Self {
        let counts = [0, 0, 1, frame.len() as u64];
        self.counters.traffic.insert(slot, counts);
        self.counters.learned.insert((NET, X_MAC), PEER);
        self.delivered[usize::from(slot == B)] = Some(frame.to_vec());
        self
    }

    /// Dropped for `reason`; `len` bytes of it were left by then.
    fn dropped(mut self, vni: u32, reason: DropReason, len: usize) -> Self {
        let count = (1, len as u64);
        self.counters.drops.insert((vni, reason, Ingress), count);
        self
    }

    fn check(&self, bed: &Bed, underlay: &Wire, ends: &[Wire; 3]) {
        bed.reset();
        for packet in &self.packets {
            underlay.send(packet);
        }
        let found: [Vec<Vec<u8>>; 3] = ends.each_ref().map(Wire::received);
        let [a, b] = self
            .delivered
            .each_ref()
            .map(|frame| Vec::from_iter(frame.clone()));
        assert_eq!(found, [a, b, vec![]], "{}: delivered", self.name);
        assert_eq!(
            underlay.received(),
            [] as [Vec<u8>; 0],
            "{}: sent back",
            self.name
        );
        assert_eq!(bed.programs.counters(), self.counters, "{}", self.name);
    }
}

fn packet(ip: Ip, vni: u32, frame: &[u8]) -> Vec<u8> {
    let ip = ip.packet(&udp(50_000, PORT, &vxlan(vni, frame)));
    ethernet(UNDERLAY_MAC, ROUTER_MAC, IPV4, &ip)
}

/// Outer IP options: anything at all goes by the kernel with them.
fn by_kernel(ip: Ip, vni: u32, frame: &[u8]) -> Vec<Vec<u8>> {
    let datagram = udp(50_000, PORT, &vxlan(vni, frame));
    let ip = ip.packet_with_options(&[1; 4], &datagram);
    vec![ethernet(UNDERLAY_MAC, ROUTER_MAC, IPV4, &ip)]
}

pub(crate) fn fragments(ip: Ip, vni: u32, frame: &[u8]) -> Vec<Vec<u8>> {
    let datagram = udp(50_000, PORT, &vxlan(vni, frame));
    let (first, last) = datagram.split_at(48);
    let more = ip.id(7).fragment(0x2000).packet(first);
    let end = ip.id(7).fragment(48 / 8).packet(last);
    [more, end]
        .map(|ip| ethernet(UNDERLAY_MAC, ROUTER_MAC, IPV4, &ip))
        .to_vec()
}

fn delivered() -> Vec<Row> {
    let from_peer = Ip::udp(PEER, VTEP);
    let unicast = inner(FROM, TO_A);
    let to_a = |name, packets, frame: &[u8]| Row::new(name, packets).to(A, frame);
    let plain = |name, frame: &[u8]| to_a(name, vec![packet(from_peer, NET, frame)], frame);
    let to_all = |name, frame: &[u8]| {
        Row::new(name, vec![packet(from_peer, NET, frame)])
            .to(A, frame)
            .to(B, frame)
    };
    let behind = inner(FROM, (A_MAC, C_IP));
    let mut checked = packet(from_peer, NET, &unicast);
    let sum = udp_checksum(&checked);
    checked[40..42].copy_from_slice(&sum.to_be_bytes());
    let padded = [&packet(from_peer, NET, &unicast)[..], &[0; 6]].concat();
    let broadcast = inner(FROM, (BROADCAST, A_IP));
    let mut dirty = packet(from_peer, NET, &broadcast);
    dirty[42] = 0xff;
    dirty[43..46].fill(0xa5);
    dirty[49] = 0x77;
    vec![
        to_all("broadcast", &broadcast),
        to_all("multicast", &inner(FROM, ([1, 0, 0x5e, 0, 0, 9], A_IP))),
        Row::new("reserved bits", vec![dirty])
            .to(A, &broadcast)
            .to(B, &broadcast),
        to_all("ARP", &ethernet(BROADCAST, X_MAC, ARP, &arp(1, FROM, TO_A))),
        plain(
            "an ARP reply",
            &ethernet(A_MAC, X_MAC, ARP, &arp(2, FROM, TO_A)),
        ),
        plain("IPv6", &ethernet(A_MAC, X_MAC, IPV6, &[0x60; 60])),
        plain("not IP", &ethernet(A_MAC, X_MAC, 0x88b5, b"anything")),
        plain("to what is behind the endpoint", &behind),
        to_a("a UDP checksum", vec![checked], &unicast),
        to_a("bytes behind the packet", vec![padded], &unicast),
        to_a(
            "outer IP options",
            by_kernel(from_peer, NET, &unicast),
            &unicast,
        ),
        to_a(
            "outer fragments",
            fragments(from_peer, NET, &unicast),
            &unicast,
        ),
    ]
}

fn refused() -> Vec<Row> {
    let from_peer = Ip::udp(PEER, VTEP);
    let frame = inner(FROM, TO_A);
    let len = frame.len();
    let by = |mac: Mac| inner((mac, R_IP), (BROADCAST, A_IP));
    // What a gratuitous ARP says: the address is here now.
    let claim = ethernet(
        BROADCAST,
        X_MAC,
        ARP,
        &arp(1, (X_MAC, B_IP), ([0; 6], B_IP)),
    );
    let row = |name, ip, vni, frame: &[u8]| Row::new(name, by_kernel(ip, vni, frame));
    // The kernel takes the tag from the bytes, and puts it beside them.
    let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
    let vlan = row("VLAN tag", from_peer, NET, &tagged).dropped(NET, VlanTag, len);
    let lone = by_kernel(Ip::udp(OTHER_PEER, VTEP), NO_NET, &frame);
    let mut rows = vec![
        vlan,
        Row::new("no such VNI", lone).dropped(0, UnknownVni, len),
        row("VNI 0", from_peer, 0, &frame).dropped(0, UnknownVni, len),
        row("no such VTEP", Ip::udp(STRANGER, VTEP), NET, &frame).dropped(NET, UnknownVtep, len),
        row("in another network", from_peer, OTHER_NET, &frame).dropped(
            OTHER_NET,
            UnknownVtep,
            len,
        ),
        row(
            "to another address of ours",
            Ip::udp(PEER, SECOND),
            NET,
            &frame,
        )
        .dropped(0, WrongDestination, len),
        row("from an endpoint here", from_peer, NET, &by(B_MAC)).dropped(NET, SourceIsLocal, len),
        row(
            "with the address of an endpoint here",
            from_peer,
            NET,
            &inner((X_MAC, B_IP), (BROADCAST, A_IP)),
        )
        .dropped(NET, SourceIpIsLocal, len),
        row("ARP for an endpoint here", from_peer, NET, &claim).dropped(
            NET,
            SourceIpIsLocal,
            claim.len(),
        ),
        row("from a group", from_peer, NET, &by([3; 6])).dropped(NET, MalformedFrame, len),
        row(
            "a broken IP header",
            from_peer,
            NET,
            &with_byte(frame.clone(), 14, 0x44),
        )
        .dropped(NET, MalformedFrame, len),
        Row::new(
            "a stranger's fragments",
            fragments(Ip::udp(STRANGER, VTEP), NET, &frame),
        )
        .dropped(NET, UnknownVtep, len),
    ];
    // It is known then where it came from, if not where it was to go.
    let mut nobody = row("nobody's MAC", from_peer, NET, &inner(FROM, ([2; 6], A_IP)))
        .dropped(NET, UnknownMac, len);
    nobody.counters.learned.insert((NET, X_MAC), PEER);
    rows.push(nobody);
    rows
}

#[test]
fn what_the_kernel_takes_apart() {
    let bed = Bed::new();
    bed.netns.address("u0", SECOND, 24).unwrap();
    bed.programs.attach(Program::FromUnderlay, &bed.netns, "u0");
    bed.programs
        .attach(Program::FromFallback, &bed.netns, "vxplane0");
    let underlay = Wire::open(&bed.far, "u1");
    let ends = ["a1", "b1", "c1"].map(|device| Wire::open(&bed.far, device));
    for row in delivered().into_iter().chain(refused()) {
        row.check(&bed, &underlay, &ends);
    }
    // A network with nobody here: the copies of others are not for us to send.
    bed.put_network_without_endpoints();
    let broadcast = inner(FROM, (BROADCAST, A_IP));
    let mut row = Row::new(
        "nobody here",
        vec![packet(Ip::udp(PEER, VTEP), NET, &broadcast)],
    )
    .dropped(NET, NoDestination, broadcast.len());
    row.counters.learned.insert((NET, X_MAC), PEER);
    row.check(&bed, &underlay, &ends);
}
