//! Fragments: only the first has ports, the others are taken for what it said.

use aya_ebpf::{macros::map, maps::LruHashMap};
use vxplane_common::{
    abi::{FragmentKey, MAX_FRAGMENTS, Ports},
    flow::{SignalCode, vni_protocol},
};

use crate::{
    packet::Packet,
    parse::{Frame, Ip, Transport},
};

#[map]
static FRAGMENTS: LruHashMap<FragmentKey, Ports> = LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);

/// The frame, with the ports of its packet if it is a later fragment and the first
/// one is known. If it is the first, that becomes known: before anything is decided
/// about it, so that those behind it are never taken for an earlier packet.
#[inline(always)]
pub(crate) fn rejoin(pkt: &Packet, vni: u32, frame: Frame) -> Frame {
    let Some(ip) = frame.ipv4() else {
        return frame;
    };
    if ip.part.is_whole() {
        return frame;
    }
    if !ip.part.is_later() {
        if !pkt.is_traced() {
            note(vni, ip);
        }
        return frame;
    }
    match known(vni, ip) {
        Some(transport) => frame.with_transport(transport),
        None => frame,
    }
}

#[inline(never)]
fn note(vni: u32, ip: &Ip) {
    let ports = Ports {
        src: ip.transport.src.to_ne_bytes(),
        dst: ip.transport.dst.to_ne_bytes(),
    };
    // Without it the others are not known, which they are told apart by.
    let _ = FRAGMENTS.insert(key(vni, ip), ports, 0);
}

#[inline(always)]
fn known(vni: u32, ip: &Ip) -> Option<Transport> {
    let [s0, s1, d0, d1, found, ..] = ports(vni, ip).to_ne_bytes();
    (found != 0).then(|| Transport {
        src: u16::from_ne_bytes([s0, s1]),
        dst: u16::from_ne_bytes([d0, d1]),
        signal: SignalCode::ORDINARY,
    })
}

/// Source port, destination port, and a byte that is not 0 if they are known: a
/// function of the programs returns one number.
#[inline(never)]
fn ports(vni: u32, ip: &Ip) -> u64 {
    // SAFETY: an entry that is replaced meanwhile gives the ports of another
    // packet, on which it is decided likewise.
    let known = unsafe { FRAGMENTS.get(key(vni, ip)) };
    known.map_or(0, |Ports { src, dst }| {
        u64::from_ne_bytes([src[0], src[1], dst[0], dst[1], 1, 0, 0, 0])
    })
}

#[inline(always)]
fn key(vni: u32, ip: &Ip) -> FragmentKey {
    FragmentKey {
        src: ip.src.to_ne_bytes(),
        dst: ip.dst.to_ne_bytes(),
        vni_protocol: vni_protocol(vni, ip.protocol),
        id: ip.id.to_ne_bytes(),
        pad: [0; 2],
    }
}
