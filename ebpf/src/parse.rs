//! Reads headers, each once, into values that hold no packet pointer.

use vxplane_common::{
    drop::DropReason,
    frame, tunnel,
    tunnel::Tunnel,
    types::MacWords,
    wire::{Arp, Datagram, Eth, Ipv4, Vxlan, ethertype},
};

use crate::{
    config,
    packet::{Headers, Packet, size},
};

/// Where VXLAN stands in a packet on the underlay.
pub(crate) const VXLAN_AT: u32 = size::<Datagram>();
/// Where the inner frame stands in a packet on the underlay.
pub(crate) const INNER_AT: u32 = VXLAN_AT + Vxlan::LEN;

/// An inner frame.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    /// Its destination.
    pub(crate) dst: MacWords,
    /// Its source.
    pub(crate) src: MacWords,
    /// What it carries.
    pub(crate) payload: Payload,
}

/// What a frame carries, as far as it matters to every frame.
#[derive(Clone, Copy)]
pub(crate) enum Payload {
    /// IPv4, the header of which fits the frame.
    Ipv4(Ip),
    /// IPv6.
    Ipv6 {
        /// Its counterpart of the TOS byte.
        traffic_class: u8,
    },
    /// What calls itself ARP and is long enough; see [`arp`].
    Arp,
    /// Anything else.
    Other,
}

/// What matters of an inner IPv4 header. Numbers, not the header itself: those
/// stay in registers, byte arrays are copied over the stack.
#[derive(Clone, Copy)]
pub(crate) struct Ip {
    /// Source address, as it stands on the wire.
    pub(crate) src: u32,
    /// Destination address, as it stands on the wire.
    pub(crate) dst: u32,
    /// DSCP and ECN.
    pub(crate) tos: u8,
    /// What follows.
    pub(crate) protocol: u8,
    /// Whether the header has no options.
    pub(crate) plain: bool,
}

/// Reads the frame that begins at `offset`: 0 for a plain one, [`INNER_AT`] for
/// one behind outer headers.
#[inline(always)]
pub(crate) fn frame(pkt: &mut Packet, offset: u32) -> Result<Frame, DropReason> {
    pkt.gather(offset + Eth::LEN + Ipv4::LEN);
    let eth = pkt.at::<Eth>(offset).ok_or(DropReason::MalformedFrame)?;
    if eth.is_vlan() {
        return Err(DropReason::VlanTag);
    }
    let (dst, src, ethertype) = (eth.dst.to_words(), eth.src.to_words(), eth.ethertype());
    let payload_at = offset + Eth::LEN;
    let payload = match ethertype {
        ethertype::IPV4 => Payload::Ipv4(ipv4(pkt, payload_at)?),
        ethertype::ARP => {
            arp(pkt, payload_at)?;
            Payload::Arp
        }
        ethertype::IPV6 => Payload::Ipv6 {
            traffic_class: traffic_class(pkt, payload_at)?,
        },
        _ => Payload::Other,
    };
    Ok(Frame { dst, src, payload })
}

#[inline(always)]
fn ipv4(pkt: &Packet, offset: u32) -> Result<Ip, DropReason> {
    let ip = pkt.at::<Ipv4>(offset).ok_or(DropReason::MalformedFrame)?;
    if !frame::is_sound(ip, pkt.len() - offset, pkt.gso_size() > 0) {
        return Err(DropReason::MalformedFrame);
    }
    Ok(Ip {
        src: u32::from_ne_bytes(ip.src),
        dst: u32::from_ne_bytes(ip.dst),
        tos: ip.tos,
        protocol: ip.protocol,
        plain: ip.version_ihl == Ipv4::PLAIN,
    })
}

/// Reads the ARP packet behind an Ethernet header.
#[inline(always)]
pub(crate) fn arp(pkt: &mut Packet, offset: u32) -> Result<Arp, DropReason> {
    pkt.gather(offset + size::<Arp>());
    pkt.at::<Arp>(offset)
        .copied()
        .ok_or(DropReason::MalformedFrame)
}

#[inline(always)]
fn traffic_class(pkt: &Packet, offset: u32) -> Result<u8, DropReason> {
    let [first, second] = *pkt
        .at::<[u8; 2]>(offset)
        .ok_or(DropReason::MalformedFrame)?;
    Ok(first << 4 | second >> 4)
}

/// Reads the outer headers; `None` for what is not a VXLAN packet to us, or is
/// one that the kernel has to put together first.
#[inline(always)]
pub(crate) fn tunnel(pkt: &impl Headers) -> Result<Option<Tunnel>, DropReason> {
    let Some(datagram) = pkt.at::<Datagram>(0) else {
        return Ok(None);
    };
    if !tunnel::is_ours(datagram, &config::get()) {
        return Ok(None);
    }
    match pkt.at::<Vxlan>(VXLAN_AT) {
        Some(vxlan) => tunnel::parse(datagram, vxlan, pkt.len()).map(Some),
        // It is there but out of reach: a driver that splits headers from
        // payload gives XDP no more than this.
        None if pkt.len() >= INNER_AT => Ok(None),
        None => Err(DropReason::MalformedOuter),
    }
}
