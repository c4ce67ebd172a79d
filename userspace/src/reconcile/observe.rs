//! What there is: everything [`plan`](super::plan) decides upon, as one value.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::Path,
};

use futures_util::{StreamExt, stream};
use imbl::OrdMap;
use ipnetwork::Ipv4Network;
use vxplane_common::{abi::Config, types::MacAddr};

use super::{Underlay, describe, tables::Tables};
use crate::{
    datapath::{self, Attached, Datapath, Device, Program, Takeover, TcMode},
    model::{Desired, Endpoint},
    netlink::{self, Filter, Link, LinkKind, Netlink, Netns, NetnsError, Shaper},
    underlay::Surroundings,
};

/// The `vxlan external` device of the slow path.
pub const FALLBACK: &str = "vxplane0";
/// What the names of host veths begin with, before the endpoint's ID.
const HOST_VETH: &str = "vxp";

/// Namespaces that are looked into at the same time. Each takes two descriptors
/// for as long, of which there may be no more than a thousand.
const AT_ONCE: usize = 32;

/// The device of the slow path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Not there.
    Absent,
    /// A device of its name that is not `vxlan external`: not ours.
    Foreign,
    /// There.
    Present {
        /// Its index.
        index: u32,
        /// Its UDP port.
        port: u16,
        /// Whether it has the Group Policy extension.
        gbp: bool,
        /// Its MTU in bytes.
        mtu: u32,
        /// Administratively up.
        up: bool,
    },
}

/// The host's end of an endpoint's veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostVeth {
    /// Its index.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
}

/// The container's end of an endpoint's veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index, in the container.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Its IPv4 addresses.
    pub addresses: BTreeSet<Ipv4Network>,
    /// Our bound on what it sends.
    pub shaper: Option<Shaper>,
}

/// The network namespace of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    /// Not there (any more).
    Gone,
    /// There, but it cannot be worked in, and why.
    Unusable(String),
    /// There.
    Present {
        /// Which namespace it is, by inode.
        netns: u64,
        /// The other end of the host veth, if it is in there.
        interface: Option<Interface>,
        /// Whether another interface has the name ours should have.
        name_taken: bool,
    },
}

/// How the underlay reaches a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The device towards it.
    pub ifindex: u32,
    /// Whether it is on the link of that device, not behind a gateway.
    pub on_link: bool,
}

/// The kernel's state, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The underlay.
    pub underlay: Option<Underlay>,
    /// First entropy port and how many there are.
    pub source_ports: (u16, u16),
    /// The way to each peer there is a route to.
    pub routes: OrdMap<Ipv4Addr, Way>,
    /// The device of the slow path.
    pub fallback: Fallback,
    /// Host veths by endpoint ID.
    pub veths: BTreeMap<String, HostVeth>,
    /// Namespaces of the desired endpoints, by ID.
    pub containers: BTreeMap<String, Container>,
    /// What the programs were loaded with by this process.
    pub config: Option<Config>,
    /// How programs stand at devices; what is not there is left out.
    pub attached: BTreeMap<(Program, u32), Attached>,
    /// Where it cannot be told how a program stands, and why.
    pub unclear: BTreeMap<(Program, u32), String>,
    /// Devices with a filter of ours for the underlay that are not the underlay
    /// (any more).
    pub strays: Vec<Device>,
    /// Whether somebody removed what is pinned besides links.
    pub unpinned: bool,
    /// Pinned links: program name and device index.
    pub pins: BTreeSet<(&'static str, u32)>,
    /// How TC programs are attached here.
    pub tc: TcMode,
    /// The maps, once they are loaded.
    pub tables: Option<Tables>,
    /// How far these maps have replaced those of an earlier version.
    pub takeover: Takeover,
    /// Whether the XDP guard is of an earlier load, or it is not known.
    pub guard_outdated: bool,
}

/// Why the kernel's state could not be observed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// rtnetlink failed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The datapath failed.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
}

/// The name of the host veth of the endpoint with this ID.
pub fn host_veth(id: &str) -> String {
    format!("{HOST_VETH}{id}")
}

/// The endpoint whose host veth has this name.
fn endpoint_of(name: &str) -> Option<&str> {
    let id = name.strip_prefix(HOST_VETH)?;
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (id.len() == 12 && id.bytes().all(is_hex)).then_some(id)
}

/// The host veths among `links`, with the whole links for finding their peers.
pub(super) fn host_veths(links: &[Link]) -> BTreeMap<String, &Link> {
    links
        .iter()
        .filter(|link| link.kind == LinkKind::Veth)
        .filter_map(|link| Some((endpoint_of(&link.name)?.to_owned(), link)))
        .collect()
}

/// The device of the slow path among `links`.
pub(super) fn fallback(links: &[Link]) -> Fallback {
    match links.iter().find(|link| link.name == FALLBACK) {
        None => Fallback::Absent,
        Some(link) => match link.kind {
            LinkKind::Vxlan {
                port,
                external: true,
                gbp,
            } => Fallback::Present {
                index: link.index,
                port,
                gbp,
                mtu: link.mtu,
                up: link.up,
            },
            _ => Fallback::Foreign,
        },
    }
}

/// First entropy port and how many there are, as the kernel's own tunnels take
/// them.
pub(super) fn source_ports() -> (u16, u16) {
    const DEFAULT: (u16, u16) = (32768, 60999);
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ports = range.split_ascii_whitespace().map(str::parse);
    let (min, max) = match (ports.next(), ports.next()) {
        (Some(Ok(min)), Some(Ok(max))) if min <= max => (min, max),
        _ => DEFAULT,
    };
    (min, (max - min).max(1))
}

/// Enters the namespace of each endpoint and looks for its interface, except
/// where that is `known`.
pub(super) async fn containers(
    netlink: &Netlink,
    desired: &Desired,
    veths: &BTreeMap<String, &Link>,
    known: BTreeMap<String, Container>,
) -> BTreeMap<String, Container> {
    let own = netlink::inode(Path::new("/proc/thread-self/ns/net")).ok();
    let mut looks = Vec::new();
    for (id, endpoint) in &desired.endpoints {
        if !known.contains_key(id) {
            let veth = veths.get(id).copied();
            looks.push(async move { (id.clone(), container(netlink, endpoint, veth, own).await) });
        }
    }
    let found: Vec<_> = stream::iter(looks)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    known.into_iter().chain(found).collect()
}

async fn container(
    netlink: &Netlink,
    endpoint: &Endpoint,
    veth: Option<&Link>,
    own: Option<u64>,
) -> Container {
    let netns = match Netns::open(&endpoint.netns.path) {
        Ok(netns) => netns,
        Err(NetnsError::Gone { .. }) => return Container::Gone,
        Err(error) => return Container::Unusable(describe(&error)),
    };
    let is_process = endpoint.netns.path.starts_with("/proc");
    if is_process && netns.inode() != endpoint.netns.inode {
        return Container::Gone;
    }
    if Some(netns.inode()) == own {
        let reason = "it is in the daemon's own network namespace, which cannot be an endpoint";
        return Container::Unusable(reason.to_owned());
    }
    look_inside(netlink, &netns, endpoint, veth)
        .await
        .unwrap_or_else(|error| Container::Unusable(describe(&error)))
}

async fn look_inside(
    netlink: &Netlink,
    netns: &Netns,
    endpoint: &Endpoint,
    veth: Option<&Link>,
) -> Result<Container, LookError> {
    let inside = netns.connect().await?;
    let links = inside.links().await?;
    // An index alone says nothing: it counts per namespace.
    let id = match veth {
        Some(_) => netlink.netns_id(netns).await?,
        None => None,
    };
    let peer = veth.filter(|veth| id.is_some() && veth.peer_netns == id);
    let peer = peer.and_then(|veth| links.iter().find(|link| veth.peer == Some(link.index)));
    let name_taken = links
        .iter()
        .any(|link| link.name == endpoint.ifname && Some(link.index) != peer.map(|p| p.index));
    let interface = match peer {
        None => None,
        Some(link) => Some(Interface {
            index: link.index,
            name: link.name.clone(),
            mac: link.mac,
            mtu: link.mtu,
            up: link.up,
            addresses: inside
                .addresses()
                .await?
                .iter()
                .filter(|address| address.link == link.index)
                .map(|address| address.network)
                .collect(),
            shaper: if link.shaped {
                inside.shaper(link.index).await?
            } else {
                None
            },
        }),
    };
    Ok(Container::Present {
        netns: netns.inode(),
        interface,
        name_taken,
    })
}

/// Why a namespace could not be looked into.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}

/// How programs stand at devices.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// As [`Observed::attached`].
    pub(super) attached: BTreeMap<(Program, u32), Attached>,
    /// As [`Observed::unclear`].
    pub(super) unclear: BTreeMap<(Program, u32), String>,
}

/// How the programs stand at the devices they belong to. Where one cannot be
/// asked, that is a matter of that device alone.
pub(super) async fn attached(
    netlink: &Netlink,
    datapath: &Datapath,
    tc: TcMode,
    devices: &[(Program, Device)],
) -> Standing {
    let mut standing = Standing::default();
    for (program, device) in devices {
        let at = (*program, device.index);
        match stands(netlink, datapath, tc, *program, device).await {
            Ok(Attached::No) => {}
            Ok(stands) => drop(standing.attached.insert(at, stands)),
            Err(error) => drop(standing.unclear.insert(at, describe(&error))),
        }
    }
    standing
}

async fn stands(
    netlink: &Netlink,
    datapath: &Datapath,
    tc: TcMode,
    program: Program,
    device: &Device,
) -> Result<Attached, ObserveError> {
    Ok(match tc {
        TcMode::Tcx => datapath.attached_by_link(program, device)?,
        TcMode::Clsact => {
            let filters: Vec<Filter> = netlink.ingress_filters(device.index).await?;
            datapath.attached_by_filter(program, &filters)?
        }
    })
}

/// The devices that were the underlay before, as far as our filter is still
/// there.
pub(super) async fn strays(
    netlink: &Netlink,
    datapath: &Datapath,
    links: &[Link],
    underlay: &Underlay,
) -> Result<Vec<Device>, ObserveError> {
    let with_filters = netlink.clsact_devices().await?;
    let mut strays = Vec::new();
    for link in links {
        let device = Device {
            index: link.index,
            name: link.name.clone(),
        };
        if link.index == underlay.ifindex || !with_filters.contains(&link.index) {
            continue;
        }
        let (tc, program) = (TcMode::Clsact, Program::FromUnderlay);
        if stands(netlink, datapath, tc, program, &device).await? != Attached::No {
            strays.push(device);
        }
    }
    Ok(strays)
}

/// The devices programs belong to, whether they are there yet or not.
pub(super) fn devices(
    around: &Surroundings,
    underlay: Option<&Underlay>,
) -> Vec<(Program, Device)> {
    let device = |index: u32, name: &str| Device {
        index,
        name: name.to_owned(),
    };
    let mut devices = Vec::new();
    for link in &around.links {
        if link.kind == LinkKind::Veth && endpoint_of(&link.name).is_some() {
            devices.push((Program::FromContainer, device(link.index, &link.name)));
        } else if link.name == FALLBACK && fallback(std::slice::from_ref(link)) != Fallback::Foreign
        {
            devices.push((Program::FromFallback, device(link.index, &link.name)));
        }
    }
    if let Some(underlay) = underlay {
        let on_underlay = device(underlay.ifindex, &underlay.device);
        devices.push((Program::FromUnderlay, on_underlay));
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_veths_are_known_by_their_names() {
        assert_eq!(
            endpoint_of(&host_veth("0123456789ab")),
            Some("0123456789ab")
        );
        assert_eq!(endpoint_of("vxp0123456789a"), None);
        assert_eq!(endpoint_of("vxp0123456789AB"), None);
        assert_eq!(endpoint_of("vxplane0"), None);
        assert_eq!(endpoint_of("veth0123456789ab"), None);
    }
}
