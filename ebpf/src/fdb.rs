//! Where a MAC address lives: what the control plane says, and behind that what
//! was learned.

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, macros::map, maps::HashMap};
use vxplane_common::{
    abi::{FDB_LOCAL, FdbEntry, FdbKey, MAX_FDB, Outer},
    types::MacWords,
};

use crate::learn;

#[map]
static FDB: HashMap<FdbKey, FdbEntry> = HashMap::with_max_entries(MAX_FDB, BPF_F_NO_PREALLOC);

/// Where a frame is to go.
pub(crate) enum Target {
    /// To an endpoint of this host.
    Local(&'static FdbEntry),
    /// To a VTEP.
    Remote(Vtep),
    /// To everyone in the network.
    Everyone,
}

impl Target {
    /// The endpoint of this host that it is.
    #[inline(always)]
    pub(crate) fn here(&self) -> Option<&'static FdbEntry> {
        match self {
            Self::Local(entry) => Some(entry),
            Self::Remote(_) | Self::Everyone => None,
        }
    }
}

/// The way to a VTEP.
#[derive(Clone, Copy)]
pub(crate) struct Vtep {
    /// The device towards it.
    pub(crate) ifindex: u32,
    /// Its address, in network order.
    pub(crate) address: u32,
    /// The outer headers towards it.
    pub(crate) outer: &'static Outer,
}

/// What the control plane says of a MAC address.
#[inline(always)]
pub(crate) fn known(key: &FdbKey) -> Option<&'static FdbEntry> {
    // SAFETY: the daemon replaces entries as a whole, and the memory of an old
    // one outlives this run of the program.
    unsafe { FDB.get(key) }
}

/// The endpoint of this host with a MAC address.
#[inline(always)]
pub(crate) fn local(vni: u32, mac: MacWords) -> Option<&'static FdbEntry> {
    known(&FdbKey::from_words(vni, mac)).filter(|entry| entry.kind == FDB_LOCAL)
}

/// Where a frame to `mac` is to go. What was learned never overrides what the
/// control plane says.
#[inline(always)]
pub(crate) fn lookup(vni: u32, mac: MacWords) -> Target {
    if mac.is_group() {
        return Target::Everyone;
    }
    let key = FdbKey::from_words(vni, mac);
    if let Some(entry) = known(&key) {
        if entry.kind == FDB_LOCAL {
            return Target::Local(entry);
        }
        return Target::Remote(Vtep {
            ifindex: entry.ifindex,
            address: u32::from_ne_bytes(entry.ipv4),
            outer: &entry.outer,
        });
    }
    learn::known(&key).map_or(Target::Everyone, |entry| {
        Target::Remote(Vtep {
            ifindex: entry.ifindex,
            address: u32::from_ne_bytes(entry.vtep),
            outer: &entry.outer,
        })
    })
}
