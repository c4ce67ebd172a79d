//! Containers without an overlay: hosts route to one another's containers, and
//! nothing is encapsulated.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{Ground, Netns, Site, underlay};

/// The containers' addresses, each in a subnet of its host.
pub(super) const CONTAINERS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 98, 1, 2), Ipv4Addr::new(10, 98, 2, 2)];

/// Both hosts with one container each.
pub(super) fn site(ground: &Ground<'_>) -> Result<Site> {
    let [a, b] = underlay::hosts(ground)?;
    let containers = [ground.netns("ca")?, ground.netns("cb")?];
    for (host, own, other) in [(&a, 0, 1), (&b, 1, 0)] {
        attach(ground, host, &containers[own], "c0", CONTAINERS[own])?;
        host.ip(&format!(
            "route add {}/24 via {}",
            network(CONTAINERS[other]),
            underlay::ADDRESSES[other]
        ))?;
    }
    Ok(Site::between(ground, containers, CONTAINERS[1], [a, b]))
}

/// Gives a container a device whose other end is the host's, which is its router.
pub(super) fn attach(
    ground: &Ground<'_>,
    host: &Netns,
    container: &Netns,
    port: &str,
    address: Ipv4Addr,
) -> Result<()> {
    let mtu = ground.setting.mtu;
    let router = router(address);
    host.sysctl("net/ipv4/ip_forward", "1")?;
    host.ip(&format!(
        "link add {port} mtu {mtu} address {} type veth peer eth0 mtu {mtu} address {} netns {}",
        underlay::mac(router),
        underlay::mac(address),
        container.name()
    ))?;
    host.ip(&format!("address add {router}/24 dev {port}"))?;
    host.ip(&format!("link set {port} up"))?;
    underlay::know(host, port, address)?;
    container.ip(&format!("address add {address}/24 dev eth0"))?;
    container.ip("link set eth0 up")?;
    container.ip(&format!("route add default via {router}"))?;
    underlay::know(container, "eth0", router)
}

fn network(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 0)
}

fn router(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1)
}
