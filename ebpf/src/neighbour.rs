//! Who has an IPv4 address, as the control plane says.

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, macros::map, maps::HashMap};
use vxplane_common::{
    abi::{MAX_FDB, Neighbour, NeighbourKey},
    drop::DropReason,
    trace::Step,
    types::MacWords,
    wire::Eth,
};

use crate::{
    fdb::{self, Found},
    packet::Packet,
    parse::Frame,
    shortcut, trace,
};

#[map]
static NEIGHBOURS: HashMap<NeighbourKey, Neighbour> =
    HashMap::with_max_entries(MAX_FDB, BPF_F_NO_PREALLOC);

/// Who has the address `ipv4` in the network `vni`.
#[inline(always)]
pub(crate) fn by_address(vni: u32, ipv4: [u8; 4]) -> Option<&'static Neighbour> {
    // SAFETY: the daemon replaces entries as a whole, and the memory of an old
    // one outlives this run of the program.
    unsafe { NEIGHBOURS.get(NeighbourKey { vni, ipv4 }) }
}

/// Where a frame to a MAC address is to go that nobody has: if the control plane
/// knows who has the IPv4 address inside, to them, with their MAC address. The
/// sender still believes what was true before the address was reused, and might
/// for half a minute.
#[inline(always)]
pub(crate) fn rightful(pkt: &mut Packet, vni: u32, frame: &Frame) -> Result<Found, DropReason> {
    let Some(ip) = frame.ipv4() else {
        return Ok(Found::NOWHERE);
    };
    if frame.dst.is_group() {
        return Ok(Found::NOWHERE);
    }
    let Some(owner) = by_address(vni, ip.dst.to_ne_bytes()) else {
        return Ok(Found::NOWHERE);
    };
    trace::step(pkt, Step::Readdressed);
    // A packet like it would go on as it is.
    shortcut::none();
    pkt.at_mut::<Eth>(0).ok_or(DropReason::MalformedFrame)?.dst = owner.mac;
    Ok(fdb::lookup(vni, owner.mac.to_words()))
}

/// Refuses what comes from the wire in the name of an endpoint of this host: by
/// its IPv4 address. That nobody uses its MAC address is for
/// [`crate::learn::source`] to see to.
#[inline(always)]
pub(crate) fn deny_local(vni: u32, mac: MacWords, ipv4: u32) -> Result<(), DropReason> {
    match by_address(vni, ipv4.to_ne_bytes()) {
        Some(owner) if owner.mac.to_words() != mac => deny_endpoint(vni, owner.mac.to_words()),
        _ => Ok(()),
    }
}

/// Somebody else's address, but only those of this host are certain: another
/// host's may just have moved.
#[cold]
#[inline(never)]
fn deny_endpoint(vni: u32, owner: MacWords) -> Result<(), DropReason> {
    match fdb::local(vni, owner) {
        Some(_) => Err(DropReason::SourceIpIsLocal),
        None => Ok(()),
    }
}
