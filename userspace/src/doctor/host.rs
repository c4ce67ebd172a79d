//! This host: what we may do, where pins live, the underlay and its port.

use std::{fs, path::Path};

use vxplane_common::abi::OVERHEAD_IPV4;

use super::Check;
use crate::{
    mounts,
    netlink::{Netlink, find_port_owner},
    reconcile::{Options, Underlay, describe, observe::FALLBACK},
    underlay::Surroundings,
};

/// `CAP_…` of `linux/capability.h` that the daemon cannot do without.
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// MTU containers have on Docker's own networks.
const USUAL_MTU: u32 = 1500;
/// The least any IPv6 link may have; below, things break that never expect it.
const LEAST_MTU: u32 = 1280;

/// Whether we may change what the daemon changes.
pub(super) fn privileges() -> Check {
    const NAME: &str = "privileges";
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    if missing.is_empty() {
        return Check::ok(NAME, "the capabilities needed are there");
    }
    Check::fail(
        NAME,
        format!("missing: {}", missing.join(", ")),
        "run it as root; the daemon needs that, too",
    )
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default();
    CAPABILITIES
        .into_iter()
        .filter(|(bit, _)| effective >> bit & 1 == 0)
        .map(|(_, name)| name)
        .collect()
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
    fn capabilities_are_read_from_the_status_of_a_process() {
        let all = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        assert!(missing_capabilities(all).is_empty());
        let network_only = "CapEff:\t0000000000001000\n";
        assert_eq!(missing_capabilities(network_only), ["CAP_SYS_ADMIN"]);
        assert_eq!(missing_capabilities("").len(), 2);
    }

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
