//! Inner frames.

use crate::wire::Ipv4;

/// Whether an inner IPv4 header agrees with the `room` bytes from its begin to
/// the end of the frame. A super-packet may be longer than the header can say, so
/// that its length says nothing.
#[inline(always)]
pub const fn is_sound(ip: &Ipv4, room: u32, is_gso: bool) -> bool {
    let header_len = ip.header_len();
    let total_len = ip.total_len();
    ip.version_ihl >> 4 == 4
        && header_len >= Ipv4::LEN
        && header_len <= room
        && total_len <= room
        && (is_gso || total_len >= header_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version_ihl: u8, total_len: u16) -> Ipv4 {
        Ipv4 {
            version_ihl,
            tos: 0,
            total_len: total_len.to_be_bytes(),
            id: [0; 2],
            fragment: [0; 2],
            ttl: 64,
            protocol: 6,
            checksum: [0; 2],
            src: [0; 4],
            dst: [0; 4],
        }
    }

    #[test]
    fn header_and_frame_must_agree() {
        for (version_ihl, total_len, room, sound) in [
            (0x45, 20, 20, true),
            (0x45, 28, 46, true),
            (0x46, 24, 24, true),
            (0x4f, 60, 60, true),
            (0x55, 20, 20, false),
            (0x44, 20, 20, false),
            (0x40, 20, 20, false),
            (0x45, 19, 20, false),
            (0x46, 23, 30, false),
            (0x46, 24, 23, false),
            (0x45, 21, 20, false),
            (0x45, 0, 60, false),
        ] {
            let ip = header(version_ihl, total_len);
            assert_eq!(
                is_sound(&ip, room, false),
                sound,
                "{version_ihl:#x} {total_len} {room}"
            );
        }
    }

    #[test]
    fn big_super_packets_have_no_length() {
        assert!(is_sound(&header(0x45, 0), 100_000, true));
    }
}
