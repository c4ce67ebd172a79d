//! Protocols and ports as prefixes: what an LPM trie can look up.

use std::collections::BTreeSet;

use super::document::{Port, PortName, Protocol};
use crate::model::NamedPort;

/// Bits of a port.
const PORT_BITS: u8 = 16;

/// Protocols and destination ports that have their first bits in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortPrefix {
    /// The IPv4 protocol number, any if absent.
    pub protocol: Option<u8>,
    /// The first of the ports.
    pub port: u16,
    /// How many bits of it count, 16 at most; 0 for every port.
    pub bits: u8,
}

impl PortPrefix {
    /// Everything there is.
    pub const ANY: Self = Self {
        protocol: None,
        port: 0,
        bits: 0,
    };

    /// Whether a packet of `protocol` to `port` is among them.
    pub fn contains(self, protocol: u8, port: u16) -> bool {
        let differing = self.port ^ port;
        let counted = differing
            .checked_shr(u32::from(PORT_BITS - self.bits))
            .unwrap_or(0);
        self.protocol.is_none_or(|it| it == protocol) && counted == 0
    }
}

/// The ports that a rule is about, those with names where the list of names that
/// somebody exposes has them. Without a list it is about everything.
pub fn prefixes(ports: Option<&[Port]>, exposed: &BTreeSet<NamedPort>) -> BTreeSet<PortPrefix> {
    let ports = ports.unwrap_or_default();
    if ports.is_empty() {
        return BTreeSet::from([PortPrefix::ANY]);
    }
    let mut prefixes = BTreeSet::new();
    for port in ports {
        match &port.port {
            None => prefixes.extend(range(port.protocol, 0, u16::MAX)),
            Some(PortName::Number(first)) => {
                let last = port.end_port.unwrap_or(*first);
                prefixes.extend(range(port.protocol, *first, last));
            }
            Some(PortName::Name(name)) => {
                let meant = exposed
                    .iter()
                    .filter(|it| it.name == *name && it.protocol == port.protocol);
                prefixes.extend(meant.flat_map(|it| range(it.protocol, it.port, it.port)));
            }
        }
    }
    prefixes
}

/// Whether a list of ports has names in it.
pub fn has_names(ports: Option<&[Port]>) -> bool {
    let mut ports = ports.into_iter().flatten();
    ports.any(|port| matches!(port.port, Some(PortName::Name(_))))
}

/// The fewest prefixes that are just the ports from `first` to `last`.
pub fn range(protocol: Protocol, first: u16, last: u16) -> Vec<PortPrefix> {
    let mut prefixes = Vec::new();
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    while next < end {
        // As large as it can begin here, and no larger than what is left.
        let aligned = if next == 0 {
            u32::from(PORT_BITS)
        } else {
            next.trailing_zeros()
        };
        let size = aligned.min((end - next).ilog2());
        let (Ok(port), Ok(bits)) = (u16::try_from(next), u8::try_from(size)) else {
            break;
        };
        prefixes.push(PortPrefix {
            protocol: Some(protocol.number()),
            port,
            bits: PORT_BITS - bits,
        });
        next += 1 << size;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_take_few_prefixes() {
        let bits = |first, last| {
            let prefixes = range(Protocol::Tcp, first, last);
            prefixes
                .iter()
                .map(|it| (it.port, it.bits))
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(80, 80), [(80, 16)]);
        assert_eq!(bits(0, u16::MAX), [(0, 0)]);
        assert_eq!(
            bits(1024, u16::MAX),
            [
                (1024, 6),
                (2048, 5),
                (4096, 4),
                (8192, 3),
                (16384, 2),
                (32768, 1)
            ]
        );
        assert_eq!(bits(5, 8), [(5, 16), (6, 15), (8, 16)]);
        assert_eq!(bits(9, 8), []);
        // The most there can be: two for each bit but the last and the first.
        assert_eq!(range(Protocol::Tcp, 1, u16::MAX - 1).len(), 30);
    }

    proptest! {
        #[test]
        fn prefixes_hold_just_the_ports_of_the_range(
            ends in (any::<u16>(), any::<u16>()),
            port in any::<u16>(),
        ) {
            let (first, last) = (ends.0.min(ends.1), ends.0.max(ends.1));
            let prefixes = range(Protocol::Udp, first, last);
            for port in [port, first, last, first.wrapping_sub(1), last.wrapping_add(1)] {
                let holding = prefixes.iter().filter(|it| it.contains(17, port)).count();
                prop_assert_eq!(holding, usize::from((first..=last).contains(&port)));
                prop_assert!(!prefixes.iter().any(|it| it.contains(6, port)));
            }
        }
    }
}
