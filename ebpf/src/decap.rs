//! Native decapsulation, and for what cannot be taken apart here, the hand-over
//! to the kernel.

use vxplane_common::{
    abi::FdbEntry,
    checksum,
    drop::DropReason,
    ecn,
    trace::Step,
    tunnel::Tunnel,
    wire::{Datagram, Eth, Ipv4, Tunnelled, Vxlan, protocol},
};

use crate::{
    group,
    packet::{Headers as _, Packet},
    parse::{Frame, INNER_AT, VXLAN_AT},
    trace,
    verdict::Action,
};

/// Where the outer UDP checksum stands.
const UDP_CHECKSUM_AT: u32 = 40;
const _: () = assert!(UDP_CHECKSUM_AT as usize == core::mem::offset_of!(Datagram, udp.checksum));

/// Whether the packet can be taken apart here.
///
/// The kernel's notes on a super-packet still speak of a tunnel afterwards. That
/// harms nobody who receives it; but who would send it on (an endpoint that
/// routes, so that the packet is not to its own address) could not, and datagrams
/// in one would be lost.
#[inline(always)]
pub(crate) fn is_native(pkt: &Packet, tunnel: &Tunnel, frame: &Frame, target: &FdbEntry) -> bool {
    frame.ipv4().is_some_and(|ip| {
        tunnel.plain
            && ip.dst == u32::from_ne_bytes(target.ipv4)
            && (pkt.gso_size() == 0 || ip.protocol == protocol::TCP)
    })
}

/// The inner TOS byte after decapsulation. Only IP takes part in ECN.
#[inline(always)]
pub(crate) fn inner_tos(tunnel: &Tunnel, frame: &Frame) -> Result<u8, DropReason> {
    frame.tos().map_or(Ok(0), |tos| ecn::decap(tunnel.tos, tos))
}

/// Cuts the outer headers off and leaves the inner frame with `tos`.
#[inline(always)]
pub(crate) fn strip(pkt: &mut Packet, tos: u8) -> Result<(), DropReason> {
    let packet = pkt.at_mut::<Tunnelled>(0).ok_or(DropReason::Rewrite)?;
    // The kernel will keep the first Ethernet header and cut behind it.
    packet.eth = packet.inner;
    let ip = pkt
        .at_mut::<Ipv4>(INNER_AT + Eth::LEN)
        .ok_or(DropReason::Rewrite)?;
    if ip.tos != tos {
        let word = |tos| u16::from_be_bytes([ip.version_ihl, tos]);
        let sum = u16::from_be_bytes(ip.checksum);
        ip.checksum = checksum::replace(sum, word(ip.tos), word(tos)).to_be_bytes();
        ip.tos = tos;
    }
    Ok(pkt.strip_room()?)
}

/// Leaves the packet to the kernel's VXLAN device, without the reserved bits
/// for which that would drop it. If the Group Policy extension is on, that device
/// has it too.
#[inline(never)]
pub(crate) fn leave_to_kernel(pkt: &mut Packet) -> Result<Action, DropReason> {
    trace::step(pkt, Step::LeftToKernel);
    let datagram = pkt.at::<Datagram>(0).ok_or(DropReason::MalformedOuter)?;
    let checksum = (datagram.udp.checksum != [0; 2]).then_some(UDP_CHECKSUM_AT);
    let vxlan = *pkt
        .at::<Vxlan>(VXLAN_AT)
        .ok_or(DropReason::MalformedOuter)?;
    if vxlan.has_reserved() {
        let clean = if group::is_on() {
            vxlan.with_group_only()
        } else {
            vxlan.without_reserved()
        };
        for (offset, old, new) in [
            (VXLAN_AT, vxlan.first_word(), clean.first_word()),
            (VXLAN_AT + 4, vxlan.second_word(), clean.second_word()),
        ] {
            pkt.patch(offset, old, new, checksum);
        }
    }
    Ok(Action::Pass)
}
