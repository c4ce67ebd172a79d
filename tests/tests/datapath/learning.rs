//! Learning: bounded, movable, never against the control plane.

use std::net::Ipv4Addr;

use vxplane_common::{
    abi::{
        EVENT_LEARN_REFUSED, EVENT_LEARNED, EVENT_LEARNED_FULL, EVENT_MOVED, FdbEntry, FdbKey,
        LearnBudget, Learned, map,
    },
    drop::DropReason::SourceIsLocal,
};

use crate::{
    bed::{
        A, A_IP, A_MAC, B, BUDGET, Bed, Device, NET, OTHER_NET, PEER, PEER_2, R_IP, R_MAC, X_MAC,
        key, local, peer_key,
    },
    case::{Case, check},
    ingress::{TO_A, inner, tunnelled},
    packets::{IPV4, Ip, Mac, OUTER_LEN, ethernet, udp},
    programs::{LARGEST, Program},
};

fn from(mac: Mac, vtep: Ipv4Addr) -> Vec<u8> {
    tunnelled(vtep, NET, &inner((mac, R_IP), TO_A))
}

/// Runs a packet without resetting anything; it must be delivered.
fn deliver(bed: &Bed, packet: &[u8]) {
    let (verdict, _) = bed.run(Program::FromUnderlay, Device::Underlay, packet);
    assert_eq!(verdict, 7);
}

fn learned(bed: &Bed, mac: Mac) -> Option<Learned> {
    bed.programs.get(map::LEARNED, &key(NET, mac))
}

fn set_learned(bed: &Bed, mac: Mac, entry: Learned) {
    bed.programs.put(map::LEARNED, key(NET, mac), entry);
    bed.programs.bump_epoch();
}

#[test]
fn what_is_learned_is_used() {
    let bed = Bed::new();
    let ip = Ip::udp(A_IP, R_IP).packet(&udp(1, 2, b"x"));
    let to_x = ethernet(X_MAC, A_MAC, IPV4, &ip);
    deliver(&bed, &from(X_MAC, PEER_2));
    let entry = learned(&bed, X_MAC).unwrap();
    assert_eq!(entry.outer, crate::bed::outer(NET, PEER_2));
    assert_eq!(bed.programs.events(), [(EVENT_LEARNED, NET, X_MAC, PEER_2)]);

    let (verdict, out) = bed.run(Program::FromContainer, Device::A, &to_x);
    assert_eq!(verdict, 7);
    assert_eq!(out.len(), to_x.len() + OUTER_LEN);
    assert_eq!(out[30..34], PEER_2.octets());
    assert_eq!(out[OUTER_LEN..], to_x);

    let (remaining, refused) = budget(&bed);
    assert_eq!((remaining, refused), (BUDGET - 1, 0));
}

fn budget(bed: &Bed) -> (u64, u64) {
    let budget: LearnBudget = bed.programs.get(map::LEARN_BUDGET, &NET).unwrap();
    (budget.remaining, budget.refused)
}

#[test]
fn what_the_control_plane_says_is_not_learned() {
    let bed = Bed::new();
    let packet = from(R_MAC, PEER_2);
    let len = packet.len() - OUTER_LEN;
    let case = Case::new("", Program::FromUnderlay, Device::Underlay, &packet)
        .redirected()
        .becomes(packet[OUTER_LEN..].to_vec())
        .received_by(A, len);
    check(&bed, &[case]);
    assert_eq!(bed.programs.events(), []);
}

#[test]
fn nothing_is_learned_from_peers_not_meant_for_it() {
    let bed = Bed::new();
    bed.programs
        .put(map::PEERS, peer_key(NET, PEER), bed.peer(NET, PEER, 0));
    deliver(&bed, &from(X_MAC, PEER));
    assert_eq!(learned(&bed, X_MAC), None);
    // Nor does one take away what is known from another.
    deliver(&bed, &from(X_MAC, PEER_2));
    deliver(&bed, &from(X_MAC, PEER));
    assert_eq!(learned(&bed, X_MAC).unwrap().vtep, PEER_2.octets());
}

#[test]
fn an_address_moves_at_once() {
    let bed = Bed::new();
    deliver(&bed, &from(X_MAC, PEER));
    deliver(&bed, &from(X_MAC, PEER_2));
    let moved = learned(&bed, X_MAC).unwrap();
    assert_eq!(moved.vtep, PEER_2.octets());
    assert_eq!(moved.outer, crate::bed::outer(NET, PEER_2));
    assert_ne!(moved.moved, 0);
    assert_eq!(
        bed.programs.events(),
        [
            (EVENT_LEARNED, NET, X_MAC, PEER),
            (EVENT_MOVED, NET, X_MAC, PEER_2)
        ]
    );
    // Two VTEPs that quarrel: each packet moves it, not each is told.
    for _ in 0..20 {
        deliver(&bed, &from(X_MAC, PEER));
        deliver(&bed, &from(X_MAC, PEER_2));
    }
    assert!(bed.programs.events().len() <= 2);
    assert_eq!(budget(&bed), (BUDGET - 1, 0));
}

#[test]
fn seen_is_refreshed_once_a_second() {
    let bed = Bed::new();
    deliver(&bed, &from(X_MAC, PEER));
    let first = learned(&bed, X_MAC).unwrap();
    deliver(&bed, &from(X_MAC, PEER));
    assert_eq!(learned(&bed, X_MAC), Some(first));
    // As if it were long ago.
    let old = Learned { seen: 1, ..first };
    set_learned(&bed, X_MAC, old);
    deliver(&bed, &from(X_MAC, PEER));
    let refreshed = learned(&bed, X_MAC).unwrap();
    assert!(refreshed.seen >= first.seen);
    let expected = Learned {
        seen: refreshed.seen,
        ..first
    };
    assert_eq!(refreshed, expected);
    assert_eq!(bed.programs.events(), [(EVENT_LEARNED, NET, X_MAC, PEER)]);
}

#[test]
fn the_budget_bounds_it() {
    let bed = Bed::new();
    let mac = |last: u8| [0x0a, 0, 0, 0, 1, last];
    for last in 0..10 {
        deliver(&bed, &from(mac(last), PEER));
    }
    let (remaining, refused) = budget(&bed);
    assert_eq!((remaining, refused), (0, 10 - BUDGET));
    let known = (0..10).filter(|last| learned(&bed, mac(*last)).is_some());
    assert_eq!(known.count() as u64, BUDGET);
    let mut events = bed.programs.events();
    let refusal = (EVENT_LEARN_REFUSED, NET, mac(4), PEER);
    assert_eq!(events.pop(), Some(refusal), "told once");
    assert_eq!(events.len() as u64, BUDGET);
    // Refilled, as the daemon does.
    let full = LearnBudget {
        remaining: 1,
        refused: 0,
    };
    bed.programs.put(map::LEARN_BUDGET, NET, full);
    deliver(&bed, &from(mac(9), PEER));
    assert!(learned(&bed, mac(9)).is_some());
    assert_eq!(budget(&bed), (0, 0));
    // Without a budget nothing is learned, and nothing lost.
    bed.programs
        .remove::<u32, LearnBudget>(map::LEARN_BUDGET, &NET);
    deliver(&bed, &from(mac(50), PEER));
    assert!(learned(&bed, mac(50)).is_none());
}

/// All networks together: what is refused then is counted, told, and forwarded.
#[test]
fn the_map_bounds_it() {
    let bed = Bed::new();
    deliver(&bed, &from(X_MAC, PEER));
    let entry = learned(&bed, X_MAC).unwrap();
    for number in 1..LARGEST {
        let [a, b, c, d] = number.to_be_bytes();
        let other = key(OTHER_NET, [2, 0, a, b, c, d]);
        bed.programs.put(map::LEARNED, other, entry);
    }
    bed.programs.events();
    let mac = |last: u8| [0x0a, 0, 0, 0, 1, last];
    for last in 0..3 {
        deliver(&bed, &from(mac(last), PEER));
    }
    assert_eq!(learned(&bed, mac(0)), None);
    assert_eq!(budget(&bed), (BUDGET - 1, 3));
    let told = [(EVENT_LEARNED_FULL, NET, mac(0), PEER)];
    assert_eq!(bed.programs.events(), told, "told once");
}

/// A foreign VTEP cannot take over an endpoint's address, neither before nor
/// after it has learned its way in.
#[test]
fn an_endpoint_cannot_be_taken_over() {
    let bed = Bed::new();
    deliver(&bed, &from(X_MAC, PEER));
    let before = learned(&bed, X_MAC).unwrap();
    // The address becomes an endpoint's here.
    let ifindex = bed.ifindex(Device::B);
    bed.programs
        .put(map::FDB, key(NET, X_MAC), local(ifindex, R_IP, B));

    let old = Learned { seen: 1, ..before };
    for (how, packet, entry) in [
        ("the old VTEP, a second later", from(X_MAC, PEER), old),
        ("another VTEP", from(X_MAC, PEER_2), before),
    ] {
        set_learned(&bed, X_MAC, entry);
        let (verdict, _) = bed.run(Program::FromUnderlay, Device::Underlay, &packet);
        assert_eq!(verdict, 2, "{how}");
        assert_eq!(learned(&bed, X_MAC), None, "{how}");
    }
    let packet = from(X_MAC, PEER);
    let case = Case::new("", Program::FromUnderlay, Device::Underlay, &packet);
    check(&bed, &[case.dropped(NET, SourceIsLocal)]);

    // Egress looks at what the control plane says first, whatever was learned.
    set_learned(&bed, X_MAC, before);
    let ip = Ip::udp(A_IP, R_IP).packet(&udp(1, 2, b"x"));
    let to_x = ethernet(X_MAC, A_MAC, IPV4, &ip);
    let (_, out) = bed.run(Program::FromContainer, Device::A, &to_x);
    assert_eq!(out, to_x, "it stays on this host");
    bed.programs
        .remove::<FdbKey, FdbEntry>(map::FDB, &key(NET, X_MAC));
}
