//! Shortcuts: packets take them, and never after anything has changed that was
//! relied on.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use vxplane_common::{
    abi::{Endpoint, FdbEntry, FdbKey, Peer, PeerKey, map},
    drop::DropReason::{
        PolicyEgress, PolicyIngress, SourceIp, SourceIpIsLocal, SourceMac, UnknownEndpoint,
        UnknownMac, UnknownVni, UnknownVtep,
    },
    flow::{ESTABLISHED, REPLIED},
    types::MacAddr,
};

use crate::{
    bed::{
        A_IP, A_MAC, B, B_IP, B_MAC, Bed, Device, NET, NO_NET, PEER, PEER_2, R_IP, R_MAC, STRANGER,
        Shape, X_MAC, key, peer_key,
    },
    ingress::tunnelled,
    packets::{IPV4, Mac, OUTER_LEN, ethernet},
    policy::{ACK, From, SYN, TO_A, tcp_from, udp_from},
    programs::Program,
};

const PORTS: (u16, u16) = (40_000, 7000);
const BACK: (u16, u16) = (7000, 40_000);
const RST: u8 = 0x04;

/// A moment is no longer than this, by whatever timer the kernel has.
const MOMENT: Duration = Duration::from_secs(3);

const REDIRECT: i32 = 7;

/// A frame of A's.
fn of_a(dst: Mac, ip: &[u8]) -> Vec<u8> {
    ethernet(dst, A_MAC, IPV4, ip)
}

fn to_r() -> Vec<u8> {
    of_a(R_MAC, &udp_from(A_IP, R_IP, PORTS))
}

/// What R sends to A.
fn from_r(vtep: Ipv4Addr, vni: u32) -> Vec<u8> {
    tunnelled(
        vtep,
        vni,
        &ethernet(A_MAC, R_MAC, IPV4, &udp_from(R_IP, A_IP, BACK)),
    )
}

fn send(bed: &Bed, frame: &[u8]) -> (i32, Vec<u8>) {
    bed.run(Program::FromContainer, Device::A, frame)
}

fn receive(bed: &Bed, packet: &[u8]) -> (i32, Vec<u8>) {
    bed.run(Program::FromUnderlay, Device::Underlay, packet)
}

/// Why it was dropped that was sent last.
fn reason(
    bed: &Bed,
    run: impl Fn(&Bed) -> (i32, Vec<u8>),
) -> Option<vxplane_common::drop::DropReason> {
    bed.programs.reset();
    run(bed);
    let drops = bed.programs.counters().drops;
    drops.keys().next().map(|(_, reason, _)| *reason)
}

/// Sends until it goes by a shortcut: it arrives although, for as long as it takes
/// to see that, something is missing on the whole way.
fn until_short(run: impl Fn() -> (i32, Vec<u8>), take: impl Fn(), put_back: impl Fn()) {
    let deadline = Instant::now() + 2 * MOMENT;
    loop {
        assert!(Instant::now() < deadline, "it never takes a shortcut");
        for _ in 0..3 {
            assert_eq!(run().0, REDIRECT);
        }
        take();
        let (verdict, _) = run();
        put_back();
        if verdict == REDIRECT {
            return;
        }
    }
}

/// A's frames go by a shortcut from now on.
fn sends_short(bed: &Bed, frame: &[u8]) {
    let a = bed.ifindex(Device::A);
    let endpoint: Endpoint = bed.programs.get(map::ENDPOINTS, &a).unwrap();
    until_short(
        || send(bed, frame),
        || bed.programs.remove::<u32, Endpoint>(map::ENDPOINTS, &a),
        || bed.programs.put(map::ENDPOINTS, a, endpoint),
    );
}

/// What comes from R goes by a shortcut from now on.
fn receives_short(bed: &Bed) {
    let packet = from_r(PEER, NET);
    let peer = peer_key(NET, PEER);
    until_short(
        || receive(bed, &packet),
        || bed.programs.remove::<PeerKey, Peer>(map::PEERS, &peer),
        || bed.programs.put(map::PEERS, peer, bed.peer(NET, PEER, 0)),
    );
}

/// A and R talk, by shortcuts in both directions.
fn talking() -> Bed {
    let bed = Bed::new();
    receives_short(&bed);
    sends_short(&bed, &to_r());
    bed
}

#[test]
fn what_takes_it_is_the_same_and_is_counted() {
    let bed = talking();
    bed.programs.reset();
    let (verdict, out) = send(&bed, &to_r());
    assert_eq!(verdict, REDIRECT);
    assert_eq!(out[30..34], PEER.octets());
    assert_eq!(out[OUTER_LEN..], to_r());
    let (verdict, out) = receive(&bed, &from_r(PEER, NET));
    assert_eq!(
        (verdict, &out[..]),
        (REDIRECT, &from_r(PEER, NET)[OUTER_LEN..])
    );
    let len = u64::try_from(to_r().len()).unwrap();
    assert_eq!(bed.programs.counters().traffic[&1], [1, len, 1, len]);

    let to_b = of_a(B_MAC, &udp_from(A_IP, B_IP, PORTS));
    sends_short(&bed, &to_b);
    bed.programs.reset();
    assert_eq!(send(&bed, &to_b), (REDIRECT, to_b.clone()));
    let traffic = bed.programs.counters().traffic;
    assert_eq!((traffic[&1], traffic[&B]), ([1, len, 0, 0], [0, 0, 1, len]));
}

#[test]
fn it_ends_with_the_moment() {
    let bed = talking();
    let a = bed.ifindex(Device::A);
    bed.programs.remove::<u32, Endpoint>(map::ENDPOINTS, &a);
    bed.programs
        .remove::<PeerKey, Peer>(map::PEERS, &peer_key(NET, PEER));
    std::thread::sleep(MOMENT);
    assert_ne!(send(&bed, &to_r()).0, REDIRECT);
    assert_ne!(receive(&bed, &from_r(PEER, NET)).0, REDIRECT);
}

#[test]
fn it_ends_with_the_policy() {
    let bed = talking();
    bed.select(Device::A, 9, 0);
    // R began.
    assert_eq!(reason(&bed, |bed| send(bed, &to_r())), None);
    bed.select(Device::A, 0, 9);
    assert_eq!(reason(&bed, |bed| send(bed, &to_r())), Some(PolicyIngress));
    assert_eq!(
        reason(&bed, |bed| receive(bed, &from_r(PEER, NET))),
        Some(PolicyIngress)
    );

    let bed = Bed::new();
    sends_short(&bed, &to_r());
    bed.select(Device::A, 9, 0);
    assert_eq!(reason(&bed, |bed| send(bed, &to_r())), Some(PolicyEgress));
}

#[test]
fn it_ends_with_the_endpoint() {
    let bed = talking();
    let a = bed.ifindex(Device::A);
    let endpoint: Endpoint = bed.programs.get(map::ENDPOINTS, &a).unwrap();
    let other = Endpoint {
        mac: MacAddr(X_MAC),
        ..endpoint
    };
    bed.programs.put(map::ENDPOINTS, a, other);
    bed.programs.bump_epoch();
    assert_eq!(
        reason(&bed, |bed| send(bed, &to_r())),
        Some(SourceMac),
        "another's veth now"
    );
    bed.programs.remove::<u32, Endpoint>(map::ENDPOINTS, &a);
    bed.programs
        .remove::<FdbKey, FdbEntry>(map::FDB, &key(NET, A_MAC));
    bed.programs.bump_epoch();
    assert_eq!(
        reason(&bed, |bed| send(bed, &to_r())),
        Some(UnknownEndpoint)
    );
    assert_eq!(
        reason(&bed, |bed| receive(bed, &from_r(PEER, NET))),
        Some(UnknownMac)
    );
}

#[test]
fn it_ends_with_where_the_other_was() {
    let bed = talking();
    bed.programs
        .put(map::FDB, key(NET, R_MAC), bed.remote(NET, PEER_2));
    bed.programs.bump_epoch();
    assert_eq!(send(&bed, &to_r()).1[30..34], PEER_2.octets());
    bed.programs
        .remove::<PeerKey, Peer>(map::PEERS, &peer_key(NET, PEER));
    bed.programs.bump_epoch();
    assert_eq!(
        reason(&bed, |bed| receive(bed, &from_r(PEER, NET))),
        Some(UnknownVtep)
    );
}

#[test]
fn it_ends_when_a_learned_address_moves() {
    let bed = Bed::new();
    let from_x = |vtep| {
        let frame = ethernet(A_MAC, X_MAC, IPV4, &udp_from(R_IP, A_IP, BACK));
        tunnelled(vtep, NET, &frame)
    };
    assert_eq!(receive(&bed, &from_x(PEER)).0, REDIRECT);
    let to_x = of_a(X_MAC, &udp_from(A_IP, R_IP, PORTS));
    sends_short(&bed, &to_x);
    assert_eq!(send(&bed, &to_x).1[30..34], PEER.octets());
    assert_eq!(receive(&bed, &from_x(PEER_2)).0, REDIRECT);
    assert_eq!(
        send(&bed, &to_x).1[30..34],
        PEER_2.octets(),
        "without another epoch"
    );
}

#[test]
fn it_is_for_its_own_flow_alone() {
    let bed = talking();
    let ip = udp_from(A_IP, R_IP, PORTS);
    let in_anothers_name = ethernet(R_MAC, B_MAC, IPV4, &ip);
    assert_eq!(
        reason(&bed, |bed| send(bed, &in_anothers_name)),
        Some(SourceMac)
    );
    let anothers = of_a(R_MAC, &udp_from(B_IP, R_IP, PORTS));
    assert_eq!(reason(&bed, |bed| send(bed, &anothers)), Some(SourceIp));
    let by_another = |bed: &Bed| bed.run(Program::FromContainer, Device::B, &to_r());
    assert_eq!(reason(&bed, by_another), Some(SourceMac));
    // To another MAC address.
    assert_eq!(send(&bed, &of_a(B_MAC, &ip)).1, of_a(B_MAC, &ip));
    let frame = ethernet(B_MAC, R_MAC, IPV4, &udp_from(R_IP, A_IP, BACK));
    assert_eq!(
        receive(&bed, &tunnelled(PEER, NET, &frame)).0,
        -1,
        "not its own address"
    );
    // From another VTEP, and in another network.
    assert_eq!(
        reason(&bed, |bed| receive(bed, &from_r(STRANGER, NET))),
        Some(UnknownVtep)
    );
    assert_eq!(
        reason(&bed, |bed| receive(bed, &from_r(PEER, NO_NET))),
        Some(UnknownVni)
    );
    // From the wire in the name of an endpoint here.
    let of_b = ethernet(A_MAC, R_MAC, IPV4, &udp_from(B_IP, A_IP, BACK));
    let of_b = tunnelled(PEER, NET, &of_b);
    assert_eq!(
        reason(&bed, |bed| receive(bed, &of_b)),
        Some(SourceIpIsLocal)
    );
    assert_eq!(send(&bed, &to_r()).0, REDIRECT);
    assert_eq!(receive(&bed, &from_r(PEER, NET)).0, REDIRECT);
}

#[test]
fn it_ends_with_the_connection() {
    let bed = Bed::new();
    let asks = |flags| of_a(B_MAC, &tcp_from(A_IP, B_IP, PORTS, flags));
    let answers = |flags| tcp_from(B_IP, A_IP, BACK, flags);
    let states = || {
        let flows = [map::FLOWS, map::NEW_FLOWS].map(|name| bed.programs.flows(name));
        let states = flows.iter().flatten().map(|(_, flow)| flow.state);
        states
            .map(|it| it & (REPLIED | ESTABLISHED))
            .collect::<Vec<_>>()
    };
    send(&bed, &asks(SYN));
    assert_eq!(bed.send(From::B, TO_A, &answers(SYN | ACK)), None);
    sends_short(&bed, &asks(ACK));
    assert_eq!(states(), [REPLIED | ESTABLISHED]);
    assert_eq!(bed.send(From::B, TO_A, &answers(RST)), None);
    assert!(states().is_empty());
    send(&bed, &asks(ACK));
    assert_eq!(states(), [0], "met in its midst");
    assert_eq!(bed.send(From::B, TO_A, &answers(ACK)), None);
    assert_eq!(states(), [REPLIED]);
    send(&bed, &asks(ACK));
    assert_eq!(states(), [REPLIED | ESTABLISHED]);
}

#[test]
fn what_is_traced_takes_none() {
    let bed = talking();
    let shape = Shape {
        traced: true,
        ..Shape::default()
    };
    bed.run_with(Program::FromContainer, Device::A, shape, &to_r());
    assert!(!bed.programs.steps().is_empty());
    bed.run_with(
        Program::FromUnderlay,
        Device::Underlay,
        shape,
        &from_r(PEER, NET),
    );
    assert!(!bed.programs.steps().is_empty());
}
