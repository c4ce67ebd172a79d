//! Domain types with checked constructors, shared by both sides.

use core::fmt;

/// A VXLAN network identifier: 24 bits, never 0 (RFC 7348 §5 reserves nothing,
/// but 0 is what a cleared header holds, so no network of ours uses it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The largest VNI that fits the header's 24 bits.
    pub const MAX: u32 = 0x00ff_ffff;

    /// A VNI, or `None` for 0 and for what does not fit 24 bits.
    #[inline(always)]
    pub const fn new(value: u32) -> Option<Self> {
        if value == 0 || value > Self::MAX {
            None
        } else {
            Some(Self(value))
        }
    }

    /// The number itself, 1 to 16 777 215.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An Ethernet address, in the order it stands on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `02:42:` followed by the IPv4 address, as Docker has always derived it:
    /// locally administered, unicast, and unique where the address is.
    #[inline(always)]
    pub const fn from_ipv4(ip: [u8; 4]) -> Self {
        Self([0x02, 0x42, ip[0], ip[1], ip[2], ip[3]])
    }

    /// Broadcast or multicast: the group bit of the first octet.
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|octet| write!(f, ":{octet:02x}"))
    }
}
