//! Limits of endpoints: how many flows one may begin.

use std::time::{Duration, Instant};

use vxplane_common::{
    abi::{Limit, map},
    drop::DropReason::{self, NewFlowLimit},
    trace::Step,
};

use crate::{
    bed::{A, A_IP, B_IP, B_MAC, Bed, Device, R_IP, Shape},
    packets::{IPV4, ethernet},
    policy::{ACK, From, SYN, TO_A, TO_B, TO_R, tcp_from, udp_from},
    programs::Program,
};

fn limit(bed: &Bed, new_flows_per_second: u32) {
    let limit = Limit {
        new_flows_per_second,
    };
    bed.programs.put(map::LIMITS, A, limit);
}

/// Opens connections from this port on until one is refused, and says how many
/// were not.
fn connect(bed: &Bed, from: u16) -> usize {
    let refused = |port: u16| {
        let syn = tcp_from(A_IP, B_IP, (port, 80), SYN);
        let reason = bed.send(From::A, TO_B, &syn);
        assert!(reason.is_none_or(|reason| reason == NewFlowLimit));
        reason.is_some()
    };
    (from..from + 1000).position(refused).unwrap()
}

#[test]
fn a_seconds_worth_of_flows_at_once_and_as_many_each_second() {
    const RATE: u32 = 20;
    let bed = Bed::new();
    limit(&bed, RATE);
    let begun = Instant::now();
    let mut passed = connect(&bed, 1000);
    assert!(passed >= RATE as usize, "{passed}");
    while begun.elapsed().as_secs() < 2 {
        std::thread::sleep(Duration::from_millis(200));
        passed += connect(&bed, 2000 + u16::try_from(passed).unwrap());
    }
    let seconds = begun.elapsed() + Duration::from_secs(1);
    let most = seconds.as_millis() * u128::from(RATE) / 1000 + 1;
    assert!(passed as u128 <= most, "{passed} of {most}");
    assert!(passed >= 2 * RATE as usize, "{passed}");
}

#[test]
fn only_what_the_endpoint_itself_begins_is_limited() {
    let bed = Bed::new();
    limit(&bed, 1);
    let send = |from, to, packet: &[u8]| -> Option<DropReason> { bed.send(from, to, packet) };
    assert_eq!(send(From::A, TO_B, &udp_from(A_IP, B_IP, (1000, 80))), None);
    let refused = Some(NewFlowLimit);
    let second = udp_from(A_IP, B_IP, (1001, 80));
    assert_eq!(send(From::A, TO_B, &second), refused);
    assert_eq!(
        send(From::A, TO_R, &udp_from(A_IP, R_IP, (1000, 80))),
        refused,
        "to other hosts too"
    );
    for round in 0..3 {
        let first = udp_from(A_IP, B_IP, (1000, 80));
        assert_eq!(send(From::A, TO_B, &first), None, "{round}: it goes on");
        let answer = udp_from(B_IP, A_IP, (80, 1000));
        assert_eq!(send(From::B, TO_A, &answer), None, "{round}: a reply");
    }
    for port in 2000..2010 {
        let to_it = udp_from(B_IP, A_IP, (port, 80));
        assert_eq!(send(From::B, TO_A, &to_it), None, "begun by another");
        let by_wire = udp_from(R_IP, A_IP, (port, 81));
        assert_eq!(send(From::Wire, TO_A, &by_wire), None, "from elsewhere");
        let midst = tcp_from(A_IP, B_IP, (port + 40_000, 80), ACK);
        assert_eq!(send(From::A, TO_B, &midst), None, "met in its midst");
    }
    bed.programs.remove::<u32, Limit>(map::LIMITS, &A);
    assert_eq!(send(From::A, TO_B, &second), None, "no limit any more");
}

#[test]
fn a_trace_says_so_and_spends_nothing() {
    let bed = Bed::new();
    limit(&bed, 1);
    let traced = Shape {
        traced: true,
        ..Shape::default()
    };
    let frame = |port| {
        let packet = udp_from(A_IP, B_IP, (port, 80));
        ethernet(B_MAC, crate::bed::A_MAC, IPV4, &packet)
    };
    let denied = |port| {
        bed.run_with(Program::FromContainer, Device::A, traced, &frame(port));
        let steps = bed.programs.steps();
        steps
            .iter()
            .any(|step| matches!(step, Step::Dropped { reason, .. } if *reason == NewFlowLimit))
    };
    assert!(!denied(1000) && !denied(1000));
    let packet = udp_from(A_IP, B_IP, (1000, 80));
    assert_eq!(bed.send(From::A, TO_B, &packet), None);
    assert!(denied(1001));
}
