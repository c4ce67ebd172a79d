//! The slow path: the kernel's own VXLAN device, for what the programs do not
//! encapsulate or take apart themselves.

use vxplane_common::{drop::DropReason, trace::Step};

use crate::{
    config, group,
    packet::{self, Packet, Refused, TunnelKey},
    trace,
    verdict::Action,
};

/// Sends the frame of someone in `group` (0 for none) to a VTEP by the kernel's
/// device.
#[inline(never)]
pub(crate) fn send(
    pkt: &mut Packet,
    vni: u32,
    vtep: u32,
    group: u32,
) -> Result<Action, DropReason> {
    trace::step(
        pkt,
        Step::SlowPath {
            vtep: vtep.to_ne_bytes(),
        },
    );
    address(pkt, vni, vtep, group)?;
    Ok(packet::redirect(config::get().fallback_ifindex))
}

/// Sends a copy of the frame likewise.
#[inline(always)]
pub(crate) fn send_copy(pkt: &mut Packet, vni: u32, vtep: u32, group: u32) -> Result<(), Refused> {
    address(pkt, vni, vtep, group)?;
    pkt.send_copy(config::get().fallback_ifindex)
}

#[inline(always)]
fn address(pkt: &mut Packet, vni: u32, vtep: u32, group: u32) -> Result<(), Refused> {
    pkt.set_tunnel_key(TunnelKey {
        vni,
        remote: vtep,
        local: u32::from_ne_bytes(config::get().vtep),
    })?;
    if !group::is_on() {
        return Ok(());
    }
    // Also that there is none: a device with the extension that is told nothing
    // sends what happens to stand in the kernel's memory.
    pkt.set_tunnel_group(group)
}

/// Which tunnel a frame came by that the kernel took apart.
#[inline(always)]
pub(crate) fn received_by(pkt: &Packet) -> Result<TunnelKey, DropReason> {
    let key = pkt.tunnel_key().ok_or(DropReason::NoTunnelKey)?;
    // The kernel's socket listens on every local address.
    if key.local == u32::from_ne_bytes(config::get().vtep) {
        Ok(key)
    } else {
        Err(DropReason::WrongDestination)
    }
}
