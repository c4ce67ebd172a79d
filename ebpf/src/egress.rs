//! Container → wire. "Egress" is the container's view; the hook is tc ingress of
//! its host veth.

use aya_ebpf::bindings::__sk_buff;
use vxplane_common::{abi::Endpoint, drop::DropReason, trace::Step};

use crate::{
    admission::{self, Way},
    arp, deliver, encap, endpoint,
    fdb::{self, Found, Target},
    flood, fragment, group, metrics, neighbour,
    packet::{Headers as _, Packet},
    parse::{self, Payload},
    shortcut::{self, Shortcut},
    trace,
    verdict::{Action, InNetwork as _, Verdict},
};

/// What a container sends, once it is known which endpoint that is.
#[inline(always)]
pub(crate) fn from_container(pkt: &mut Packet) -> Verdict {
    if let Some(verdict) = shortcut::verdict(container_shortcut(pkt.context())) {
        return verdict;
    }
    let source = endpoint::by_ifindex(pkt.ifindex())?;
    let len = pkt.len();
    let action = egress(pkt, source).in_network(source.vni)?;
    metrics::sent(pkt, source.slot, len);
    Ok(action)
}

/// The story of a packet that is like one a moment ago.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn container_shortcut(ctx: *mut __sk_buff) -> u64 {
    let mut pkt = Packet::of(ctx);
    shortcut::outcome(again(&mut pkt))
}

#[inline(always)]
fn again(pkt: &mut Packet) -> Option<Verdict> {
    shortcut::none();
    let frame = parse::frame(pkt, 0).ok()?;
    let shortcut = shortcut::of_container(pkt, &frame)?;
    let Shortcut {
        vni,
        sender,
        group,
        id,
        to,
        ..
    } = shortcut;
    let identify = |pkt: &Packet| shortcut::identify(id, pkt);
    let len = pkt.len();
    let forwarded = match Found::entry(to).target() {
        Target::Local(target) => Ok(deliver::to_endpoint(pkt, target)),
        Target::Remote(vtep) => encap::send(pkt, *vni, vtep, *group, identify, &frame),
        Target::Everyone => return None,
    };
    let verdict = forwarded.in_network(*vni);
    if verdict.is_ok() {
        metrics::sent(pkt, *sender, len);
    }
    Some(verdict)
}

/// The whole story.
#[inline(always)]
fn egress(pkt: &mut Packet, source: &Endpoint) -> Result<Action, DropReason> {
    if pkt.has_vlan_tag() {
        return Err(DropReason::VlanTag);
    }
    let frame = parse::frame(pkt, 0)?;
    endpoint::check_source(source, &frame)?;
    trace::step(pkt, Step::Source { slot: source.slot });
    if let Payload::Arp = frame.payload
        && let Some(action) = arp::suppress(pkt, source)?
    {
        return Ok(action);
    }
    let mut found = fdb::lookup(source.vni, frame.dst);
    if !found.is_somewhere() {
        found = neighbour::rightful(pkt, source.vni, &frame)?;
    }
    let frame = fragment::rejoin(pkt, source.vni, frame);
    let way = Way {
        at: 0,
        vni: source.vni,
        from: pkt.ifindex(),
        group: 0,
        to: found.here(),
    };
    if admission::admit(pkt, way, &frame)? {
        shortcut::note(source.vni, source.slot, group::of(source));
    }
    match found.target() {
        Target::Local(target) if target.ifindex == pkt.ifindex() => Err(DropReason::NoDestination),
        Target::Local(target) => Ok(deliver::to_endpoint(pkt, target)),
        Target::Remote(vtep) => {
            let group = group::of(source);
            encap::send(pkt, source.vni, vtep, group, |_| encap::random(), &frame)
        }
        Target::Everyone => flood::from_endpoint(pkt, &way, &frame),
    }
}
