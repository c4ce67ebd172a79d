//! Two hosts with a cable between them.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use anyhow::Result;

use super::{Ground, Netns};
use crate::process;

/// The underlay device on both hosts.
pub(super) const DEVICE: &str = "underlay0";

/// The hosts' addresses on it.
pub(super) const ADDRESSES: [Ipv4Addr; 2] =
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];

/// The containers' addresses.
pub(super) const CONTAINERS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 99, 0, 2), Ipv4Addr::new(10, 99, 0, 3)];

/// What a NIC does not do for packets that an overlay has made, and a veth pair
/// would by not cutting them at all.
const UNCUT: &str = "tso off tx-udp-segmentation off \
                     tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off";

/// `02:42:` and the address, as Docker does, everywhere: to set neighbours
/// without asking.
pub(super) fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Both hosts, with static neighbours so that no variant pays for resolving.
pub(super) fn hosts(ground: &Ground<'_>) -> Result<[Netns; 2]> {
    let hosts = [ground.netns("a")?, ground.netns("b")?];
    let [a, b] = &hosts;
    let mtu = ground.setting.mtu;
    a.ip(&format!(
        "link add {DEVICE} mtu {mtu} address {} type veth peer {DEVICE} mtu {mtu} address {} netns {}",
        mac(ADDRESSES[0]),
        mac(ADDRESSES[1]),
        b.name()
    ))?;
    for (host, own, other) in [(a, 0, 1), (b, 1, 0)] {
        host.ip(&format!("address add {}/24 dev {DEVICE}", ADDRESSES[own]))?;
        host.ip(&format!("link set {DEVICE} up"))?;
        know(host, DEVICE, ADDRESSES[other])?;
        if ground.setting.nic_like {
            host.offloads(DEVICE, UNCUT)?;
            // With GRO a veth device receives by NAPI, as a NIC does.
            host.offloads(DEVICE, "gro on")?;
        }
        if ground.setting.two_processors {
            receive_on(host, own)?;
        }
    }
    Ok(hosts)
}

/// Has a processor take what the underlay brings, as if it were the host's own.
fn receive_on(host: &Netns, processor: usize) -> Result<()> {
    let file = format!("/sys/class/net/{DEVICE}/queues/rx-0/rps_cpus");
    // Only `ip netns exec` mounts the namespace's own `/sys`.
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host.name(), "sh", "-c"]);
    command.arg(format!("echo {:x} > {file}", 1 << processor));
    process::run(command.stdin(Stdio::null()))
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
