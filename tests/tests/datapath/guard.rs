//! The XDP guard.

use vxplane_common::drop::DropReason::{MalformedOuter, UnknownVni, UnknownVtep, VniFlag};

use crate::{
    bed::{
        Bed, Device, NET, NO_NET, OTHER_NET, OTHER_PEER, PEER, PORT, R_IP, ROUTER_MAC, STRANGER,
        UNDERLAY_MAC, VTEP,
    },
    case::{Case, check},
    ingress::{FROM, TO_A, inner, tunnelled},
    packets::{ARP, IPV4, Ip, arp, ethernet, udp, vxlan, with_byte},
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
        case("IP length too large", &with_byte(ours.clone(), 17, 250)).dropped(0, MalformedOuter),
    ];
    cases.extend(
        (42..ours.len())
            .map(|len| case(format!("cut to {len}"), &ours[..len]).dropped(0, MalformedOuter)),
    );
    check(&bed, &cases);
}
