//! Packets, built byte by byte: what the programs are tested with is not built
//! by their own code.

use std::net::Ipv4Addr;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;

/// Outer Ethernet, IPv4, UDP and VXLAN.
pub(crate) const OUTER_LEN: usize = 50;

/// Any frame.
pub(crate) fn ethernet(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet to be.
#[derive(Clone, Copy)]
pub(crate) struct Ip {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    tos: u8,
    protocol: u8,
    fragment: u16,
    id: u16,
    ttl: u8,
}

impl Ip {
    pub(crate) fn udp(src: Ipv4Addr, dst: Ipv4Addr) -> Self {
        Self {
            src,
            dst,
            tos: 0,
            protocol: 17,
            fragment: 0,
            id: 0,
            ttl: 64,
        }
    }

    pub(crate) fn src(self, src: Ipv4Addr) -> Self {
        Self { src, ..self }
    }

    pub(crate) fn dst(self, dst: Ipv4Addr) -> Self {
        Self { dst, ..self }
    }

    pub(crate) fn tos(self, tos: u8) -> Self {
        Self { tos, ..self }
    }

    pub(crate) fn protocol(self, protocol: u8) -> Self {
        Self { protocol, ..self }
    }

    /// Flags and offset.
    pub(crate) fn fragment(self, fragment: u16) -> Self {
        Self { fragment, ..self }
    }

    pub(crate) fn id(self, id: u16) -> Self {
        Self { id, ..self }
    }

    pub(crate) fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    pub(crate) fn packet(self, payload: &[u8]) -> Vec<u8> {
        self.packet_with_options(&[], payload)
    }

    pub(crate) fn packet_with_options(self, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + options.len();
        let mut packet = vec![0x40 | u8::try_from(header_len / 4).unwrap(), self.tos];
        packet.extend(
            u16::try_from(header_len + payload.len())
                .unwrap()
                .to_be_bytes(),
        );
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(self.src.octets());
        packet.extend(self.dst.octets());
        packet.extend(options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }
}

/// A UDP datagram without checksum.
pub(crate) fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    [
        &src.to_be_bytes()[..],
        &dst.to_be_bytes(),
        &len.to_be_bytes(),
        &[0, 0],
        payload,
    ]
    .concat()
}

/// A TCP header with these flags and its payload, without checksum.
pub(crate) fn tcp(src: u16, dst: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    [
        &src.to_be_bytes()[..],
        &dst.to_be_bytes(),
        &[0; 8],
        &[0x50, flags, 0xff, 0xff, 0, 0, 0, 0],
        payload,
    ]
    .concat()
}

/// An ICMP message, without checksum.
pub(crate) fn icmp(kind: u8, id: u16, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1], payload].concat()
}

/// A VXLAN header with the I flag and its payload.
pub(crate) fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, vni @ ..] = vni.to_be_bytes();
    [&[8, 0, 0, 0][..], &vni, &[0], frame].concat()
}

/// ARP for IPv4 over Ethernet.
pub(crate) fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    [
        &[0, 1, 8, 0, 6, 4][..],
        &operation.to_be_bytes(),
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
    ]
    .concat()
}

/// RFC 1071.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// The packet with one byte changed.
pub(crate) fn with_byte(mut packet: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    packet[at] = value;
    packet
}

/// The packet with the IPv4 checksum of the header at `at` made right again.
pub(crate) fn with_ip_checksum(mut packet: Vec<u8>, at: usize) -> Vec<u8> {
    let header_len = usize::from(packet[at] & 15) * 4;
    packet[at + 10..at + 12].fill(0);
    let sum = checksum(&packet[at..at + header_len]);
    packet[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    packet
}
