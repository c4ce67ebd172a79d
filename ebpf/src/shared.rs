//! Numbers in maps that several CPUs change at once, and values in maps that others
//! are copied from.

use core::{
    intrinsics::{
        AtomicOrdering::{AcqRel, Relaxed},
        atomic_or, atomic_xadd,
    },
    ptr,
};

/// A number in a map that several CPUs change. Rust's atomics need
/// compare-and-swap, which its BPF target does not claim to have.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *mut u64);

impl Shared {
    #[inline(always)]
    pub(crate) fn get(self) -> u64 {
        // SAFETY: an aligned word in a map value, made of a live one.
        unsafe { self.0.read_volatile() }
    }

    /// What others add meanwhile is lost.
    #[inline(always)]
    pub(crate) fn set(self, value: u64) {
        // SAFETY: as in `get`.
        unsafe { self.0.write_volatile(value) };
    }

    /// Adds `value`, modulo 2^64, and returns what there was before. Not relaxed:
    /// the compiler takes that for an addition that returns nothing, and returns
    /// `value`.
    #[inline(always)]
    pub(crate) fn add(self, value: u64) -> u64 {
        // SAFETY: as in `get`.
        unsafe { atomic_xadd::<u64, u64, { AcqRel }>(self.0, value) }
    }
}

/// Sets bits of a number in a map that several CPUs set bits of.
#[inline(always)]
pub(crate) fn set_bits(number: *mut u32, bits: u32) {
    // SAFETY: an aligned word in a map value, made of a live one.
    unsafe { atomic_or::<u32, u32, { Relaxed }>(number, bits) };
}

/// Copies a value from one map to another. An assignment would do it byte by byte, for
/// the compiler takes it for possible that they overlap.
#[inline(always)]
pub(crate) fn copy<T: Copy>(from: &T, to: &mut T) {
    // SAFETY: both are whole, and by Rust's rules not the same.
    unsafe { ptr::copy_nonoverlapping(from, to, 1) };
}
