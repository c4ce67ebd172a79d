//! Rule sets: what an endpoint is allowed in one direction.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie},
};
use vxplane_common::abi::{BlockKey, MAX_BLOCKS, MAX_MEMBERS, MAX_RULES, MemberKey, RuleKey};

#[map]
static EPOCH: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static MEMBERS: HashMap<MemberKey, u32> = HashMap::with_max_entries(MAX_MEMBERS, BPF_F_NO_PREALLOC);

#[map]
static BLOCKS: LpmTrie<BlockKey, u32> = LpmTrie::with_max_entries(MAX_BLOCKS, 0);

#[map]
static RULES: LpmTrie<RuleKey, u32> = LpmTrie::with_max_entries(MAX_RULES, 0);
