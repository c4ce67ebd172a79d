//! Learns where MAC addresses live from the frames that come from there, as a
//! bridge does, but bounded, and never against the control plane.

use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    helpers::generated::bpf_ktime_get_coarse_ns,
    macros::map,
    maps::{HashMap, RingBuf},
};
use vxplane_common::{
    abi::{
        EVENT_LEARN_REFUSED, EVENT_LEARNED, EVENT_LEARNED_FULL, EVENT_MOVED, EVENT_RING_BYTES,
        Event, FDB_LOCAL, FdbKey, LearnBudget, Learned, MAX_LEARNED, MAX_NETWORKS, PEER_LEARN,
        Peer,
    },
    drop::DropReason,
    learning::{Sighting, sighting},
    trace::Step,
    types::{MacAddr, MacWords},
};

use crate::{fdb, packet::Packet, shared::Shared, shortcut, trace};

/// What the kernel answers for a key that is there already.
const EEXIST: i32 = 17;

#[map]
static LEARNED: HashMap<FdbKey, Learned> =
    HashMap::with_max_entries(MAX_LEARNED, BPF_F_NO_PREALLOC);

#[map]
static LEARN_BUDGET: HashMap<u32, LearnBudget> =
    HashMap::with_max_entries(MAX_NETWORKS, BPF_F_NO_PREALLOC);

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);

/// What was learned of a MAC address.
#[inline(always)]
pub(crate) fn known(key: &FdbKey) -> Option<&'static Learned> {
    // SAFETY: entries are replaced as a whole but for `seen`, which nothing is
    // concluded from that could be wrong; the memory of an old one outlives this
    // run of the program.
    unsafe { LEARNED.get(key) }
}

/// Takes note that a frame from `mac` came from the VTEP `peer` at `vtep` (its
/// address in network order).
/// Refuses the frame if the address is an endpoint's of this host, or none that
/// anything can send from.
#[inline(always)]
pub(crate) fn source(
    pkt: &Packet,
    vni: u32,
    mac: MacWords,
    vtep: u32,
    peer: &Peer,
) -> Result<(), DropReason> {
    let key = FdbKey::from_words(vni, mac);
    if pkt.is_traced() {
        return traced(pkt, &key, vtep, peer);
    }
    let Some(entry) = known(&key) else {
        return first_seen(&key, vtep, peer);
    };
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    match sighting(entry, vtep, now) {
        Sighting::Known => Ok(()),
        Sighting::Refresh => refresh(&key, now),
        Sighting::Moved { announce } => moved(&key, vtep, peer, announce),
    }
}

/// The same for a packet that is to leave nothing behind.
#[inline(never)]
fn traced(pkt: &Packet, key: &FdbKey, vtep: u32, peer: &Peer) -> Result<(), DropReason> {
    if let Some(entry) = known(key) {
        // SAFETY: takes nothing.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        if let Sighting::Known = sighting(entry, vtep, now) {
            return Ok(());
        }
    } else {
        check_unicast(key)?;
    }
    match fdb::known(key) {
        Some(entry) if entry.kind == FDB_LOCAL => Err(DropReason::SourceIsLocal),
        None if peer.flags & PEER_LEARN != 0 => {
            trace::step(pkt, Step::Learns);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Nothing can send from any other address.
#[inline(always)]
fn check_unicast(key: &FdbKey) -> Result<(), DropReason> {
    if key.mac.is_group() || key.mac == MacAddr::default() {
        return Err(DropReason::MalformedFrame);
    }
    Ok(())
}

/// A MAC address that nothing was learned of.
#[inline(never)]
fn first_seen(key: &FdbKey, vtep: u32, peer: &Peer) -> Result<(), DropReason> {
    check_unicast(key)?;
    if let Some(entry) = fdb::known(key) {
        return if entry.kind == FDB_LOCAL {
            Err(DropReason::SourceIsLocal)
        } else {
            Ok(())
        };
    }
    if peer.flags & PEER_LEARN == 0 {
        return Ok(());
    }
    let Some(budget) = LEARN_BUDGET.get_ptr_mut(key.vni) else {
        return Ok(());
    };
    // SAFETY: the fields live as long as this run of the program.
    let (remaining, refused) = unsafe {
        (
            Shared(&raw mut (*budget).remaining),
            Shared(&raw mut (*budget).refused),
        )
    };
    if !spend(remaining) {
        if refused.add(1) == 0 {
            announce(EVENT_LEARN_REFUSED, key, vtep);
        }
        return Ok(());
    }
    let entry = new_entry(vtep, peer, 0);
    match LEARNED.insert(key, entry, u64::from(BPF_NOEXIST)) {
        Ok(()) => announce(EVENT_LEARNED, key, vtep),
        Err(error) => {
            remaining.add(1);
            // Otherwise all networks together have filled the map, whatever this
            // one may still learn.
            let other_cpu_was_first = error == -EEXIST;
            if !other_cpu_was_first && refused.add(1) == 0 {
                announce(EVENT_LEARNED_FULL, key, vtep);
            }
        }
    }
    Ok(())
}

/// Takes one from `remaining`, which never falls below 0 for long: what two CPUs
/// take too much they give back.
#[inline(always)]
fn spend(remaining: Shared) -> bool {
    if remaining.get() == 0 {
        return false;
    }
    if remaining.add(u64::MAX) == 0 {
        remaining.add(1);
        return false;
    }
    true
}

/// A MAC address that is where it was. Once a second is soon enough to see that
/// the control plane has given it to an endpoint of this host meanwhile.
#[inline(never)]
fn refresh(key: &FdbKey, now: u64) -> Result<(), DropReason> {
    deny_local(key)?;
    if let Some(entry) = LEARNED.get_ptr_mut(key) {
        // SAFETY: the entry outlives this run of the program; `seen` is an
        // aligned word, which is written in one piece.
        unsafe { (&raw mut (*entry).seen).write_volatile(now) };
    }
    Ok(())
}

/// A MAC address that is behind another VTEP than before.
#[inline(never)]
fn moved(key: &FdbKey, vtep: u32, peer: &Peer, tell: bool) -> Result<(), DropReason> {
    deny_local(key)?;
    if peer.flags & PEER_LEARN != 0 {
        // SAFETY: takes nothing.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        let entry = new_entry(vtep, peer, now);
        // It fails if the entry has been aged out just now: then the next frame
        // is the first one.
        if LEARNED.insert(key, entry, u64::from(BPF_EXIST)).is_ok() {
            shortcut::address_moved();
            if tell {
                announce(EVENT_MOVED, key, vtep);
            }
        }
    }
    Ok(())
}

/// Forgets what was learned of a MAC address that is an endpoint's now.
#[inline(always)]
fn deny_local(key: &FdbKey) -> Result<(), DropReason> {
    if fdb::local(key.vni, key.mac.to_words()).is_none() {
        return Ok(());
    }
    // It fails if another CPU did it.
    let _ = LEARNED.remove(key);
    Err(DropReason::SourceIsLocal)
}

#[inline(always)]
fn new_entry(vtep: u32, peer: &Peer, moved: u64) -> Learned {
    // SAFETY: takes nothing.
    let seen = unsafe { bpf_ktime_get_coarse_ns() };
    Learned::new(seen, moved, vtep.to_ne_bytes(), peer.ifindex, peer.outer)
}

/// Tells the daemon, unless it is far behind.
#[inline(always)]
fn announce(kind: u32, key: &FdbKey, vtep: u32) {
    let event = Event {
        kind,
        vni: key.vni,
        vtep: vtep.to_ne_bytes(),
        mac: key.mac,
        pad: [0; 2],
    };
    // The maps are the truth; an event lost is a line less in a log.
    let _ = EVENTS.output::<Event>(event, 0);
}
