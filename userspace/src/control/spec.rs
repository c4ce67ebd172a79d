//! What callers ask for, and the checks that need no state.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use ipnetwork::{IpNetwork, Ipv4Network};
use sha2::{Digest, Sha256};
use vxplane_common::{
    abi::OVERHEAD_IPV4,
    types::{MacAddr, Vni},
};

use super::error::Invalid;
use crate::{
    identity::{PORT_LABEL, parse_port},
    model::{Limits, NamedPort},
};

/// The interface's name inside a container unless another is given.
pub const DEFAULT_IFNAME: &str = "eth0";
/// The namespace (tenant) of an endpoint unless another is given.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The longest interface name, in bytes (`IFNAMSIZ` less its final zero).
const IFNAME_MAX: usize = 15;
/// The longest network name, in bytes.
const NETWORK_NAME_MAX: usize = 63;
/// The longest name of anything else, in bytes.
const NAME_MAX: usize = 253;
/// The most labels of an endpoint.
pub(super) const LABELS_MAX: usize = 512;
/// The most bytes of an endpoint's labels, keys and values together; as much as
/// Kubernetes allows for annotations.
pub(super) const LABELS_BYTES_MAX: usize = 256 * 1024;
/// How much of a wrong text is quoted back, in characters.
const EXCERPT_MAX: usize = 80;
/// The smallest MTU IPv4 works over (RFC 791).
const MTU_MIN: u32 = 68;
/// The largest MTU an underlay of 65 535 bytes leaves.
const MTU_MAX: u32 = 65_535 - OVERHEAD_IPV4;

/// A network to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// Its subnet; a free /24 is chosen if absent.
    pub subnet: Option<Ipv4Network>,
    /// Its gateway; the first address of the subnet if absent.
    pub gateway: Option<Ipv4Addr>,
    /// Its VNI; derived from the name if absent.
    pub vni: Option<Vni>,
    /// Bytes of an inner IP packet; follows the underlay if absent.
    pub mtu: Option<u32>,
    /// Never to be connected to anything outside.
    pub internal: bool,
}

impl NetworkSpec {
    /// Refuses what no state could make right.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        check_name("a network's name", &self.name, NETWORK_NAME_MAX)?;
        if let Some(subnet) = self.subnet {
            check_subnet(subnet)?;
            if let Some(gateway) = self.gateway {
                check_gateway(gateway, subnet)?;
            }
        }
        match self.mtu {
            Some(mtu) if !(MTU_MIN..=MTU_MAX).contains(&mtu) => Err(Invalid::Mtu(mtu.into())),
            _ => Ok(()),
        }
    }
}

/// Where a network namespace is, as callers say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsSource {
    /// A path to an nsfs file: a bind mount or `/proc/<pid>/ns/net`.
    Path(PathBuf),
    /// That of this process, as the daemon numbers it.
    Pid(u32),
}

impl NetnsSource {
    /// The path it is found at.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        }
    }
}

/// One container interface to be attached to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachSpec {
    /// The network's name.
    pub network: String,
    /// The container's network namespace.
    pub netns: NetnsSource,
    /// The container; `netns-<inode>` if absent.
    pub container_id: Option<String>,
    /// The container's name, for people.
    pub name: Option<String>,
    /// The interface inside the container; [`DEFAULT_IFNAME`] if absent.
    pub ifname: Option<String>,
    /// Its address; the one it had before or the lowest free one if absent.
    pub ip: Option<Ipv4Addr>,
    /// The prefix length that was given with the address; it must be the network's.
    pub prefix: Option<u8>,
    /// Its MAC address; derived from the address if absent.
    pub mac: Option<MacAddr>,
    /// Its tenant; [`DEFAULT_NAMESPACE`] if absent.
    pub namespace: Option<String>,
    /// Its labels; none if absent. Where the endpoint exists, absent means
    /// unchanged, here as for `name` and `namespace`.
    pub labels: Option<BTreeMap<String, String>>,
    /// Ports that have names although no label says so, which come before these;
    /// likewise.
    pub exposed: Option<BTreeSet<NamedPort>>,
    /// How much it may do; no limits if absent, likewise.
    pub limits: Option<Limits>,
}

impl AttachSpec {
    /// Attaches `netns` to `network`, everything else as chosen by the daemon.
    pub fn new(network: impl Into<String>, netns: NetnsSource) -> Self {
        Self {
            network: network.into(),
            netns,
            container_id: None,
            name: None,
            ifname: None,
            ip: None,
            prefix: None,
            mac: None,
            namespace: None,
            labels: None,
            exposed: None,
            limits: None,
        }
    }

    /// The interface's name, given or by default.
    pub(super) fn ifname(&self) -> &str {
        self.ifname.as_deref().unwrap_or(DEFAULT_IFNAME)
    }

    /// Refuses what no state could make right.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if let Some(id) = &self.container_id {
            check_name("a container's ID", id, NAME_MAX)?;
        }
        check_ifname(self.ifname())?;
        if let Some(mac) = self.mac
            && (mac.is_group() || mac == MacAddr::default())
        {
            return Err(Invalid::MacUnusable(mac));
        }
        self.labels.as_ref().map_or(Ok(()), check_ports)?;
        self.changes().check()
    }

    /// What it says about an endpoint that can change while it is attached.
    pub(super) fn changes(&self) -> EndpointChange {
        EndpointChange {
            container_id: None,
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            labels: self.labels.clone(),
            exposed: self.exposed.clone(),
            limits: self.limits,
        }
    }
}

/// What can change about an endpoint while it is attached; absent is unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointChange {
    /// The container to show, where the endpoint was attached for another one
    /// whose network namespace it shares; the endpoint's ID stays.
    pub container_id: Option<String>,
    /// The container's name.
    pub name: Option<String>,
    /// Its tenant.
    pub namespace: Option<String>,
    /// All its labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// All ports that have names although no label says so.
    pub exposed: Option<BTreeSet<NamedPort>>,
    /// All its limits.
    pub limits: Option<Limits>,
}

impl EndpointChange {
    /// Refuses what no state could make right.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if let Some(id) = &self.container_id {
            check_name("a container's ID", id, NAME_MAX)?;
        }
        if let Some(name) = &self.name {
            check_name("a container's name", name, NAME_MAX)?;
        }
        if let Some(namespace) = &self.namespace {
            check_namespace_name(namespace)?;
        }
        self.limits.unwrap_or_default().check()?;
        self.labels.as_ref().map_or(Ok(()), check_labels)
    }
}

/// Refuses a namespace's name that no endpoint can have.
pub(super) fn check_namespace_name(name: &str) -> Result<(), Invalid> {
    check_name("a namespace", name, NAME_MAX)
}

/// Refuses labels that could not be kept, or selected by anyone.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Invalid> {
    let (count, bytes) = labels.iter().fold((0, 0), |(count, bytes), (key, value)| {
        (count + 1, bytes + key.len() + value.len())
    });
    if count > LABELS_MAX || bytes > LABELS_BYTES_MAX {
        return Err(Invalid::Labels { count, bytes });
    }
    let odd =
        |key: &&String| key.is_empty() || key.contains('=') || key.chars().any(char::is_control);
    match labels.keys().find(odd) {
        None => Ok(()),
        Some(key) => Err(Invalid::Label(excerpt(key))),
    }
}

/// Refuses labels that are to name ports and do not. What earlier versions took is
/// no endpoint's end: such labels mean nothing.
pub(super) fn check_ports(labels: &BTreeMap<String, String>) -> Result<(), Invalid> {
    for (key, value) in labels {
        let Some(name) = key.strip_prefix(PORT_LABEL) else {
            continue;
        };
        if let Err(reason) = parse_port(name, value) {
            let label = excerpt(&format!("{key}={value}"));
            return Err(Invalid::Port { label, reason });
        }
    }
    Ok(())
}

/// The ID of the endpoint that is `ifname` of container `container_id`.
pub fn endpoint_id(container_id: &str, ifname: &str) -> String {
    let digest = Sha256::digest(format!("{container_id}/{ifname}").as_bytes());
    let number = digest[..6]
        .iter()
        .fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    format!("{number:012x}")
}

/// The name of the network made for a bare subnet.
pub(super) fn name_of_subnet(subnet: Ipv4Network) -> String {
    format!("cidr-{}-{}", subnet.network(), subnet.prefix())
}

/// A subnet as users write it, host bits refused with what they should be.
pub fn parse_subnet(text: &str) -> Result<Ipv4Network, Invalid> {
    let (subnet, host) = parse_cidr(text)?;
    match host {
        None => Ok(subnet),
        Some(ip) => Err(Invalid::HostBits {
            given: Ipv4Network::new(ip, subnet.prefix()).unwrap_or(subnet),
            meant: subnet,
        }),
    }
}

/// An interface address as users write it (`10.0.6.5/24`): the network it is
/// in, and the address itself where it is not the network's own.
pub fn parse_cidr(text: &str) -> Result<(Ipv4Network, Option<Ipv4Addr>), Invalid> {
    if !text.contains('/') {
        return Err(Invalid::Subnet(excerpt(text)));
    }
    let given = match text.parse::<IpNetwork>() {
        Ok(IpNetwork::V4(given)) => given,
        Ok(IpNetwork::V6(_)) => return Err(Invalid::Ipv6(excerpt(text))),
        Err(_) => return Err(Invalid::Subnet(excerpt(text))),
    };
    let subnet = Ipv4Network::new(given.network(), given.prefix())
        .map_err(|_| Invalid::Subnet(excerpt(text)))?;
    Ok((subnet, (given.ip() != subnet.network()).then(|| given.ip())))
}

/// An IPv4 address as users write it.
pub fn parse_ipv4(text: &str) -> Result<Ipv4Addr, Invalid> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => Ok(ip),
        Ok(IpAddr::V6(_)) => Err(Invalid::Ipv6(excerpt(text))),
        Err(_) => Err(Invalid::Address(excerpt(text))),
    }
}

/// An IPv4 address as users write it, with a prefix length or without.
pub fn parse_ipv4_in(text: &str) -> Result<(Ipv4Addr, Option<u8>), Invalid> {
    match text.parse::<Ipv4Network>() {
        Ok(network) if text.contains('/') => Ok((network.ip(), Some(network.prefix()))),
        _ => Ok((parse_ipv4(text)?, None)),
    }
}

/// An IPv4 address as users write it, with a port or without.
pub fn parse_target(text: &str) -> Result<(Ipv4Addr, Option<u16>), Invalid> {
    match text.split_once(':') {
        // In an IPv6 address there are more.
        Some((address, port)) if !port.contains(':') => {
            let port = port.parse().ok().filter(|port| *port > 0);
            Ok((parse_ipv4(address)?, Some(port.ok_or(Invalid::TracePort)?)))
        }
        _ => {
            let without_port = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            Ok((
                parse_ipv4(without_port.map_or(text, |(address, _)| address))?,
                None,
            ))
        }
    }
}

/// A MAC address as users write it.
pub fn parse_mac(text: &str) -> Result<MacAddr, Invalid> {
    crate::model::parse_mac(text).ok_or_else(|| Invalid::Mac(excerpt(text)))
}

/// A VNI as users write it.
pub fn parse_vni(number: u64) -> Result<Vni, Invalid> {
    u32::try_from(number)
        .ok()
        .and_then(Vni::new)
        .ok_or(Invalid::Vni(number))
}

/// Refuses addresses that cannot be another host's VTEP.
pub(super) fn check_peer(ip: Ipv4Addr, own: Option<Ipv4Addr>) -> Result<(), Invalid> {
    let what = if ip.is_unspecified() || ip.octets()[0] == 0 {
        "no host's address"
    } else if ip.is_loopback() {
        "a loopback address"
    } else if ip.is_multicast() {
        "a multicast address"
    } else if ip.octets()[0] >= 240 {
        "a broadcast or reserved address"
    } else if own == Some(ip) {
        "this host's own VTEP address"
    } else {
        return Ok(());
    };
    Err(Invalid::Peer { ip, what })
}

/// Refuses gateways that no endpoint could reach.
pub(super) fn check_gateway(gateway: Ipv4Addr, subnet: Ipv4Network) -> Result<(), Invalid> {
    let inside = subnet.contains(gateway);
    if inside && gateway != subnet.network() && gateway != subnet.broadcast() {
        return Ok(());
    }
    Err(Invalid::Gateway { gateway, subnet })
}

fn check_subnet(subnet: Ipv4Network) -> Result<(), Invalid> {
    if subnet.prefix() > 30 {
        return Err(Invalid::SubnetTooSmall(subnet));
    }
    if subnet.prefix() < 8 {
        return Err(Invalid::SubnetTooLarge(subnet));
    }
    // With 8 bits or more of prefix, the first octet says it all.
    match subnet.network().octets()[0] {
        0 => Err(Invalid::SubnetReserved(subnet, "0.0.0.0/8")),
        127 => Err(Invalid::SubnetReserved(subnet, "127.0.0.0/8")),
        224..=239 => Err(Invalid::SubnetReserved(subnet, "224.0.0.0/4")),
        240..=255 => Err(Invalid::SubnetReserved(subnet, "240.0.0.0/4")),
        _ => Ok(()),
    }
}

fn check_name(what: &'static str, text: &str, max: usize) -> Result<(), Invalid> {
    let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well && text.len() <= max && !text.contains(odd) {
        return Ok(());
    }
    Err(Invalid::Name {
        what,
        text: excerpt(text),
        max,
    })
}

/// Refuses names the kernel refuses (`dev_valid_name`), reads as a pattern
/// (`%d`), or that name something else under `/proc/sys/net`.
fn check_ifname(text: &str) -> Result<(), Invalid> {
    let odd = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
    let length = (1..=IFNAME_MAX).contains(&text.len());
    let reserved = matches!(text, "." | ".." | "lo" | "all" | "default");
    if length && !reserved && !text.contains(odd) {
        return Ok(());
    }
    Err(Invalid::Ifname(excerpt(text)))
}

/// As much of what was given as a message needs.
pub(super) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_a_port_or_none() {
        let address = Ipv4Addr::new(10, 50, 0, 1);
        assert_eq!(parse_target("10.50.0.1"), Ok((address, None)));
        assert_eq!(parse_target("10.50.0.1:80"), Ok((address, Some(80))));
        for text in [
            "",
            "web:80",
            "10.50.0.1:http",
            "10.50.0.1:65536",
            "10.50.0.1:0",
        ] {
            assert!(parse_target(text).is_err(), "{text}");
        }
        for text in ["fd00::1", "[fd00::1]:80"] {
            let error = parse_target(text).unwrap_err();
            assert!(matches!(error, Invalid::Ipv6(_)), "{text}: {error}");
        }
    }

    #[test]
    fn host_bits_are_refused_with_the_subnet_that_was_meant() {
        let error = parse_subnet("10.50.0.7/24").unwrap_err();
        assert!(error.to_string().contains("10.50.0.0/24"), "{error}");
        let (subnet, host) = parse_cidr("10.0.6.5/24").unwrap();
        assert_eq!(subnet.to_string(), "10.0.6.0/24");
        assert_eq!(host, Some(Ipv4Addr::new(10, 0, 6, 5)));
        assert_eq!(parse_cidr("10.0.6.0/24").unwrap().1, None);
    }

    #[test]
    fn texts_that_are_no_subnet_are_refused() {
        for text in [
            "",
            "10.50.0.0",
            "10.50.0.0/33",
            "10.50.0/24",
            "x/24",
            "10.50.0.0/-1",
        ] {
            assert_eq!(
                parse_subnet(text),
                Err(Invalid::Subnet(excerpt(text))),
                "{text}"
            );
        }
        assert_eq!(
            parse_subnet("fd00::/64"),
            Err(Invalid::Ipv6("fd00::/64".to_owned()))
        );
    }

    #[test]
    fn subnets_that_no_network_can_have_are_refused() {
        for (text, fragment) in [
            ("10.0.0.0/31", "no room"),
            ("10.0.0.0/32", "no room"),
            ("10.0.0.0/7", "too large"),
            ("0.0.0.0/8", "0.0.0.0/8"),
            ("127.1.0.0/16", "127.0.0.0/8"),
            ("239.1.0.0/16", "224.0.0.0/4"),
            ("255.255.255.0/24", "240.0.0.0/4"),
        ] {
            let Ok((subnet, _)) = parse_cidr(text) else {
                panic!("{text} does not parse");
            };
            let error = check_subnet(subnet).unwrap_err();
            assert!(error.to_string().contains(fragment), "{text}: {error}");
        }
    }

    #[test]
    fn names_are_what_paths_shells_and_metrics_take() {
        for good in ["a", "0", "Blue_net.1-x", &"n".repeat(63)] {
            assert_eq!(check_name("it", good, 63), Ok(()), "{good}");
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", &"n".repeat(64)] {
            assert!(check_name("it", bad, 63).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn long_texts_are_not_quoted_whole() {
        let error = check_name("it", &"ä".repeat(10_000), 63).unwrap_err();
        assert!(error.to_string().len() < 400, "{error}");
    }

    #[test]
    fn interface_names_are_what_the_kernel_takes() {
        for good in ["eth0", "e", "exactly15bytes-", "vx.100"] {
            assert_eq!(check_ifname(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "lo",
            ".",
            "..",
            "a/b",
            "a b",
            "a:0",
            "eth%d",
            "sixteen-bytes-xx",
            "all",
        ] {
            assert!(check_ifname(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn peers_are_unicast_addresses_of_other_hosts() {
        let own = Some(Ipv4Addr::new(192, 0, 2, 1));
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
        ] {
            assert!(check_peer(bad.parse().unwrap(), own).is_err(), "{bad}");
        }
        assert_eq!(check_peer(Ipv4Addr::new(192, 0, 2, 2), own), Ok(()));
    }

    #[test]
    fn mac_addresses_parse_in_both_common_spellings() {
        let mac = MacAddr([0x02, 0x42, 0x0a, 0x32, 0x00, 0xff]);
        for text in ["02:42:0a:32:00:ff", "02-42-0A-32-00-FF"] {
            assert_eq!(parse_mac(text), Ok(mac), "{text}");
        }
        for text in [
            "",
            "02:42:0a:32:00",
            "02:42:0a:32:00:ff:00",
            "2:42:0a:32:0:ff",
            "+2:42:0a:32:00:ff",
        ] {
            assert!(parse_mac(text).is_err(), "{text}");
        }
    }

    #[test]
    fn endpoint_ids_tell_container_and_interface_apart() {
        let id = endpoint_id("c1", "eth0");
        assert_eq!(id.len(), 12);
        assert_ne!(id, endpoint_id("c1", "eth1"));
        assert_ne!(id, endpoint_id("c2", "eth0"));
    }
}
