//! Limits of single endpoints: how many flows one may begin.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::generated::bpf_ktime_get_coarse_ns,
    macros::map,
    maps::{Array, HashMap},
};
use vxplane_common::abi::{Limit, MAX_ENDPOINTS, Spent};

use crate::shared::Shared;

#[map]
static LIMITS: HashMap<u32, Limit> = HashMap::with_max_entries(MAX_ENDPOINTS, BPF_F_NO_PREALLOC);

#[map]
static SPENT: Array<Spent> = Array::with_max_entries(MAX_ENDPOINTS, 0);

const SECOND: u64 = 1_000_000_000;

/// Whether the endpoint with this slot may begin a flow now, which is taken off
/// what it may do unless it is only `asked`. Who began none for a second may begin
/// a second's worth at once.
///
/// CPUs do not wait for each other: those that come here at the same instant may
/// begin one flow each where there was room for one.
#[inline(never)]
pub(crate) fn may_begin_flow(slot: u32, asked: bool) -> bool {
    // SAFETY: the daemon replaces entries as a whole, and the memory of an old one
    // outlives this run of the program.
    let (Some(limit), Some(spent)) = (unsafe { LIMITS.get(slot) }, SPENT.get_ptr_mut(slot)) else {
        return true;
    };
    // SAFETY: only the address of a word is taken here, in a live map value.
    let until = Shared(unsafe { &raw mut (*spent).new_flows_until });
    let Some(each) = SECOND.checked_div(u64::from(limit.new_flows_per_second)) else {
        return true;
    };
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let earliest = now.saturating_sub(SECOND);
    let before = until.get();
    let is_idle = before < earliest;
    if (if is_idle { earliest } else { before }) + each > now {
        return false;
    }
    if !asked {
        if is_idle {
            until.set(earliest);
        }
        until.add(each);
    }
    true
}
