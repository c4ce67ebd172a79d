//! Two containers of one host.

use anyhow::Result;

use super::{
    Ground, Site, kernel, routed, underlay,
    vxplane::{self, Daemon},
};

/// Two ends of a veth pair, and nothing between them.
pub(super) fn bare(ground: &Ground<'_>) -> Result<Site> {
    let hosts = underlay::hosts(ground)?;
    Ok(Site::between(ground, hosts, underlay::ADDRESSES[1], []))
}

/// The host is the containers' router.
pub(super) fn routed(ground: &Ground<'_>) -> Result<Site> {
    let host = ground.netns("a")?;
    let containers = [ground.netns("ca")?, ground.netns("cb")?];
    for (number, container) in containers.iter().enumerate() {
        let address = routed::CONTAINERS[number];
        routed::attach(ground, &host, container, &format!("c{number}"), address)?;
    }
    let address = routed::CONTAINERS[1];
    Ok(Site::between(ground, containers, address, [host]))
}

/// Both are ports of one bridge.
pub(super) fn bridged(ground: &Ground<'_>) -> Result<Site> {
    let host = ground.netns("a")?;
    let containers = [ground.netns("ca")?, ground.netns("cb")?];
    kernel::bridge(ground, &host)?;
    for (own, other) in [(0, 1), (1, 0)] {
        let (container, address) = (&containers[own], underlay::CONTAINERS[own]);
        kernel::attach(ground, &host, container, &format!("c{own}"), address)?;
        underlay::know(container, "eth0", underlay::CONTAINERS[other])?;
    }
    let address = underlay::CONTAINERS[1];
    Ok(Site::between(ground, containers, address, [host]))
}

/// Both are endpoints of one network.
pub(super) fn vxplane(ground: &Ground<'_>) -> Result<Site> {
    // The other host is there for the underlay device, which a daemon needs.
    let [a, b] = underlay::hosts(ground)?;
    let containers = [ground.netns("ca")?, ground.netns("cb")?];
    let daemon = Daemon::start(ground.binary, &a)?;
    vxplane::network(&daemon)?;
    for (own, other) in [(0, 1), (1, 0)] {
        vxplane::attach(&daemon, &containers[own], own)?;
        underlay::know(&containers[own], "eth0", underlay::CONTAINERS[other])?;
    }
    vxplane::policies(ground, &daemon)?;
    let site = Site::between(ground, containers, underlay::CONTAINERS[1], [a, b]);
    Ok(site.running([Box::new(daemon) as _]))
}
