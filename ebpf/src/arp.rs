//! ARP suppression: requests for what the control plane knows are answered here
//! and cost the network nothing.

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, macros::map, maps::HashMap};
use vxplane_common::{
    abi::{Endpoint, MAX_FDB, Neighbour, NeighbourKey},
    arp,
    drop::DropReason,
    wire::{Arp, EthArp},
};

use crate::{metrics, packet::Packet, verdict::Action};

#[map]
static NEIGHBOURS: HashMap<NeighbourKey, Neighbour> =
    HashMap::with_max_entries(MAX_FDB, BPF_F_NO_PREALLOC);

/// The MAC address to answer `request` with, if it is ours to answer.
#[inline(always)]
pub(crate) fn answer(source: &Endpoint, request: &Arp) -> Option<&'static Neighbour> {
    let key = NeighbourKey {
        vni: source.vni,
        ipv4: arp::asked(request, source)?,
    };
    // SAFETY: the daemon replaces entries as a whole, and the memory of an old
    // one outlives this run of the program.
    unsafe { NEIGHBOURS.get(key) }
}

/// Turns the request into its answer and sends it back where it came from.
#[inline(always)]
pub(crate) fn reply(
    pkt: &mut Packet,
    source: &Endpoint,
    neighbour: &Neighbour,
) -> Result<Action, DropReason> {
    metrics::sent(source.slot, pkt);
    let frame = pkt.at_mut::<EthArp>(0).ok_or(DropReason::MalformedFrame)?;
    *frame = arp::reply(frame, neighbour.mac);
    metrics::received(source.slot, pkt);
    Ok(pkt.redirect(pkt.ifindex()))
}
