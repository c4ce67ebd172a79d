//! Frames to send and to compare with what was captured. Written apart from the
//! product's packet code, so that a mistake in one is not repeated in the other.

use std::net::Ipv4Addr;

use crate::checksum::internet_checksum;

/// Every station's MAC address.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;

/// EtherType of ARP.
pub const ARP: u16 = 0x0806;

/// IPv4 protocol number of UDP.
pub const UDP: u8 = 17;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Bytes of the UDP and VXLAN headers together.
const UDP_AND_VXLAN: usize = 16;

/// An Ethernet frame.
pub fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [to.as_slice(), &from, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet without options, with its checksum.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let checksum = internet_checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// A UDP datagram without a checksum.
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let header = [from, to, length, 0].map(u16::to_be_bytes).concat();
    [&header, payload].concat()
}

/// Asks everybody who has an address.
pub fn arp_request(from_mac: [u8; 6], from: Ipv4Addr, whose: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(from_mac);
    packet.extend(from.octets());
    packet.extend([0; 6]);
    packet.extend(whose.octets());
    ethernet(BROADCAST, from_mac, ARP, &packet)
}

/// A VXLAN header and the frame behind it: the payload of a UDP datagram.
pub fn vxlan(flags: u8, vni: u32, frame: &[u8]) -> Vec<u8> {
    let vni = (vni << 8).to_be_bytes();
    [&[flags, 0, 0, 0], vni.as_slice(), frame].concat()
}

/// A MAC address as people write it.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut bytes = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(bytes.next()?, 16).ok()?;
    }
    bytes.next().is_none().then_some(mac)
}

/// The outer headers of a captured VXLAN packet, and the frame inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan<'bytes> {
    /// Outer source address.
    pub from: Ipv4Addr,
    /// Outer destination address.
    pub to: Ipv4Addr,
    /// Outer TOS byte: DSCP and ECN.
    pub tos: u8,
    /// Outer TTL.
    pub ttl: u8,
    /// Outer flags and fragment offset.
    pub fragment: u16,
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub port: u16,
    /// UDP checksum.
    pub checksum: u16,
    /// The VXLAN header's first byte.
    pub flags: u8,
    /// The network.
    pub vni: u32,
    /// The frame inside.
    pub frame: &'bytes [u8],
}

impl<'bytes> Vxlan<'bytes> {
    /// Reads a frame from the wire; `None` if it is not UDP over IPv4 with room
    /// for a VXLAN header, or if lengths or the outer checksum are wrong.
    pub fn parse(wire: &'bytes [u8]) -> Option<Self> {
        let ip = wire.get(ETHERNET..)?;
        let word =
            |bytes: &[u8], at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let header = usize::from(ip.first()? & 0x0f) * 4;
        let is_udp = word(wire, 12)? == IPV4 && *ip.get(9)? == UDP;
        let is_whole = usize::from(word(ip, 2)?) == ip.len();
        if !is_udp || !is_whole || internet_checksum(ip.get(..header)?) != 0 {
            return None;
        }
        let udp = ip.get(header..)?;
        let vxlan = udp.get(8..UDP_AND_VXLAN)?;
        if usize::from(word(udp, 4)?) != udp.len() {
            return None;
        }
        let address = |at: usize| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?));
        Some(Self {
            from: address(12)?,
            to: address(16)?,
            tos: ip[1],
            ttl: ip[8],
            fragment: word(ip, 6)?,
            source_port: word(udp, 0)?,
            port: word(udp, 2)?,
            checksum: word(udp, 6)?,
            flags: vxlan[0],
            vni: u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]),
            frame: udp.get(UDP_AND_VXLAN..)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{BROADCAST, IPV4, UDP, Vxlan, arp_request, ethernet, ipv4, parse_mac, udp, vxlan};

    #[test]
    fn reads_back_what_it_builds() {
        let (from, to) = (Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2));
        let inner = arp_request([2, 0, 0, 0, 0, 1], from, to);
        let datagram = udp(50_000, 4789, &vxlan(8, 0x00ab_cdef, &inner));
        let wire = ethernet(BROADCAST, [2; 6], IPV4, &ipv4(from, to, UDP, &datagram));
        let read = Vxlan::parse(&wire).unwrap();
        assert_eq!((read.from, read.to, read.ttl), (from, to, 64));
        assert_eq!((read.source_port, read.port), (50_000, 4789));
        assert_eq!(
            (read.flags, read.vni, read.frame),
            (8, 0x00ab_cdef, &inner[..])
        );
        for cut in 0..wire.len() {
            assert_eq!(Vxlan::parse(&wire[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn reads_addresses() {
        let mac = [2, 0x42, 10, 50, 0, 0xff];
        assert_eq!(parse_mac("02:42:0a:32:00:ff"), Some(mac));
        for broken in [
            "02:42:0a:32:00",
            "02:42:0a:32:00:ff:00",
            "02:42:0a:32:00:xx",
            "",
        ] {
            assert_eq!(parse_mac(broken), None, "{broken}");
        }
    }
}
