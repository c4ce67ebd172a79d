//! What a container sends.

use std::net::Ipv4Addr;

use vxplane_common::drop::DropReason::{
    MalformedFrame, NoDestination, SourceIp, SourceMac, UnknownEndpoint, VlanTag,
};

use crate::{
    bed::{
        A, A_IP, A_MAC, B, B_IP, B_MAC, BROADCAST, Bed, C_IP, C_MAC, Device, MTU, NET, PEER, R_IP,
        R_MAC,
    },
    case::{Case, check},
    packets::{ARP, IPV4, IPV6, Ip, Mac, arp, ethernet, udp, with_byte, with_ip_checksum},
    programs::Program,
};

const NOBODY: Mac = [0; 6];
const UNSPECIFIED: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn case(name: impl Into<String>, packet: &[u8]) -> Case {
    Case::new(name, Program::FromContainer, Device::A, packet)
}

/// A datagram of A's.
fn datagram(dst: (Mac, Ipv4Addr), payload: &[u8]) -> Vec<u8> {
    let ip = Ip::udp(A_IP, dst.1).packet(&udp(1234, 5678, payload));
    ethernet(dst.0, A_MAC, IPV4, &ip)
}

/// Who has an address is known, so whoever still sends to the MAC address of its
/// previous owner is heard by the present one.
#[test]
fn to_an_address_that_is_reused() {
    let bed = Bed::new();
    let previous = [2, 0, 0, 0, 0, 0x77];
    let stale = datagram((previous, B_IP), b"hello");
    let rightful = case("to who has it now", &stale)
        .becomes(datagram((B_MAC, B_IP), b"hello"))
        .redirected()
        .sent_by(A)
        .received_by(B, stale.len());
    check(&bed, &[rightful]);
}

#[test]
fn to_the_wire() {
    let bed = Bed::new();
    let to_r = datagram((R_MAC, R_IP), b"hello");
    let nested = datagram((R_MAC, R_IP), &[0x5a; 64]);
    let fragment = Ip::udp(A_IP, R_IP).fragment(0x2005);
    let options = Ip::udp(A_IP, R_IP).packet_with_options(&[1; 8], &udp(1, 2, b"x"));
    let with_native =
        |name: &str, packet: &[u8]| case(name, packet).encapsulated(NET, PEER, 0).sent_by(A);
    let by_kernel = |name: &str, packet: &[u8]| case(name, packet).redirected().sent_by(A);
    let of_len = |len: usize| datagram((R_MAC, R_IP), &vec![7; len - 42]);
    let largest = usize::try_from(MTU).unwrap() - 36;
    check(
        &bed,
        &[
            with_native("a datagram", &to_r),
            with_native("an empty one", &datagram((R_MAC, R_IP), b"")),
            with_native("VXLAN of the container's own", &{
                let inner = crate::packets::vxlan(5, &nested);
                let ip = Ip::udp(A_IP, R_IP).packet(&udp(9, 4789, &inner));
                ethernet(R_MAC, A_MAC, IPV4, &ip)
            }),
            with_native(
                "a fragment",
                &ethernet(R_MAC, A_MAC, IPV4, &fragment.packet(&[1; 32])),
            ),
            with_native("IP options", &ethernet(R_MAC, A_MAC, IPV4, &options)),
            with_native("bytes behind the packet", &[&to_r[..], &[0; 7]].concat()),
            with_native("the largest that fits", &of_len(largest)),
            by_kernel("one byte more", &of_len(largest + 1)),
            by_kernel("not IP", &ethernet(R_MAC, A_MAC, 0x88b5, b"anything")),
            by_kernel(
                "an ARP reply",
                &ethernet(R_MAC, A_MAC, ARP, &arp(2, (A_MAC, A_IP), (R_MAC, R_IP))),
            ),
            by_kernel(
                "a super-packet of a protocol that cannot be cut in a tunnel",
                &{
                    let sctp = Ip::udp(A_IP, R_IP).protocol(132);
                    ethernet(R_MAC, A_MAC, IPV4, &sctp.packet(&[1; 900]))
                },
            )
            .gso(400),
            by_kernel("a super-packet with segments too large", &of_len(1400)).gso(1423),
        ],
    );
}

#[test]
fn ecn_is_copied_and_dscp_is_not() {
    let bed = Bed::new();
    let cases: Vec<Case> = (0..=255)
        .map(|tos: u8| {
            let ip = Ip::udp(A_IP, R_IP).tos(tos);
            let packet = ethernet(R_MAC, A_MAC, IPV4, &ip.packet(&udp(1, 2, b"x")));
            case(format!("TOS {tos:#04x}"), &packet)
                .encapsulated(NET, PEER, tos & 3)
                .sent_by(A)
        })
        .collect();
    check(&bed, &cases);
}

#[test]
fn one_port_a_flow_many_flows_many_ports() {
    let bed = Bed::new();
    let port = |flow: u16| {
        let ip = Ip::udp(A_IP, R_IP).packet(&udp(flow, 80, b"x"));
        let packet = ethernet(R_MAC, A_MAC, IPV4, &ip);
        let (_, out) = bed.run(Program::FromContainer, Device::A, &packet);
        u16::from_be_bytes([out[34], out[35]])
    };
    assert_eq!(port(1000), port(1000));
    let ports: std::collections::BTreeSet<u16> = (1000..1064).map(port).collect();
    assert!(ports.len() > 48, "{ports:?}");
}

#[test]
fn to_a_neighbour_on_this_host() {
    let bed = Bed::new();
    let to_b = |name: &str, packet: &[u8]| {
        case(name, packet)
            .redirected()
            .sent_by(A)
            .received_by(B, packet.len())
    };
    check(
        &bed,
        &[
            to_b("a datagram", &datagram((B_MAC, B_IP), b"hello")),
            to_b("a large one", &datagram((B_MAC, B_IP), &[3; 1458])),
            to_b("to an address behind it", &datagram((B_MAC, C_IP), b"x")),
            to_b("a super-packet", &datagram((B_MAC, B_IP), &[3; 1458])).gso(500),
            to_b("not IP", &ethernet(B_MAC, A_MAC, 0x88b5, b"anything")),
            to_b(
                "an ARP reply",
                &ethernet(B_MAC, A_MAC, ARP, &arp(2, (A_MAC, A_IP), (B_MAC, B_IP))),
            ),
            case("to itself", &datagram((A_MAC, A_IP), b"x")).dropped(NET, NoDestination),
        ],
    );
}

#[test]
fn nothing_in_another_name() {
    let bed = Bed::new();
    let ip = |src| Ip::udp(src, B_IP).packet(&udp(1, 2, b"x"));
    let arp_of = |operation, sender, eth_src| {
        ethernet(B_MAC, eth_src, ARP, &arp(operation, sender, (B_MAC, B_IP)))
    };
    let stray = Case::new(
        "from no endpoint",
        Program::FromContainer,
        Device::Stray,
        &datagram((B_MAC, B_IP), b"x"),
    );
    check(
        &bed,
        &[
            stray.dropped(0, UnknownEndpoint),
            case("another's MAC", &ethernet(A_MAC, B_MAC, IPV4, &ip(A_IP))).dropped(NET, SourceMac),
            case(
                "its own MAC but for the last bit",
                &with_byte(datagram((B_MAC, B_IP), b"x"), 11, 3),
            )
            .dropped(NET, SourceMac),
            case(
                "its own MAC but for the first octet",
                &with_byte(datagram((B_MAC, B_IP), b"x"), 6, 6),
            )
            .dropped(NET, SourceMac),
            case("another's IP", &ethernet(B_MAC, A_MAC, IPV4, &ip(C_IP))).dropped(NET, SourceIp),
            case(
                "an address of the same ending",
                &ethernet(B_MAC, A_MAC, IPV4, &ip(Ipv4Addr::new(11, 1, 0, 2))),
            )
            .dropped(NET, SourceIp),
            case("no IP", &ethernet(BROADCAST, A_MAC, IPV4, &ip(UNSPECIFIED)))
                .dropped(NET, SourceIp),
            case(
                "ARP by Ethernet of another",
                &arp_of(2, (A_MAC, A_IP), B_MAC),
            )
            .dropped(NET, SourceMac),
            case("ARP with another's MAC", &arp_of(2, (C_MAC, A_IP), A_MAC))
                .dropped(NET, SourceMac),
            case("ARP with another's IP", &arp_of(2, (A_MAC, C_IP), A_MAC)).dropped(NET, SourceIp),
            case("a request likewise", &arp_of(1, (A_MAC, C_IP), A_MAC)).dropped(NET, SourceIp),
            case(
                "an ARP reply from nowhere",
                &arp_of(2, (A_MAC, UNSPECIFIED), A_MAC),
            )
            .dropped(NET, SourceIp),
            case("IPv6", &ethernet(B_MAC, A_MAC, IPV6, &[0x60; 40])).dropped(NET, SourceIp),
            case(
                "not IP by another's MAC",
                &ethernet(B_MAC, C_MAC, 0x88b5, b"x"),
            )
            .dropped(NET, SourceMac),
        ],
    );
}

#[test]
fn malformed() {
    let bed = Bed::new();
    let whole = datagram((R_MAC, R_IP), b"hello");
    let request = ethernet(B_MAC, A_MAC, ARP, &arp(2, (A_MAC, A_IP), (B_MAC, B_IP)));
    // BPF_PROG_TEST_RUN takes nothing shorter; see `live` for that.
    let cut = |what: &'static str, packet: &[u8]| {
        (34..packet.len())
            .map(|len| {
                case(format!("{what} cut to {len}"), &packet[..len]).dropped(NET, MalformedFrame)
            })
            .collect::<Vec<_>>()
    };
    let header = |name: &str, at: usize, value: u8| {
        let packet = with_ip_checksum(with_byte(whole.clone(), 14 + at, value), 14);
        case(name, &packet).dropped(NET, MalformedFrame)
    };
    let mut cases = vec![
        header("IP version 5", 0, 0x55),
        header("IP header of 16 bytes", 0, 0x44),
        header("total length beyond the frame", 3, 34),
        header("total length within the header", 3, 19),
        case("ARP of another kind", &with_byte(request.clone(), 18, 8))
            .dropped(NET, MalformedFrame),
        case(
            "VLAN tag",
            &ethernet(R_MAC, A_MAC, 0x8100, &[0, 5, 8, 0, 0]),
        )
        .dropped(NET, VlanTag),
        case("service tag", &ethernet(R_MAC, A_MAC, 0x88a8, &whole[12..])).dropped(NET, VlanTag),
        case(
            "a tag by another's MAC",
            &ethernet(R_MAC, B_MAC, 0x8100, &whole[12..]),
        )
        .dropped(NET, VlanTag),
    ];
    cases.extend(cut("IPv4", &whole));
    cases.extend(cut("ARP", &request));
    check(&bed, &cases);
}

#[test]
fn arp_is_answered_from_what_is_known() {
    let bed = Bed::new();
    let ask = |dst: Mac, sender: Ipv4Addr, target: Ipv4Addr| {
        ethernet(dst, A_MAC, ARP, &arp(1, (A_MAC, sender), (NOBODY, target)))
    };
    let answer = |mac: Mac, ip: Ipv4Addr, asker: Ipv4Addr| {
        ethernet(A_MAC, mac, ARP, &arp(2, (mac, ip), (A_MAC, asker)))
    };
    let answered = |name: &str, request: Vec<u8>, reply: Vec<u8>| {
        let len = reply.len();
        case(name, &request)
            .redirected()
            .becomes(reply)
            .sent_by(A)
            .received_by(A, len)
    };
    let padded = [&ask(BROADCAST, A_IP, R_IP)[..], &[9; 18]].concat();
    let padded_answer = [&answer(R_MAC, R_IP, A_IP)[..], &[9; 18]].concat();
    check(
        &bed,
        &[
            answered(
                "behind a VTEP",
                ask(BROADCAST, A_IP, R_IP),
                answer(R_MAC, R_IP, A_IP),
            ),
            answered(
                "on this host",
                ask(BROADCAST, A_IP, B_IP),
                answer(B_MAC, B_IP, A_IP),
            ),
            answered(
                "asked directly",
                ask(R_MAC, A_IP, R_IP),
                answer(R_MAC, R_IP, A_IP),
            ),
            answered(
                "a probe for what is taken",
                ask(BROADCAST, UNSPECIFIED, R_IP),
                answer(R_MAC, R_IP, UNSPECIFIED),
            ),
            answered("with padding", padded, padded_answer),
        ],
    );
}
