//! Flows: replies, revocation, how connections begin and end, and what a scan
//! drives out.

use vxplane_common::{
    abi::{Flow, FlowKey, map},
    drop::DropReason::PolicyIngress,
    flow::{ESTABLISHED, REPLIED},
};

use crate::{
    bed::{A_IP, B_IP, Bed, C_IP, Device, R_IP},
    packets::{Ip, icmp, tcp, udp},
    policy::{ACK, From, SYN, TCP, TO_A, TO_B, TO_R, UDP, tcp_from, udp_from},
};

const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// A bed where B may be sent what begins elsewhere to port 80 only, and A nothing.
fn guarded() -> Bed {
    let bed = Bed::new();
    bed.select(Device::A, 0, 8);
    bed.select(Device::B, 0, 9);
    for protocol in [TCP, UDP] {
        bed.allow(9, 0, Some((protocol, 80, 16)));
    }
    bed
}

const TO_SERVER: (u16, u16) = (40_000, 80);
const TO_CLIENT: (u16, u16) = (80, 40_000);

/// A's segment to B, and B's to A.
fn asks(flags: u8) -> Vec<u8> {
    tcp_from(A_IP, B_IP, TO_SERVER, flags)
}

fn answers(flags: u8) -> Vec<u8> {
    tcp_from(B_IP, A_IP, TO_CLIENT, flags)
}

fn connect(bed: &Bed) {
    assert_eq!(bed.send(From::A, TO_B, &asks(SYN)), None);
    assert_eq!(bed.send(From::B, TO_A, &answers(SYN | ACK)), None);
    assert_eq!(bed.send(From::A, TO_B, &asks(ACK)), None);
}

fn known(bed: &Bed) -> usize {
    bed.programs.flows(map::NEW_FLOWS).len() + bed.programs.flows(map::FLOWS).len()
}

#[test]
fn replies_pass() {
    let bed = guarded();
    let reply = udp_from(B_IP, A_IP, TO_CLIENT);
    assert_eq!(bed.send(From::B, TO_A, &reply), Some(PolicyIngress));
    assert_eq!(known(&bed), 0, "what is denied leaves nothing");
    assert_eq!(
        bed.send(From::A, TO_B, &udp_from(A_IP, B_IP, TO_SERVER)),
        None
    );
    assert_eq!(bed.send(From::B, TO_A, &reply), None);
    let other = udp_from(B_IP, A_IP, (80, 40_001));
    assert_eq!(bed.send(From::B, TO_A, &other), Some(PolicyIngress));
    // To and from another host.
    let back = udp_from(R_IP, A_IP, TO_CLIENT);
    assert_eq!(bed.send(From::Wire, TO_A, &back), Some(PolicyIngress));
    assert_eq!(
        bed.send(From::A, TO_R, &udp_from(A_IP, R_IP, TO_SERVER)),
        None
    );
    assert_eq!(bed.send(From::Wire, TO_A, &back), None);
}

#[test]
fn flows_without_a_policy_are_known_when_one_comes() {
    let bed = Bed::new();
    assert_eq!(
        bed.send(From::A, TO_R, &udp_from(A_IP, R_IP, TO_SERVER)),
        None
    );
    bed.select(Device::A, 0, 8);
    assert_eq!(
        bed.send(From::Wire, TO_A, &udp_from(R_IP, A_IP, TO_CLIENT)),
        None
    );
}

#[test]
fn what_is_revoked_is_cut_and_what_is_given_back_goes_on() {
    let bed = guarded();
    connect(&bed);
    // Another rule set without the rule, swapped in under the flow.
    bed.select(Device::B, 0, 7);
    assert_eq!(bed.send(From::A, TO_B, &asks(ACK)), Some(PolicyIngress));
    assert_eq!(
        bed.send(From::B, TO_A, &answers(ACK)),
        Some(PolicyIngress),
        "replies too"
    );
    bed.select(Device::B, 0, 9);
    assert_eq!(bed.send(From::B, TO_A, &answers(ACK)), None);
    assert_eq!(bed.send(From::A, TO_B, &asks(ACK)), None);
    let flows = bed.programs.flows(map::NEW_FLOWS);
    let rules: Vec<u32> = flows.values().map(|flow| flow.decision().rule()).collect();
    assert_eq!(rules, [77]);
}

#[test]
fn a_connection_is_forgotten_when_it_is_over() {
    let bed = guarded();
    connect(&bed);
    let state = bed
        .programs
        .flows(map::NEW_FLOWS)
        .values()
        .next()
        .unwrap()
        .state;
    assert_eq!(state & (REPLIED | ESTABLISHED), REPLIED | ESTABLISHED);
    for (from, to, packet) in [
        (From::A, TO_B, asks(FIN | ACK)),
        (From::B, TO_A, answers(ACK)),
        (From::B, TO_A, answers(FIN | ACK)),
    ] {
        assert_eq!(bed.send(from, to, &packet), None);
        assert_eq!(known(&bed), 1);
    }
    assert_eq!(bed.send(From::A, TO_B, &asks(ACK)), None);
    assert_eq!(known(&bed), 0);
    connect(&bed);
    assert_eq!(bed.send(From::B, TO_A, &answers(RST)), None);
    assert_eq!(known(&bed), 0);
    assert_eq!(
        bed.send(From::A, TO_B, &asks(RST)),
        None,
        "of no connection"
    );
    assert_eq!(known(&bed), 0);
}

#[test]
fn a_syn_from_the_other_side_begins_anew() {
    let bed = guarded();
    connect(&bed);
    assert_eq!(bed.send(From::B, TO_A, &answers(SYN)), Some(PolicyIngress));
    assert_eq!(
        bed.send(From::A, TO_B, &asks(ACK)),
        None,
        "the old one goes on"
    );
    assert_eq!(bed.send(From::A, TO_B, &asks(SYN)), None, "its ports again");
    let state = bed
        .programs
        .flows(map::NEW_FLOWS)
        .values()
        .next()
        .unwrap()
        .state;
    assert_eq!(state & (REPLIED | ESTABLISHED), 0);
}

#[test]
fn what_is_met_in_its_midst_is_picked_up() {
    let bed = guarded();
    assert_eq!(bed.send(From::B, TO_A, &answers(ACK)), None, "by the ports");
    assert_eq!(bed.send(From::A, TO_B, &asks(ACK)), None);
    let back = |ports, flags| bed.send(From::B, TO_A, &tcp_from(B_IP, A_IP, ports, flags));
    assert_eq!(back((81, 40_000), ACK), Some(PolicyIngress), "no such rule");
    assert_eq!(back((80, 90), ACK), None, "either way round");
    assert_eq!(back((80, 41_000), SYN | ACK), None, "an answer");
    assert_eq!(back((80, 42_000), SYN), Some(PolicyIngress));
}

#[test]
fn pings_and_errors() {
    let bed = guarded();
    bed.allow(9, 0, Some((1, 0, 16)));
    let ping = |src, dst, kind, id| Ip::udp(src, dst).protocol(1).packet(&icmp(kind, id, b"x"));
    let reply = ping(B_IP, A_IP, 0, 7);
    assert_eq!(bed.send(From::B, TO_A, &reply), Some(PolicyIngress));
    assert_eq!(bed.send(From::A, TO_B, &ping(A_IP, B_IP, 8, 7)), None);
    assert_eq!(bed.send(From::B, TO_A, &reply), None);
    assert_eq!(
        bed.send(From::B, TO_A, &ping(B_IP, A_IP, 0, 8)),
        Some(PolicyIngress)
    );
    let request = ping(B_IP, A_IP, 8, 7);
    assert_eq!(
        bed.send(From::B, TO_A, &request),
        Some(PolicyIngress),
        "a request is none"
    );

    let datagram = udp_from(A_IP, B_IP, TO_SERVER);
    let error = |about: &[u8]| Ip::udp(B_IP, A_IP).protocol(1).packet(&icmp(3, 0, about));
    let unreachable = error(&datagram[..28]);
    assert_eq!(
        bed.send(From::B, TO_A, &unreachable),
        Some(PolicyIngress),
        "of no flow"
    );
    assert_eq!(bed.send(From::A, TO_B, &datagram), None);
    assert_eq!(bed.send(From::B, TO_A, &unreachable), None);
    let from_router = Ip::udp(C_IP, A_IP)
        .protocol(1)
        .packet(&icmp(11, 0, &datagram[..28]));
    assert_eq!(
        bed.send(From::Wire, TO_A, &from_router),
        None,
        "from between"
    );
    let turned = udp_from(B_IP, A_IP, TO_CLIENT);
    assert_eq!(
        bed.send(From::B, TO_A, &error(&turned[..28])),
        Some(PolicyIngress),
        "not A's"
    );
    assert_eq!(
        bed.send(From::B, TO_A, &error(&datagram[..20])),
        Some(PolicyIngress),
        "cut short"
    );
    bed.select(Device::B, 0, 7);
    assert_eq!(
        bed.send(From::B, TO_A, &unreachable),
        Some(PolicyIngress),
        "of one that is denied"
    );
}

#[test]
fn super_packets_and_options() {
    let bed = guarded();
    let with_options = Ip::udp(A_IP, B_IP).packet_with_options(&[1; 8], &udp(40_000, 80, b"x"));
    let to_81 = Ip::udp(A_IP, B_IP).packet_with_options(&[1; 40], &udp(40_000, 81, b"x"));
    assert_eq!(bed.send(From::A, TO_B, &with_options), None);
    assert_eq!(bed.send(From::A, TO_B, &to_81), Some(PolicyIngress));
    let ip = Ip::udp(A_IP, B_IP).protocol(TCP);
    let big = ip.packet(&tcp(40_001, 81, SYN, &[0; 1400]));
    assert_eq!(bed.send(From::A, TO_B, &big), Some(PolicyIngress));
}

/// What lasts stays, however many others begin.
#[test]
fn a_scan_drives_out_no_flow_that_lasts() {
    let bed = Bed::new();
    bed.select(Device::A, 0, 8);
    let asked = udp_from(A_IP, R_IP, TO_SERVER);
    let answer = udp_from(R_IP, A_IP, TO_CLIENT);
    let unanswered = udp_from(A_IP, R_IP, (40_001, 80));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while bed.programs.flows(map::FLOWS).is_empty() {
        assert!(std::time::Instant::now() < deadline, "it never lasts");
        assert_eq!(bed.send(From::A, TO_R, &unanswered), None);
        assert_eq!(bed.send(From::A, TO_R, &asked), None);
        assert_eq!(bed.send(From::Wire, TO_A, &answer), None);
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let before = bed.programs.flows(map::FLOWS);
    assert_eq!(before.len(), 1, "what nobody answers does not last");
    let new = bed.programs.flows(map::NEW_FLOWS);
    assert!(
        new.values().all(|flow| flow.state & REPLIED == 0),
        "it has moved"
    );
    // More than either map has room for.
    let room = usize::try_from(crate::programs::LARGEST).unwrap();
    for port in 1..4 * u16::try_from(room).unwrap() {
        bed.scan(&udp_from(A_IP, B_IP, (port, 9)));
    }
    assert!(bed.programs.flows(map::NEW_FLOWS).len() <= room);
    let after = bed.programs.flows(map::FLOWS);
    assert!(before.keys().eq(after.keys()));
    assert_eq!(bed.send(From::Wire, TO_A, &answer), None);
}

/// A flow that is silent for too long is as good as unknown, whether somebody has
/// removed it or not.
#[test]
fn what_is_over_is_decided_anew() {
    let bed = guarded();
    assert_eq!(
        bed.send(From::A, TO_B, &udp_from(A_IP, B_IP, TO_SERVER)),
        None
    );
    let reply = udp_from(B_IP, A_IP, TO_CLIENT);
    assert_eq!(bed.send(From::B, TO_A, &reply), None);
    let (key, flow): (FlowKey, Flow) = bed
        .programs
        .flows(map::NEW_FLOWS)
        .into_iter()
        .next()
        .unwrap();
    let long_ago = Flow {
        seen: 0,
        created: 0,
        tick: 0,
        ..flow
    };
    bed.programs.put(map::NEW_FLOWS, key, long_ago);
    assert_eq!(bed.send(From::B, TO_A, &reply), Some(PolicyIngress));
}
