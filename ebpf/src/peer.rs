//! Which VTEPs may send into which network.

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, macros::map, maps::HashMap};
use vxplane_common::{
    abi::{MAX_PEERS, Peer, PeerKey},
    drop::DropReason,
};

use crate::{network, verdict::Drop};

#[map]
static PEERS: HashMap<PeerKey, Peer> = HashMap::with_max_entries(MAX_PEERS, BPF_F_NO_PREALLOC);

/// The peer that `vtep` (its address in network order) is in the network `vni`, or why nothing is accepted
/// from it.
#[inline(always)]
pub(crate) fn admit(vni: u32, vtep: u32) -> Result<&'static Peer, Drop> {
    let key = PeerKey {
        vni,
        vtep: vtep.to_ne_bytes(),
    };
    // SAFETY: the daemon replaces entries as a whole, and the memory of an old
    // one outlives this run of the program.
    unsafe { PEERS.get(key) }.ok_or_else(|| stranger(vni))
}

/// Only a network of ours has counters of its own: anyone can send any VNI.
#[cold]
fn stranger(vni: u32) -> Drop {
    if network::by_vni(vni).is_some() {
        Drop {
            vni,
            reason: DropReason::UnknownVtep,
        }
    } else {
        DropReason::UnknownVni.into()
    }
}
