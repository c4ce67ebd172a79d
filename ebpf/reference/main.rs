//! What `cargo xtask bench` compares vxplane with: an overlay that leaves VXLAN to
//! the kernel in both directions. A program tells the kernel's device by which
//! tunnel a packet is to go, and another one takes what that device brings into the
//! container, as container networks with a tunnel mode do. It does no more than
//! that: neither policy nor checks.

#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{BPF_F_ZERO_CSUM_TX, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_tunnel_key},
    helpers::generated as helper,
    macros::{classifier, map},
    maps::HashMap,
    programs::TcContext,
};

/// `skb->pkt_type` of what is addressed to the device it came in by.
const PACKET_HOST: u32 = 0;

/// Where an IPv4 destination address stands in a frame.
const DESTINATION_AT: usize = 30;

/// The network's number.
const VNI: u32 = 42;

const TTL: u8 = 64;

/// Where a container is: `[VTEP in host order, interface index]`. Of a container of
/// this host that is its veth, of others the VXLAN device.
type Place = [u32; 2];

/// Places by the container's IPv4 address, in network order.
#[map(name = "PLACES")]
static PLACES: HashMap<u32, Place> = HashMap::with_max_entries(1024, 0);

/// What a container sends: tc ingress of its host veth.
#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the kernel calls it with what the macro takes by value"
)]
pub(crate) fn to_tunnel(ctx: TcContext) -> i32 {
    let Some([vtep, ifindex]) = place(&ctx) else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: all its bytes may be zero.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = VNI;
    key.tunnel_ttl = TTL;
    key.__bindgen_anon_1.remote_ipv4 = vtep;
    // SAFETY: the context is valid while the program runs, `key` is as long as said.
    let refused = unsafe {
        helper::bpf_skb_set_tunnel_key(
            ctx.skb.skb,
            &raw mut key,
            KEY_LEN,
            u64::from(BPF_F_ZERO_CSUM_TX),
        )
    };
    if refused != 0 {
        return TC_ACT_SHOT;
    }
    // SAFETY: takes numbers only.
    unsafe { helper::bpf_redirect(ifindex, 0) };
    TC_ACT_REDIRECT
}

/// What the kernel has taken apart: tc ingress of its VXLAN device.
#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the kernel calls it with what the macro takes by value"
)]
pub(crate) fn from_tunnel(ctx: TcContext) -> i32 {
    // SAFETY: as above.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    // SAFETY: as above.
    let refused = unsafe { helper::bpf_skb_get_tunnel_key(ctx.skb.skb, &raw mut key, KEY_LEN, 0) };
    let Some([_, ifindex]) = place(&ctx) else {
        return TC_ACT_SHOT;
    };
    if refused != 0 || key.tunnel_id != VNI {
        return TC_ACT_SHOT;
    }
    // SAFETY: the context is valid while the program runs.
    unsafe { helper::bpf_skb_change_type(ctx.skb.skb, PACKET_HOST) };
    // SAFETY: takes numbers only.
    unsafe { helper::bpf_redirect_peer(ifindex, 0) };
    TC_ACT_REDIRECT
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the structure is of some tens of bytes"
)]
const KEY_LEN: u32 = size_of::<bpf_tunnel_key>() as u32;

/// Where the packet's IPv4 destination is.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "the verifier must see the comparison with the end of the packet"
)]
fn place(ctx: &TcContext) -> Option<Place> {
    let destination = ctx.data() + DESTINATION_AT;
    if destination + size_of::<u32>() > ctx.data_end() {
        return None;
    }
    // SAFETY: compared with the end of the packet just now; any bytes are a number.
    let destination = unsafe { (destination as *const u32).read_unaligned() };
    // SAFETY: entries are written before anything is sent, and never removed.
    unsafe { PLACES.get(destination) }.copied()
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
