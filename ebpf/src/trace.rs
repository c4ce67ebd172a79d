//! Records the steps of a traced packet.

use aya_ebpf::{macros::map, maps::RingBuf};
use vxplane_common::{
    abi::{TRACE_RING_BYTES, TraceStep},
    trace::Step,
};

use crate::packet::Packet;

#[map]
static TRACE: RingBuf = RingBuf::with_byte_size(TRACE_RING_BYTES, 0);

/// Records a step if the packet is traced.
#[inline(always)]
pub(crate) fn step(pkt: &Packet, step: Step) {
    if pkt.is_traced() {
        write(step);
    }
}

/// Records a step of a packet that is known to be traced.
#[inline(always)]
pub(crate) fn write(step: Step) {
    let TraceStep { kind, a, b } = step.encode();
    record(kind, a, b);
}

#[inline(never)]
fn record(kind: u32, a: u32, b: u32) {
    // It fails if nobody has read the steps before: then those are told.
    let _ = TRACE.output::<TraceStep>(TraceStep { kind, a, b }, 0);
}
