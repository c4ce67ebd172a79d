//! The outer headers of what the underlay brings: is it for us, and is it what
//! it says it is. The same rules stand in the XDP guard and in TC.

use crate::{
    abi::Config,
    drop::DropReason,
    wire::{Datagram, Eth, Ipv4, Udp, Vxlan, ethertype, protocol},
};

/// The shortest VXLAN packet's UDP length: headers and an inner Ethernet header.
const MIN_UDP_LEN: u32 = Udp::LEN + Vxlan::LEN + Eth::LEN;

/// A well-formed VXLAN packet for us, and who says to have sent it.
///
/// The bytes stand first: in a `Result` the error takes the place of the first
/// field, and a number that shares its place with a byte is taken apart and put
/// together again for each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tunnel {
    /// The outer TOS byte.
    pub tos: u8,
    /// Whether the outer headers can be cut off as they are. Otherwise only the
    /// kernel can take it apart: it verifies the UDP checksum, and trims what
    /// stands behind the datagram.
    pub plain: bool,
    /// The network it claims to be of.
    pub vni: u32,
    /// The VTEP it claims to be from: its address as it stands on the wire, but
    /// as one number (see [`crate::types::MacWords`]).
    pub vtep: u32,
}

/// Whether it is an unfragmented UDP datagram without IP options to our VTEP
/// and port. Fragments and options are rare enough to be left to the kernel,
/// which gives what it makes of them to the VXLAN device and so back to us.
#[inline(always)]
pub fn is_ours(packet: &Datagram, config: &Config) -> bool {
    // Numbers are compared, not arrays, which the compiler would do by bytes.
    u16::from_ne_bytes(packet.udp.dst) == u16::from_ne_bytes(config.port)
        && is_udp_to_vtep(&packet.eth, &packet.ip, config)
}

/// The part of [`is_ours`] that stands before the UDP header.
#[inline(always)]
fn is_udp_to_vtep(eth: &Eth, ip: &Ipv4, config: &Config) -> bool {
    u32::from_ne_bytes(ip.dst) == u32::from_ne_bytes(config.vtep)
        && ip.protocol == protocol::UDP
        && eth.ethertype() == ethertype::IPV4
        && ip.version_ihl == Ipv4::PLAIN
        && !ip.is_fragment()
}

/// Reads the headers of a packet that [`is_ours`], `frame_len` bytes long from
/// the outer Ethernet header to the end.
///
/// The checksum of the IPv4 header is verified here because what is taken apart
/// here never meets the kernel's IP layer, which would do it; whether the NIC has
/// done it a program cannot ask.
#[inline(always)]
pub fn parse(packet: &Datagram, vxlan: &Vxlan, frame_len: u32) -> Result<Tunnel, DropReason> {
    if !packet.ip.checksum_holds() {
        return Err(DropReason::OuterChecksum);
    }
    let total_len = packet.ip.total_len();
    let udp_len = packet.udp.len();
    if udp_len < MIN_UDP_LEN || total_len < Ipv4::LEN + udp_len || frame_len < Eth::LEN + total_len
    {
        return Err(DropReason::MalformedOuter);
    }
    if !vxlan.is_valid() {
        return Err(DropReason::VniFlag);
    }
    let exact = total_len == Ipv4::LEN + udp_len && frame_len == Eth::LEN + total_len;
    Ok(Tunnel {
        vni: vxlan.vni(),
        vtep: u32::from_ne_bytes(packet.ip.src),
        tos: packet.ip.tos,
        plain: exact && u16::from_ne_bytes(packet.udp.checksum) == 0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{checksum, types::MacAddr};

    const CONFIG: Config = Config {
        vtep: [192, 0, 2, 2],
        port: 4789_u16.to_be_bytes(),
        source_port_min: 32768,
        source_port_range: 28231,
        gbp: 0,
        fallback_ifindex: 9,
        underlay_mtu: 1500,
    };
    const FRAME_LEN: u32 = 14 + 20 + 8 + 8 + 14 + 46;

    fn datagram() -> Datagram {
        summed(Datagram {
            eth: Eth {
                dst: MacAddr([2; 6]),
                src: MacAddr([4; 6]),
                ethertype: [8, 0],
            },
            ip: Ipv4 {
                version_ihl: Ipv4::PLAIN,
                tos: 2,
                total_len: 96_u16.to_be_bytes(),
                id: [0; 2],
                fragment: [0x40, 0],
                ttl: 64,
                protocol: protocol::UDP,
                checksum: [0; 2],
                src: [192, 0, 2, 1],
                dst: CONFIG.vtep,
            },
            udp: Udp {
                src: [0x80, 1],
                dst: CONFIG.port,
                len: 76_u16.to_be_bytes(),
                checksum: [0; 2],
            },
        })
    }

    /// With the IPv4 checksum made right.
    fn summed(mut packet: Datagram) -> Datagram {
        let ip = &mut packet.ip;
        ip.checksum = [0; 2];
        let parts: [&[u8]; 7] = [
            &[ip.version_ihl, ip.tos],
            &ip.total_len,
            &ip.id,
            &ip.fragment,
            &[ip.ttl, ip.protocol],
            &ip.src,
            &ip.dst,
        ];
        let total = parts
            .iter()
            .map(|part| u32::from(checksum::sum(part)))
            .sum();
        ip.checksum = (!checksum::fold(total)).to_be_bytes();
        packet
    }

    fn changed(change: impl FnOnce(&mut Datagram)) -> Datagram {
        let mut packet = datagram();
        change(&mut packet);
        summed(packet)
    }

    #[test]
    fn ours_and_not_ours() {
        assert!(is_ours(&datagram(), &CONFIG));
        for (what, other) in [
            ("not IPv4", changed(|p| p.eth.ethertype = [0x86, 0xdd])),
            ("options", changed(|p| p.ip.version_ihl = 0x46)),
            ("version", changed(|p| p.ip.version_ihl = 0x65)),
            ("first fragment", changed(|p| p.ip.fragment = [0x20, 0])),
            ("last fragment", changed(|p| p.ip.fragment = [0, 0x10])),
            ("TCP", changed(|p| p.ip.protocol = protocol::TCP)),
            ("address", changed(|p| p.ip.dst = [192, 0, 2, 3])),
            ("port", changed(|p| p.udp.dst = [0x12, 0xb6])),
        ] {
            assert!(!is_ours(&other, &CONFIG), "{what}");
        }
    }

    #[test]
    fn well_formed() {
        let tunnel = parse(&datagram(), &Vxlan::new(5), FRAME_LEN).unwrap();
        let expected = Tunnel {
            vni: 5,
            vtep: u32::from_ne_bytes([192, 0, 2, 1]),
            tos: 2,
            plain: true,
        };
        assert_eq!(tunnel, expected);
    }

    #[test]
    fn lengths_that_contradict_each_other() {
        let vxlan = Vxlan::new(5);
        let malformed = Err(DropReason::MalformedOuter);
        assert_eq!(parse(&datagram(), &vxlan, FRAME_LEN - 1), malformed);
        let ip = changed(|p| p.ip.total_len = 97_u16.to_be_bytes());
        assert_eq!(parse(&ip, &vxlan, FRAME_LEN), malformed);
        let udp = changed(|p| p.udp.len = 77_u16.to_be_bytes());
        assert_eq!(parse(&udp, &vxlan, FRAME_LEN), malformed);
        let short = changed(|p| p.udp.len = 29_u16.to_be_bytes());
        assert_eq!(parse(&short, &vxlan, FRAME_LEN), malformed);
    }

    #[test]
    fn a_damaged_header_is_refused_whatever_else_is_wrong() {
        let damaged = Err(DropReason::OuterChecksum);
        for at in 0..16 {
            let mut packet = datagram();
            packet.ip.src[at / 8] ^= 1 << (at % 8);
            assert_eq!(
                parse(&packet, &Vxlan::new(5), FRAME_LEN),
                damaged,
                "bit {at}"
            );
        }
        let mut longer = datagram();
        longer.ip.total_len = 97_u16.to_be_bytes();
        assert_eq!(parse(&longer, &Vxlan::new(5), FRAME_LEN), damaged);
    }

    #[test]
    fn only_the_kernel_can_take_these() {
        let vxlan = Vxlan::new(5);
        let plain = |packet: &Datagram, len| parse(packet, &vxlan, len).map(|t| t.plain);
        assert_eq!(
            plain(&datagram(), FRAME_LEN + 1),
            Ok(false),
            "Ethernet padding"
        );
        let udp = changed(|p| p.udp.len = 75_u16.to_be_bytes());
        assert_eq!(
            plain(&udp, FRAME_LEN),
            Ok(false),
            "bytes behind the datagram"
        );
        let checksum = changed(|p| p.udp.checksum = [0, 1]);
        assert_eq!(plain(&checksum, FRAME_LEN), Ok(false), "UDP checksum");
    }

    #[test]
    fn the_vni_must_be_marked_valid() {
        let vxlan = Vxlan {
            flags: 0xf7,
            ..Vxlan::new(5)
        };
        assert_eq!(
            parse(&datagram(), &vxlan, FRAME_LEN),
            Err(DropReason::VniFlag)
        );
        let dirty = Vxlan {
            flags: 0xff,
            reserved1: [1; 3],
            reserved2: 1,
            ..Vxlan::new(5)
        };
        assert_eq!(parse(&datagram(), &dirty, FRAME_LEN).map(|t| t.vni), Ok(5));
    }

    proptest! {
        #[test]
        fn what_is_plain_is_exactly_its_lengths(total: u16, udp: u16, frame in 50_u32..70_000) {
            let packet = changed(|p| {
                p.ip.total_len = total.to_be_bytes();
                p.udp.len = udp.to_be_bytes();
            });
            if let Ok(Tunnel { plain: true, .. }) = parse(&packet, &Vxlan::new(5), frame) {
                prop_assert!(udp >= 30);
                prop_assert_eq!(u32::from(total), u32::from(udp) + 20);
                prop_assert_eq!(frame, u32::from(total) + 14);
            }
        }
    }
}
