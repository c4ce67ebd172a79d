//! The counters, and the one exit of the TC programs that counts what is
//! dropped.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_NOEXIST, tcx_action_base},
    macros::map,
    maps::{Array, PerCpuArray, PerCpuHashMap},
};
use aya_log_ebpf::debug;
use vxplane_common::{
    abi::{Counter, DropKey, EndpointDrops, MAX_DROP_KEYS, MAX_ENDPOINTS, NO_SLOT, Traffic},
    drop::DropReason,
    trace::Step,
    wire::Eth,
};

use crate::{
    endpoint, fdb, monitor,
    packet::{Headers, Packet},
    shared::Shared,
    trace,
    verdict::{Drop, Hook, Verdict},
};

#[map]
static DROPS: PerCpuHashMap<DropKey, Counter> = PerCpuHashMap::with_max_entries(MAX_DROP_KEYS, 0);

#[map]
static TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(MAX_ENDPOINTS, 0);

#[map]
static ENDPOINT_DROPS: Array<EndpointDrops> = Array::with_max_entries(MAX_ENDPOINTS, 0);

/// What a TC program returns.
#[inline(always)]
pub(crate) fn exit(pkt: &Packet, hook: Hook, verdict: Verdict) -> i32 {
    match verdict {
        Ok(action) => action as i32,
        Err(drop) => {
            dropped(pkt, drop, hook);
            tcx_action_base::TCX_DROP
        }
    }
}

/// Takes note of a packet dropped in TC.
#[inline(never)]
pub(crate) fn dropped(pkt: &Packet, drop: Drop, hook: Hook) {
    let Drop { reason, vni } = drop;
    if pkt.is_traced() {
        trace::step(pkt, Step::Dropped { reason, vni });
        return;
    }
    // Whose rules forbade it is who would have received it, here too.
    let hook = match (hook, reason) {
        (Hook::FromContainer, DropReason::PolicyIngress) => Hook::FromFallback,
        _ => hook,
    };
    let endpoint = match hook {
        Hook::FromContainer => endpoint::by_ifindex(pkt.ifindex()).ok().map(|it| it.slot),
        Hook::FromUnderlay | Hook::FromFallback => pkt
            .at::<Eth>(hook.inner_at())
            .and_then(|eth| fdb::local(vni, eth.dst.to_words()))
            .map(|it| it.slot),
    };
    count_drop(pkt, drop, hook, endpoint.unwrap_or(NO_SLOT));
}

/// Counts a dropped packet, of the endpoint with this slot.
#[inline(never)]
pub(crate) fn count_drop<C: EbpfContext + Headers>(ctx: &C, drop: Drop, hook: Hook, slot: u32) {
    let (len, direction) = (ctx.len(), hook.direction());
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
    count_for_endpoint(drop, slot);
    monitor::dropped(ctx, drop, hook, slot);
    debug!(
        ctx,
        "dropped {} bytes of network {}: reason {}, direction {}",
        len,
        drop.vni,
        drop.reason as u8,
        direction as u8
    );
}

#[inline(always)]
fn count_for_endpoint(drop: Drop, slot: u32) {
    let Some(drops) = ENDPOINT_DROPS.get_ptr_mut(slot) else {
        return;
    };
    // SAFETY: only the address of the counters is taken here.
    let packets = unsafe { &raw mut (*drops).packets };
    // The compiler knows that no reason has a code as large as that, and would leave
    // out the comparison; the verifier does not know.
    let reason = core::hint::black_box(drop.reason as usize);
    if reason < REASONS {
        // SAFETY: within the array (just checked), in a live map value.
        Shared(unsafe { packets.cast::<u64>().add(reason) }).add(1);
    }
}

/// Codes of reasons that are counted by endpoint.
const REASONS: usize = 32;
const _: () = assert!(size_of::<EndpointDrops>() == REASONS * size_of::<u64>());

/// Counts a packet of `len` bytes as sent by the endpoint with this slot.
#[inline(always)]
pub(crate) fn sent(pkt: &Packet, slot: u32, len: u32) {
    if pkt.is_traced() {
        return;
    }
    if let Some(traffic) = TRAFFIC.get_ptr_mut(slot) {
        // SAFETY: as in `count_drop`.
        add(unsafe { &mut (*traffic).egress }, len);
    }
}

/// Counts a packet as delivered to the endpoint with this slot.
#[inline(always)]
pub(crate) fn received(pkt: &Packet, slot: u32) {
    if pkt.is_traced() {
        return;
    }
    let len = pkt.len();
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
