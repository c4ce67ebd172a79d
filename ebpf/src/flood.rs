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
    admission::{Alone, Way},
    endpoint, fallback, group, metrics, network,
    packet::{Packet, Refused},
    parse::Frame,
    trace,
    verdict::{Action, Drop, Hook},
};

#[map]
static FLOOD: HashMap<FloodKey, FloodTarget> =
    HashMap::with_max_entries(MAX_PEERS, BPF_F_NO_PREALLOC);

/// Copies what an endpoint sent to all others of its network, here and behind
/// other VTEPs.
#[inline(always)]
pub(crate) fn from_endpoint(
    pkt: &mut Packet,
    way: &Way<'_>,
    frame: &Frame,
) -> Result<Action, DropReason> {
    copies(pkt, Alone::of(way, frame)?, Direction::Egress)
}

/// Copies what came from the wire to the endpoints here.
#[inline(always)]
pub(crate) fn from_wire(
    pkt: &mut Packet,
    way: &Way<'_>,
    frame: &Frame,
) -> Result<Action, DropReason> {
    copies(pkt, Alone::of(way, frame)?, Direction::Ingress)
}

/// A frame on its round through a network.
struct Round<'a> {
    pkt: &'a mut Packet,
    /// What its receivers' rules have to know of it.
    alone: &'a mut Alone,
    /// The group its sender is in, if that is here; 0 for none.
    group: u32,
    direction: Direction,
    /// Whether there was anyone to send it to. Not a number: the verifier would
    /// follow it up.
    asked: bool,
}

/// One copy for each member but the sender. The kernel runs the
/// loop: the verifier then looks at its body once, not once for each round.
#[inline(never)]
fn copies(pkt: &mut Packet, alone: &mut Alone, direction: Direction) -> Result<Action, DropReason> {
    let members = network::by_vni(alone.vni()).map_or(0, |network| network.flood_len);
    trace::step(pkt, Step::Flooded { members });
    let group = endpoint::by_ifindex(alone.sender()).map_or(0, group::of);
    let mut round = Round {
        pkt,
        alone,
        group,
        direction,
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
    let vni = round.alone.vni();
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
        ifindex => ifindex == round.alone.sender(),
    };
    if skip {
        return NEXT;
    }
    round.asked = true;
    if let Err(reason) = copy(round, slot, target) {
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
fn copy(round: &mut Round<'_>, slot: u32, target: &FloodTarget) -> Result<(), DropReason> {
    let failed = |_: Refused| DropReason::CopyFailed;
    if target.ifindex != 0 {
        // Nobody is sent anything who comes or goes just now.
        endpoint::by_ifindex(target.ifindex).map_err(|_| DropReason::CopyFailed)?;
        round.alone.receive(target.ifindex)?;
    }
    if round.pkt.is_traced() {
        if slot < FLOOD_STEPS {
            trace::step(round.pkt, copy_step(target));
        }
        return Ok(());
    }
    if target.ifindex == 0 {
        let vtep = u32::from_ne_bytes(target.vtep);
        return fallback::send_copy(round.pkt, round.alone.vni(), vtep, round.group)
            .map_err(failed);
    }
    round.pkt.send_copy(target.ifindex).map_err(failed)?;
    metrics::received(round.pkt, target.slot);
    Ok(())
}
