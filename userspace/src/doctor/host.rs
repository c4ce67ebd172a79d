//! This host: what we may do, where pins live, the underlay and its port.

use std::path::Path;

use vxplane_common::abi::OVERHEAD_IPV4;

use super::Check;
use crate::{
    mounts,
    netlink::{Netlink, find_port_owner},
    privileges,
    reconcile::{Options, Underlay, describe, observe::FALLBACK},
    underlay::Surroundings,
};

/// MTU containers have on Docker's own networks.
const USUAL_MTU: u32 = 1500;
/// The least any IPv6 link may have; below, things break that never expect it.
const LEAST_MTU: u32 = 1280;

/// Whether we may change what the daemon changes.
pub(super) fn capabilities() -> Check {
    const NAME: &str = "privileges";
    match privileges::check() {
        Ok(()) => Check::ok(NAME, "the capabilities needed are there"),
        Err(error) => Check::fail(NAME, describe(&error), "run it as root"),
    }
}

/// Whether the kernel describes its types.
pub(super) fn btf() -> Check {
    const NAME: &str = "btf";
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Check::ok(NAME, "the kernel describes its types (BTF)");
    }
    Check::warn(
        NAME,
        "the kernel has no BTF, so tools like bpftool show less",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF",
    )
}

/// Whether there is a place for pins.
pub(super) fn bpffs(directory: &Path) -> Check {
    const NAME: &str = "bpffs";
    let shown = directory.display();
    if mounts::is_on_bpffs(directory) {
        return Check::ok(NAME, format!("{shown} is on a bpffs"));
    }
    if directory.starts_with("/sys/fs/bpf") && Path::new("/sys/fs/bpf").exists() {
        return Check::ok(NAME, "no bpffs is mounted yet; the daemon mounts one");
    }
    Check::fail(
        NAME,
        format!("{shown} is not on a bpffs"),
        "choose a directory below /sys/fs/bpf with --bpffs, or mount a bpffs there",
    )
}

/// The underlay, its MTU, and the VXLAN port.
pub(super) async fn network(options: &Options) -> Vec<Check> {
    let netlink = match Netlink::connect() {
        Ok(netlink) => netlink,
        Err(error) => {
            let advice = "rtnetlink should always be there; is a sandbox in the way?";
            return vec![Check::fail("underlay", describe(&error), advice)];
        }
    };
    let mut checks = underlay(options, &netlink).await;
    checks.push(port(options.port, &netlink).await);
    checks
}

async fn underlay(options: &Options, netlink: &Netlink) -> Vec<Check> {
    const NAME: &str = "underlay";
    let around = match Surroundings::observe(netlink).await {
        Ok(around) => around,
        Err(error) => return vec![Check::fail(NAME, describe(&error), "run it as root")],
    };
    match around.underlay(&options.underlay) {
        Ok(underlay) => {
            let Underlay { device, vtep, .. } = &underlay;
            let found = format!("VTEP address {vtep} on {device}");
            vec![Check::ok(NAME, found), mtu(&underlay)]
        }
        Err(error) => {
            let advice = "name the device or address with --underlay DEV|ADDR; until then, \
                          only containers of this host reach each other";
            vec![Check::warn(NAME, describe(&error), advice)]
        }
    }
}

fn mtu(underlay: &Underlay) -> Check {
    const NAME: &str = "mtu";
    let overlay = underlay.mtu.saturating_sub(OVERHEAD_IPV4);
    let found = format!(
        "{} has an MTU of {}, so containers get {overlay}",
        underlay.device, underlay.mtu
    );
    if overlay < LEAST_MTU {
        let advice = format!(
            "raise the MTU of {} if the network takes it",
            underlay.device
        );
        return Check::warn(NAME, found, advice);
    }
    let room = match overlay {
        USUAL_MTU.. => String::new(),
        _ => format!(
            " (for {USUAL_MTU}, it would take {})",
            USUAL_MTU + OVERHEAD_IPV4
        ),
    };
    Check::ok(NAME, found + &room)
}

async fn port(port: u16, netlink: &Netlink) -> Check {
    const NAME: &str = "port";
    let ours = match netlink.link_by_name(FALLBACK).await {
        Ok(link) => link.is_some_and(|link| link.up),
        Err(_) => false,
    };
    if ours {
        return Check::ok(NAME, format!("UDP {port} is served by {FALLBACK}"));
    }
    match find_port_owner(netlink, port, FALLBACK).await {
        Ok(None) => Check::ok(NAME, format!("UDP {port} is free")),
        Ok(Some(owner)) => Check::fail(
            NAME,
            format!("UDP {port} is in use by {owner}"),
            "stop that, or choose another port with --port (the same on all hosts)",
        ),
        Err(error) => Check::warn(NAME, describe(&error), "run it as root"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::doctor::Status;

    #[test]
    fn the_mtu_that_is_left_is_told() {
        let underlay = |mtu| Underlay {
            device: "eth0".to_owned(),
            ifindex: 2,
            vtep: Ipv4Addr::LOCALHOST,
            mtu,
        };
        assert!(mtu(&underlay(1500)).detail.contains("it would take 1550"));
        assert!(mtu(&underlay(9000)).detail.ends_with("containers get 8950"));
        assert_eq!(mtu(&underlay(1300)).status, Status::Warn);
    }
}
