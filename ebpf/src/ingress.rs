//! Wire → container. "Ingress" is the container's view; the hooks are tc ingress
//! of the underlay device and, for what the kernel takes apart, of its VXLAN
//! device.

use aya_ebpf::bindings::__sk_buff;
use vxplane_common::{
    abi::{NO_SLOT, Peer},
    drop::DropReason,
    trace::Step,
    tunnel::Tunnel,
    wire::Eth,
};

use crate::{
    admission::{self, Way},
    decap, deliver, fallback, fdb, flood, fragment, group, learn, neighbour,
    packet::{Packet, TunnelKey},
    parse::{self, Frame, INNER_AT, Payload},
    peer,
    shortcut::{self, Shortcut},
    trace,
    verdict::{Action, InNetwork as _, Verdict},
};

/// What the wire brings, once it is known to be VXLAN for us from a peer.
#[inline(always)]
pub(crate) fn from_underlay(pkt: &mut Packet) -> Verdict {
    if let Some(verdict) = shortcut::verdict(underlay_shortcut(pkt.context())) {
        return verdict;
    }
    let Some(tunnel) = tunnel(pkt)? else {
        return Ok(Action::Pass);
    };
    let peer = peer::admit(tunnel.vni, tunnel.vtep)?;
    trace::step(
        pkt,
        Step::Admitted {
            vtep: tunnel.vtep.to_ne_bytes(),
            vni: tunnel.vni,
        },
    );
    ingress(pkt, &tunnel, peer).in_network(tunnel.vni)
}

/// The outer headers, if it is VXLAN for us.
#[inline(always)]
fn tunnel(pkt: &mut Packet) -> Result<Option<Tunnel>, DropReason> {
    // A VLAN above the underlay device, or another host's packet on a
    // promiscuous one: not for our address, whatever is in it.
    if pkt.has_vlan_tag() || !pkt.is_to_host() {
        return Ok(None);
    }
    pkt.gather(INNER_AT);
    parse::tunnel(pkt)
}

/// The story of a packet that is like one a moment ago.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn underlay_shortcut(ctx: *mut __sk_buff) -> u64 {
    let mut pkt = Packet::of(ctx);
    shortcut::outcome(again(&mut pkt))
}

#[inline(always)]
fn again(pkt: &mut Packet) -> Option<Verdict> {
    shortcut::none();
    let tunnel = tunnel(pkt).ok()??;
    let group = group::claimed(pkt);
    let frame = parse::frame(pkt, INNER_AT).ok()?;
    let tos = decap::inner_tos(&tunnel, &frame).ok()?;
    let Shortcut { vni, to, .. } = shortcut::of_tunnel(pkt, &tunnel, group, &frame)?;
    let delivered = decap::strip(pkt, tos).map(|()| deliver::to_endpoint(pkt, to));
    Some(delivered.in_network(*vni))
}

/// The whole story of a packet that is still in its outer headers.
#[inline(always)]
fn ingress(pkt: &mut Packet, tunnel: &Tunnel, peer: &Peer) -> Result<Action, DropReason> {
    let frame = parse::frame(pkt, INNER_AT)?;
    let tos = decap::inner_tos(tunnel, &frame)?;
    if frame.dst.is_group() {
        return decap::leave_to_kernel(pkt);
    }
    let target = fdb::local(tunnel.vni, frame.dst).ok_or(DropReason::UnknownMac)?;
    if !decap::is_native(pkt, tunnel, &frame, target) {
        return decap::leave_to_kernel(pkt);
    }
    check_source(pkt, tunnel.vni, &frame)?;
    learn::source(pkt, tunnel.vni, frame.src, tunnel.vtep, peer)?;
    let frame = fragment::rejoin(pkt, tunnel.vni, frame);
    let way = Way {
        at: INNER_AT,
        vni: tunnel.vni,
        from: 0,
        group: group::claimed(pkt),
        to: Some(target),
    };
    if admission::admit(pkt, way, &frame)? {
        shortcut::note(tunnel.vni, NO_SLOT, 0);
    }
    decap::strip(pkt, tos)?;
    Ok(deliver::to_endpoint(pkt, target))
}

/// What the kernel took apart, once it is known to be from a peer.
#[inline(always)]
pub(crate) fn from_fallback(pkt: &mut Packet) -> Verdict {
    let tunnel = fallback::received_by(pkt)?;
    let peer = peer::admit(tunnel.vni, tunnel.remote)?;
    ingress_plain(pkt, &tunnel, peer).in_network(tunnel.vni)
}

/// The whole story of a packet that the kernel took out of its outer headers;
/// it has also seen to ECN.
#[inline(always)]
fn ingress_plain(pkt: &mut Packet, tunnel: &TunnelKey, peer: &Peer) -> Result<Action, DropReason> {
    if pkt.has_vlan_tag() {
        return Err(DropReason::VlanTag);
    }
    let frame = parse::frame(pkt, 0)?;
    check_source(pkt, tunnel.vni, &frame)?;
    learn::source(pkt, tunnel.vni, frame.src, tunnel.remote, peer)?;
    let frame = fragment::rejoin(pkt, tunnel.vni, frame);
    let way = Way {
        at: 0,
        vni: tunnel.vni,
        from: 0,
        group: group::claimed_before(pkt),
        to: None,
    };
    if frame.dst.is_group() {
        return flood::from_wire(pkt, &way, &frame);
    }
    let target = fdb::local(tunnel.vni, frame.dst).ok_or(DropReason::UnknownMac)?;
    let to = Some(target);
    admission::admit(pkt, Way { to, ..way }, &frame)?;
    Ok(deliver::to_endpoint(pkt, target))
}

/// Nobody on the wire speaks for an endpoint of this host: neither in IPv4 nor
/// in ARP, which only ever comes by the kernel and so as a plain frame.
#[inline(always)]
fn check_source(pkt: &mut Packet, vni: u32, frame: &Frame) -> Result<(), DropReason> {
    let address = match (frame.ipv4(), frame.payload) {
        (Some(ip), _) => ip.src,
        (None, Payload::Arp) => u32::from_ne_bytes(parse::arp(pkt, Eth::LEN)?.sender_ip),
        (None, _) => return Ok(()),
    };
    neighbour::deny_local(vni, frame.src, address)
}
