//! What the wire brings.

use std::net::Ipv4Addr;

use vxplane_common::drop::DropReason::{
    EcnInvalid, MalformedFrame, MalformedOuter, NoTunnelKey, OuterChecksum, SourceIpIsLocal,
    SourceIsLocal, UnknownMac, UnknownVni, UnknownVtep, VlanTag, VniFlag,
};

use crate::{
    bed::{
        A, A_IP, A_MAC, B_IP, B_MAC, BROADCAST, Bed, C, C_IP, C_MAC, Device, NET, NO_NET,
        OTHER_NET, OTHER_PEER, PEER, PORT, R_IP, R_MAC, ROUTER_MAC, STRANGER, UNDERLAY_MAC, VTEP,
        X_MAC,
    },
    case::{Case, check},
    packets::{
        ARP, IPV4, IPV6, Ip, Mac, OUTER_LEN, arp, ethernet, udp, vxlan, with_byte, with_ip_checksum,
    },
    programs::Program,
};

pub(crate) fn case(name: impl Into<String>, packet: &[u8]) -> Case {
    Case::new(name, Program::FromUnderlay, Device::Underlay, packet)
}

/// A frame in outer headers from a VTEP to us.
pub(crate) fn tunnelled(vtep: Ipv4Addr, vni: u32, frame: &[u8]) -> Vec<u8> {
    outer(Ip::udp(vtep, VTEP), vni, frame)
}

fn outer(ip: Ip, vni: u32, frame: &[u8]) -> Vec<u8> {
    let ip = ip.packet(&udp(50_000, PORT, &vxlan(vni, frame)));
    ethernet(UNDERLAY_MAC, ROUTER_MAC, IPV4, &ip)
}

/// An inner datagram.
pub(crate) fn inner(src: (Mac, Ipv4Addr), dst: (Mac, Ipv4Addr)) -> Vec<u8> {
    let ip = Ip::udp(src.1, dst.1).packet(&udp(1234, 5678, b"hello"));
    ethernet(dst.0, src.0, IPV4, &ip)
}

pub(crate) const FROM: (Mac, Ipv4Addr) = (X_MAC, R_IP);
pub(crate) const TO_A: (Mac, Ipv4Addr) = (A_MAC, A_IP);

/// A packet that is taken apart and delivered to A.
fn delivered(name: &str, packet: &[u8]) -> Case {
    let frame = packet[OUTER_LEN..].to_vec();
    let len = packet.len();
    case(name, packet)
        .redirected()
        .becomes(frame)
        .received_by(A, len - OUTER_LEN)
        .learned(NET, X_MAC, PEER)
}

#[test]
fn native_decapsulation() {
    let bed = Bed::new();
    let frame = inner(FROM, TO_A);
    let fragment = Ip::udp(R_IP, A_IP).fragment(0x2005);
    let options = Ip::udp(R_IP, A_IP).packet_with_options(&[1; 8], &udp(1, 2, b"x"));
    let reserved = |at: usize, value: u8| {
        let packet = tunnelled(PEER, NET, &frame);
        let value = packet[at] | value;
        with_byte(packet, at, value)
    };
    let other = inner((X_MAC, OTHER_PEER), (C_MAC, C_IP));
    check(
        &bed,
        &[
            delivered("a datagram", &tunnelled(PEER, NET, &frame)),
            delivered(
                "a padded inner frame",
                &tunnelled(PEER, NET, &[&frame[..], &[0; 9]].concat()),
            ),
            delivered(
                "an inner fragment",
                &tunnelled(
                    PEER,
                    NET,
                    &ethernet(A_MAC, X_MAC, IPV4, &fragment.packet(&[1; 32])),
                ),
            ),
            delivered(
                "inner IP options",
                &tunnelled(PEER, NET, &ethernet(A_MAC, X_MAC, IPV4, &options)),
            ),
            delivered("nested VXLAN", &{
                let nested = vxlan(77, &inner((C_MAC, C_IP), (B_MAC, C_IP)));
                let ip = Ip::udp(R_IP, A_IP).packet(&udp(50_000, PORT, &nested));
                tunnelled(PEER, NET, &ethernet(A_MAC, X_MAC, IPV4, &ip))
            }),
            delivered("the G flag", &reserved(42, 0x80)),
            delivered("all reserved flags", &reserved(42, 0xf7)),
            delivered("reserved bits before the VNI", &reserved(44, 0x5a)),
            delivered("reserved bits behind the VNI", &reserved(49, 1)),
            delivered(
                "DF",
                &outer(Ip::udp(PEER, VTEP).fragment(0x4000), NET, &frame),
            ),
            delivered("TTL 1", &outer(Ip::udp(PEER, VTEP).ttl(1), NET, &frame)),
            case(
                "in the other network",
                &tunnelled(OTHER_PEER, OTHER_NET, &other),
            )
            .redirected()
            .becomes(other.clone())
            .received_by(C, other.len())
            .learned(OTHER_NET, X_MAC, OTHER_PEER),
        ],
    );
}

#[test]
fn not_ours() {
    let bed = Bed::new();
    let frame = inner(FROM, TO_A);
    let ours = tunnelled(PEER, NET, &frame);
    let datagram = udp(50_000, PORT, &vxlan(NET, &frame));
    let ip = |ip: Ip| ethernet(UNDERLAY_MAC, ROUTER_MAC, IPV4, &ip.packet(&datagram));
    let base = Ip::udp(PEER, VTEP);
    let options = base.packet_with_options(&[1; 4], &datagram);
    let mut cases = vec![
        case("another address", &ip(base.dst(R_IP))),
        case("another port", &with_byte(ours.clone(), 37, 0xb6)),
        case("another protocol", &ip(base.protocol(6))),
        case("a first fragment", &ip(base.fragment(0x2000))),
        case("a later fragment", &ip(base.fragment(0x0010))),
        case(
            "a last fragment from a stranger",
            &ip(base.src(STRANGER).fragment(1)),
        ),
        case(
            "IP options",
            &ethernet(UNDERLAY_MAC, ROUTER_MAC, IPV4, &options),
        ),
        case("IP version 6 in IPv4", &with_byte(ours.clone(), 14, 0x65)),
        case(
            "IPv6",
            &ethernet(UNDERLAY_MAC, ROUTER_MAC, IPV6, &[0x60; 80]),
        ),
        case(
            "ARP",
            &ethernet(UNDERLAY_MAC, ROUTER_MAC, ARP, &arp(1, FROM, TO_A)),
        ),
        case(
            "for another machine's MAC",
            &ethernet(C_MAC, ROUTER_MAC, IPV4, &ours[14..]),
        ),
    ];
    // As long as the port is not there, it is anybody's.
    cases.extend((34..42).map(|len| case(format!("cut to {len}"), &ours[..len])));
    check(&bed, &cases);
}

#[test]
fn malformed_outside() {
    let bed = Bed::new();
    let ours = tunnelled(PEER, NET, &inner(FROM, TO_A));
    let len = ours.len();
    let total = u8::try_from(len - 14).unwrap();
    let datagram = u8::try_from(len - 34).unwrap();
    let with_lengths = |total: u8, datagram: u8| {
        with_ip_checksum(
            with_byte(with_byte(ours.clone(), 17, total), 39, datagram),
            14,
        )
    };
    let broken = |name: &str, packet: &[u8]| case(name, packet).dropped(0, MalformedOuter);
    let mut cases = vec![
        case("no I flag", &with_byte(ours.clone(), 42, 0)).dropped(0, VniFlag),
        case("every flag but I", &with_byte(ours.clone(), 42, 0xf7)).dropped(0, VniFlag),
        broken(
            "IP length beyond the frame",
            &with_lengths(total + 1, datagram),
        ),
        broken(
            "UDP length beyond the packet",
            &with_lengths(total, datagram + 1),
        ),
        broken("UDP length of its header", &with_lengths(total, 8)),
        broken(
            "UDP length without an inner frame",
            &with_lengths(total, 29),
        ),
        broken("UDP length 0", &with_lengths(total, 0)),
        broken("IP length below the headers", &with_lengths(27, datagram)),
    ];
    let flipped = |at: usize, bit: usize| {
        let value = ours[at] ^ 1 << bit;
        with_byte(ours.clone(), at, value)
    };
    // But for those that say whether it is for us at all.
    let damaged = [15, 16, 17, 18, 19, 22, 24, 25, 26, 27, 28, 29];
    cases.extend(
        damaged
            .iter()
            .flat_map(|at| {
                (0..8).map(move |bit| (format!("bit {bit} of byte {at}"), flipped(*at, bit)))
            })
            .map(|(name, packet)| case(name, &packet).dropped(0, OuterChecksum)),
    );
    cases.extend((42..len).map(|len| broken(&format!("cut to {len}"), &ours[..len])));
    check(&bed, &cases);
}

#[test]
fn strangers() {
    let bed = Bed::new();
    let frame = inner(FROM, TO_A);
    let from = |name: &str, vtep, vni| case(name, &tunnelled(vtep, vni, &frame));
    check(
        &bed,
        &[
            from("no such VNI", PEER, NO_NET).dropped(0, UnknownVni),
            from("VNI 0", PEER, 0).dropped(0, UnknownVni),
            from("no such VTEP", STRANGER, NET).dropped(NET, UnknownVtep),
            from("a peer of the other network", OTHER_PEER, NET).dropped(NET, UnknownVtep),
            from("a peer in the other network", PEER, OTHER_NET).dropped(OTHER_NET, UnknownVtep),
            from("our own address", VTEP, NET).dropped(NET, UnknownVtep),
        ],
    );
}

#[test]
fn inner_frames_that_are_refused() {
    let bed = Bed::new();
    let whole = inner(FROM, TO_A);
    let from_peer = |name: &str, frame: &[u8]| case(name, &tunnelled(PEER, NET, frame));
    let to = |mac: Mac| inner(FROM, (mac, A_IP));
    let by = |mac: Mac| inner((mac, R_IP), TO_A);
    let with_ip = |at: usize, value: u8| with_byte(whole.clone(), 14 + at, value);
    let mut cases = vec![
        from_peer("nobody's MAC", &to([2; 6])).dropped(NET, UnknownMac),
        from_peer("a MAC behind a VTEP", &to(R_MAC)).dropped(NET, UnknownMac),
        from_peer("a MAC of the other network", &to(C_MAC)).dropped(NET, UnknownMac),
        from_peer("from its own receiver", &by(A_MAC)).dropped(NET, SourceIsLocal),
        from_peer("from another endpoint here", &by(B_MAC)).dropped(NET, SourceIsLocal),
        from_peer(
            "with the address of its receiver",
            &inner((X_MAC, A_IP), TO_A),
        )
        .dropped(NET, SourceIpIsLocal),
        from_peer("with another's address here", &inner((X_MAC, B_IP), TO_A))
            .dropped(NET, SourceIpIsLocal),
        from_peer("with all of another's here", &inner((B_MAC, B_IP), TO_A))
            .dropped(NET, SourceIsLocal),
        from_peer("from a group", &by([0x33, 0x33, 0, 0, 0, 1])).dropped(NET, MalformedFrame),
        from_peer("from no MAC", &by([0; 6])).dropped(NET, MalformedFrame),
        from_peer("VLAN tag", &ethernet(A_MAC, X_MAC, 0x8100, &whole[10..])).dropped(NET, VlanTag),
        from_peer("service tag", &ethernet(A_MAC, X_MAC, 0x88a8, &[0; 4])).dropped(NET, VlanTag),
        from_peer("IP version 5", &with_ip(0, 0x55)).dropped(NET, MalformedFrame),
        from_peer("IP header of 16 bytes", &with_ip(0, 0x44)).dropped(NET, MalformedFrame),
        from_peer("total length beyond the frame", &with_ip(3, 34)).dropped(NET, MalformedFrame),
        from_peer("total length within the header", &with_ip(3, 19)).dropped(NET, MalformedFrame),
    ];
    cases.extend((14..whole.len()).map(|len| {
        from_peer(&format!("cut to {len}"), &whole[..len]).dropped(NET, MalformedFrame)
    }));
    let request = ethernet(A_MAC, X_MAC, ARP, &arp(1, FROM, TO_A));
    cases.extend((14..request.len()).map(|len| {
        from_peer(&format!("ARP cut to {len}"), &request[..len]).dropped(NET, MalformedFrame)
    }));
    check(&bed, &cases);
}

#[test]
fn ecn() {
    let bed = Bed::new();
    let mut cases = Vec::new();
    for outer_ecn in 0..4 {
        for inner_ecn in 0..4 {
            let frame = |ecn: u8| {
                let ip = Ip::udp(R_IP, A_IP).tos(0xb8 | ecn);
                ethernet(A_MAC, X_MAC, IPV4, &ip.packet(&udp(1, 2, b"x")))
            };
            let outside = Ip::udp(PEER, VTEP).tos(0x48 | outer_ecn);
            let packet = outer(outside, NET, &frame(inner_ecn));
            let name = format!("outer {outer_ecn:02b}, inner {inner_ecn:02b}");
            // RFC 6040, figure 4.
            let result = match (outer_ecn, inner_ecn) {
                (0b11, 0b00) => {
                    cases.push(case(name, &packet).dropped(NET, EcnInvalid));
                    continue;
                }
                (0b11, _) => 0b11,
                (0b01, 0b10) => 0b01,
                (_, inner) => inner,
            };
            cases.push(delivered(&name, &packet).becomes(frame(result)));
        }
    }
    assert_eq!(cases.len(), 16);
    let ipv6 = ethernet(A_MAC, X_MAC, IPV6, &[0x60; 40]);
    let ipv6_ect = ethernet(A_MAC, X_MAC, IPV6, &[&[0x60, 0x20][..], &[0; 38]].concat());
    let congested = Ip::udp(PEER, VTEP).tos(3);
    let plain_v6 = with_byte(ipv6, 15, 0);
    cases.push(
        case(
            "congestion outside of IPv6 without ECN",
            &outer(congested, NET, &plain_v6),
        )
        .dropped(NET, EcnInvalid),
    );
    cases.push(case("of IPv6 with ECN", &outer(congested, NET, &ipv6_ect)));
    let arp_frame = ethernet(A_MAC, X_MAC, ARP, &arp(1, FROM, TO_A));
    cases.push(case("of ARP", &outer(congested, NET, &arp_frame)));
    check(&bed, &cases);
}

/// What the kernel has to take apart. Nothing is counted or learned yet: that
/// happens when it comes back.
#[test]
fn left_to_the_kernel() {
    let bed = Bed::new();
    let frame = inner(FROM, TO_A);
    let from_peer = |name: &str, frame: &[u8]| case(name, &tunnelled(PEER, NET, frame));
    let ours = tunnelled(PEER, NET, &frame);
    let with_checksum = with_byte(ours.clone(), 41, 0x55);
    let dirty = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        packet[42] = 0xff;
        packet[43..46].fill(0xa5);
        packet[49] = 0x77;
        packet
    };
    let to_group = tunnelled(PEER, NET, &inner(FROM, (BROADCAST, A_IP)));
    check(
        &bed,
        &[
            from_peer("broadcast", &inner(FROM, (BROADCAST, A_IP))),
            from_peer("multicast", &inner(FROM, ([1, 0, 0x5e, 0, 0, 1], A_IP))),
            from_peer("ARP", &ethernet(A_MAC, X_MAC, ARP, &arp(1, FROM, TO_A))),
            from_peer("IPv6", &ethernet(A_MAC, X_MAC, IPV6, &[0x60; 40])),
            from_peer("not IP", &ethernet(A_MAC, X_MAC, 0x88b5, b"anything")),
            from_peer("an empty frame", &ethernet(A_MAC, X_MAC, 0x88b5, b"")),
            from_peer(
                "to what is behind the endpoint",
                &inner(FROM, (A_MAC, C_IP)),
            ),
            from_peer("a UDP super-packet", &frame).gso(10),
            case("a UDP checksum", &with_checksum),
            case("bytes behind the datagram", &[&ours[..], &[0; 6]].concat()),
            case("reserved bits", &dirty(&to_group)).becomes(to_group.clone()),
            case(
                "all of it from a stranger",
                &dirty(&tunnelled(STRANGER, NET, &frame)),
            )
            .dropped(NET, UnknownVtep),
        ],
    );
}

/// The kernel drops VXLAN with reserved bits set, so they are cleared; then the
/// UDP checksum must follow.
#[test]
fn a_udp_checksum_stays_true() {
    let bed = Bed::new();
    let mut packet = tunnelled(PEER, NET, &inner(FROM, (BROADCAST, A_IP)));
    packet[42] = 0x88;
    packet[43..46].copy_from_slice(&[0x12, 0x34, 0x56]);
    packet[49] = 0x9a;
    let sum = udp_checksum(&packet);
    packet[40..42].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(udp_checksum(&packet), 0);
    let (verdict, out) = bed.run(Program::FromUnderlay, Device::Underlay, &packet);
    assert_eq!(verdict, -1);
    assert_eq!(out[42..50], [8, 0, 0, 0, 0, 0, 100, 0]);
    assert_ne!(out[40..42], packet[40..42]);
    assert_eq!(udp_checksum(&out), 0);
}

/// The checksum of the UDP datagram behind a plain IPv4 header, as it should be
/// if the field is 0, and 0 if the field is right.
pub(crate) fn udp_checksum(packet: &[u8]) -> u16 {
    let pseudo = [&packet[26..34], &[0, 17], &packet[38..40], &packet[34..]].concat();
    crate::packets::checksum(&pseudo)
}

#[test]
fn without_a_tunnel_nothing_comes_from_the_kernel() {
    let bed = Bed::new();
    let frame = inner(FROM, TO_A);
    check(
        &bed,
        &[
            Case::new("a frame", Program::FromFallback, Device::Fallback, &frame)
                .dropped(0, NoTunnelKey),
        ],
    );
}
