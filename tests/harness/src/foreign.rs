//! A host with the kernel's own bridge and `vxlan` device: a foreign VTEP, and
//! what vxplane is measured against.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::{container::Container, host::Host, lab::Lab};

/// A kernel bridge with a `vxlan` port, for one network on one host.
#[derive(Debug)]
pub struct KernelVxlan<'host> {
    host: &'host Host,
    containers: std::cell::Cell<u32>,
    mtu: u32,
}

impl<'host> KernelVxlan<'host> {
    /// Makes the bridge `br0` and the device `vx0` on `host`, which floods to
    /// `peers` and learns from them.
    pub fn new(
        lab: &Lab,
        host: &'host Host,
        vni: u32,
        port: u16,
        peers: &[Ipv4Addr],
    ) -> Result<Self> {
        let mtu = lab.mtu() - 50;
        let netns = host.netns();
        netns.ip("link add br0 type bridge mcast_snooping 0")?;
        netns.ip(&format!(
            "link add vx0 mtu {mtu} type vxlan id {vni} local {} dev eth0 dstport {port}",
            host.ip()
        ))?;
        netns.ip("link set vx0 master br0 up")?;
        netns.ip(&format!("link set br0 mtu {mtu} up"))?;
        for peer in peers {
            netns.run(&format!(
                "bridge fdb append 00:00:00:00:00:00 dev vx0 dst {peer}"
            ))?;
        }
        Ok(Self {
            host,
            containers: std::cell::Cell::new(0),
            mtu,
        })
    }

    /// A container on the bridge, its `eth0` with this address.
    pub fn container(&self, lab: &Lab, name: &str, ip: Ipv4Addr, prefix: u8) -> Result<Container> {
        let container = lab.container(name)?;
        let port = format!("c{}", self.containers.replace(self.containers.get() + 1));
        container
            .netns()
            .join("eth0", self.host.netns(), &port, self.mtu)?;
        self.host
            .netns()
            .ip(&format!("link set {port} master br0"))?;
        container.netns().address("eth0", ip, prefix)?;
        Ok(container)
    }
}
