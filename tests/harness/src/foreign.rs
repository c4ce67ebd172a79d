//! A host with the kernel's own bridge and `vxlan` device: a foreign VTEP, and
//! what vxplane is measured against.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::{container::Container, host::Host, lab::Lab, names};

/// One network on a host, by the kernel's `vxlan` device.
#[derive(Debug)]
pub struct KernelVxlan<'host> {
    host: &'host Host,
    device: String,
    bridge: String,
    mtu: u32,
}

impl<'host> KernelVxlan<'host> {
    /// Makes the device `vx<vni>`, which floods to `peers` and learns from them,
    /// in the bridge `br<vni>`.
    pub fn new(
        lab: &Lab,
        host: &'host Host,
        vni: u32,
        port: u16,
        peers: &[Ipv4Addr],
    ) -> Result<Self> {
        Self::with_options(lab, host, vni, port, peers, "")
    }

    /// The same, with further options of `ip link add type vxlan`.
    pub fn with_options(
        lab: &Lab,
        host: &'host Host,
        vni: u32,
        port: u16,
        peers: &[Ipv4Addr],
        options: &str,
    ) -> Result<Self> {
        let network = Self {
            host,
            device: format!("vx{vni}"),
            bridge: format!("br{vni}"),
            mtu: lab.mtu() - 50,
        };
        let Self {
            device,
            bridge,
            mtu,
            ..
        } = &network;
        let netns = host.netns();
        netns.ip(&format!("link add {bridge} type bridge mcast_snooping 0"))?;
        netns.ip(&format!(
            "link add {device} mtu {mtu} type vxlan id {vni} local {} dev eth0 dstport {port} {options}",
            host.ip()
        ))?;
        netns.ip(&format!("link set {device} master {bridge} up"))?;
        netns.ip(&format!("link set {bridge} mtu {mtu} up"))?;
        for peer in peers {
            netns.run(&format!(
                "bridge fdb append 00:00:00:00:00:00 dev {device} dst {peer}"
            ))?;
        }
        Ok(network)
    }

    /// The `vxlan` device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The bridge.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// A container on the bridge, its `eth0` with this address.
    pub fn container(&self, lab: &Lab, name: &str, ip: Ipv4Addr, prefix: u8) -> Result<Container> {
        let container = lab.container(name)?;
        let port = format!("c{}", names::number());
        container
            .netns()
            .join("eth0", self.host.netns(), &port, self.mtu)?;
        self.host
            .netns()
            .ip(&format!("link set {port} master {}", self.bridge))?;
        container.netns().address("eth0", ip, prefix)?;
        Ok(container)
    }
}
