//! The VXLAN Group Policy extension (draft-smith-vxlan-group-policy), if it is on:
//! packets bear the identity of who sends them, for those who do not know it by the
//! sender's address. Off, nothing is left of it after loading.

use vxplane_common::{abi::Endpoint, wire::Vxlan};

use crate::{
    config,
    packet::{Headers as _, Packet},
    parse::VXLAN_AT,
};

/// What a group policy ID has room for.
const LARGEST: u32 = u16::MAX as u32;

/// Whether it is on.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    config::get().gbp != 0
}

/// The group policy ID of what an endpoint sends; 0 for none.
#[inline(always)]
pub(crate) fn of(endpoint: &Endpoint) -> u32 {
    if !is_on() || endpoint.identity > LARGEST {
        return 0;
    }
    endpoint.identity
}

/// The group policy ID that a packet came with, which is still in its outer
/// headers; 0 for none.
#[inline(always)]
pub(crate) fn claimed(pkt: &Packet) -> u32 {
    if !is_on() {
        return 0;
    }
    pkt.at::<Vxlan>(VXLAN_AT)
        .map_or(0, |vxlan| u32::from(vxlan.group()))
}

/// The same of a packet that the kernel took out of them.
#[inline(always)]
pub(crate) fn claimed_before(pkt: &Packet) -> u32 {
    if !is_on() {
        return 0;
    }
    pkt.tunnel_group() & LARGEST
}
