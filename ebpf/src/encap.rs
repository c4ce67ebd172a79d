//! Native encapsulation: the outer headers are written here and the packet goes
//! straight to the underlay device.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use vxplane_common::{
    drop::DropReason,
    outer::{self, PerPacket},
    trace::Step,
    wire::{Eth, Ipv4, Tcp, Tunnelled, Udp, protocol},
};

use crate::{
    config, fallback,
    fdb::Vtep,
    packet::{self, Headers as _, Packet},
    parse::{Frame, Ip},
    trace,
    verdict::Action,
};

/// Sends a frame to a VTEP. What cannot be encapsulated here goes by the
/// kernel's device: no IPv4, too large, or in a tunnel already. The sender is in
/// `group`; 0 for none. The outer packet is identified by what `id` says.
#[inline(always)]
pub(crate) fn send(
    pkt: &mut Packet,
    vni: u32,
    vtep: Vtep,
    group: u32,
    id: impl FnOnce(&Packet) -> u16,
    frame: &Frame,
) -> Result<Action, DropReason> {
    let Some(ip) = frame.ipv4() else {
        return fallback::send(pkt, vni, vtep.address, group);
    };
    let Some(total_len) = native_len(pkt, ip) else {
        // What the kernel is to cut into fragments bears no group: whoever puts
        // them together takes it for reserved bits, unless it has the extension
        // too, and drops the packet.
        let group = if pkt.gso_size() == 0 { 0 } else { group };
        // All of a flow has one source port, by whichever way it goes.
        pkt.set_hash(hash(pkt, vni, ip));
        return fallback::send(pkt, vni, vtep.address, group);
    };
    let hash = hash(pkt, vni, ip);
    if pkt.push_room().is_err() {
        pkt.set_hash(hash);
        return fallback::send(pkt, vni, vtep.address, group);
    }
    let config = config::get();
    let id = id(pkt);
    let headers = pkt.at_mut::<Tunnelled>(0).ok_or(DropReason::Rewrite)?;
    // The kernel has left the inner Ethernet header where the outer one goes,
    // and `redirect_neigh` will write that.
    headers.inner = headers.eth;
    let per_packet = PerPacket {
        total_len,
        inner_tos: ip.tos,
        id: if cfg!(feature = "next-programs") {
            // By this the tests of upgrades know the programs after these.
            0x6e78
        } else {
            id
        },
        source_port: outer::source_port(hash, config.source_port_min, config.source_port_range),
    };
    vtep.outer.write(&mut headers.outer, per_packet);
    if group != 0 {
        headers.outer.put_group(group);
    }
    trace::step(
        pkt,
        Step::Encapsulated {
            vtep: vtep.address.to_ne_bytes(),
            ifindex: vtep.ifindex,
        },
    );
    Ok(packet::redirect_neigh(vtep.ifindex, vtep.outer.next_hop))
}

/// A hash of the flow. It is taken of the inner packet, hence before there is an outer
/// one.
#[inline(always)]
fn hash(pkt: &Packet, vni: u32, ip: &Ip) -> u32 {
    match pkt.hash() {
        0 => ip.segment(vni).hash(),
        known => known,
    }
}

/// An IPv4 identification: packets without DF must not have that of another one on
/// its way.
#[inline(always)]
pub(crate) fn random() -> u16 {
    // SAFETY: takes nothing.
    let [a, b, ..] = unsafe { bpf_get_prandom_u32() }.to_ne_bytes();
    u16::from_ne_bytes([a, b])
}

/// The outer total length, if all that the frame becomes fits the underlay.
#[inline(always)]
fn native_len(pkt: &Packet, ip: &Ip) -> Option<u16> {
    let largest = match pkt.gso_size() {
        0 => pkt.len(),
        size => outer::segment_len(Ipv4::LEN, transport_len(pkt, ip)?, size),
    };
    if !outer::fits(largest, config::get().underlay_mtu) {
        return None;
    }
    outer::total_len(pkt.len())
}

/// Bytes of the transport header of a super-packet.
#[inline(always)]
fn transport_len(pkt: &Packet, ip: &Ip) -> Option<u32> {
    if !ip.plain {
        return None;
    }
    match ip.protocol {
        protocol::TCP => Some(pkt.at::<Tcp>(Eth::LEN + Ipv4::LEN)?.header_len()),
        protocol::UDP => Some(Udp::LEN),
        _ => None,
    }
}
