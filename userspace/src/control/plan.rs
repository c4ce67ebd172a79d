//! What a request changes, decided on the state alone: pure, so that a request
//! that is refused has touched nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::Ipv4Addr,
};

use ipnetwork::Ipv4Network;
use vxplane_common::{
    abi::{MAX_ENDPOINTS, MAX_FLOOD, MAX_NETWORKS, OVERHEAD_IPV4},
    types::MacAddr,
};

use super::{
    choose,
    error::{Conflict, Error, Invalid, NotFound},
    ipam,
    spec::{
        AttachSpec, DEFAULT_NAMESPACE, EndpointChange, NetworkSpec, check_gateway, check_peer,
        endpoint_id, name_of_subnet,
    },
};
use crate::{
    model::{Endpoint, NetnsRef, Network, Peer, PeerNetworks},
    reconcile::Underlay,
    store::{Change, Contents, Hint},
};

/// Hints kept for containers that may come back; the oldest are forgotten.
const MAX_HINTS: usize = 4096;

/// Whether a request made something or found it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is new.
    New,
    /// It was there, as asked for.
    Existing,
}

/// A request's outcome and the changes that make it true.
#[derive(Debug)]
pub(super) struct Plan<T> {
    pub(super) value: T,
    pub(super) created: Created,
    pub(super) changes: Vec<Change>,
}

impl<T> Plan<T> {
    fn existing(value: T, changes: Vec<Change>) -> Self {
        Self {
            value,
            created: Created::Existing,
            changes,
        }
    }

    fn new(value: T, changes: Vec<Change>) -> Self {
        Self {
            value,
            created: Created::New,
            changes,
        }
    }
}

/// A plan whose outcome is only its changes.
pub(super) fn removal(changes: Vec<Change>) -> Plan<()> {
    Plan {
        value: (),
        created: Created::Existing,
        changes,
    }
}

/// Finds the network of `spec.name`, or makes one: with a free subnet that
/// overlaps none of `routes`, and a free VNI, where none are given.
pub(super) fn network(
    state: &Contents,
    spec: &NetworkSpec,
    routes: &[Ipv4Network],
    underlay: Option<&Underlay>,
) -> Result<Plan<Network>, Error> {
    spec.check()?;
    check_mtu(spec.mtu, underlay)?;
    let networks = &state.desired.networks;
    if let Some(existing) = networks.get(&spec.name) {
        check_same_network(existing, spec)?;
        return Ok(Plan::existing(existing.clone(), Vec::new()));
    }
    if networks.len() >= MAX_NETWORKS as usize {
        return Err(Conflict::TooManyNetworks(networks.len()).into());
    }
    let subnet = if let Some(subnet) = spec.subnet {
        check_free(subnet, networks)?
    } else {
        let mut taken: Vec<_> = networks.values().map(|network| network.subnet).collect();
        taken.extend_from_slice(routes);
        choose::subnet(&taken).ok_or(Conflict::NoFreeSubnet)?
    };
    let first = Ipv4Addr::from_bits(subnet.network().to_bits() + 1);
    let gateway = spec.gateway.unwrap_or(first);
    check_gateway(gateway, subnet)?;
    let network = Network {
        name: spec.name.clone(),
        vni: free_vni(spec, networks)?,
        subnet,
        gateway,
        mtu: spec.mtu,
        internal: spec.internal,
    };
    Ok(Plan::new(
        network.clone(),
        vec![Change::PutNetwork(network)],
    ))
}

/// Finds the network with exactly this subnet, or makes one.
pub(super) fn network_for_subnet(
    state: &Contents,
    subnet: Ipv4Network,
) -> Result<Plan<Network>, Error> {
    let mut networks = state.desired.networks.values();
    if let Some(existing) = networks.find(|network| network.subnet == subnet) {
        return Ok(Plan::existing(existing.clone(), Vec::new()));
    }
    let spec = NetworkSpec {
        name: name_of_subnet(subnet),
        subnet: Some(subnet),
        ..NetworkSpec::default()
    };
    network(state, &spec, &[], None)
}

/// Removes a network without endpoints, and all that mentions it.
pub(super) fn remove_network(state: &Contents, name: &str) -> Result<Vec<Change>, Error> {
    find_network(state, name)?;
    let endpoints: Vec<_> = state
        .desired
        .endpoints
        .values()
        .filter(|endpoint| endpoint.network == name)
        .map(describe)
        .collect();
    if !endpoints.is_empty() {
        return Err(Conflict::NetworkInUse {
            name: name.to_owned(),
            endpoints,
        }
        .into());
    }
    let mut changes = vec![Change::RemoveNetwork(name.to_owned())];
    for peer in state.desired.peers.values() {
        let PeerNetworks::Only(names) = &peer.networks else {
            continue;
        };
        let mut names = names.clone();
        if names.remove(name) {
            changes.push(if names.is_empty() {
                Change::RemovePeer(peer.ip)
            } else {
                Change::PutPeer(Peer {
                    ip: peer.ip,
                    networks: PeerNetworks::Only(names),
                })
            });
        }
    }
    let obsolete = state.hints.values().filter(|hint| hint.network == name);
    changes.extend(obsolete.map(|hint| Change::RemoveHint(hint.key())));
    Ok(changes)
}

/// Attaches the namespace found as `netns`. An endpoint that exists keeps its
/// address and follows its container into a new namespace. `wired` says which
/// endpoints' interfaces are known to be in place.
pub(super) fn attach(
    state: &Contents,
    spec: &AttachSpec,
    netns: NetnsRef,
    wired: impl Fn(&str) -> bool,
) -> Result<Plan<Endpoint>, Error> {
    spec.check()?;
    let network = find_network(state, &spec.network)?;
    let container_id = container_id(spec, &netns);
    let id = endpoint_id(&container_id, spec.ifname());
    check_ifname_free(state, &id, spec, &netns, wired)?;
    if let Some(existing) = state.desired.endpoints.get(&id) {
        check_same_endpoint(existing, spec)?;
        let mut endpoint = changed(existing, spec.changes());
        endpoint.netns = netns;
        let change = Change::PutEndpoint(Box::new(endpoint.clone()));
        let changes = if endpoint == *existing {
            Vec::new()
        } else {
            vec![change]
        };
        return Ok(Plan::existing(endpoint, changes));
    }
    let endpoints = &state.desired.endpoints;
    check_room(state, &network.name)?;
    let in_network = || {
        endpoints
            .values()
            .filter(|other| other.network == network.name)
    };
    let in_use: ipam::InUse<'_> = in_network().map(|e| (e.ip, e.id.as_str())).collect();
    let remembered = remembered(state, spec, &id, &netns);
    let ip = ipam::assign(network, &in_use, spec.ip, remembered)?;
    let mac = spec.mac.unwrap_or_else(|| MacAddr::from_ipv4(ip.octets()));
    if let Some(other) = in_network().find(|other| other.mac == mac) {
        return Err(Conflict::MacInUse {
            mac,
            endpoint: describe(other),
        }
        .into());
    }
    let endpoint = Endpoint {
        id,
        container_id,
        name: spec.name.clone(),
        ifname: spec.ifname().to_owned(),
        network: network.name.clone(),
        netns,
        ip,
        mac,
        namespace: spec
            .namespace
            .clone()
            .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        labels: spec.labels.clone().unwrap_or_default(),
        slot: free_slot(endpoints)?,
    };
    let change = Change::PutEndpoint(Box::new(endpoint.clone()));
    Ok(Plan::new(endpoint, vec![change]))
}

/// The container named by the caller, or one named after the namespace.
pub(super) fn container_id(spec: &AttachSpec, netns: &NetnsRef) -> String {
    spec.container_id
        .clone()
        .unwrap_or_else(|| format!("netns-{}", netns.inode))
}

/// Removes an endpoint; its address is remembered.
pub(super) fn detach(state: &Contents, id: &str) -> Result<Vec<Change>, Error> {
    let endpoint = find_endpoint(state, id)?;
    let newest = state.hints.values().map(|hint| hint.sequence).max();
    let hint = Hint {
        endpoint: endpoint.id.clone(),
        network: endpoint.network.clone(),
        ip: endpoint.ip,
        netns: is_nameless(endpoint).then(|| endpoint.netns.path.clone()),
        sequence: newest.map_or(0, |sequence| sequence + 1),
    };
    let mut changes = vec![Change::RemoveEndpoint(id.to_owned())];
    if state.hints.len() >= MAX_HINTS && !state.hints.contains_key(&hint.key()) {
        let oldest = state.hints.values().min_by_key(|hint| hint.sequence);
        changes.extend(oldest.map(|hint| Change::RemoveHint(hint.key())));
    }
    changes.push(Change::PutHint(hint));
    Ok(changes)
}

/// Changes what can change about an endpoint while it is attached.
pub(super) fn change_endpoint(
    state: &Contents,
    id: &str,
    change: EndpointChange,
) -> Result<Plan<Endpoint>, Error> {
    change.check()?;
    let existing = find_endpoint(state, id)?;
    let endpoint = changed(existing, change);
    let put = Change::PutEndpoint(Box::new(endpoint.clone()));
    let changes = if endpoint == *existing {
        Vec::new()
    } else {
        vec![put]
    };
    Ok(Plan::existing(endpoint, changes))
}

/// Adds a peer, or adds networks to one: none named means all of them.
pub(super) fn add_peer(
    state: &Contents,
    ip: Ipv4Addr,
    networks: &BTreeSet<String>,
    own: Option<Ipv4Addr>,
) -> Result<Plan<Peer>, Error> {
    check_peer(ip, own)?;
    for name in networks {
        find_network(state, name)?;
    }
    let asked = if networks.is_empty() {
        PeerNetworks::All
    } else {
        PeerNetworks::Only(networks.clone())
    };
    let existing = state.desired.peers.get(&ip);
    let networks = match existing.map(|peer| &peer.networks) {
        Some(has) => union(has, &asked),
        None => asked,
    };
    for name in state.desired.networks.keys() {
        let joins = networks.contains(name) && !existing.is_some_and(|e| e.networks.contains(name));
        if joins && crowd(state, name) >= MAX_FLOOD as usize {
            return Err(Conflict::NetworkCrowded(name.clone()).into());
        }
    }
    let peer = Peer { ip, networks };
    if existing == Some(&peer) {
        return Ok(Plan::existing(peer, Vec::new()));
    }
    let changes = vec![Change::PutPeer(peer.clone())];
    Ok(match existing {
        Some(_) => Plan::existing(peer, changes),
        None => Plan::new(peer, changes),
    })
}

/// Removes a peer.
pub(super) fn remove_peer(state: &Contents, ip: Ipv4Addr) -> Result<Vec<Change>, Error> {
    if state.desired.peers.contains_key(&ip) {
        return Ok(vec![Change::RemovePeer(ip)]);
    }
    Err(NotFound::Peer(ip.to_string()).into())
}

/// The network of that name.
pub(super) fn find_network<'a>(state: &'a Contents, name: &str) -> Result<&'a Network, NotFound> {
    let found = state.desired.networks.get(name);
    found.ok_or_else(|| NotFound::Network(name.to_owned()))
}

fn find_endpoint<'a>(state: &'a Contents, id: &str) -> Result<&'a Endpoint, NotFound> {
    let found = state.desired.endpoints.get(id);
    found.ok_or_else(|| NotFound::Endpoint(id.to_owned()))
}

fn check_mtu(mtu: Option<u32>, underlay: Option<&Underlay>) -> Result<(), Invalid> {
    match (mtu, underlay) {
        (Some(mtu), Some(underlay)) if mtu + OVERHEAD_IPV4 > underlay.mtu => {
            let (device, underlay) = (underlay.device.clone(), underlay.mtu);
            Err(Invalid::MtuTooLarge {
                mtu,
                device,
                underlay,
            })
        }
        _ => Ok(()),
    }
}

fn check_same_network(existing: &Network, spec: &NetworkSpec) -> Result<(), Conflict> {
    let differs = |what, has: String, asked: String| {
        let name = existing.name.clone();
        Err(Conflict::NetworkDiffers {
            name,
            what,
            has,
            asked,
        })
    };
    if let Some(asked) = spec.subnet.filter(|asked| *asked != existing.subnet) {
        return differs("subnet", existing.subnet.to_string(), asked.to_string());
    }
    if let Some(asked) = spec.gateway.filter(|asked| *asked != existing.gateway) {
        return differs("gateway", existing.gateway.to_string(), asked.to_string());
    }
    if let Some(asked) = spec.vni.filter(|asked| *asked != existing.vni) {
        return differs("VNI", existing.vni.to_string(), asked.to_string());
    }
    if let Some(asked) = spec.mtu.filter(|asked| Some(*asked) != existing.mtu) {
        let has = existing
            .mtu
            .map_or("that of the underlay".to_owned(), |mtu| mtu.to_string());
        return differs("MTU", has, asked.to_string());
    }
    if spec.internal != existing.internal {
        return differs(
            "internal",
            existing.internal.to_string(),
            spec.internal.to_string(),
        );
    }
    Ok(())
}

fn check_same_endpoint(existing: &Endpoint, spec: &AttachSpec) -> Result<(), Conflict> {
    fn differs<T: PartialEq + Display>(has: &T, asked: Option<&T>) -> Option<(String, String)> {
        let asked = asked.filter(|asked| *asked != has)?;
        Some((has.to_string(), asked.to_string()))
    }
    let difference = [
        ("network", differs(&existing.network, Some(&spec.network))),
        ("address", differs(&existing.ip, spec.ip.as_ref())),
        ("MAC address", differs(&existing.mac, spec.mac.as_ref())),
    ];
    for (what, difference) in difference {
        if let Some((has, asked)) = difference {
            let Endpoint {
                id,
                container_id,
                ifname,
                ..
            } = existing;
            return Err(Conflict::EndpointDiffers {
                endpoint: format!("endpoint {id} (`{ifname}` of container {container_id})"),
                what,
                has,
                asked,
            });
        }
    }
    Ok(())
}

fn check_free(
    subnet: Ipv4Network,
    networks: &BTreeMap<String, Network>,
) -> Result<Ipv4Network, Conflict> {
    match networks
        .values()
        .find(|other| other.subnet.overlaps(subnet))
    {
        None => Ok(subnet),
        Some(other) => Err(Conflict::SubnetOverlaps {
            subnet,
            network: other.name.clone(),
            other: other.subnet,
        }),
    }
}

fn free_vni(
    spec: &NetworkSpec,
    networks: &BTreeMap<String, Network>,
) -> Result<vxplane_common::types::Vni, Conflict> {
    if let Some(vni) = spec.vni {
        return match networks.values().find(|other| other.vni == vni) {
            None => Ok(vni),
            Some(other) => Err(Conflict::VniInUse {
                vni,
                network: other.name.clone(),
            }),
        };
    }
    let in_use = networks.values().map(|network| network.vni).collect();
    choose::vni(&spec.name, &in_use).ok_or(Conflict::TooManyNetworks(networks.len()))
}

/// Refuses a second owner of one interface of one live namespace. An endpoint
/// that is not wired does not count: its inode number may have been reused.
fn check_ifname_free(
    state: &Contents,
    id: &str,
    spec: &AttachSpec,
    netns: &NetnsRef,
    wired: impl Fn(&str) -> bool,
) -> Result<(), Conflict> {
    let taken = state.desired.endpoints.values().find(|other| {
        other.id != id
            && other.netns.inode == netns.inode
            && other.ifname == spec.ifname()
            && wired(&other.id)
    });
    match taken {
        None => Ok(()),
        Some(other) => Err(Conflict::IfnameTaken {
            netns: netns.path.display().to_string(),
            ifname: other.ifname.clone(),
            endpoint: describe(other),
        }),
    }
}

fn check_room(state: &Contents, network: &str) -> Result<(), Conflict> {
    let endpoints = state.desired.endpoints.len();
    if endpoints >= MAX_ENDPOINTS as usize {
        return Err(Conflict::TooManyEndpoints(endpoints));
    }
    if crowd(state, network) >= MAX_FLOOD as usize {
        return Err(Conflict::NetworkCrowded(network.to_owned()));
    }
    Ok(())
}

/// How many copies a broadcast in that network becomes here.
fn crowd(state: &Contents, network: &str) -> usize {
    let endpoints = state
        .desired
        .endpoints
        .values()
        .filter(|e| e.network == network);
    let peers = state
        .desired
        .peers
        .values()
        .filter(|p| p.networks.contains(network));
    endpoints.count() + peers.count()
}

fn free_slot(endpoints: &BTreeMap<String, Endpoint>) -> Result<u32, Conflict> {
    let used: BTreeSet<u32> = endpoints.values().map(|endpoint| endpoint.slot).collect();
    let free = (0..MAX_ENDPOINTS).find(|slot| !used.contains(slot));
    free.ok_or(Conflict::TooManyEndpoints(endpoints.len()))
}

/// The address this interface had in this network. Without a container ID the
/// inode number stands for the container, and may be a later namespace's: then
/// the path must be the same too.
fn remembered(state: &Contents, spec: &AttachSpec, id: &str, netns: &NetnsRef) -> Option<Ipv4Addr> {
    let hint = state.hints.get(&Hint::key_of(id, &spec.network))?;
    let same = hint.netns.as_ref().is_none_or(|path| *path == netns.path);
    same.then_some(hint.ip)
}

/// Whether the container was named by the daemon after its namespace.
fn is_nameless(endpoint: &Endpoint) -> bool {
    endpoint.container_id == format!("netns-{}", endpoint.netns.inode)
}

fn changed(existing: &Endpoint, change: EndpointChange) -> Endpoint {
    let mut endpoint = existing.clone();
    if let Some(container_id) = change.container_id {
        endpoint.container_id = container_id;
    }
    if change.name.is_some() {
        endpoint.name = change.name;
    }
    if let Some(namespace) = change.namespace {
        endpoint.namespace = namespace;
    }
    if let Some(labels) = change.labels {
        endpoint.labels = labels;
    }
    endpoint
}

fn union(has: &PeerNetworks, asked: &PeerNetworks) -> PeerNetworks {
    match (has, asked) {
        (PeerNetworks::Only(has), PeerNetworks::Only(asked)) => PeerNetworks::Only(has | asked),
        _ => PeerNetworks::All,
    }
}

/// The endpoint's ID, and its container's name where known.
fn describe(endpoint: &Endpoint) -> String {
    match &endpoint.name {
        Some(name) => format!("{} ({name})", endpoint.id),
        None => endpoint.id.clone(),
    }
}
