//! The shortcut: what was found for one packet of a flow serves those behind it
//! that are like it, for a moment. It says nothing that the whole way would not say
//! again: it ends with the moment (so that whatever is done once a second is done
//! by a packet on the whole way), with the epoch, with any change of the flow, and
//! when a learned address moves.
//!
//! Each CPU has its own, so that nobody has to wait for another, and each load of the
//! programs, so that nothing in them outlives what they were found by.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use vxplane_common::{
    abi::{FdbEntry, FlowKey},
    drop::DropReason,
    tunnel::Tunnel,
    types::MacWords,
    wire::protocol,
};

use crate::{
    encap, fdb, flow,
    packet::Packet,
    parse::{Frame, Ip},
    policy,
    shared::{self, Shared},
    verdict::{Action, Drop, Verdict},
};

/// Flows have one of so many places, as a power of two.
const PLACE_BITS: u32 = 10;
const PLACES: u32 = 1 << PLACE_BITS;

/// By direction and place.
#[map]
static SHORTCUTS: PerCpuArray<Shortcut> = PerCpuArray::with_max_entries(2 * PLACES, 0);

/// How often flows of a place have changed; behind them, how often a learned
/// address has moved. Modulo 2^64, of which the lower half matters.
#[map]
static CHANGES: Array<u64> = Array::with_max_entries(PLACES + 1, 0);

/// What packets are like that may take it, and what was found for them.
#[repr(C)]
pub(crate) struct Shortcut {
    /// All of a packet that is of any matter to what is found for it.
    likeness: [u64; 5],
    /// When that was looked up. Each part of a moment changes after what it stands
    /// for.
    moment: [u64; 2],
    /// The network.
    pub(crate) vni: u32,
    /// The slot of the endpoint here that sends it.
    pub(crate) sender: u32,
    /// The group that one is in.
    pub(crate) group: u32,
    /// The IPv4 identification of the next outer packet.
    pub(crate) id: u32,
    /// Where it goes.
    pub(crate) to: FdbEntry,
}

/// A packet that might take a shortcut.
#[repr(C)]
#[derive(Clone, Copy)]
struct Candidate {
    likeness: [u64; 5],
    moment: [u64; 2],
    /// Where its shortcut is; [`NOWHERE`] if it can have none.
    index: u32,
}

const NOWHERE: u32 = u32::MAX;

/// The one that this CPU works on.
#[map]
static CANDIDATE: PerCpuArray<Candidate> = PerCpuArray::with_max_entries(1, 0);

/// The shortcut of a frame that a container sends.
#[inline(always)]
pub(crate) fn of_container(pkt: &Packet, frame: &Frame) -> Option<&'static mut Shortcut> {
    let ip = ordinary(pkt, frame)?;
    Candidate::new(0, ip, [pkt.ifindex(), 0, 0], frame).known()
}

/// The shortcut of a frame that came by a tunnel, from someone in `group`.
#[inline(always)]
pub(crate) fn of_tunnel(
    pkt: &Packet,
    tunnel: &Tunnel,
    group: u32,
    frame: &Frame,
) -> Option<&'static mut Shortcut> {
    let ip = ordinary(pkt, frame)?;
    // As in `decap::is_native`: this is not the same for all that is alike.
    if !tunnel.plain || (pkt.gso_size() != 0 && ip.protocol != protocol::TCP) {
        return None;
    }
    let by = [tunnel.vtep, tunnel.vni, group];
    Candidate::new(PLACES, ip, by, frame).known()
}

/// The packet that this CPU works on can have none.
#[inline(always)]
pub(crate) fn none() {
    if let Some(candidate) = candidate() {
        candidate.index = NOWHERE;
    }
}

/// What became of a packet, as a function says it that the verifier looks at by
/// itself: it can only return a number.
#[inline(always)]
pub(crate) fn outcome(verdict: Option<Verdict>) -> u64 {
    match verdict {
        None => 0,
        Some(Ok(_)) => 1,
        // There is no other reason on a shortcut.
        Some(Err(Drop { vni, .. })) => u64::from(vni) << 32 | 2,
    }
}

/// The same the other way round. What takes a shortcut is redirected.
#[inline(always)]
pub(crate) fn verdict(outcome: u64) -> Option<Verdict> {
    match outcome {
        0 => None,
        1 => Some(Ok(Action::Redirect)),
        dropped => Some(Err(Drop {
            vni: (dropped >> 32) as u32,
            reason: DropReason::Rewrite,
        })),
    }
}

/// Notes where the packet that this CPU works on goes, for those like it.
#[inline(always)]
pub(crate) fn note(vni: u32, sender: u32, group: u32) {
    note_shortcut(vni, sender, group);
}

/// It is looked up once more, for this is rare, and the whole way has no room to keep
/// it in. Who has the place at this moment stays there: two that took it from each
/// other would both have the work and neither the use.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_shortcut(vni: u32, sender: u32, group: u32) -> u32 {
    if let Some(candidate) = candidate()
        && let Some(shortcut) = at(candidate.index)
        && shortcut.moment != candidate.moment
    {
        shared::copy(&candidate.likeness, &mut shortcut.likeness);
        shared::copy(&candidate.moment, &mut shortcut.moment);
        shortcut.vni = vni;
        shortcut.sender = sender;
        shortcut.group = group;
        shortcut.id = u32::from(encap::random());
        let dst = MacWords::of_number(candidate.likeness[2]);
        fdb::lookup(vni, dst).write(&mut shortcut.to);
    }
    0
}

/// The IPv4 identification of an outer packet: one behind the other, which keeps them
/// further apart than random ones.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "they begin anew after 65535"
)]
pub(crate) fn identify(next: &mut u32, pkt: &Packet) -> u16 {
    let id = *next as u16;
    // The kernel counts on for each packet that it cuts this one into.
    *next = next.wrapping_add(pkt.segments().max(1));
    id
}

impl Candidate {
    #[inline(always)]
    fn new(direction: u32, ip: &Ip, [by, vni, group]: [u32; 3], frame: &Frame) -> Self {
        let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let segment = ip.segment(vni);
        let place = segment.place(PLACE_BITS);
        let ports = u32::from(segment.src.port) | u32::from(segment.dst.port) << 16;
        let network = u64::from(vni << 8 | u32::from(ip.protocol));
        Self {
            index: direction + place,
            likeness: [
                wide(ip.src, ip.dst),
                wide(ports, by),
                frame.dst.to_number() | network << 48,
                frame.src.to_number() | (network >> 16) << 48,
                u64::from(group),
            ],
            moment: [
                wide(policy::epoch(), flow::tick()),
                wide(changes(place), changes(PLACES)),
            ],
        }
    }

    /// Its shortcut. If there is none, one may be noted.
    #[inline(always)]
    fn known(&self) -> Option<&'static mut Shortcut> {
        let known = at(self.index)?;
        // At once: of each comparison the verifier would follow both ways.
        let likeness = known.likeness.iter().zip(&self.likeness);
        let moment = known.moment.iter().zip(&self.moment);
        let other = likeness
            .chain(moment)
            .fold(0, |other, (a, b)| other | (a ^ b));
        if other == 0 {
            return Some(known);
        }
        *candidate()? = *self;
        None
    }
}

#[inline(always)]
fn candidate() -> Option<&'static mut Candidate> {
    let candidate = CANDIDATE.get_ptr_mut(0)?;
    // SAFETY: this CPU's own, and programs do not interrupt each other on one CPU.
    // Nobody has two of it.
    Some(unsafe { &mut *candidate })
}

#[inline(always)]
fn at(index: u32) -> Option<&'static mut Shortcut> {
    let shortcut = SHORTCUTS.get_ptr_mut(index)?;
    // SAFETY: as in `candidate`.
    Some(unsafe { &mut *shortcut })
}

/// A whole packet of IPv4 that means nothing to its flow but that it goes on. One
/// that is traced is told about the whole way.
#[inline(always)]
fn ordinary<'a>(pkt: &Packet, frame: &'a Frame) -> Option<&'a Ip> {
    let ip = frame.ipv4()?;
    let is_ordinary = ip.part.is_whole() && ip.transport.signal.is_ordinary();
    (is_ordinary && !pkt.is_traced() && !pkt.has_vlan_tag()).then_some(ip)
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "it is only compared for being the same"
)]
fn changes(of: u32) -> u32 {
    CHANGES
        .get_ptr_mut(of)
        .map_or(0, |count| Shared(count).get() as u32)
}

/// A flow has changed: what was found for it does not hold on any CPU.
#[inline(always)]
pub(crate) fn flow_changed(key: &FlowKey) {
    changed(key.place(PLACE_BITS));
}

/// A learned address has moved.
#[inline(always)]
pub(crate) fn address_moved() {
    changed(PLACES);
}

#[inline(always)]
fn changed(what: u32) {
    if let Some(count) = CHANGES.get_ptr_mut(what) {
        Shared(count).add(1);
    }
}
