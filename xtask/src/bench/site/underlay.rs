//! Two hosts with a cable between them.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{Netns, Variant, netns};

/// The underlay device on both hosts.
pub(super) const DEVICE: &str = "underlay0";

/// The hosts' addresses on it.
pub(super) const ADDRESSES: [Ipv4Addr; 2] =
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];

/// What is left of the underlay's 1500 bytes for packets inside VXLAN.
pub(super) const OVERLAY_MTU: u32 = 1450;

/// The containers' addresses.
pub(super) const CONTAINERS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 99, 0, 2), Ipv4Addr::new(10, 99, 0, 3)];

/// `02:42:` and the address, as Docker does, everywhere: to set neighbours
/// without asking.
pub(super) fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Both hosts, with static neighbours so that no variant pays for resolving.
pub(super) fn hosts(variant: Variant) -> Result<[Netns; 2]> {
    let hosts = [
        netns::create(&format!("{}-a", variant.name()))?,
        netns::create(&format!("{}-b", variant.name()))?,
    ];
    let [a, b] = &hosts;
    a.ip(&format!(
        "link add {DEVICE} mtu 1500 address {} type veth peer {DEVICE} mtu 1500 address {} netns {}",
        mac(ADDRESSES[0]),
        mac(ADDRESSES[1]),
        b.name()
    ))?;
    for (host, own, other) in [(a, 0, 1), (b, 1, 0)] {
        host.ip(&format!("address add {}/24 dev {DEVICE}", ADDRESSES[own]))?;
        host.ip(&format!("link set {DEVICE} up"))?;
        know(host, DEVICE, ADDRESSES[other])?;
    }
    Ok(hosts)
}

/// A static neighbour.
pub(super) fn know(netns: &Netns, device: &str, address: Ipv4Addr) -> Result<()> {
    netns.ip(&format!(
        "neighbour replace {address} lladdr {} dev {device} nud permanent",
        mac(address)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_has_two_digits_a_byte() {
        assert_eq!(mac(Ipv4Addr::new(10, 99, 0, 3)), "02:42:0a:63:00:03");
    }
}
