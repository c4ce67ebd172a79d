//! What is on the underlay: VXLAN as RFC 7348 and the kernel have it.

use std::{collections::BTreeSet, net::SocketAddrV4};

use anyhow::{Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use vxplane_tests::harness::{Packet, frame::Vxlan, internet_checksum, transfer, udp_socket};

use crate::site::{BLUE, Member, Site, lab, sites};

fn overlay<'a>(packets: &'a [Packet], site: &Site) -> Vec<Vxlan<'a>> {
    let parsed = packets.iter().filter_map(|it| Vxlan::parse(&it.bytes));
    parsed.filter(|it| it.from == site.ip()).collect()
}

/// Sends datagrams from as many ports, with this TOS byte.
fn send_flows(from: &Member, to: &Member, flows: usize, tos: u8) -> Result<()> {
    for _ in 0..flows {
        let socket = udp_socket(from.netns(), from.ip())?;
        setsockopt(&socket, sockopt::Ipv4Tos, &i32::from(tos))?;
        socket.send_to(b"a datagram", SocketAddrV4::new(to.ip(), 9))?;
    }
    Ok(())
}

#[test]
fn the_outer_headers_are_as_the_rfcs_say() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    a1.must_reach(b1.ip(), 3)?;
    for (tos, outer_tos) in [(0, 0), (0x02, 0x02), (0xb8, 0), (0xbb, 0x03)] {
        let wire = b.host.capture("eth0", "udp port 4789")?;
        send_flows(&a1, &b1, 20, tos)?;
        let packets = wire.wait_for(20)?;
        let seen: Vec<_> = overlay(&packets, &a)
            .into_iter()
            .filter(|it| it.frame.get(23) == Some(&17))
            .collect();
        ensure!(seen.len() == 20, "{} of 20 datagrams", seen.len());
        for packet in &seen {
            let expected = Vxlan {
                from: a.ip(),
                to: b.ip(),
                tos: outer_tos,
                ttl: 64,
                fragment: 0,
                source_port: packet.source_port,
                port: 4789,
                checksum: 0,
                flags: 8,
                vni: BLUE,
                frame: packet.frame,
            };
            ensure!(packet == &expected, "{packet:?}, expected {expected:?}");
            ensure!(packet.frame[..6] == b1.mac()? && packet.frame[6..12] == a1.mac()?);
            ensure!(packet.frame[15] == tos, "the inner TOS changed");
        }
        let ports: BTreeSet<u16> = seen.iter().map(|it| it.source_port).collect();
        ensure!(ports.len() > 10, "20 flows have the source ports {ports:?}");
        ensure!(ports.iter().all(|port| *port >= 32_768), "{ports:?}");
    }
    Ok(())
}

/// What is too large to go natively is cut by the kernel, and takes the same path
/// through the underlay all the same.
#[test]
fn a_flow_has_one_source_port_by_whichever_way_it_goes() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    a1.must_reach(b1.ip(), 3)?;
    a1.run("ip link set eth0 mtu 1500")?;
    // Without DF inside, or it would be refused.
    a1.netns().sysctl("net/ipv4/ip_no_pmtu_disc", "1")?;
    // Nobody complains that there is no such port.
    let receiver = udp_socket(b1.netns(), b1.ip())?;
    let to = receiver.local_addr()?;
    for veth in a.host_veths()? {
        a.host.run(&format!("ip link set {veth} mtu 1500"))?;
    }
    let wire = b.host.capture("eth0", "udp port 4789")?;
    let socket = udp_socket(a1.netns(), a1.ip())?;
    for size in [10, 1460] {
        socket.send_to(&vec![7; size], to)?;
    }
    let packets = wire.wait_for(2)?;
    // By where they stand behind 14 bytes of Ethernet: what is cut is no whole datagram.
    let sent = packets
        .iter()
        .filter(|it| it.bytes[26..30] == a.ip().octets());
    let (is_cut, ports): (Vec<bool>, BTreeSet<[u8; 2]>) = sent
        .map(|it| (it.bytes[20] != 0, [it.bytes[34], it.bytes[35]]))
        .unzip();
    ensure!(is_cut == [false, true], "cut: {is_cut:?}");
    ensure!(ports.len() == 1, "one flow has the source ports {ports:?}");
    Ok(())
}

/// The sum over pseudo header and segment is 0 where the checksum is right.
fn transport_checksum(packet: &[u8]) -> u16 {
    let header = usize::from(packet[0] & 0x0f) * 4;
    let segment = &packet[header..];
    let length = u32::try_from(segment.len()).unwrap_or_default();
    let mut sum = packet[12..20].to_vec();
    sum.extend([0, packet[9]]);
    sum.extend(&length.to_be_bytes()[2..]);
    sum.extend(segment);
    internet_checksum(&sum)
}

/// On a wire that takes complete packets only, every inner packet is complete.
#[test]
fn inner_packets_are_complete_where_the_wire_demands_it() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    for site in [&a, &b] {
        lab.complete_packets_only(&site.host)?;
    }
    a1.must_reach(b1.ip(), 3)?;
    let wire = b.host.capture("eth0", "udp port 4789")?;
    transfer(a1.netns(), b1.netns(), b1.ip(), 2_000_000)?;
    let packets = wire.wait_for(1400)?;
    let mut segments = 0;
    for packet in overlay(&packets, &a) {
        let inner = packet.frame;
        ensure!(inner.len() <= 1464, "{} bytes in one packet", inner.len());
        let ip = &inner[14..];
        if inner[12..14] == [8, 0] && ip[9] == 6 {
            ensure!(internet_checksum(&ip[..20]) == 0, "inner IPv4 checksum");
            ensure!(transport_checksum(ip) == 0, "inner TCP checksum");
            segments += 1;
        }
    }
    ensure!(segments >= 1400, "only {segments} segments");
    Ok(())
}
