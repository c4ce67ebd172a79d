//! The kernel side of vxplane. This file holds the hooks; [`egress`] and
//! [`ingress`] tell what happens to a packet, and every other module is one
//! step of theirs.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "atomic addition: the BPF target has it, but not by stable names"
)]
#![expect(
    clippy::inline_always,
    reason = "each step of the fast path is inlined: a call costs stack, registers \
              and what the verifier knows of the arguments"
)]

mod admission;
mod arp;
mod config;
mod decap;
mod deliver;
mod egress;
mod encap;
mod endpoint;
mod fallback;
mod fdb;
mod flood;
mod flow;
mod fragment;
mod group;
mod guard;
mod ingress;
mod learn;
mod limit;
mod metrics;
mod monitor;
mod neighbour;
mod network;
mod packet;
mod parse;
mod peer;
mod policy;
mod shared;
mod shortcut;
mod trace;
mod verdict;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use vxplane_common::abi::NO_SLOT;

use crate::{
    packet::{Frame, Packet},
    verdict::Hook,
};

/// What a container sends: tc ingress of its host veth.
#[classifier]
pub(crate) fn from_container(ctx: TcContext) -> i32 {
    let mut pkt = Packet::new(ctx);
    let verdict = egress::from_container(&mut pkt);
    metrics::exit(&pkt, Hook::FromContainer, verdict)
}

/// What the wire brings: tc ingress of the underlay device.
#[classifier]
pub(crate) fn from_underlay(ctx: TcContext) -> i32 {
    let mut pkt = Packet::new(ctx);
    let verdict = ingress::from_underlay(&mut pkt);
    metrics::exit(&pkt, Hook::FromUnderlay, verdict)
}

/// What the kernel took apart for us: tc ingress of its VXLAN device.
#[classifier]
pub(crate) fn from_fallback(ctx: TcContext) -> i32 {
    let mut pkt = Packet::new(ctx);
    let verdict = ingress::from_fallback(&mut pkt);
    metrics::exit(&pkt, Hook::FromFallback, verdict)
}

/// What the wire brings, before the kernel has made a packet of it: XDP on the
/// underlay device. It only turns away what [`from_underlay`] would, earlier.
#[xdp(frags)]
pub(crate) fn guard_underlay(ctx: XdpContext) -> u32 {
    let frame = Frame::new(ctx);
    match guard::from_underlay(&frame) {
        Ok(()) => xdp_action::XDP_PASS,
        Err(drop) => {
            metrics::count_drop(&frame, drop, Hook::FromUnderlay, NO_SLOT);
            xdp_action::XDP_DROP
        }
    }
}

/// Some helpers the programs call are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
