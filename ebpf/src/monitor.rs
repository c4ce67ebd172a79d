//! Tells of single packets, as long as somebody listens and no more than a person
//! or a program at the other end can make use of. What is shed is counted.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_coarse_ns,
    macros::map,
    maps::{Array, PerCpuArray, RingBuf},
};
use vxplane_common::{
    abi::{
        MONITOR_RING_BYTES, NOTICE_DROP, NOTICE_FLOW, NOTICE_KINDS, NOTICES_PER_SECOND, Notice,
        NoticeBudget,
    },
    drop::Direction,
    flow::Segment,
    wire::{Arp, Datagram, Eth, Ipv4, ethertype, protocol},
};

use crate::{
    packet::Headers,
    verdict::{Drop, Hook},
};

#[map]
static LISTENING: Array<u64> = Array::with_max_entries(1, 0);

#[map]
static MONITOR: RingBuf = RingBuf::with_byte_size(MONITOR_RING_BYTES, 0);

#[map]
static NOTICE_BUDGET: PerCpuArray<NoticeBudget> = PerCpuArray::with_max_entries(1, 0);

/// Tells that a packet of the endpoint with this slot was dropped.
#[inline(always)]
pub(crate) fn dropped(pkt: &impl Headers, drop: Drop, hook: Hook, slot: u32) {
    if !may_tell(NOTICE_DROP) {
        return;
    }
    let mut notice = Notice {
        kind: NOTICE_DROP,
        vni: drop.vni,
        slot,
        len: pkt.len(),
        reason: drop.reason as u8,
        direction: hook.direction() as u8,
        ..Notice::default()
    };
    if let Hook::FromUnderlay = hook
        && let Some(outer) = pkt.at::<Datagram>(0)
    {
        notice.vtep = outer.ip.src;
    }
    describe(pkt, hook.inner_at(), &mut notice);
    tell(&notice);
}

/// Tells that a flow began with this packet, at the endpoint with this slot.
#[inline(always)]
pub(crate) fn began(segment: &Segment, direction: Direction, slot: u32, rule: u32) {
    if !may_tell(NOTICE_FLOW) {
        return;
    }
    tell(&Notice {
        kind: NOTICE_FLOW,
        vni: segment.vni,
        slot,
        rule,
        src: segment.src.address.to_ne_bytes(),
        dst: segment.dst.address.to_ne_bytes(),
        src_port: segment.src.port.to_ne_bytes(),
        dst_port: segment.dst.port.to_ne_bytes(),
        ethertype: ethertype::IPV4.to_be_bytes(),
        protocol: segment.protocol,
        direction: direction as u8,
        ..Notice::default()
    });
}

/// Whether somebody listens and has not been told too much of this kind lately.
#[inline(always)]
fn may_tell(kind: u32) -> bool {
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if LISTENING.get(0).is_none_or(|until| *until <= now) {
        return false;
    }
    let Some(budget) = NOTICE_BUDGET.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own, and programs do not interrupt each other on one CPU.
    let budget = unsafe { &mut *budget };
    let second = now / 1_000_000_000;
    if budget.second != second {
        budget.second = second;
        budget.told = [0; NOTICE_KINDS];
    }
    let (Some(told), Some(shed)) = (
        budget.told.get_mut(kind as usize),
        budget.shed.get_mut(kind as usize),
    ) else {
        return false;
    };
    if *told >= NOTICES_PER_SECOND {
        *shed += 1;
        return false;
    }
    *told += 1;
    true
}

#[inline(always)]
fn tell(notice: &Notice) {
    if MONITOR.output::<Notice>(notice, 0).is_err()
        && let Some(budget) = NOTICE_BUDGET.get_ptr_mut(0)
        // SAFETY: as in `may_tell`.
        && let Some(shed) = unsafe { &mut (*budget).shed }.get_mut(notice.kind as usize)
    {
        *shed += 1;
    }
}

/// Fills in what the frame that begins at `offset` says of itself.
#[inline(always)]
fn describe(pkt: &impl Headers, offset: u32, notice: &mut Notice) {
    let Some(eth) = pkt.at::<Eth>(offset) else {
        return;
    };
    notice.src_mac = eth.src;
    notice.dst_mac = eth.dst;
    notice.ethertype = eth.ethertype;
    let payload_at = offset + Eth::LEN;
    match eth.ethertype() {
        ethertype::IPV4 => describe_ipv4(pkt, payload_at, notice),
        ethertype::ARP => {
            if let Some(arp) = pkt.at::<Arp>(payload_at) {
                notice.src = arp.sender_ip;
                notice.dst = arp.target_ip;
            }
        }
        _ => {}
    }
}

#[inline(always)]
fn describe_ipv4(pkt: &impl Headers, offset: u32, notice: &mut Notice) {
    let Some(ip) = pkt.at::<Ipv4>(offset) else {
        return;
    };
    notice.src = ip.src;
    notice.dst = ip.dst;
    notice.protocol = ip.protocol;
    let has_ports = matches!(ip.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    if !has_ports || ip.is_later_fragment() || ip.version_ihl != Ipv4::PLAIN {
        return;
    }
    let ports_at = offset + Ipv4::LEN;
    if let (Some(src), Some(dst)) = (pkt.at::<[u8; 2]>(ports_at), pkt.at::<[u8; 2]>(ports_at + 2)) {
        notice.src_port = *src;
        notice.dst_port = *dst;
    }
}
