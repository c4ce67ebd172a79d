//! The Group Policy extension: identities that travel with packets.

use std::net::Ipv4Addr;

use vxplane_common::drop::DropReason::{self, PolicyIngress, UnknownVtep};

use crate::{
    bed::{
        A, A_IP, A_MAC, B, B_IP, B_MAC, BROADCAST, Bed, Device, NET, PEER, PEER_2, R_IP, R_MAC,
        STRANGER, X_MAC,
    },
    ingress::{tunnelled, udp_checksum},
    packets::{IPV4, Ip, arp, ethernet, udp},
    policy::{FRIEND, From, SYN, TO_R, tcp_from, udp_from},
    programs::Program,
    wire::Wire,
};

/// Where a VXLAN header begins behind Ethernet, IPv4 and UDP.
const VXLAN: usize = 42;
/// The rule set of B, and its class of friends.
const RULESET: u32 = 9;
const FRIENDS: u32 = 1;
/// An identity that no rule set knows.
const SOMEBODY: u16 = 2000;
/// An address that the control plane does not know.
const UNKNOWN: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 77);

fn friend() -> u16 {
    FRIEND.try_into().unwrap()
}

/// The first four bytes of the VXLAN header of a packet without options.
fn flags_and_group(packet: &[u8]) -> [u8; 4] {
    packet[VXLAN..VXLAN + 4].try_into().unwrap()
}

/// The same packet with a group policy ID.
fn claiming(mut packet: Vec<u8>, group: u16) -> Vec<u8> {
    packet[VXLAN] |= 0x80;
    packet[VXLAN + 2..VXLAN + 4].copy_from_slice(&group.to_be_bytes());
    packet
}

/// A bed in which B may only be sent something by friends.
fn with_friends_of_b(bed: Bed) -> Bed {
    bed.select(Device::B, 0, RULESET);
    bed.member(RULESET, FRIEND, FRIENDS);
    bed.allow(RULESET, FRIENDS, None);
    bed
}

impl Bed {
    /// Brings B a packet by the wire, and says why not if it is not let through.
    fn bring(&self, vtep: Ipv4Addr, ip: &[u8], group: Option<u16>) -> Option<DropReason> {
        self.programs.reset();
        let packet = tunnelled(vtep, NET, &ethernet(B_MAC, X_MAC, IPV4, ip));
        let packet = match group {
            Some(group) => claiming(packet, group),
            None => packet,
        };
        let (verdict, _) = self.run(Program::FromUnderlay, Device::Underlay, &packet);
        let drops = self.programs.counters().drops;
        let reason = drops.keys().next().map(|(_, reason, _)| *reason);
        assert_eq!(reason.is_some(), verdict == 2);
        reason
    }

    /// What A's packets to R bear if A is `identity`.
    fn sent_by(&self, identity: u32) -> [u8; 4] {
        self.identify(Some(Device::A), A_IP, A_MAC, identity);
        let frame = ethernet(R_MAC, A_MAC, IPV4, &udp_from(A_IP, R_IP, (1, 2)));
        let (verdict, out) = self.run(Program::FromContainer, Device::A, &frame);
        assert_eq!(verdict, 7, "redirected");
        flags_and_group(&out)
    }
}

#[test]
fn the_senders_identity_is_sent() {
    let bed = Bed::with_groups();
    assert_eq!(bed.sent_by(FRIEND), [0x88, 0, 0x03, 0xe8]);
    assert_eq!(bed.sent_by(0xffff), [0x88, 0, 0xff, 0xff]);
    assert_eq!(bed.sent_by(0), [8, 0, 0, 0], "nobody in particular");
    assert_eq!(bed.sent_by(0x1_0000), [8, 0, 0, 0], "too large");
    let off = Bed::new();
    assert_eq!(off.sent_by(FRIEND), [8, 0, 0, 0], "off");
}

#[test]
fn it_is_sent_by_the_slow_path_too() {
    let bed = Bed::with_groups();
    bed.programs
        .attach(Program::FromContainer, &bed.netns, "a0");
    let underlay = Wire::open(&bed.far, "u1");
    let container = Wire::open(&bed.far, "a1");
    let sent = |frame: &[u8]| {
        container.send(frame);
        let packets = underlay.received();
        let headers = packets.iter().map(|packet| flags_and_group(packet));
        headers.collect::<Vec<_>>()
    };
    let other = ethernet(R_MAC, A_MAC, 0x88b5, b"not IPv4");
    let broadcast = ethernet(
        BROADCAST,
        A_MAC,
        IPV4,
        &udp_from(A_IP, Ipv4Addr::BROADCAST, (68, 67)),
    );
    let (none, group) = ([8, 0, 0, 0], [0x88, 0, 0x03, 0xe8]);
    assert_eq!(sent(&other), [none]);
    bed.identify(Some(Device::A), A_IP, A_MAC, FRIEND);
    assert_eq!(sent(&other), [group]);
    assert_eq!(sent(&broadcast), [group; 2], "a copy for each VTEP");
    bed.identify(Some(Device::A), A_IP, A_MAC, 0x1_0000);
    assert_eq!(sent(&other), [none], "nothing is left of another packet's");
    // Fragments bear none: not everybody could put them together.
    bed.identify(Some(Device::A), A_IP, A_MAC, FRIEND);
    let large = Ip::udp(A_IP, R_IP).packet(&udp(1, 2, &[0; 1440]));
    container.send(&ethernet(R_MAC, A_MAC, IPV4, &large));
    let fragments = underlay.received();
    assert_eq!(fragments.len(), 2);
    assert_eq!(flags_and_group(&fragments[0]), none);
}

#[test]
fn it_counts_for_addresses_that_nobody_knows() {
    let bed = with_friends_of_b(Bed::with_groups());
    let mut port = 5000;
    let mut bring = |bed: &Bed, vtep, src, group| {
        port += 1;
        bed.bring(vtep, &udp_from(src, B_IP, (port, 1)), group)
    };
    assert_eq!(bring(&bed, PEER, UNKNOWN, None), Some(PolicyIngress));
    assert_eq!(bring(&bed, PEER, UNKNOWN, Some(friend())), None);
    assert_eq!(bring(&bed, PEER_2, UNKNOWN, Some(friend())), None);
    for group in [SOMEBODY, 0, 1, 0xffff] {
        let denied = bring(&bed, PEER, UNKNOWN, Some(group));
        assert_eq!(denied, Some(PolicyIngress), "{group}");
    }
    let strange = bring(&bed, STRANGER, UNKNOWN, Some(friend()));
    assert_eq!(strange, Some(UnknownVtep), "no peer is not believed");
    // R's address is known, but not who that is; and then it is.
    assert_eq!(bring(&bed, PEER, R_IP, Some(friend())), Some(PolicyIngress));
    bed.identify(None, R_IP, R_MAC, FRIEND);
    assert_eq!(bring(&bed, PEER, R_IP, Some(SOMEBODY)), None, "it is known");
    bed.identify(None, R_IP, R_MAC, SOMEBODY.into());
    assert_eq!(bring(&bed, PEER, R_IP, Some(friend())), Some(PolicyIngress));
    let off = with_friends_of_b(Bed::new());
    assert_eq!(
        bring(&off, PEER, UNKNOWN, Some(friend())),
        Some(PolicyIngress),
        "off"
    );
}

/// A flow is decided anew at any of its packets, and not all of them say who began.
#[test]
fn a_flow_remembers_it() {
    let bed = with_friends_of_b(Bed::with_groups());
    let there = udp_from(UNKNOWN, B_IP, (5000, 1));
    let back = udp_from(B_IP, UNKNOWN, (1, 5000));
    let answer = || bed.send(From::B, TO_R, &back);
    assert_eq!(bed.bring(PEER, &there, Some(friend())), None);
    assert_eq!(answer(), None);
    bed.programs.bump_epoch();
    assert_eq!(answer(), None, "decided anew at a packet without a group");
    bed.programs.bump_epoch();
    assert_eq!(bed.bring(PEER, &there, None), None, "likewise");
    let denied = Some(PolicyIngress);
    assert_eq!(bed.bring(PEER, &there, Some(SOMEBODY)), denied);
    assert_eq!(answer(), denied);
    assert_eq!(bed.bring(PEER, &there, Some(friend())), None);
    assert_eq!(answer(), None);
    bed.select(Device::B, 0, RULESET + 1);
    assert_eq!(answer(), denied, "another rule set");
    assert_eq!(bed.bring(PEER, &there, Some(friend())), denied);
}

/// The group is of who began; whom an endpoint may send to is not for them to say.
#[test]
fn who_is_sent_something_has_no_say() {
    let bed = Bed::with_groups();
    bed.select(Device::B, RULESET, 0);
    bed.member(RULESET, FRIEND, FRIENDS);
    bed.allow(RULESET, FRIENDS, None);
    let connect = tcp_from(B_IP, UNKNOWN, (40_000, 80), SYN);
    let denied = Some(DropReason::PolicyEgress);
    assert_eq!(bed.send(From::B, TO_R, &connect), denied);
    let accept = tcp_from(UNKNOWN, B_IP, (80, 40_000), SYN | 0x10);
    assert_eq!(bed.bring(PEER, &accept, Some(friend())), denied);
}

#[test]
fn the_kernel_hands_it_on() {
    let bed = with_friends_of_b(Bed::with_groups());
    bed.programs.attach(Program::FromUnderlay, &bed.netns, "u0");
    bed.programs
        .attach(Program::FromFallback, &bed.netns, "vxplane0");
    let underlay = Wire::open(&bed.far, "u1");
    let delivered = |packet: &[u8]| {
        bed.programs.reset();
        underlay.send(packet);
        let traffic = bed.programs.counters().traffic;
        [A, B].map(|slot| traffic.get(&slot).is_some_and(|count| count[2] == 1))
    };
    let to_all = udp_from(UNKNOWN, Ipv4Addr::BROADCAST, (68, 67));
    let broadcast = tunnelled(PEER, NET, &ethernet(BROADCAST, X_MAC, IPV4, &to_all));
    assert_eq!(delivered(&broadcast), [true, false]);
    assert_eq!(delivered(&claiming(broadcast.clone(), friend())), [true; 2]);
    // With every other bit that is reserved, and a checksum.
    let mut dirty = claiming(broadcast.clone(), friend());
    dirty[VXLAN] = 0xff;
    dirty[VXLAN + 1] = 0xff;
    dirty[VXLAN + 7] = 0x77;
    let sum = udp_checksum(&dirty);
    dirty[40..42].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(delivered(&dirty), [true; 2]);
    let mut no_group = broadcast.clone();
    no_group[VXLAN + 1..VXLAN + 4].fill(0xa5);
    assert_eq!(delivered(&no_group), [true, false], "no G bit");
    let stranger = tunnelled(STRANGER, NET, &ethernet(BROADCAST, X_MAC, IPV4, &to_all));
    assert_eq!(delivered(&claiming(stranger, friend())), [false; 2]);
    // Not for everyone, but for whoever asks: ARP has no sender that a rule could name.
    let asks = arp(1, (X_MAC, UNKNOWN), ([0; 6], B_IP));
    let asks = tunnelled(PEER, NET, &ethernet(BROADCAST, X_MAC, 0x0806, &asks));
    assert_eq!(delivered(&claiming(asks, SOMEBODY)), [true; 2]);
}
