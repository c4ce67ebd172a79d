//! A captured VXLAN packet, header by header.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use vxplane_harness::frame::Vxlan;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Says what stands in each header of a packet on the wire, from outside in.
pub(crate) fn describe(wire: &[u8]) -> Result<String> {
    let packet = Vxlan::parse(wire).context("this is no VXLAN packet")?;
    let inner = packet.frame;
    let ip = inner.get(ETHERNET..).unwrap_or_default();
    ensure!(
        inner.get(12..14) == Some(&[8, 0]) && ip.len() >= 28,
        "there is no IPv4 packet in it"
    );
    let lines = [
        format!("outer  Ethernet  {}", ethernet(wire)),
        format!(
            "       IPv4      {} → {}, TTL {}, {} bytes",
            packet.from,
            packet.to,
            packet.ttl,
            wire.len() - ETHERNET
        ),
        format!(
            "       UDP       port {} → {}, checksum {:#06x}",
            packet.source_port, packet.port, packet.checksum
        ),
        format!(
            "       VXLAN     flags {:#04x}, VNI {}",
            packet.flags, packet.vni
        ),
        format!("inner  Ethernet  {}", ethernet(inner)),
        format!(
            "       IPv4      {} → {}, TTL {}, {} bytes",
            address(ip, 12)?,
            address(ip, 16)?,
            ip[8],
            ip.len()
        ),
        format!("       {}", payload(ip)),
    ];
    Ok(lines.join("\n"))
}

fn ethernet(frame: &[u8]) -> String {
    let mac = |bytes: &[u8]| {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        hex.join(":")
    };
    format!("{} → {}", mac(&frame[6..12]), mac(&frame[..6]))
}

fn address(ip: &[u8], at: usize) -> Result<Ipv4Addr> {
    let bytes = ip.get(at..).and_then(<[u8]>::first_chunk::<4>);
    Ok(Ipv4Addr::from(*bytes.context("a truncated IPv4 header")?))
}

fn payload(ip: &[u8]) -> String {
    match (ip[9], ip[20]) {
        (1, 8) => "ICMP      echo request".to_owned(),
        (1, 0) => "ICMP      echo reply".to_owned(),
        (protocol, _) => format!("IP protocol {protocol}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use vxplane_harness::frame::{IPV4, UDP, ethernet, ipv4, udp, vxlan};

    use super::describe;

    #[test]
    fn says_what_stands_where() {
        let address = |last| Ipv4Addr::new(10, 50, 0, last);
        let echo = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
        let inner = ethernet(
            [2; 6],
            [4; 6],
            IPV4,
            &ipv4(address(1), address(2), 1, &echo),
        );
        let outer = udp(50_000, 4789, &vxlan(8, 7, &inner));
        let (from, to) = (Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2));
        let wire = ethernet([6; 6], [8; 6], IPV4, &ipv4(from, to, UDP, &outer));
        let described = describe(&wire).unwrap();
        for part in [
            "08:08:08:08:08:08 → 06:06:06:06:06:06",
            "10.99.0.1 → 10.99.0.2, TTL 64, 78 bytes",
            "port 50000 → 4789",
            "VNI 7",
            "10.50.0.1 → 10.50.0.2",
            "echo request",
        ] {
            assert!(described.contains(part), "{part} is not in\n{described}");
        }
        for cut in 0..wire.len() {
            assert!(describe(&wire[..cut]).is_err(), "cut at {cut}");
        }
    }
}
