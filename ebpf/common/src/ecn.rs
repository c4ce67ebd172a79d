//! Explicit congestion notification through the tunnel, RFC 6040 normal mode:
//! what the underlay marks is what the container sees.

use crate::drop::DropReason;

/// The two ECN bits of a TOS byte.
pub const MASK: u8 = 0b11;
/// Not ECN-capable.
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable, codepoint 1.
pub const ECT_1: u8 = 0b01;
/// ECN-capable, codepoint 0.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// The outer TOS byte for an inner one: its ECN bits, DSCP 0, as the kernel's
/// vxlan device sends it.
#[inline(always)]
pub const fn encap(inner: u8) -> u8 {
    inner & MASK
}

/// The inner TOS byte after the outer header is gone (RFC 6040 §4.2, figure 4).
/// Congestion on a packet whose sender cannot be told means that the packet is
/// dropped.
#[inline(always)]
pub const fn decap(outer: u8, inner: u8) -> Result<u8, DropReason> {
    match (outer & MASK, inner & MASK) {
        (CE, NOT_ECT) => Err(DropReason::EcnInvalid),
        (CE, _) => Ok(inner | CE),
        (ECT_1, ECT_0) => Ok(inner & !MASK | ECT_1),
        _ => Ok(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6040, figure 4. Rows: inner; columns: outer Not-ECT, ECT(0), ECT(1),
    /// CE; `None` is "drop".
    const FIGURE_4: [(u8, [Option<u8>; 4]); 4] = [
        (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
        (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
        (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
        (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
    ];

    #[test]
    fn decap_is_figure_4_and_keeps_dscp() {
        for (inner, row) in FIGURE_4 {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                for dscp in 0..64_u8 {
                    let got = decap(0x28 | outer, dscp << 2 | inner);
                    assert_eq!(got.ok(), expected.map(|ecn| dscp << 2 | ecn));
                }
            }
        }
    }

    #[test]
    fn encap_copies_ecn_only() {
        for tos in 0..=255 {
            assert_eq!(encap(tos), tos % 4);
        }
    }
}
