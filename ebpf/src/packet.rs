//! The packet: the only place that touches contexts and packet pointers.
//!
//! A header is borrowed from the packet, and whatever moves packet bytes takes
//! the packet mutably: a header reference that outlives a resize does not
//! compile. Bounds are checked at each borrow, as the verifier demands anyway.

use aya_ebpf::{
    EbpfContext,
    bindings::{
        __sk_buff, BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
        BPF_F_MARK_MANGLED_0, BPF_F_RECOMPUTE_CSUM, BPF_F_ZERO_CSUM_TX,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
        bpf_tunnel_key, bpf_tunnel_key__bindgen_ty_1, bpf_tunnel_key__bindgen_ty_2,
        bpf_tunnel_key__bindgen_ty_3,
    },
    bpf_f_adj_room_encap_l2,
    cty::{c_long, c_void},
    helpers::generated as helper,
    programs::{TcContext, XdpContext, sk_buff::SkBuff},
};
use vxplane_common::{
    abi::OVERHEAD_IPV4,
    drop::DropReason,
    outer,
    wire::{Eth, Wire},
};

use crate::{config, verdict::Action};

/// The kernel's number for IPv4 among address families.
const AF_INET: u32 = 2;

/// `skb->pkt_type` of what is addressed to the device it came in by.
const PACKET_HOST: u32 = 0;

/// What the kernel must know to cut a super-packet with our headers: `FIXED_GSO`
/// because its segments stay as large as the container made them.
const PUSH_FLAGS: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO
    | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
    | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
    | BPF_F_ADJ_ROOM_ENCAP_L2_ETH) as u64
    | bpf_f_adj_room_encap_l2(Eth::LEN as u64);

/// The checksum state is lowered by one level afterwards, not forgotten.
const STRIP_FLAGS: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// [`OVERHEAD_IPV4`], of the type the kernel takes.
const ROOM: i32 = 50;
const _: () = assert!(ROOM as u32 == OVERHEAD_IPV4);

/// Bytes of a next hop, of the type the kernel takes.
const HOP_LEN: i32 = 20;
const _: () = assert!(HOP_LEN as usize == size_of::<bpf_redir_neigh>());

/// Headers of some packet, by their distance from its first byte.
pub(crate) trait Headers {
    /// The header at `offset`, `None` where the packet (or what can be read of
    /// it) ends before.
    fn at<T: Wire>(&self, offset: u32) -> Option<&T>;

    /// Bytes of the whole packet, Ethernet included.
    fn len(&self) -> u32;
}

/// Bytes of a `T`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "headers and keys are of some tens of bytes"
)]
pub(crate) const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// Where `T` is, if all of it lies between `data` and `end`.
#[inline(always)]
fn within<T: Wire>(data: usize, end: usize, offset: u32) -> Option<*mut T> {
    let start = data + offset as usize;
    (start + size_of::<T>() <= end).then_some(start as *mut T)
}

/// A packet in TC.
pub(crate) struct Packet {
    ctx: SkBuff,
    traced: bool,
}

impl Headers for Packet {
    #[inline(always)]
    fn at<T: Wire>(&self, offset: u32) -> Option<&T> {
        let header = within::<T>(self.data(), self.data_end(), offset)?;
        // SAFETY: `within` compared it with the end of the packet, which stays
        // where it is as long as `self` is borrowed; `Wire` takes any bytes at
        // any even address, and all offsets are even.
        Some(unsafe { &*header })
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx.skb).len }
    }
}

impl Packet {
    /// The packet a program was called for.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a program has one context, and no use for it besides"
    )]
    #[inline(always)]
    pub(crate) fn new(ctx: TcContext) -> Self {
        Self::of(ctx.skb.skb)
    }

    /// Whether somebody only wants to know what would become of it: then its
    /// steps are recorded, and nothing but the packet itself changes.
    #[inline(always)]
    pub(crate) fn is_traced(&self) -> bool {
        self.traced
    }

    /// The same in a function that was called with [`Self::context`].
    #[inline(always)]
    pub(crate) fn of(ctx: *mut __sk_buff) -> Self {
        let mark = config::trace_mark();
        Self {
            // SAFETY: the context is valid while the program runs.
            traced: mark != 0 && unsafe { (*ctx).mark } == mark,
            ctx: SkBuff::new(ctx),
        }
    }

    /// The packet as functions take it that the verifier looks at by themselves.
    #[inline(always)]
    pub(crate) fn context(&mut self) -> *mut __sk_buff {
        self.ctx.skb
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx.skb).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as in `data`.
        unsafe { (*self.ctx.skb).data_end as usize }
    }

    /// As [`Headers::at`], to write.
    #[inline(always)]
    pub(crate) fn at_mut<T: Wire>(&mut self, offset: u32) -> Option<&mut T> {
        let header = within::<T>(self.data(), self.data_end(), offset)?;
        // SAFETY: as in `at`, and `self` is borrowed mutably; the verifier lets
        // the program start with a packet that nobody else shares.
        Some(unsafe { &mut *header })
    }

    /// Makes the first `len` bytes, or all there are, readable in place. Header
    /// bytes of most packets are; for the others the kernel gathers them.
    #[inline(always)]
    pub(crate) fn gather(&mut self, len: u32) {
        // Read anew: what the compiler keeps over such a distance, it keeps by its
        // 32 bits, and that is no pointer to the verifier any more.
        // SAFETY: the context is valid while the program runs.
        let (start, end) = unsafe {
            (
                (&raw const (*self.ctx.skb).data).read_volatile() as usize,
                (&raw const (*self.ctx.skb).data_end).read_volatile() as usize,
            )
        };
        // What has no more bytes than can be read is not asked for them.
        if start + len as usize > end && end - start < self.len() as usize {
            self.pull(len);
        }
    }

    #[cold]
    #[inline(always)]
    fn pull(&mut self, len: u32) {
        // What it does not achieve shows at the next borrow.
        // SAFETY: the context is valid while the program runs.
        unsafe { helper::bpf_skb_pull_data(self.ctx.skb, len.min(self.len())) };
    }

    /// The device it came in by.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx.skb).ifindex }
    }

    /// Payload bytes of each packet this super-packet stands for; 0 for an
    /// ordinary packet.
    #[inline(always)]
    pub(crate) fn gso_size(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx.skb).gso_size }
    }

    /// How many packets it stands for, of a super-packet; 0 for an ordinary packet.
    #[inline(always)]
    pub(crate) fn segments(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx.skb).gso_segs }
    }

    /// Whether it carries a VLAN tag beside its bytes.
    #[inline(always)]
    pub(crate) fn has_vlan_tag(&self) -> bool {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx.skb).vlan_present != 0 }
    }

    /// Whether its outermost MAC address is that of the device it came in by.
    #[inline(always)]
    pub(crate) fn is_to_host(&self) -> bool {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx.skb).pkt_type == PACKET_HOST }
    }

    /// Tells the kernel that the packet is for the device it will come in by
    /// next, which it otherwise would drop for having seen another MAC address.
    #[inline(always)]
    pub(crate) fn mark_to_host(&mut self) {
        if !self.is_to_host() {
            // SAFETY: the context is valid while the program runs.
            unsafe { helper::bpf_skb_change_type(self.ctx.skb, PACKET_HOST) };
        }
    }

    /// The hash of its flow that the kernel has for it, which follows how a TCP
    /// connection wants to be routed; 0 if it has none. It is not made to look for
    /// one, for that takes it half as long as all else that is done here.
    #[inline(always)]
    pub(crate) fn hash(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx.skb).hash }
    }

    /// Tells the kernel the hash of its flow.
    #[inline(always)]
    pub(crate) fn set_hash(&mut self, hash: u32) {
        // SAFETY: the context is valid while the program runs.
        unsafe { helper::bpf_set_hash(self.ctx.skb, hash) };
    }

    /// Makes room for the outer headers behind the Ethernet header. The packet
    /// is unchanged if the kernel refuses, which it does for what is
    /// encapsulated already and for protocols it cannot segment in a tunnel.
    #[inline(always)]
    pub(crate) fn push_room(&mut self) -> Result<(), Refused> {
        // SAFETY: the context is valid while the program runs.
        refused(unsafe {
            helper::bpf_skb_adjust_room(self.ctx.skb, ROOM, BPF_ADJ_ROOM_MAC, PUSH_FLAGS)
        })
    }

    /// Cuts the outer headers off behind the Ethernet header, and with them the
    /// one checksum that was theirs.
    #[inline(always)]
    pub(crate) fn strip_room(&mut self) -> Result<(), Refused> {
        // SAFETY: the context is valid while the program runs.
        refused(unsafe {
            helper::bpf_skb_adjust_room(self.ctx.skb, -ROOM, BPF_ADJ_ROOM_MAC, STRIP_FLAGS)
        })?;
        // SAFETY: as above. It fails only for an unknown operation.
        unsafe { helper::bpf_csum_level(self.ctx.skb, u64::from(BPF_CSUM_LEVEL_DEC)) };
        Ok(())
    }

    /// Overwrites four bytes of a UDP payload and keeps every checksum true:
    /// the one at `checksum`, if that is given, and the kernel's own notes.
    pub(crate) fn patch(&mut self, offset: u32, old: [u8; 4], new: [u8; 4], checksum: Option<u32>) {
        let recompute = checksum.map_or(u64::from(BPF_F_RECOMPUTE_CSUM), |checksum| {
            let from = u64::from(u32::from_ne_bytes(old));
            let to = u64::from(u32::from_ne_bytes(new));
            let flags = u64::from(BPF_F_MARK_MANGLED_0 | size::<[u8; 4]>());
            // SAFETY: the context is valid while the program runs.
            unsafe { helper::bpf_l4_csum_replace(self.ctx.skb, checksum, from, to, flags) };
            // The two changes cancel out in the sum over the whole packet.
            0
        });
        // SAFETY: as above; `new` lives on the stack and is as long as said.
        unsafe {
            helper::bpf_skb_store_bytes(
                self.ctx.skb,
                offset,
                new.as_ptr().cast::<c_void>(),
                size::<[u8; 4]>(),
                recompute,
            )
        };
    }

    /// The tunnel the kernel took the packet from.
    pub(crate) fn tunnel_key(&self) -> Option<TunnelKey> {
        let mut key = EMPTY_KEY;
        // SAFETY: the context is valid while the program runs, `key` is as long
        // as said.
        let result = unsafe {
            helper::bpf_skb_get_tunnel_key(self.ctx.skb, &raw mut key, size::<bpf_tunnel_key>(), 0)
        };
        // SAFETY: the kernel wrote IPv4 addresses, and every bit pattern is one.
        let (remote, local) = unsafe {
            (
                key.__bindgen_anon_1.remote_ipv4,
                key.__bindgen_anon_3.local_ipv4,
            )
        };
        (result == 0).then(|| TunnelKey {
            vni: key.tunnel_id,
            remote: remote.to_be(),
            local: local.to_be(),
        })
    }

    /// Says which tunnel the kernel's VXLAN device is to send it by.
    pub(crate) fn set_tunnel_key(&mut self, to: TunnelKey) -> Result<(), Refused> {
        let mut key = bpf_tunnel_key {
            tunnel_id: to.vni,
            tunnel_ttl: outer::TTL,
            ..EMPTY_KEY
        };
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(to.remote);
        key.__bindgen_anon_3.local_ipv4 = u32::from_be(to.local);
        // SAFETY: the context is valid while the program runs, `key` is as long
        // as said.
        refused(unsafe {
            helper::bpf_skb_set_tunnel_key(
                self.ctx.skb,
                &raw mut key,
                size::<bpf_tunnel_key>(),
                u64::from(BPF_F_ZERO_CSUM_TX),
            )
        })
    }

    /// The group policy ID, and the flags above it, that the kernel took the packet
    /// with; 0 for none.
    pub(crate) fn tunnel_group(&self) -> u32 {
        let mut group = 0_u32;
        // SAFETY: the context is valid while the program runs, `group` is as long
        // as said, and it is all that the kernel's VXLAN device has to say.
        unsafe {
            helper::bpf_skb_get_tunnel_opt(
                self.ctx.skb,
                (&raw mut group).cast::<c_void>(),
                size::<u32>(),
            )
        };
        group
    }

    /// Says which group policy ID the kernel's VXLAN device is to send it with; after
    /// [`Self::set_tunnel_key`], which takes it back.
    pub(crate) fn set_tunnel_group(&mut self, group: u32) -> Result<(), Refused> {
        let mut group = group;
        // SAFETY: as in `tunnel_group`.
        refused(unsafe {
            helper::bpf_skb_set_tunnel_opt(
                self.ctx.skb,
                (&raw mut group).cast::<c_void>(),
                size::<u32>(),
            )
        })
    }

    /// Sends a copy out of a device now. Takes the packet mutably because the
    /// kernel may move its bytes for that.
    pub(crate) fn send_copy(&mut self, ifindex: u32) -> Result<(), Refused> {
        // SAFETY: the context is valid while the program runs.
        refused(unsafe { helper::bpf_clone_redirect(self.ctx.skb, ifindex, 0) })
    }
}

impl EbpfContext for Packet {
    fn as_ptr(&self) -> *mut c_void {
        self.ctx.skb.cast()
    }
}

/// Ends the program: out of a device, as it is.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32) -> Action {
    // SAFETY: takes numbers only.
    unsafe { helper::bpf_redirect(ifindex, 0) };
    Action::Redirect
}

/// Ends the program: in at the other end of a veth, in its namespace.
#[inline(always)]
pub(crate) fn redirect_peer(ifindex: u32) -> Action {
    // SAFETY: takes numbers only.
    unsafe { helper::bpf_redirect_peer(ifindex, 0) };
    Action::Redirect
}

/// Ends the program: out of a device, to `next_hop`, or if that is 0, to where the
/// kernel's routes send it; its neighbour table writes the Ethernet header.
#[inline(always)]
pub(crate) fn redirect_neigh(ifindex: u32, next_hop: [u8; 4]) -> Action {
    if next_hop == [0; 4] {
        // SAFETY: no parameters are given, so none are read.
        unsafe { helper::bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) };
        return Action::Redirect;
    }
    let mut hop = bpf_redir_neigh {
        nh_family: AF_INET,
        // The largest member of the union: the smaller leaves no byte undefined, and
        // this one's first word is where an IPv4 address stands.
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
            ipv6_nh: [u32::from_ne_bytes(next_hop), 0, 0, 0],
        },
    };
    // SAFETY: `hop` is as long as said, and the kernel keeps no pointer to it.
    unsafe { helper::bpf_redirect_neigh(ifindex, &raw mut hop, HOP_LEN, 0) };
    Action::Redirect
}

/// A tunnel as the kernel describes it: network and outer addresses.
#[derive(Clone, Copy)]
pub(crate) struct TunnelKey {
    /// The network.
    pub(crate) vni: u32,
    /// The other VTEP: its address in network order.
    pub(crate) remote: u32,
    /// This VTEP, likewise.
    pub(crate) local: u32,
}

const EMPTY_KEY: bpf_tunnel_key = bpf_tunnel_key {
    tunnel_id: 0,
    // The largest member: the smaller ones leave no byte undefined.
    __bindgen_anon_1: bpf_tunnel_key__bindgen_ty_1 {
        remote_ipv6: [0; 4],
    },
    tunnel_tos: 0,
    tunnel_ttl: 0,
    __bindgen_anon_2: bpf_tunnel_key__bindgen_ty_2 { tunnel_ext: 0 },
    tunnel_label: 0,
    __bindgen_anon_3: bpf_tunnel_key__bindgen_ty_3 { local_ipv6: [0; 4] },
};

/// A helper returned an error.
#[derive(Clone, Copy)]
pub(crate) struct Refused;

impl From<Refused> for DropReason {
    #[inline(always)]
    fn from(_: Refused) -> Self {
        Self::Rewrite
    }
}

#[inline(always)]
fn refused(result: c_long) -> Result<(), Refused> {
    if result == 0 { Ok(()) } else { Err(Refused) }
}

/// A packet in XDP.
pub(crate) struct Frame {
    ctx: XdpContext,
}

impl Frame {
    /// The packet a program was called for.
    #[inline(always)]
    pub(crate) fn new(ctx: XdpContext) -> Self {
        Self { ctx }
    }
}

impl Headers for Frame {
    #[inline(always)]
    fn at<T: Wire>(&self, offset: u32) -> Option<&T> {
        let header = within::<T>(self.ctx.data(), self.ctx.data_end(), offset)?;
        // SAFETY: `within` compared it with the end of the first buffer, and XDP
        // here resizes nothing; `Wire` takes any bytes at any even
        // address, and all offsets are even.
        Some(unsafe { &*header })
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        let len = unsafe { helper::bpf_xdp_get_buff_len(self.ctx.ctx) };
        u32::try_from(len).unwrap_or(u32::MAX)
    }
}

impl EbpfContext for Frame {
    fn as_ptr(&self) -> *mut c_void {
        self.ctx.as_ptr()
    }
}
