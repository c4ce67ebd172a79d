//! One's-complement arithmetic (RFC 1071, RFC 1624).

/// Folds a sum of 16-bit words to 16 bits; up to 65 535 words may be in it.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the second fold leaves 16 bits"
)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    // The first fold leaves at most 0x1fffe, the second cannot carry again.
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The folded sum of `bytes` read as big-endian words; an odd last byte is the
/// high half of a word.
pub const fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0;
    let mut at = 0;
    while at < bytes.len() {
        let low = if at + 1 < bytes.len() {
            bytes[at + 1]
        } else {
            0
        };
        total = fold(total as u32 + u16::from_be_bytes([bytes[at], low]) as u32);
        at += 2;
    }
    total
}

/// The checksum of a header in which one word became another (RFC 1624,
/// equation 3).
#[inline(always)]
pub const fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u32 + !old as u32 + new as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_1071_example() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
        assert_eq!(sum(&[0x12]), 0x1200);
    }

    #[test]
    fn rfc_1624_example() {
        // RFC 1624 §4: the case in which the older formula gives 0xffff.
        assert_eq!(replace(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn fold_is_modulo_ffff(value in any::<u32>()) {
            prop_assert_eq!(u32::from(fold(value)) % 0xffff, value % 0xffff);
        }

        #[test]
        fn replace_equals_summing_again(mut words in proptest::array::uniform10(any::<u16>()), at in 0_usize..10, new in any::<u16>()) {
            // A header is never all zeroes, which is where the two zeroes of
            // one's complement could differ.
            words[(at + 1) % 10] |= 1;
            let old = words[at];
            let before = !sum(&words.map(u16::to_be_bytes).concat_bytes());
            words[at] = new;
            let after = !sum(&words.map(u16::to_be_bytes).concat_bytes());
            prop_assert_eq!(replace(before, old, new), after);
        }
    }

    trait Concat {
        fn concat_bytes(&self) -> [u8; 20];
    }

    impl Concat for [[u8; 2]; 10] {
        fn concat_bytes(&self) -> [u8; 20] {
            core::array::from_fn(|at| self[at / 2][at % 2])
        }
    }
}
