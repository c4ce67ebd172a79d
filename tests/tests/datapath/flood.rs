//! Broadcast, multicast and unknown unicast: who gets copies.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use vxplane_common::{
    abi::{FloodKey, FloodTarget, MAX_FLOOD, Network, map},
    drop::{
        Direction,
        DropReason::{CopyFailed, NoDestination},
    },
    wire::protocol,
};

use crate::{
    bed::{A, A_IP, A_MAC, B, BROADCAST, Bed, Device, NET, PEER, PEER_2, R_IP, VTEP},
    packets::{ARP, IPV4, Ip, Mac, arp, ethernet, udp},
    programs::Program,
    wire::Wire,
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

/// The first of as many VTEPs as a network can have, behind a device that takes
/// whatever is sent: a bridge to nowhere.
const FIRST_OF_MANY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// A device of [`FIRST_OF_MANY`] and those after it.
fn many_vteps(bed: &Bed) -> Vec<FloodTarget> {
    for line in [
        "link add many0 mtu 1500 type bridge",
        "link set many0 up",
        "neigh add 192.0.2.99 lladdr 02:00:00:00:00:99 nud permanent dev many0",
        "route add 198.18.0.0/15 via 192.0.2.99 dev many0 onlink",
    ] {
        bed.netns.ip(line).unwrap();
    }
    let first = u32::from(FIRST_OF_MANY);
    let vteps = (first..first + MAX_FLOOD).map(Ipv4Addr::from);
    vteps.map(|vtep| target(0, vtep, 0)).collect()
}

fn target(ifindex: u32, vtep: Ipv4Addr, slot: u32) -> FloodTarget {
    FloodTarget {
        ifindex,
        vtep: vtep.octets(),
        slot,
    }
}

/// Makes these the members of the network.
fn put_members(bed: &Bed, targets: &[FloodTarget]) {
    for (slot, target) in (0..).zip(targets) {
        let key = FloodKey { vni: NET, slot };
        bed.programs.put(map::FLOOD, key, *target);
    }
    let flood_len = u32::try_from(targets.len()).unwrap();
    bed.programs.put(map::NETWORKS, NET, Network { flood_len });
}

/// One of a device's counters, as `ip -s` names it.
fn count(bed: &Bed, device: &str, direction: &str, what: &str) -> u64 {
    let shown = bed.netns.run(&format!("ip -j -s link show {device}"));
    let links: serde_json::Value = serde_json::from_str(&shown.unwrap().stdout).unwrap();
    links[0]["stats64"][direction][what].as_u64().unwrap()
}

/// What is counted once it is as expected, or after a while.
fn settled(expected: u64, counted: impl Fn() -> u64) -> u64 {
    let end = Instant::now() + Duration::from_secs(5);
    while counted() != expected && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    counted()
}

#[test]
fn each_of_thousands_gets_its_copy() {
    let bed = Bed::new();
    let members = many_vteps(&bed);
    put_members(&bed, &members);
    let tap = Wire::tap(&bed.netns, "many0");
    let frame = ethernet(BROADCAST, A_MAC, 0x88b5, &[7; 50]);
    let (verdict, _) = bed.run(Program::FromContainer, Device::A, &frame);
    assert_eq!(verdict, 2);
    let mut packets = tap.received();
    // The device's own IGMP and IPv6 are not counted.
    packets.retain(|packet| packet[12..14] == [8, 0] && packet[23] == protocol::UDP);
    let reached: BTreeSet<_> = packets.iter().map(|it| it[30..34].to_vec()).collect();
    let wanted: BTreeSet<_> = members.iter().map(|member| member.vtep.to_vec()).collect();
    assert_eq!(packets.len(), members.len(), "one for each");
    assert!(reached == wanted, "only {} were reached", reached.len());
    let counters = bed.programs.counters();
    assert!(counters.drops.is_empty(), "{counters:?}");
    let len = frame.len() as u64;
    assert_eq!(counters.traffic, [(A, [1, len, 0, 0])].into());

    // What one copy costs; shown with `--nocapture`, and far below the bound.
    drop(tap);
    let all = bed.time(Program::FromContainer, Device::A, &frame, 20);
    let one = all / MAX_FLOOD;
    println!("{MAX_FLOOD} copies: {all:?}, each {one:?}");
    assert!(one < Duration::from_micros(100), "{one:?}");
}

/// Copies are made faster than devices may take them: what these refuse is theirs
/// to count behind the kernel's tunnel device, and ours for endpoints here.
#[test]
fn what_a_device_refuses_of_thousands_is_counted() {
    const MANY: u64 = 5000;
    let bed = Bed::new();
    let frame = ethernet(BROADCAST, A_MAC, 0x88b5, b"x");
    let run = |target| {
        bed.reset();
        put_members(&bed, &vec![target; usize::try_from(MANY).unwrap()]);
        bed.run(Program::FromContainer, Device::A, &frame);
    };
    let b = Device::B.name();
    let before = count(&bed, b, "tx", "packets");
    run(target(bed.ifindex(Device::B), Ipv4Addr::UNSPECIFIED, B));
    let counters = bed.programs.counters();
    let failed: u64 = counters.drops.values().map(|(packets, _)| *packets).sum();
    let key = (NET, CopyFailed, Direction::Egress);
    assert!(failed == 0 || counters.drops.len() == 1 && counters.drops.contains_key(&key));
    let sent = settled(MANY - failed, || count(&bed, b, "tx", "packets") - before);
    assert_eq!(sent + failed, MANY);
    assert_eq!(counters.traffic[&B][2], sent);

    let u = Device::Underlay.name();
    let [sent, refused] = ["packets", "dropped"].map(|what| count(&bed, u, "tx", what));
    run(target(0, PEER, 0));
    let all = settled(MANY, || {
        let [now_sent, now_refused] = ["packets", "dropped"].map(|what| count(&bed, u, "tx", what));
        now_sent - sent + now_refused - refused
    });
    assert_eq!(all, MANY);
    println!(
        "of {MANY} copies {failed} were refused here, and {} behind the tunnel device",
        count(&bed, u, "tx", "dropped") - refused
    );
    assert!(bed.programs.counters().drops.is_empty());
}
