//! When a packet changes what is known about where a MAC address lives.

use crate::abi::Learned;

/// An entry is refreshed, and a move announced, at most this often: a busy flow
/// writes to its entry once a second, not once a packet. Nanoseconds.
pub const INTERVAL: u64 = 1_000_000_000;

/// What a packet from a learned MAC address means for its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// Nothing: it is where it was, and was seen a moment ago.
    Known,
    /// It is where it was; the entry is to be kept alive.
    Refresh,
    /// It is behind another VTEP now.
    Moved {
        /// Whether to tell the daemon; not for every packet of two VTEPs that
        /// quarrel.
        announce: bool,
    },
}

/// What a packet from behind `vtep` (its address in network order) at the time
/// `now` means for `entry`.
#[inline(always)]
pub fn sighting(entry: &Learned, vtep: u32, now: u64) -> Sighting {
    if u32::from_ne_bytes(entry.vtep) != vtep {
        let announce = entry.moved == 0 || now.wrapping_sub(entry.moved) >= INTERVAL;
        Sighting::Moved { announce }
    } else if now.wrapping_sub(entry.seen) >= INTERVAL {
        Sighting::Refresh
    } else {
        Sighting::Known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Outer;

    const OUTER: Outer = Outer {
        ipv4_sum: 0,
        header: [0; 36],
        next_hop: [0; 4],
    };
    const ENTRY: Learned = Learned::new(10 * INTERVAL, 0, [192, 0, 2, 1], 3, OUTER);

    #[test]
    fn refreshed_once_a_second() {
        let at = |now| sighting(&ENTRY, u32::from_ne_bytes(ENTRY.vtep), now);
        assert_eq!(at(ENTRY.seen), Sighting::Known);
        assert_eq!(at(ENTRY.seen + INTERVAL - 1), Sighting::Known);
        assert_eq!(at(ENTRY.seen + INTERVAL), Sighting::Refresh);
    }

    #[test]
    fn moves_at_once_but_tells_once_a_second() {
        let other = u32::from_ne_bytes([192, 0, 2, 9]);
        assert_eq!(
            sighting(&ENTRY, other, 1),
            Sighting::Moved { announce: true }
        );
        let moved = Learned {
            moved: 20 * INTERVAL,
            ..ENTRY
        };
        let at = |now| sighting(&moved, other, now);
        assert_eq!(at(20 * INTERVAL + 5), Sighting::Moved { announce: false });
        assert_eq!(at(21 * INTERVAL), Sighting::Moved { announce: true });
    }
}
