//! The XDP guard.

use vxplane_common::drop::DropReason::{
    MalformedOuter, OuterChecksum, UnknownVni, UnknownVtep, VniFlag,
};

use crate::{
    bed::{
        Bed, Device, NET, NO_NET, OTHER_NET, OTHER_PEER, PEER, PORT, R_IP, ROUTER_MAC, STRANGER,
        UNDERLAY_MAC, VTEP,
    },
    case::{Case, check},
    ingress::{FROM, TO_A, inner, tunnelled},
    packets::{ARP, IPV4, Ip, OUTER_LEN, arp, ethernet, udp, vxlan, with_byte, with_ip_checksum},
    programs::Program,
};

fn case(name: impl Into<String>, packet: &[u8]) -> Case {
    Case::new(name, Program::Guard, Device::Underlay, packet)
}

#[test]
fn only_vxlan_to_us_is_judged() {
    let bed = Bed::new();
    let frame = inner(FROM, TO_A);
    let ours = tunnelled(PEER, NET, &frame);
    let strange = udp(50_000, PORT, &vxlan(NO_NET, &frame));
    let ip = |ip: Ip| ethernet(UNDERLAY_MAC, ROUTER_MAC, IPV4, &ip.packet(&strange));
    let base = Ip::udp(STRANGER, VTEP);
    let options = base.packet_with_options(&[1; 4], &strange);
    let mut cases = vec![
        case("from a peer", &ours),
        case(
            "with what only TC refuses",
            &tunnelled(PEER, NET, &inner(FROM, ([2; 6], R_IP))),
        ),
        case("with Ethernet padding", &[&ours[..], &[0; 6]].concat()),
        case("to another address", &ip(base.dst(R_IP))),
        case("to another port", &with_byte(ip(base), 37, 0xb6)),
        case("another protocol", &ip(base.protocol(6))),
        case("a first fragment", &ip(base.fragment(0x2000))),
        case("a later fragment", &ip(base.fragment(0x0010))),
        case(
            "IP options",
            &ethernet(UNDERLAY_MAC, ROUTER_MAC, IPV4, &options),
        ),
        case(
            "ARP",
            &ethernet(UNDERLAY_MAC, ROUTER_MAC, ARP, &arp(1, FROM, TO_A)),
        ),
    ];
    cases.extend((14..42).map(|len| case(format!("cut to {len}"), &ours[..len])));
    check(&bed, &cases);
}

/// Drivers that split headers from payload: what the guard cannot see in one
/// piece is for TC to judge.
#[test]
fn split_packets() {
    let bed = Bed::new();
    let strange = tunnelled(STRANGER, NET, &inner(FROM, TO_A));
    let mut cases: Vec<Case> = (14..50)
        .map(|at| case(format!("split at {at}"), &strange).split(at))
        .collect();
    cases.extend([50, 64, 90].map(|at| {
        case(format!("split at {at}"), &strange)
            .split(at)
            .dropped(NET, UnknownVtep)
    }));
    let peer = tunnelled(PEER, NET, &inner(FROM, TO_A));
    cases.extend((14..peer.len()).map(|at| case(format!("a peer's, at {at}"), &peer).split(at)));
    check(&bed, &cases);
}

#[test]
fn strangers_and_malformed_packets_end_here() {
    let bed = Bed::new();
    let frame = inner(FROM, TO_A);
    let ours = tunnelled(PEER, NET, &frame);
    let from = |name: &str, vtep, vni| case(name, &tunnelled(vtep, vni, &frame));
    let mut cases = vec![
        from("no such VNI", PEER, NO_NET).dropped(0, UnknownVni),
        from("no such VTEP", STRANGER, NET).dropped(NET, UnknownVtep),
        from("a peer of the other network", OTHER_PEER, NET).dropped(NET, UnknownVtep),
        from("a peer in the other network", PEER, OTHER_NET).dropped(OTHER_NET, UnknownVtep),
        case("no I flag", &with_byte(ours.clone(), 42, 0x80)).dropped(0, VniFlag),
        case("UDP length 8", &with_byte(ours.clone(), 39, 8)).dropped(0, MalformedOuter),
        case(
            "IP length too large",
            &with_ip_checksum(with_byte(ours.clone(), 17, 250), 14),
        )
        .dropped(0, MalformedOuter),
        case("a damaged IP header", &with_byte(ours.clone(), 19, 1)).dropped(0, OuterChecksum),
    ];
    cases.extend(
        (42..ours.len())
            .map(|len| case(format!("cut to {len}"), &ours[..len]).dropped(0, MalformedOuter)),
    );
    check(&bed, &cases);
}

/// Whatever bytes come: the guard turns away only what TC would, for the same
/// reason, and all of it that shows outside.
#[test]
fn the_guard_and_tc_agree_on_anything() {
    let bed = Bed::new();
    let ours = tunnelled(PEER, NET, &inner(FROM, TO_A));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut judged = [0; 2];
    for round in 0..4000 {
        let mut packet = ours.clone();
        // Behind the MAC addresses: TC does not look at what is for others.
        for _ in 0..=random(3) {
            packet[12 + random(OUTER_LEN - 12)] = u8::try_from(random(256)).unwrap();
        }
        if round % 4 == 0 {
            packet.truncate(42 + random(OUTER_LEN - 42));
        }
        bed.programs.reset();
        let (guard, _) = bed.run(Program::Guard, Device::Underlay, &packet);
        let by_guard = bed.programs.counters().drops;
        bed.programs.reset();
        bed.run(Program::FromUnderlay, Device::Underlay, &packet);
        let mut by_tc = bed.programs.counters().drops;
        by_tc.retain(|(_, reason, _), _| {
            [
                MalformedOuter,
                OuterChecksum,
                VniFlag,
                UnknownVni,
                UnknownVtep,
            ]
            .contains(reason)
        });
        assert_eq!(by_guard, by_tc, "{packet:02x?}");
        assert_eq!(guard == 1, !by_guard.is_empty(), "{packet:02x?}");
        judged[usize::from(guard == 1)] += 1;
    }
    // The packets were neither all good nor all bad.
    assert!(judged.iter().all(|count| *count > 500), "{judged:?}");
}
