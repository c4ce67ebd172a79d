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
        self.to_words().is_group()
    }

    /// The address as numbers.
    #[inline(always)]
    pub const fn to_words(self) -> MacWords {
        // By pairs: element by element it would be read byte by byte.
        let (pairs, _) = self.0.as_chunks();
        MacWords([
            u16::from_le_bytes(pairs[0]),
            u16::from_le_bytes(pairs[1]),
            u16::from_le_bytes(pairs[2]),
        ])
    }
}

/// An Ethernet address as numbers, which is how the programs hold it: those stay
/// in registers, byte arrays are copied over the stack or taken apart. Of 16
/// bits each, for that is how headers are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacWords([u16; 3]);

impl MacWords {
    /// Broadcast or multicast.
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The address as one number of 48 bits.
    #[inline(always)]
    pub const fn to_number(self) -> u64 {
        self.0[0] as u64 | (self.0[1] as u64) << 16 | (self.0[2] as u64) << 32
    }

    /// The address in the lower 48 bits of a number.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "taken apart")]
    pub const fn of_number(number: u64) -> Self {
        Self([number as u16, (number >> 16) as u16, (number >> 32) as u16])
    }

    /// The address as it stands on the wire.
    #[inline(always)]
    pub const fn to_addr(self) -> MacAddr {
        let mut mac = [0; 6];
        let (pairs, _) = mac.as_chunks_mut();
        pairs[0] = self.0[0].to_le_bytes();
        pairs[1] = self.0[1].to_le_bytes();
        pairs[2] = self.0[2].to_le_bytes();
        MacAddr(mac)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|octet| write!(f, ":{octet:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn vni_is_24_bits_and_not_0() {
        assert_eq!(Vni::new(0), None);
        assert_eq!(Vni::new(1).map(Vni::get), Some(1));
        assert_eq!(Vni::new(Vni::MAX).map(Vni::get), Some(0x00ff_ffff));
        assert_eq!(Vni::new(Vni::MAX + 1), None);
    }

    proptest! {
        #[test]
        fn mac_words_are_the_address(mac: [u8; 6]) {
            let address = MacAddr(mac);
            prop_assert_eq!(address.to_words().to_addr(), address);
            let number = address.to_words().to_number();
            prop_assert_eq!(number >> 48, 0);
            prop_assert_eq!(MacWords::of_number(number | 7 << 48), address.to_words());
            prop_assert_eq!(address.is_group(), mac[0] % 2 == 1);
        }
    }
}
