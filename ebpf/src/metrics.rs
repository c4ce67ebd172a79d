//! The counters, and the one exit of the TC programs that counts what is
//! dropped.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_NOEXIST, tcx_action_base},
    macros::map,
    maps::{PerCpuArray, PerCpuHashMap},
};
use aya_log_ebpf::debug;
use vxplane_common::{
    abi::{Counter, DropKey, MAX_DROP_KEYS, MAX_ENDPOINTS, Traffic},
    drop::Direction,
};

use crate::{
    packet::{Headers as _, Packet},
    verdict::{Drop, Verdict},
};

#[map]
static DROPS: PerCpuHashMap<DropKey, Counter> = PerCpuHashMap::with_max_entries(MAX_DROP_KEYS, 0);

#[map]
static TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(MAX_ENDPOINTS, 0);

/// What a TC program returns.
#[inline(always)]
pub(crate) fn exit(pkt: &Packet, direction: Direction, verdict: Verdict) -> i32 {
    match verdict {
        Ok(action) => action as i32,
        Err(drop) => {
            count_drop(pkt, drop, direction, pkt.len());
            tcx_action_base::TCX_DROP
        }
    }
}

/// Counts a dropped packet of `len` bytes.
#[inline(never)]
pub(crate) fn count_drop(ctx: &impl EbpfContext, drop: Drop, direction: Direction, len: u32) {
    let key = DropKey::new(drop.vni, drop.reason, direction);
    if let Some(counter) = DROPS.get_ptr_mut(key) {
        // SAFETY: this CPU's own counter, and programs do not interrupt each
        // other on one CPU.
        add(unsafe { &mut *counter }, len);
    } else {
        let mut first = Counter::default();
        add(&mut first, len);
        // It fails only when the map is full; there is nowhere left to tell.
        let _ = DROPS.insert(key, first, u64::from(BPF_NOEXIST));
    }
    debug!(
        ctx,
        "dropped {} bytes of network {}: reason {}, direction {}",
        len,
        drop.vni,
        drop.reason as u8,
        direction as u8
    );
}

/// Counts a packet of `len` bytes as sent by the endpoint with this slot.
#[inline(always)]
pub(crate) fn sent(slot: u32, len: u32) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(slot) {
        // SAFETY: as in `count_drop`.
        add(unsafe { &mut (*traffic).egress }, len);
    }
}

/// Counts a packet of `len` bytes as delivered to the endpoint with this slot.
#[inline(always)]
pub(crate) fn received(slot: u32, len: u32) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(slot) {
        // SAFETY: as in `count_drop`.
        add(unsafe { &mut (*traffic).ingress }, len);
    }
}

#[inline(always)]
fn add(counter: &mut Counter, len: u32) {
    counter.packets += 1;
    counter.bytes += u64::from(len);
}
