//! The kernel's own overlay at its best: a bridge and a vxlan device per host,
//! forwarding entries known beforehand, nothing learned, and no bridge netfilter
//! unless that is asked for.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::{Ground, Netns, Site, Variant, netns, underlay};

/// Both hosts with one container each.
pub(super) fn site(ground: &Ground<'_>) -> Result<Site> {
    let [a, b] = underlay::hosts(ground)?;
    let containers = [ground.netns("ca")?, ground.netns("cb")?];
    for (host, own, other) in [(&a, 0, 1), (&b, 1, 0)] {
        bridge(ground, host)?;
        tunnel(ground, host, own, other)?;
        attach(
            ground,
            host,
            &containers[own],
            "c0",
            underlay::CONTAINERS[own],
        )?;
        underlay::know(&containers[own], "eth0", underlay::CONTAINERS[other])?;
    }
    Ok(Site::between(
        ground,
        containers,
        underlay::CONTAINERS[1],
        [a, b],
    ))
}

/// A bridge, whose packets pass netfilter in the variant of that name.
pub(super) fn bridge(ground: &Ground<'_>, host: &Netns) -> Result<()> {
    let mtu = ground.overlay_mtu();
    host.ip(&format!("link add br0 mtu {mtu} type bridge"))?;
    host.ip("link set br0 up")?;
    if ground.variant != Variant::Netfilter {
        return Ok(());
    }
    ensure!(
        netns::has_bridge_netfilter(),
        "this kernel has no bridge netfilter: run `modprobe br_netfilter` first, or measure \
         without it by `--variants bare,kernel,vxplane`, where no bar is judged"
    );
    netns::set_bridge_netfilter(host, true)
}

/// The bridge's port to the other host.
fn tunnel(ground: &Ground<'_>, host: &Netns, own: usize, other: usize) -> Result<()> {
    let far = underlay::mac(underlay::CONTAINERS[other]);
    host.ip(&format!(
        "link add vx0 mtu {} type vxlan id 42 local {} dev {} dstport 4789 nolearning noudpcsum",
        ground.overlay_mtu(),
        underlay::ADDRESSES[own],
        underlay::DEVICE,
    ))?;
    host.ip("link set vx0 master br0")?;
    host.ip("link set vx0 up")?;
    host.run(&format!(
        "bridge fdb replace {far} dev vx0 dst {} self permanent",
        underlay::ADDRESSES[other]
    ))?;
    host.run(&format!("bridge fdb replace {far} dev vx0 master static"))?;
    Ok(())
}

/// Gives a container a device whose other end is a port of the bridge.
pub(super) fn attach(
    ground: &Ground<'_>,
    host: &Netns,
    container: &Netns,
    port: &str,
    address: Ipv4Addr,
) -> Result<()> {
    let mtu = ground.overlay_mtu();
    host.ip(&format!(
        "link add {port} mtu {mtu} type veth peer eth0 mtu {mtu} address {} netns {}",
        underlay::mac(address),
        container.name()
    ))?;
    host.ip(&format!("link set {port} master br0"))?;
    host.ip(&format!("link set {port} up"))?;
    container.ip(&format!("address add {address}/24 dev eth0"))?;
    container.ip("link set eth0 up")
}
