//! Broadcast, multicast and unknown unicast: who gets copies.

use std::net::Ipv4Addr;

use vxplane_common::{
    abi::{FloodKey, FloodTarget, Network, map},
    drop::{
        Direction,
        DropReason::{CopyFailed, NoDestination},
    },
};

use crate::{
    bed::{A, A_IP, A_MAC, B, BROADCAST, Bed, Device, NET, PEER, PEER_2, R_IP, VTEP},
    packets::{ARP, IPV4, Ip, Mac, arp, ethernet, udp},
    programs::Program,
};

/// Packets that came out of each far end since the bed was made.
fn received(bed: &Bed) -> [u64; 4] {
    ["a1", "b1", "c1", "u1"].map(|device| {
        let shown = bed
            .far
            .run(&format!("ip -j -s link show {device}"))
            .unwrap();
        let links: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
        links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
    })
}

#[test]
fn everyone_else_gets_a_copy() {
    let bed = Bed::new();
    let ip = |dst: Ipv4Addr| Ip::udp(A_IP, dst).packet(&udp(1, 2, b"x"));
    let unknown_neighbour = arp(1, (A_MAC, A_IP), ([0; 6], Ipv4Addr::new(10, 1, 0, 99)));
    let announcement = arp(1, (A_MAC, A_IP), ([0; 6], A_IP));
    let probe = arp(1, (A_MAC, Ipv4Addr::UNSPECIFIED), ([0; 6], A_IP));
    for (what, packet) in [
        (
            "broadcast",
            ethernet(BROADCAST, A_MAC, IPV4, &ip(Ipv4Addr::BROADCAST)),
        ),
        (
            "multicast",
            ethernet([1, 0, 0x5e, 1, 2, 3], A_MAC, IPV4, &ip(R_IP)),
        ),
        (
            "unknown unicast",
            ethernet(
                [2, 9, 9, 9, 9, 9],
                A_MAC,
                IPV4,
                &ip(Ipv4Addr::new(10, 1, 0, 99)),
            ),
        ),
        ("not IP", ethernet(BROADCAST, A_MAC, 0x88b5, b"anything")),
        (
            "ARP for an unknown neighbour",
            ethernet(BROADCAST, A_MAC, ARP, &unknown_neighbour),
        ),
        (
            "an ARP announcement",
            ethernet(BROADCAST, A_MAC, ARP, &announcement),
        ),
        (
            "an ARP probe for its own address",
            ethernet(BROADCAST, A_MAC, ARP, &probe),
        ),
    ] {
        bed.reset();
        let before = received(&bed);
        let (verdict, out) = bed.run(Program::FromContainer, Device::A, &packet);
        let after = received(&bed);
        let copies: Vec<u64> = before.iter().zip(after).map(|(was, is)| is - was).collect();
        // To B, and to both peers; not back to A, not to the other network.
        assert_eq!(copies, [0, 1, 0, 2], "{what}");
        assert_eq!((verdict, &out), (2, &packet), "{what}");
        let counters = bed.programs.counters();
        let len = packet.len() as u64;
        assert_eq!(
            counters.traffic,
            [(A, [1, len, 0, 0]), (B, [0, 0, 1, len])].into(),
            "{what}"
        );
        assert!(counters.drops.is_empty(), "{what}: {counters:?}");
    }
}

#[test]
fn copies_on_the_wire_are_vxlan_to_each_peer() {
    let bed = Bed::new();
    let directory = tempfile::tempdir().unwrap();
    let capture = vxplane_harness::Capture::start(&bed.far, "u1", "udp", directory.path()).unwrap();
    let frame = ethernet(BROADCAST, A_MAC, 0x88b5, b"anything");
    bed.run(Program::FromContainer, Device::A, &frame);
    let mut packets = capture.wait_for(2).unwrap();
    packets.sort_by_key(|packet| packet.bytes[30..34].to_vec());
    for (packet, peer) in packets.iter().zip([PEER, PEER_2]) {
        let outer = &packet.bytes[14..];
        assert_eq!(outer[12..16], VTEP.octets());
        assert_eq!(outer[16..20], peer.octets());
        assert_eq!(outer[8], 64, "TTL");
        assert_eq!(outer[6..8], [0, 0], "no DF");
        assert_eq!(outer[26..28], [0, 0], "no UDP checksum");
        assert_eq!(outer[28..36], [8, 0, 0, 0, 0, 0, 100, 0], "VXLAN");
        assert_eq!(outer[36..], frame);
    }
}

#[test]
fn nobody_to_send_to() {
    let bed = Bed::new();
    let to_all: (Mac, _) = (BROADCAST, b"x".as_slice());
    let frame = ethernet(to_all.0, A_MAC, 0x88b5, to_all.1);
    let len = frame.len() as u64;
    let only = |flood_len| bed.programs.put(map::NETWORKS, NET, Network { flood_len });
    // Nobody at all, and nobody but the sender.
    for flood_len in [0, 1] {
        bed.reset();
        only(flood_len);
        let (verdict, _) = bed.run(Program::FromContainer, Device::A, &frame);
        assert_eq!(verdict, 2);
        let drops = [((NET, NoDestination, Direction::Egress), (1, len))].into();
        assert_eq!(bed.programs.counters().drops, drops);
        assert!(bed.programs.counters().traffic.is_empty());
    }
    // A slot the daemon has emptied meanwhile, and a device that is gone.
    only(2);
    bed.reset();
    let gone = FloodTarget {
        ifindex: 9999,
        vtep: [0; 4],
        slot: 7,
    };
    bed.programs
        .put(map::FLOOD, FloodKey { vni: NET, slot: 1 }, gone);
    bed.run(Program::FromContainer, Device::A, &frame);
    let drops = [((NET, CopyFailed, Direction::Egress), (1, len))].into();
    assert_eq!(bed.programs.counters().drops, drops);
    bed.programs
        .remove::<FloodKey, FloodTarget>(map::FLOOD, &FloodKey { vni: NET, slot: 1 });
    bed.reset();
    bed.run(Program::FromContainer, Device::A, &frame);
    let drops = [((NET, NoDestination, Direction::Egress), (1, len))].into();
    assert_eq!(bed.programs.counters().drops, drops);
}
