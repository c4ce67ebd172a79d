//! The outer headers: built once for each (network, VTEP), completed for each
//! packet.

use core::net::Ipv4Addr;

use crate::{
    abi::Outer,
    checksum, ecn,
    types::Vni,
    wire::{Eth, Ipv4, OuterHeaders, Udp, Vxlan, protocol},
};

/// Outer time to live: the underlay is one hop or many, never the inner count.
pub const TTL: u8 = 64;

/// What outer IPv4, UDP and VXLAN add in front of an inner frame.
pub const HEADER_LEN: u32 = Ipv4::LEN + Udp::LEN + Vxlan::LEN;

/// Outer IPv4 header length, of the type of the length fields.
const IPV4_LEN: u16 = 20;
const _: () = assert!(IPV4_LEN as u32 == Ipv4::LEN);

/// Where the fields stand that differ from packet to packet.
mod at {
    pub(super) const TOS: usize = 1;
    pub(super) const TOTAL_LEN: usize = 2;
    pub(super) const ID: usize = 4;
    pub(super) const CHECKSUM: usize = 10;
    pub(super) const SOURCE_PORT: usize = 20;
    pub(super) const UDP_LEN: usize = 24;
    pub(super) const UDP_CHECKSUM: usize = 26;
    pub(super) const VXLAN_FLAGS: usize = 28;
    pub(super) const GROUP: usize = 30;
}

/// What differs from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerPacket {
    /// Outer IPv4 total length, from [`total_len`].
    pub total_len: u16,
    /// The inner TOS byte.
    pub inner_tos: u8,
    /// IPv4 identification.
    pub id: u16,
    /// UDP source port, from [`source_port`].
    pub source_port: u16,
}

impl Outer {
    /// The outer headers from `local` to `remote`, UDP destination `port`, for
    /// the network `vni`.
    pub const fn new(local: Ipv4Addr, remote: Ipv4Addr, port: u16, vni: Vni) -> Self {
        let [s0, s1, s2, s3] = local.octets();
        let [d0, d1, d2, d3] = remote.octets();
        let [p0, p1] = port.to_be_bytes();
        let [_, v0, v1, v2] = vni.get().to_be_bytes();
        #[rustfmt::skip]
        let header = [
            Ipv4::PLAIN, 0, 0, 0, 0, 0, 0, 0, TTL, protocol::UDP, 0, 0,
            s0, s1, s2, s3, d0, d1, d2, d3,
            0, 0, p0, p1, 0, 0, 0, 0,
            Vxlan::VALID, 0, 0, 0, v0, v1, v2, 0,
        ];
        let (ipv4, _) = header.split_at(Ipv4::LEN as usize);
        Self {
            ipv4_sum: checksum::sum(ipv4) as u32,
            header,
            next_hop: [0; 4],
        }
    }

    /// The same, to a VTEP on the underlay's own link.
    #[must_use]
    pub const fn on_link(self) -> Self {
        let [.., d0, d1, d2, d3] = *self.header.split_at(Ipv4::LEN as usize).0 else {
            return self;
        };
        Self {
            next_hop: [d0, d1, d2, d3],
            ..self
        }
    }

    /// Writes the headers of one packet into `room`.
    #[inline(always)]
    pub fn write(&self, room: &mut OuterHeaders, packet: PerPacket) {
        let tos = ecn::encap(packet.inner_tos);
        let sum =
            self.ipv4_sum + u32::from(tos) + u32::from(packet.total_len) + u32::from(packet.id);
        // Completed before it is stored, to the last field that could differ: what
        // the compiler would store and change it copies in a loop, byte by byte.
        let mut header = self.header;
        header[at::TOS] = tos;
        put(&mut header, at::TOTAL_LEN, packet.total_len);
        put(&mut header, at::ID, packet.id);
        put(&mut header, at::CHECKSUM, !checksum::fold(sum));
        put(&mut header, at::SOURCE_PORT, packet.source_port);
        put(&mut header, at::UDP_LEN, packet.total_len - IPV4_LEN);
        put(&mut header, at::UDP_CHECKSUM, 0);
        *room = OuterHeaders(header);
    }
}

impl OuterHeaders {
    /// Adds the group policy ID, of 16 bits, of who sends it
    /// (draft-smith-vxlan-group-policy). Its A flag, policy has been applied, is not for us to set: whoever heeds it
    /// applies none, and the receiver's is not the sender's to apply.
    #[inline(always)]
    pub fn put_group(&mut self, group: u32) {
        let [_, _, high, low] = group.to_be_bytes();
        self.0[at::VXLAN_FLAGS] = Vxlan::VALID | Vxlan::GROUP;
        put(&mut self.0, at::GROUP, u16::from_be_bytes([high, low]));
    }
}

#[inline(always)]
fn put(room: &mut [u8; HEADER_LEN as usize], at: usize, value: u16) {
    let [high, low] = value.to_be_bytes();
    room[at] = high;
    room[at + 1] = low;
}

/// Outer IPv4 total length for an inner frame of `frame_len` bytes, Ethernet
/// included; `None` where it does not fit the field (a BIG TCP super-packet).
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "compared with the largest value before"
)]
pub const fn total_len(frame_len: u32) -> Option<u16> {
    let total = frame_len + HEADER_LEN;
    if total <= u16::MAX as u32 {
        Some(total as u16)
    } else {
        None
    }
}

/// Whether the packets that an inner frame becomes fit an underlay of `mtu`
/// bytes. `largest` is the inner frame, or the largest that a GSO super-packet
/// will be cut into; Ethernet included.
#[inline(always)]
pub const fn fits(largest: u32, mtu: u32) -> bool {
    largest + HEADER_LEN <= mtu
}

/// The largest inner frame a GSO super-packet will be cut into: its headers of
/// `ip_header` and `transport_header` bytes before each `gso_size` of payload.
#[inline(always)]
pub const fn segment_len(ip_header: u32, transport_header: u32, gso_size: u32) -> u32 {
    Eth::LEN + ip_header + transport_header + gso_size
}

/// The UDP source port that stands for an inner flow, by the same rule as the
/// kernel's tunnels, so that both ways into the underlay take the same path:
/// one of `range` ports from `min` up.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the high half of a 32-bit by 16-bit product is below the 16-bit factor"
)]
pub const fn source_port(flow_hash: u32, min: u16, range: u16) -> u16 {
    // Multiplying takes the high bits, and a hash of few bits has them low.
    let spread = flow_hash ^ (flow_hash << 16);
    min.wrapping_add(((spread as u64 * range as u64) >> 32) as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

    fn vni(value: u32) -> Vni {
        Vni::new(value).unwrap()
    }

    #[test]
    fn headers_byte_for_byte() {
        let mut room = OuterHeaders([0xaa; 36]);
        Outer::new(LOCAL, REMOTE, 4789, vni(0x0a_0b0c)).write(
            &mut room,
            PerPacket {
                total_len: 134,
                inner_tos: 0xba,
                id: 0x1234,
                source_port: 0xc001,
            },
        );
        #[rustfmt::skip]
        let expected = [
            0x45, 0x02, 0x00, 0x86, 0x12, 0x34, 0x00, 0x00, 64, 17, 0x7b, 0xfa,
            192, 0, 2, 1, 198, 51, 100, 2,
            0xc0, 0x01, 0x12, 0xb5, 0x00, 0x72, 0, 0,
            0x08, 0, 0, 0, 0x0a, 0x0b, 0x0c, 0,
        ];
        assert_eq!(room.0, expected);
        room.put_group(0x3039);
        let mut expected = expected;
        expected[28..32].copy_from_slice(&[0x88, 0, 0x30, 0x39]);
        assert_eq!(room.0, expected);
    }

    #[test]
    fn on_the_link_the_vtep_is_the_next_hop() {
        let outer = Outer::new(LOCAL, REMOTE, 4789, vni(1));
        assert_eq!(outer.next_hop, [0; 4]);
        assert_eq!(outer.on_link().next_hop, REMOTE.octets());
        assert_eq!(outer.on_link().header, outer.header);
    }

    #[test]
    fn lengths() {
        assert_eq!(total_len(1464), Some(1500));
        assert_eq!(total_len(65_499), Some(65_535));
        assert_eq!(total_len(65_500), None);
        assert!(fits(1464, 1500) && !fits(1465, 1500));
        // An overlay MTU of 1450: TCP with timestamps over plain IPv4.
        assert_eq!(segment_len(20, 32, 1398), 14 + 1450);
    }

    proptest! {
        #[test]
        fn checksum_verifies(local: [u8; 4], remote: [u8; 4], port: u16, vni in 1..=Vni::MAX,
                             total_len in 36_u16.., inner_tos: u8, id: u16, source_port: u16) {
            let mut room = OuterHeaders([0; 36]);
            let outer = Outer::new(local.into(), remote.into(), port, Vni::new(vni).unwrap());
            outer.write(&mut room, PerPacket { total_len, inner_tos, id, source_port });
            prop_assert_eq!(checksum::sum(&room.0[..20]), 0xffff);
            prop_assert_eq!(u16::from_be_bytes([room.0[24], room.0[25]]), total_len - 20);
        }

        #[test]
        fn source_port_stays_in_range(hash: u32, min in 1024_u16..32768, range in 1_u16..28000) {
            let port = source_port(hash, min, range);
            prop_assert!((min..min + range).contains(&port));
        }
    }
}
