//! The endpoints of this host, and what they may send.

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, macros::map, maps::HashMap};
use vxplane_common::{
    abi::{Endpoint, MAX_ENDPOINTS},
    drop::DropReason,
};

use crate::parse::{Frame, Ip, Payload};

#[map]
static ENDPOINTS: HashMap<u32, Endpoint> =
    HashMap::with_max_entries(MAX_ENDPOINTS, BPF_F_NO_PREALLOC);

/// The endpoint behind a host veth.
#[inline(always)]
pub(crate) fn by_ifindex(ifindex: u32) -> Result<&'static Endpoint, DropReason> {
    // SAFETY: the daemon replaces entries as a whole, and the memory of an old
    // one outlives this run of the program.
    unsafe { ENDPOINTS.get(ifindex) }.ok_or(DropReason::UnknownEndpoint)
}

/// Nothing is sent in another's name: neither by MAC address nor by IPv4
/// address. Endpoints have no IPv6 address, so no IPv6 packet is theirs. What
/// ARP says of its sender is checked with the rest of it.
#[inline(always)]
pub(crate) fn check_source(source: &Endpoint, frame: &Frame) -> Result<(), DropReason> {
    if frame.src != source.mac.to_words() {
        return Err(DropReason::SourceMac);
    }
    let own = |ip: &Ip| ip.src == u32::from_ne_bytes(source.ipv4);
    match frame.payload {
        Payload::Ipv4 if frame.ipv4().is_some_and(own) => Ok(()),
        Payload::Ipv4 | Payload::Ipv6 => Err(DropReason::SourceIp),
        Payload::Arp | Payload::Other => Ok(()),
    }
}
