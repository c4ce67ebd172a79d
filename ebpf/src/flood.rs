//! Broadcast, multicast and unknown unicast: a copy for each member of the
//! network. Nothing from the wire goes back to the wire: every VTEP has sent its
//! copies itself.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC, cty::c_void, helpers::generated::bpf_loop, macros::map,
    maps::HashMap,
};
use vxplane_common::{
    abi::{FloodKey, FloodTarget, MAX_FLOOD, MAX_PEERS},
    drop::{Direction, DropReason},
    trace::{FLOOD_STEPS, Step},
};

use crate::{
    fallback, metrics, network,
    packet::{Packet, Refused},
    trace,
    verdict::{Action, Drop, Hook},
};

#[map]
static FLOOD: HashMap<FloodKey, FloodTarget> =
    HashMap::with_max_entries(MAX_PEERS, BPF_F_NO_PREALLOC);

/// Copies what an endpoint sent to all others of its network, here and behind
/// other VTEPs.
#[inline(always)]
pub(crate) fn from_endpoint(pkt: &mut Packet, vni: u32) -> Result<Action, DropReason> {
    let sender = pkt.ifindex();
    copies(pkt, vni, Direction::Egress, sender)
}

/// Copies what came from the wire to the endpoints here.
#[inline(always)]
pub(crate) fn from_wire(pkt: &mut Packet, vni: u32) -> Result<Action, DropReason> {
    copies(pkt, vni, Direction::Ingress, 0)
}

/// A frame on its round through a network.
struct Round<'a> {
    pkt: &'a mut Packet,
    vni: u32,
    direction: Direction,
    /// The host veth it came from, which gets none of it.
    sender: u32,
    /// Whether there was anyone to send it to. Not a number: the verifier would
    /// follow it up.
    asked: bool,
}

/// One copy for each member but the one behind `sender`. The kernel runs the
/// loop: the verifier then looks at its body once, not once for each round.
#[inline(never)]
fn copies(
    pkt: &mut Packet,
    vni: u32,
    direction: Direction,
    sender: u32,
) -> Result<Action, DropReason> {
    let members = network::by_vni(vni).map_or(0, |network| network.flood_len);
    trace::step(pkt, Step::Flooded { members });
    let mut round = Round {
        pkt,
        vni,
        direction,
        sender,
        asked: false,
    };
    let body: unsafe extern "C" fn(u64, *mut Round<'_>) -> u64 = to_member;
    // SAFETY: the kernel calls `body` with what it is given here, now.
    unsafe {
        bpf_loop(
            members.min(MAX_FLOOD),
            body as *mut c_void,
            (&raw mut round).cast(),
            0,
        )
    };
    if round.asked {
        Ok(Action::Consumed)
    } else {
        Err(DropReason::NoDestination)
    }
}

/// The copy for the member in `slot`.
unsafe extern "C" fn to_member(slot: u64, round: *mut Round<'_>) -> u64 {
    const NEXT: u64 = 0;
    // SAFETY: `copies` passes a live one and does not touch it meanwhile.
    let round = unsafe { &mut *round };
    let vni = round.vni;
    let Ok(slot) = u32::try_from(slot) else {
        return NEXT;
    };
    // SAFETY: the daemon replaces entries as a whole, and the memory of an old
    // one outlives this run of the program.
    let Some(target) = (unsafe { FLOOD.get(FloodKey { vni, slot }) }) else {
        return NEXT;
    };
    let skip = match target.ifindex {
        0 => matches!(round.direction, Direction::Ingress),
        ifindex => ifindex == round.sender,
    };
    if skip {
        return NEXT;
    }
    round.asked = true;
    if round.pkt.is_traced() {
        if slot < FLOOD_STEPS {
            trace::step(round.pkt, copy_step(target));
        }
        return NEXT;
    }
    if copy(round.pkt, vni, target).is_err() {
        let reason = DropReason::CopyFailed;
        let hook = match round.direction {
            Direction::Egress => Hook::FromContainer,
            Direction::Ingress => Hook::FromFallback,
        };
        metrics::dropped(round.pkt, Drop { vni, reason }, hook);
    }
    NEXT
}

#[inline(always)]
fn copy_step(target: &FloodTarget) -> Step {
    let FloodTarget { slot, vtep, .. } = *target;
    match target.ifindex {
        0 => Step::CopyThere { vtep },
        _ => Step::CopyHere { slot },
    }
}

#[inline(always)]
fn copy(pkt: &mut Packet, vni: u32, target: &FloodTarget) -> Result<(), Refused> {
    if target.ifindex == 0 {
        return fallback::send_copy(pkt, vni, u32::from_ne_bytes(target.vtep));
    }
    pkt.send_copy(target.ifindex)?;
    metrics::received(pkt, target.slot);
    Ok(())
}
