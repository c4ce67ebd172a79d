//! Into a container of this host.

use vxplane_common::abi::FdbEntry;

use crate::{
    metrics,
    packet::{self, Headers as _, Packet},
    verdict::Action,
};

/// Straight to the container's end of the veth, past the host's stack.
#[inline(always)]
pub(crate) fn to_endpoint(pkt: &mut Packet, target: &FdbEntry) -> Action {
    metrics::received(target.slot, pkt.len());
    pkt.mark_to_host();
    packet::redirect_peer(target.ifindex)
}
