//! The kernel's own overlay at its best: a bridge and a vxlan device per host,
//! forwarding entries known beforehand, nothing learned, and no bridge netfilter
//! unless that is asked for.

use anyhow::{Result, ensure};

use super::{Netns, Site, Variant, netns, underlay};

/// Both hosts with one container each.
pub(super) fn site(variant: Variant) -> Result<Site> {
    let [a, b] = underlay::hosts(variant)?;
    let client = netns::create(&format!("{}-ca", variant.name()))?;
    let server = netns::create(&format!("{}-cb", variant.name()))?;
    for (host, container, own, other) in [(&a, &client, 0, 1), (&b, &server, 1, 0)] {
        overlay(host, container, own, other)?;
        if variant == Variant::Netfilter {
            filter(host)?;
        }
    }
    Ok(Site {
        variant,
        client: client.path(),
        server: server.path(),
        server_address: underlay::CONTAINERS[1],
        _daemons: Vec::new(),
        _namespaces: vec![client, server, a, b],
    })
}

fn filter(host: &Netns) -> Result<()> {
    ensure!(
        netns::has_bridge_netfilter(),
        "this kernel has no bridge netfilter: run `modprobe br_netfilter` first, or measure \
         without it by `--variants bare,kernel,vxplane`, where no bar is judged"
    );
    netns::set_bridge_netfilter(host, true)
}

fn overlay(host: &Netns, container: &Netns, own: usize, other: usize) -> Result<()> {
    let mtu = underlay::OVERLAY_MTU;
    let address = underlay::CONTAINERS[own];
    let far = underlay::mac(underlay::CONTAINERS[other]);
    let vtep = underlay::ADDRESSES[other];
    host.ip(&format!("link add br0 mtu {mtu} type bridge"))?;
    host.ip(&format!(
        "link add vx0 mtu {mtu} type vxlan id 42 local {} dev {} dstport 4789 nolearning noudpcsum",
        underlay::ADDRESSES[own],
        underlay::DEVICE,
    ))?;
    host.ip(&format!(
        "link add c0 mtu {mtu} type veth peer eth0 mtu {mtu} address {} netns {}",
        underlay::mac(address),
        container.name()
    ))?;
    for port in ["vx0", "c0"] {
        host.ip(&format!("link set {port} master br0"))?;
        host.ip(&format!("link set {port} up"))?;
    }
    host.ip("link set br0 up")?;
    host.run(&format!(
        "bridge fdb replace {far} dev vx0 dst {vtep} self permanent"
    ))?;
    host.run(&format!("bridge fdb replace {far} dev vx0 master static"))?;
    container.ip(&format!("address add {address}/24 dev eth0"))?;
    container.ip("link set eth0 up")?;
    underlay::know(container, "eth0", underlay::CONTAINERS[other])
}
