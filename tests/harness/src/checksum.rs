//! The checksum of IPv4, ICMP and UDP (RFC 1071), written apart from the
//! product's, so that the two check each other.

/// The one's complement of the one's-complement sum of all 16-bit words, the
/// checksum field being 0. Over complete headers it is 0 if they are right.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for word in bytes.chunks(2) {
        let low = word.get(1).copied().unwrap_or_default();
        sum += u64::from(u16::from_be_bytes([word[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // At most 16 bits are left.
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::internet_checksum;

    #[test]
    fn is_that_of_rfc_1071() {
        // The example of RFC 1071, section 3: the sum is 0xddf2.
        assert_eq!(
            internet_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
        assert_eq!(internet_checksum(&[0xff]), !0xff00);
        assert_eq!(internet_checksum(&[]), 0xffff);
    }
}
