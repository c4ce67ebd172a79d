//! The networks this host has part in.

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, macros::map, maps::HashMap};
use vxplane_common::abi::{MAX_NETWORKS, Network};

#[map]
static NETWORKS: HashMap<u32, Network> = HashMap::with_max_entries(MAX_NETWORKS, BPF_F_NO_PREALLOC);

/// The network with this VNI.
#[inline(always)]
pub(crate) fn by_vni(vni: u32) -> Option<&'static Network> {
    // SAFETY: the daemon replaces entries as a whole, and the memory of an old
    // one outlives this run of the program.
    unsafe { NETWORKS.get(vni) }
}
