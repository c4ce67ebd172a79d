//! Into a container of this host.

use vxplane_common::{abi::FdbEntry, trace::Step};

use crate::{
    metrics,
    packet::{self, Packet},
    trace,
    verdict::Action,
};

/// Straight to the container's end of the veth, past the host's stack.
#[inline(always)]
pub(crate) fn to_endpoint(pkt: &mut Packet, target: &FdbEntry) -> Action {
    let (ifindex, slot) = (target.ifindex, target.slot);
    trace::step(pkt, Step::Delivered { ifindex, slot });
    metrics::received(pkt, slot);
    pkt.mark_to_host();
    packet::redirect_peer(ifindex)
}
