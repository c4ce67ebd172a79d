//! The constants of this load.

use vxplane_common::abi::Config;

/// Set by the loader. It is read field by field: what the verifier knows the
/// value of costs nothing at run time.
#[unsafe(no_mangle)]
static CONFIG: Config = Config {
    vtep: [0; 4],
    port: [0; 2],
    source_port_min: 0,
    source_port_range: 0,
    gbp: 0,
    fallback_ifindex: 0,
    underlay_mtu: 0,
};

/// `skb->mark` of the packets that are traced, random for each load; 0 for none.
/// The kernel clears the mark of a packet that enters another namespace, so no
/// container can set it.
#[unsafe(no_mangle)]
static TRACE_MARK: u32 = 0;

macro_rules! read {
    ($field:ident as $ty:ty) => {
        // SAFETY: the field is initialised, aligned for `$ty` (checked below)
        // and as large. Volatile, for the compiler sees only the zeroes above.
        unsafe { (&raw const CONFIG.$field).cast::<$ty>().read_volatile() }
    };
}

const _: () = assert!(
    core::mem::offset_of!(Config, vtep) % align_of::<u32>() == 0
        && core::mem::offset_of!(Config, port) % align_of::<u16>() == 0
        && align_of::<Config>() >= align_of::<u32>()
);

/// All of it; what the caller does not use is not read.
#[inline(always)]
#[expect(
    clippy::cast_ptr_alignment,
    reason = "addresses are read as one number; where they stand is aligned for it"
)]
pub(crate) fn get() -> Config {
    Config {
        vtep: read!(vtep as u32).to_ne_bytes(),
        port: read!(port as u16).to_ne_bytes(),
        source_port_min: read!(source_port_min as u16),
        source_port_range: read!(source_port_range as u16),
        gbp: read!(gbp as u16),
        fallback_ifindex: read!(fallback_ifindex as u32),
        underlay_mtu: read!(underlay_mtu as u32),
    }
}

/// The mark of the packets that are traced.
#[inline(always)]
pub(crate) fn trace_mark() -> u32 {
    // SAFETY: a number in read-only data. Volatile, as above.
    unsafe { (&raw const TRACE_MARK).read_volatile() }
}
