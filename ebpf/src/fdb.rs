//! Where a MAC address lives: what the control plane says, and behind that what
//! was learned.

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, macros::map, maps::HashMap};
use vxplane_common::{
    abi::{FDB_LOCAL, FDB_REMOTE, FdbEntry, FdbKey, MAX_FDB, Outer},
    types::MacWords,
};

use crate::{learn, shared};

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

/// A [`Target`] to be kept while other steps are taken. Each field has a value
/// whatever it is: the verifier lets nobody put aside what has none. And what it is
/// is a number: nobody may do sums with two pointers to see whether there is one.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    kind: u32,
    local: Option<&'static FdbEntry>,
    outer: Option<&'static Outer>,
    ifindex: u32,
    address: u32,
}

impl Found {
    /// Nobody knows the address.
    pub(crate) const NOWHERE: Self = Self {
        kind: 0,
        local: None,
        outer: None,
        ifindex: 0,
        address: 0,
    };

    /// What an entry says.
    #[inline(always)]
    pub(crate) fn entry(entry: &'static FdbEntry) -> Self {
        if entry.kind == FDB_LOCAL {
            let local = Some(entry);
            return Self {
                kind: FDB_LOCAL,
                local,
                ..Self::NOWHERE
            };
        }
        Self::remote(entry.ifindex, entry.ipv4, &entry.outer)
    }

    /// Writes it down as an entry, if anybody knows the address.
    #[inline(always)]
    pub(crate) fn write(&self, to: &mut FdbEntry) {
        to.kind = self.kind;
        if let Some(local) = self.local {
            to.ifindex = local.ifindex;
            to.ipv4 = local.ipv4;
            to.slot = local.slot;
        } else if let Some(outer) = self.outer {
            to.ifindex = self.ifindex;
            to.ipv4 = self.address.to_ne_bytes();
            shared::copy(outer, &mut to.outer);
        }
    }

    #[inline(always)]
    fn remote(ifindex: u32, address: [u8; 4], outer: &'static Outer) -> Self {
        Self {
            kind: FDB_REMOTE,
            local: None,
            outer: Some(outer),
            ifindex,
            address: u32::from_ne_bytes(address),
        }
    }

    /// Whether anybody knows the address.
    #[inline(always)]
    pub(crate) fn is_somewhere(&self) -> bool {
        self.kind != Self::NOWHERE.kind
    }

    /// The endpoint of this host that it is.
    #[inline(always)]
    pub(crate) fn here(&self) -> Option<&'static FdbEntry> {
        self.local
    }

    /// Where the frame is to go, then.
    #[inline(always)]
    pub(crate) fn target(self) -> Target {
        match (self.kind, self.local, self.outer) {
            (FDB_LOCAL, Some(entry), _) => Target::Local(entry),
            (FDB_REMOTE, _, Some(outer)) => Target::Remote(Vtep {
                ifindex: self.ifindex,
                address: self.address,
                outer,
            }),
            _ => Target::Everyone,
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
pub(crate) fn lookup(vni: u32, mac: MacWords) -> Found {
    if mac.is_group() {
        return Found::NOWHERE;
    }
    let key = FdbKey::from_words(vni, mac);
    if let Some(entry) = known(&key) {
        return Found::entry(entry);
    }
    learn::known(&key).map_or(Found::NOWHERE, |entry| {
        Found::remote(entry.ifindex, entry.vtep, &entry.outer)
    })
}
