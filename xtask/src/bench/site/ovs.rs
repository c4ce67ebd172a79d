//! Open vSwitch with its user-space datapath, which is the one that needs no module
//! of the kernel.

use std::fmt::Debug;

use anyhow::Result;
use vxplane_harness::SwitchDaemons;

use super::{Directory, Ground, Netns, Site, underlay};

/// What carries packets by packet sockets must not leave them to a device to finish.
const COMPLETE: &str = "tx off tso off gso off";

/// Both hosts with one container each.
pub(super) fn site(ground: &Ground<'_>) -> Result<Site> {
    let [a, b] = underlay::hosts(ground)?;
    let containers = [ground.netns("ca")?, ground.netns("cb")?];
    let mut running: Vec<Box<dyn Debug>> = Vec::new();
    for (host, own, other) in [(&a, 0, 1), (&b, 1, 0)] {
        let directory = Directory::of(host)?;
        let daemons = SwitchDaemons::start(host, directory.0.join("ovs"))?;
        host.offloads(underlay::DEVICE, COMPLETE)?;
        daemons.take_underlay(host, underlay::DEVICE, underlay::ADDRESSES[own], 24)?;
        daemons.vsctl("add-br br-int -- set bridge br-int datapath_type=netdev")?;
        daemons.vsctl(&format!(
            "add-port br-int vx0 -- set interface vx0 type=vxlan \
             options:remote_ip={} options:key=42 options:dst_port=4789",
            underlay::ADDRESSES[other]
        ))?;
        host.ip("link set br-int up")?;
        attach(ground, host, &containers[own], own)?;
        daemons.vsctl("add-port br-int c0")?;
        underlay::know(&containers[own], "eth0", underlay::CONTAINERS[other])?;
        running.push(Box::new(daemons) as _);
        running.push(Box::new(directory) as _);
    }
    let site = Site::between(ground, containers, underlay::CONTAINERS[1], [a, b]);
    Ok(site.running(running))
}

fn attach(ground: &Ground<'_>, host: &Netns, container: &Netns, own: usize) -> Result<()> {
    let mtu = ground.overlay_mtu();
    let address = underlay::CONTAINERS[own];
    container.join("eth0", host, "c0", mtu)?;
    container.offloads("eth0", COMPLETE)?;
    container.ip(&format!("link set eth0 address {}", underlay::mac(address)))?;
    container.address("eth0", address, 24)
}
