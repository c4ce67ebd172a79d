//! Packets that are only traced: their steps are recorded, and nothing else is.

use vxplane_common::{drop::DropReason, trace::Step};

use crate::{
    bed::{
        A, A_IP, A_MAC, B, B_IP, B_MAC, BROADCAST, Bed, Device, NET, PEER, PEER_2, R_IP, R_MAC,
        STRANGER, Shape, UNDERLAY_MAC, VTEP, X_MAC,
    },
    packets::{ARP, IPV4, Ip, Mac, arp, ethernet, udp, vxlan},
    programs::Program,
};

const TRACED: Shape = Shape {
    gso: 0,
    split: None,
    traced: true,
};

/// A datagram of A's.
fn datagram(dst: (Mac, std::net::Ipv4Addr)) -> Vec<u8> {
    let ip = Ip::udp(A_IP, dst.1).packet(&udp(1234, 5678, b"hello"));
    ethernet(dst.0, A_MAC, IPV4, &ip)
}

/// A frame on the underlay, from a VTEP.
fn on_wire(vtep: std::net::Ipv4Addr, frame: &[u8]) -> Vec<u8> {
    let ip = Ip::udp(vtep, VTEP).packet(&udp(40_000, 4789, &vxlan(NET, frame)));
    ethernet(UNDERLAY_MAC, [2, 0, 0, 0, 0, 0x99], IPV4, &ip)
}

/// From an address of the network that nobody is known to have.
fn from_x(to: Mac) -> Vec<u8> {
    let x = std::net::Ipv4Addr::new(10, 1, 0, 0x77);
    ethernet(
        to,
        X_MAC,
        IPV4,
        &Ip::udp(x, B_IP).packet(&udp(1, 2, b"hello")),
    )
}

/// Of a flow that no policy has a say in.
const NEW: Step = Step::NewFlow;
const SENDS: Step = Step::SendRule { rule: 0 };
const RECEIVES: Step = Step::ReceiveRule { rule: 0 };

struct Row {
    name: &'static str,
    program: Program,
    device: Device,
    packet: Vec<u8>,
    steps: Vec<Step>,
}

fn row(name: &'static str, device: Device, packet: Vec<u8>, steps: Vec<Step>) -> Row {
    let program = match device {
        Device::Underlay => Program::FromUnderlay,
        _ => Program::FromContainer,
    };
    Row {
        name,
        program,
        device,
        packet,
        steps,
    }
}

fn dropped(vni: u32, reason: DropReason) -> Step {
    Step::Dropped { reason, vni }
}

/// A asks who has an address.
fn asks(ip: std::net::Ipv4Addr) -> Vec<u8> {
    let request = arp(1, (A_MAC, A_IP), ([0; 6], ip));
    ethernet(BROADCAST, A_MAC, ARP, &request)
}

/// What A sends to everyone.
fn copies() -> [Step; 4] {
    [
        Step::Flooded { members: 4 },
        Step::CopyHere { slot: B },
        Step::CopyThere {
            vtep: PEER.octets(),
        },
        Step::CopyThere {
            vtep: PEER_2.octets(),
        },
    ]
}

fn egress(bed: &Bed) -> Vec<Row> {
    let source = Step::Source { slot: A };
    let nobody = std::net::Ipv4Addr::new(10, 1, 0, 99);
    let here = Step::Delivered {
        ifindex: bed.ifindex(Device::B),
        slot: B,
    };
    let there = Step::Encapsulated {
        vtep: PEER.octets(),
        ifindex: bed.ifindex(Device::Underlay),
    };
    let flooded = |first: &[Step]| [&[source], first, &copies()].concat();
    vec![
        row(
            "here",
            Device::A,
            datagram((B_MAC, B_IP)),
            vec![source, NEW, SENDS, RECEIVES, here],
        ),
        row(
            "there",
            Device::A,
            datagram((R_MAC, R_IP)),
            vec![source, NEW, SENDS, there],
        ),
        row(
            "to a MAC address that is reused",
            Device::A,
            datagram((X_MAC, B_IP)),
            vec![source, Step::Readdressed, Step::KnownFlow, here],
        ),
        row(
            "to nobody known",
            Device::A,
            datagram((X_MAC, nobody)),
            flooded(&[NEW, SENDS]),
        ),
        row(
            "who has R",
            Device::A,
            asks(R_IP),
            vec![source, Step::ArpAnswered],
        ),
        row(
            "who has nobody",
            Device::A,
            asks(nobody),
            flooded(&[Step::ArpUnknown]),
        ),
        row(
            "in another's name",
            Device::B,
            datagram((R_MAC, R_IP)),
            vec![dropped(NET, DropReason::SourceMac)],
        ),
        row(
            "from nowhere",
            Device::Stray,
            datagram((R_MAC, R_IP)),
            vec![dropped(0, DropReason::UnknownEndpoint)],
        ),
    ]
}

fn ingress(bed: &Bed) -> Vec<Row> {
    let admitted = Step::Admitted {
        vtep: PEER.octets(),
        vni: NET,
    };
    let here = Step::Delivered {
        ifindex: bed.ifindex(Device::B),
        slot: B,
    };
    let underlay = |name, packet, steps| row(name, Device::Underlay, packet, steps);
    vec![
        underlay(
            "to B",
            on_wire(PEER, &from_x(B_MAC)),
            vec![admitted, Step::Learns, NEW, RECEIVES, here],
        ),
        underlay(
            "from a stranger",
            on_wire(STRANGER, &from_x(B_MAC)),
            vec![dropped(NET, DropReason::UnknownVtep)],
        ),
        underlay(
            "to nobody here",
            on_wire(PEER, &from_x(R_MAC)),
            vec![admitted, dropped(NET, DropReason::UnknownMac)],
        ),
        underlay(
            "in A's name",
            on_wire(PEER, &datagram((B_MAC, B_IP))),
            vec![admitted, dropped(NET, DropReason::SourceIsLocal)],
        ),
        underlay(
            "to everyone",
            on_wire(PEER, &from_x(BROADCAST)),
            vec![admitted, Step::LeftToKernel],
        ),
    ]
}

#[test]
fn every_step_is_told_and_nothing_is_left_behind() {
    let bed = Bed::new();
    for row in egress(&bed).into_iter().chain(ingress(&bed)) {
        let Row {
            name,
            program,
            device,
            packet,
            steps,
        } = row;
        let before = bed.programs.dump();
        let (traced, out) = bed.run_with(program, device, TRACED, &packet);
        assert_eq!(bed.programs.steps(), steps, "{name}");
        assert_eq!(bed.programs.dump(), before, "{name}");
        assert!(bed.programs.events().is_empty(), "{name}");
        // The same happens to the packet if nobody asks. What is random about
        // outer headers differs.
        bed.reset();
        let (really, really_out) = bed.run(program, device, &packet);
        assert_eq!((traced, out.len()), (really, really_out.len()), "{name}");
        assert!(bed.programs.steps().is_empty(), "{name}: nobody asked");
        bed.programs.events();
        bed.reset();
    }
}
