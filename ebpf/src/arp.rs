//! ARP suppression: requests for what the control plane knows are answered here
//! and cost the network nothing.

use vxplane_common::{
    abi::{Endpoint, Neighbour},
    arp,
    drop::DropReason,
    trace::Step,
    wire::{Arp, Eth, EthArp},
};

use crate::{
    metrics, neighbour,
    packet::{self, Packet},
    parse, trace,
    verdict::Action,
};

/// Answers a request that the control plane knows the answer to: the packet is
/// turned into it and goes back where it came from. Anything else that is in the
/// endpoint's own name is left to be forwarded.
#[inline(never)]
pub(crate) fn suppress(pkt: &mut Packet, source: &Endpoint) -> Result<Option<Action>, DropReason> {
    let request = parse::arp(pkt, Eth::LEN)?;
    arp::check_sender(&request, source)?;
    let Some(neighbour) = answer(source, &request) else {
        trace::step(pkt, Step::ArpUnknown);
        return Ok(None);
    };
    let frame = pkt.at_mut::<EthArp>(0).ok_or(DropReason::MalformedFrame)?;
    *frame = arp::reply(frame, neighbour.mac);
    trace::step(pkt, Step::ArpAnswered);
    metrics::received(pkt, source.slot);
    Ok(Some(packet::redirect(pkt.ifindex())))
}

/// Who has the address that is asked for, if that is ours to say.
#[inline(always)]
fn answer(source: &Endpoint, request: &Arp) -> Option<&'static Neighbour> {
    neighbour::by_address(source.vni, arp::asked(request, source)?)
}
