//! Headers as they stand on the wire: network order, no invariants. Whoever reads
//! a field decides what to believe.
//!
//! Their alignment is 2, which is what the kernel gives them: frames begin at an
//! even address, and every header has an even length. With alignment 1 the BPF
//! compiler would read each field byte by byte.

use crate::{abi::OVERHEAD_IPV4, checksum, types::MacAddr};

/// `EtherType` values, host order.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// An 802.1Q tag follows.
    pub const VLAN: u16 = 0x8100;
    /// An 802.1ad service tag follows.
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// IPv4 protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// Reserved: nothing is sent by it, so that it can stand for no protocol of IPv4
    /// at all.
    pub const NONE: u8 = 255;
}

/// Ethernet II.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(2))]
pub struct Eth {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// EtherType, network order.
    pub ethertype: [u8; 2],
}

impl Eth {
    /// Bytes of the header.
    pub const LEN: u32 = 14;

    /// The EtherType, host order.
    #[inline(always)]
    pub const fn ethertype(&self) -> u16 {
        u16::from_be_bytes(self.ethertype)
    }

    /// Whether an in-band VLAN tag follows.
    #[inline(always)]
    pub const fn is_vlan(&self) -> bool {
        matches!(self.ethertype(), ethertype::VLAN | ethertype::SERVICE_VLAN)
    }
}

/// IPv4 without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(2))]
pub struct Ipv4 {
    /// Version (4 bits) and header length in 32-bit words (4 bits).
    pub version_ihl: u8,
    /// DSCP (6 bits) and ECN (2 bits).
    pub tos: u8,
    /// Bytes from here to the end of the payload.
    pub total_len: [u8; 2],
    /// Identification.
    pub id: [u8; 2],
    /// Flags (3 bits) and fragment offset (13 bits).
    pub fragment: [u8; 2],
    /// Hops left.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// One's-complement checksum of the header.
    pub checksum: [u8; 2],
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

impl Ipv4 {
    /// Bytes of the header without options.
    pub const LEN: u32 = 20;
    /// Bytes of the header with as many options as there can be.
    pub const MAX_LEN: u32 = 60;
    /// `version_ihl` of a header without options.
    pub const PLAIN: u8 = 0x45;
    /// The bits of `fragment` that a whole packet has none of: more-fragments flag
    /// and fragment offset.
    pub const FRAGMENT: [u8; 2] = [0x3f, 0xff];
    /// The fragment offset alone.
    pub const OFFSET: [u8; 2] = [0x1f, 0xff];

    /// Total length in bytes as the header claims it.
    #[inline(always)]
    pub const fn total_len(&self) -> u32 {
        u16::from_be_bytes(self.total_len) as u32
    }

    /// Header length in bytes as the header claims it: 0 to 60.
    #[inline(always)]
    pub const fn header_len(&self) -> u32 {
        ((self.version_ihl & 0x0f) as u32) * 4
    }

    /// Whether the checksum of a header without options holds. The words are
    /// summed as they stand: the sum does not depend on the order of bytes (RFC
    /// 1071, section 2).
    #[inline(always)]
    pub const fn checksum_holds(&self) -> bool {
        let [s0, s1, s2, s3] = self.src;
        let [d0, d1, d2, d3] = self.dst;
        let sum = u16::from_ne_bytes([self.version_ihl, self.tos]) as u32
            + u16::from_ne_bytes(self.total_len) as u32
            + u16::from_ne_bytes(self.id) as u32
            + u16::from_ne_bytes(self.fragment) as u32
            + u16::from_ne_bytes([self.ttl, self.protocol]) as u32
            + u16::from_ne_bytes(self.checksum) as u32
            + u16::from_ne_bytes([s0, s1]) as u32
            + u16::from_ne_bytes([s2, s3]) as u32
            + u16::from_ne_bytes([d0, d1]) as u32
            + u16::from_ne_bytes([d2, d3]) as u32;
        checksum::fold(sum) == 0xffff
    }

    /// Whether this is one fragment of several, first or not.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        u16::from_ne_bytes(self.fragment) & u16::from_ne_bytes(Self::FRAGMENT) != 0
    }

    /// Whether the payload does not begin with a transport header.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        u16::from_ne_bytes(self.fragment) & u16::from_ne_bytes(Self::OFFSET) != 0
    }
}

/// UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(2))]
pub struct Udp {
    /// Source port.
    pub src: [u8; 2],
    /// Destination port.
    pub dst: [u8; 2],
    /// Bytes of header and payload.
    pub len: [u8; 2],
    /// Checksum, 0 for none.
    pub checksum: [u8; 2],
}

impl Udp {
    /// Bytes of the header.
    pub const LEN: u32 = 8;

    /// Length in bytes as the header claims it.
    #[inline(always)]
    pub const fn len(&self) -> u32 {
        u16::from_be_bytes(self.len) as u32
    }

    /// Whether it claims to carry nothing.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.len() <= Self::LEN
    }
}

/// TCP without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(2))]
pub struct Tcp {
    /// Source port.
    pub src: [u8; 2],
    /// Destination port.
    pub dst: [u8; 2],
    /// Sequence numbers.
    pub numbers: [u8; 8],
    /// Header length in 32-bit words (4 bits), and reserved bits.
    pub data_offset: u8,
    /// Flags.
    pub flags: u8,
    /// Window, checksum and urgent pointer.
    pub rest: [u8; 6],
}

impl Tcp {
    /// The sender will send nothing more.
    pub const FIN: u8 = 0x01;
    /// The sender begins.
    pub const SYN: u8 = 0x02;
    /// The connection is over.
    pub const RST: u8 = 0x04;
    /// The sender has received something.
    pub const ACK: u8 = 0x10;

    /// Header length in bytes as the header claims it: 0 to 60.
    #[inline(always)]
    pub const fn header_len(&self) -> u32 {
        ((self.data_offset >> 4) as u32) * 4
    }
}

/// ICMP (RFC 792), up to what stands in it of another packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(2))]
pub struct Icmp {
    /// The type.
    pub kind: u8,
    /// What of that type.
    pub code: u8,
    /// Checksum.
    pub checksum: [u8; 2],
    /// The identifier, in a query.
    pub id: [u8; 2],
    /// The sequence number, in a query.
    pub sequence: [u8; 2],
}

impl Icmp {
    /// Bytes of the header.
    pub const LEN: u32 = 8;
    /// The type of an echo request.
    pub const ECHO: u8 = 8;
    /// The type of an echo reply.
    pub const ECHO_REPLY: u8 = 0;
}

/// VXLAN (RFC 7348 §5), with what the Group Policy extension
/// (draft-smith-vxlan-group-policy) makes of reserved bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(2))]
pub struct Vxlan {
    /// The I bit, and the extension's G bit; all others are reserved.
    pub flags: u8,
    /// Reserved; with the G bit, the extension's flags and a group policy ID.
    pub reserved1: [u8; 3],
    /// The VNI, network order.
    pub vni: [u8; 3],
    /// Reserved.
    pub reserved2: u8,
}

impl Vxlan {
    /// Bytes of the header.
    pub const LEN: u32 = 8;
    /// The I flag: the VNI is valid.
    pub const VALID: u8 = 0x08;
    /// The extension's G flag: there is a group policy ID.
    pub const GROUP: u8 = 0x80;

    /// A header as RFC 7348 wants it sent.
    #[inline(always)]
    pub const fn new(vni: u32) -> Self {
        let [_, a, b, c] = vni.to_be_bytes();
        Self {
            flags: Self::VALID,
            reserved1: [0; 3],
            vni: [a, b, c],
            reserved2: 0,
        }
    }

    /// The VNI, whatever the flags say.
    #[inline(always)]
    pub const fn vni(&self) -> u32 {
        u32::from_be_bytes([0, self.vni[0], self.vni[1], self.vni[2]])
    }

    /// Whether the I flag is set.
    #[inline(always)]
    pub const fn is_valid(&self) -> bool {
        self.flags & Self::VALID != 0
    }

    /// Whether anything reserved is set. It is ignored on receipt (RFC 7348 §5),
    /// but the kernel's vxlan device drops such packets.
    #[inline(always)]
    pub const fn has_reserved(&self) -> bool {
        let [a, b, c] = self.reserved1;
        (self.flags & !Self::VALID) | a | b | c | self.reserved2 != 0
    }

    /// The same network, nothing reserved set.
    #[inline(always)]
    #[must_use]
    pub const fn without_reserved(&self) -> Self {
        Self::new(self.vni())
    }

    /// The same network and group policy ID, nothing else set.
    #[inline(always)]
    #[must_use]
    pub const fn with_group_only(&self) -> Self {
        let mut clean = self.without_reserved();
        let [high, low] = self.group().to_be_bytes();
        if self.flags & Self::GROUP != 0 {
            clean.flags |= Self::GROUP;
            clean.reserved1 = [0, high, low];
        }
        clean
    }

    /// The group policy ID; 0 if there is none.
    #[inline(always)]
    pub const fn group(&self) -> u16 {
        let [_, high, low] = self.reserved1;
        if self.flags & Self::GROUP == 0 {
            return 0;
        }
        u16::from_be_bytes([high, low])
    }

    /// Flags and what is reserved behind them.
    #[inline(always)]
    pub const fn first_word(&self) -> [u8; 4] {
        let [a, b, c] = self.reserved1;
        [self.flags, a, b, c]
    }

    /// The VNI and what is reserved behind it.
    #[inline(always)]
    pub const fn second_word(&self) -> [u8; 4] {
        let [a, b, c] = self.vni;
        [a, b, c, self.reserved2]
    }
}

/// ARP for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(2))]
pub struct Arp {
    /// Hardware type: 1 is Ethernet.
    pub hardware: [u8; 2],
    /// Protocol type: the EtherType of IPv4.
    pub protocol: [u8; 2],
    /// Bytes of a hardware address: 6.
    pub hardware_len: u8,
    /// Bytes of a protocol address: 4.
    pub protocol_len: u8,
    /// Request or reply.
    pub operation: [u8; 2],
    /// Sender's MAC address.
    pub sender_mac: MacAddr,
    /// Sender's IPv4 address.
    pub sender_ip: [u8; 4],
    /// Target's MAC address.
    pub target_mac: MacAddr,
    /// Target's IPv4 address.
    pub target_ip: [u8; 4],
}

/// The beginning of every VXLAN packet over IPv4, up to where we know that it
/// is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(2))]
pub struct Datagram {
    /// Outer Ethernet.
    pub eth: Eth,
    /// Outer IPv4.
    pub ip: Ipv4,
    /// Outer UDP.
    pub udp: Udp,
}

/// Outer IPv4, UDP and VXLAN, as one run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(2))]
pub struct OuterHeaders(pub [u8; 36]);

/// The beginning of a VXLAN packet over IPv4, up to the inner payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(2))]
pub struct Tunnelled {
    /// Outer Ethernet.
    pub eth: Eth,
    /// Outer IPv4, UDP and VXLAN.
    pub outer: OuterHeaders,
    /// Inner Ethernet.
    pub inner: Eth,
}

/// A frame that carries ARP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(2))]
pub struct EthArp {
    /// Ethernet.
    pub eth: Eth,
    /// ARP.
    pub arp: Arp,
}

/// What every header here promises, for the one place that casts packet bytes
/// to it.
///
/// # Safety
///
/// Implementors are `repr(C)`, of alignment 2 at most, without padding, and valid
/// for any bytes.
pub unsafe trait Wire: Copy {}

macro_rules! wire {
    ($($ty:ty = $size:expr;)+) => {$(
        const _: () = assert!(size_of::<$ty>() == $size as usize && align_of::<$ty>() <= 2);
        // SAFETY: `repr(C)` bytes and byte arrays; the assertion above rules out
        // padding and alignment.
        unsafe impl Wire for $ty {}
    )+};
}

wire! {
    Eth = Eth::LEN;
    Ipv4 = Ipv4::LEN;
    Udp = Udp::LEN;
    Icmp = Icmp::LEN;
    Vxlan = Vxlan::LEN;
    Arp = 28;
    Datagram = 42;
    Tunnelled = Eth::LEN + OVERHEAD_IPV4;
    Tcp = 20;
    [u8; 2] = 2;
    EthArp = 42;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vxlan_header_is_rfc_7348() {
        let header = Vxlan::new(0x12_3456);
        assert_eq!(header.vni(), 0x12_3456);
        assert!(header.is_valid());
        assert!(!header.has_reserved());
        assert_eq!(header.vni, [0x12, 0x34, 0x56]);
    }

    #[test]
    fn every_reserved_bit_counts_and_is_cleared() {
        let clean = Vxlan::new(7);
        let mut dirty = clean;
        dirty.flags |= 0x80;
        assert!(dirty.has_reserved());
        assert_eq!(dirty.without_reserved(), clean);
        for byte in 0..3 {
            let mut dirty = clean;
            dirty.reserved1[byte] = 1;
            assert!(dirty.has_reserved());
            assert_eq!(dirty.without_reserved(), clean);
        }
        let mut dirty = clean;
        dirty.reserved2 = 0x80;
        assert!(dirty.has_reserved());
        assert_eq!(dirty.without_reserved(), clean);
    }

    #[test]
    fn a_group_counts_where_there_is_one() {
        let mut header = Vxlan::new(7);
        header.reserved1 = [0xff, 0x12, 0x34];
        header.reserved2 = 1;
        assert_eq!(header.group(), 0, "no G bit");
        assert_eq!(header.with_group_only(), Vxlan::new(7));
        header.flags = 0xff;
        assert_eq!(header.group(), 0x1234);
        let clean = header.with_group_only();
        assert_eq!(clean.first_word(), [0x88, 0, 0x12, 0x34]);
        assert_eq!(clean.second_word(), [0, 0, 7, 0]);
    }

    #[test]
    fn fragments_are_told_apart() {
        let mut ip = Ipv4 {
            version_ihl: 0x46,
            tos: 0,
            total_len: [1, 2],
            id: [0; 2],
            fragment: [0x40, 0],
            ttl: 64,
            protocol: protocol::UDP,
            checksum: [0; 2],
            src: [0; 4],
            dst: [0; 4],
        };
        assert_eq!((ip.total_len(), ip.header_len()), (0x102, 24));
        assert!(!ip.is_fragment(), "don't-fragment is not a fragment");
        ip.fragment = [0x20, 0];
        assert!(ip.is_fragment() && !ip.is_later_fragment());
        ip.fragment = [0, 1];
        assert!(ip.is_fragment() && ip.is_later_fragment());
    }
}
