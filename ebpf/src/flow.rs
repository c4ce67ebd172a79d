//! Flows: which packets belong together, and whether they pass.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{HashMap, LruHashMap},
};
use vxplane_common::abi::{
    Flow, FlowKey, FragmentKey, MAX_FLOWS, MAX_FRAGMENTS, MAX_NEW_FLOWS, Ports,
};

#[map]
static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);

#[map]
static NEW_FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(MAX_NEW_FLOWS, 0);

#[map]
static FRAGMENTS: LruHashMap<FragmentKey, Ports> = LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);
