//! Endpoints: attached where nothing contradicts, moved from nodes that are no
//! more, changed and detached by the node that has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::Ipv4Addr,
};

use vxplane_common::{
    abi::{MAX_ENDPOINTS, MAX_FLOOD},
    types::MacAddr,
};

use super::{Basis, Plan, find_network, identities};
use crate::{
    control::{
        census::{self, Census, Occupant},
        error::{Conflict, Error, Invalid, NotFound},
        ipam,
        spec::{AttachSpec, DEFAULT_NAMESPACE, EndpointChange, check_ports, endpoint_id},
    },
    model::{Endpoint, EndpointRecord, NamedPort, NetnsRef, Network},
    store::{Change, Hint},
};

/// Hints kept for containers that may come back; the oldest are forgotten.
const MAX_HINTS: usize = 4096;

/// What to do about an endpoint of this host that is to become another.
const DETACH_FIRST: &str = "detach it first";

/// Attaches the namespace found as `netns`. An endpoint that exists keeps its
/// address and follows its container into a new namespace, or to this host from
/// a node that is not alive, or that is this one and has forgotten it. `wired` says which endpoints' interfaces are known
/// to be in place.
pub(crate) fn attach(
    basis: Basis<'_>,
    spec: &AttachSpec,
    netns: NetnsRef,
    wired: impl Fn(&str) -> bool,
) -> Result<Plan<Endpoint>, Error> {
    spec.check()?;
    let network = find_network(basis, &spec.network)?;
    check_prefix(spec, network)?;
    let container_id = container_id(basis, spec, &netns);
    let id = endpoint_id(&container_id, spec.ifname());
    check_ifname_free(basis, &id, spec, &netns, wired)?;
    if let Some(existing) = basis.desired().endpoints.get(&id) {
        check_same(&Occupant::Here(existing), spec, DETACH_FIRST.to_owned())?;
        let mut endpoint = changed(existing, spec.changes());
        endpoint.netns = netns;
        return replaced(basis, existing, endpoint, spec.exposed.clone());
    }
    check_room(basis, &network.name)?;
    let mut endpoint = match census::find_there(basis.desired(), &id) {
        Some(record) => moved(basis, spec, netns, record)?,
        None => made(basis, spec, netns, network, (id, container_id))?,
    };
    let changes = identities::put(basis, &mut endpoint, spec.exposed.clone())?;
    Ok(Plan::new(endpoint, changes))
}

/// Refuses an address with another prefix length than it will have.
fn check_prefix(spec: &AttachSpec, network: &Network) -> Result<(), Invalid> {
    let own = network.subnet.prefix();
    match (spec.ip, spec.prefix) {
        (Some(ip), Some(prefix)) if prefix != own => {
            let network = network.name.clone();
            Err(Invalid::Prefix {
                ip,
                prefix,
                network,
                own,
            })
        }
        _ => Ok(()),
    }
}

/// A new endpoint, with an address and a MAC address that nobody has.
fn made(
    basis: Basis<'_>,
    spec: &AttachSpec,
    netns: NetnsRef,
    network: &Network,
    (id, container_id): (String, String),
) -> Result<Endpoint, Error> {
    let census = Census::of(basis.desired(), &network.name);
    let claim = ipam::Claim {
        explicit: spec.ip,
        remembered: remembered(basis, spec, &id, &netns),
        endpoint: &id,
        attempt: basis.attempt,
    };
    let ip = ipam::assign(network, &census.by_ip, claim)?;
    let mac = spec.mac.unwrap_or_else(|| MacAddr::from_ipv4(ip.octets()));
    if let Some(occupant) = census.by_mac.get(&mac) {
        let endpoint = occupant.to_string();
        return Err(Conflict::MacInUse { mac, endpoint }.into());
    }
    let namespace = spec.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    Ok(Endpoint {
        id,
        container_id,
        name: spec.name.clone(),
        ifname: spec.ifname().to_owned(),
        network: network.name.clone(),
        netns,
        ip,
        mac,
        namespace: namespace.to_owned(),
        labels: spec.labels.clone().unwrap_or_default().into(),
        slot: free_slot(&basis.desired().endpoints)?,
        identity: 0,
        limits: spec.limits.unwrap_or_default(),
    })
}

/// The endpoint of a node that is not alive, or that this node has forgotten, with
/// its address, on this host.
fn moved(
    basis: Basis<'_>,
    spec: &AttachSpec,
    netns: NetnsRef,
    record: &EndpointRecord,
) -> Result<Endpoint, Error> {
    if !is_forgotten(basis, record) && census::alive(basis.desired(), &record.node) {
        return Err(Conflict::EndpointElsewhere {
            endpoint: record.id.to_string(),
            what: format!("`{}` of container {}", record.ifname, record.container_id),
            node: record.node.to_string(),
        }
        .into());
    }
    let remedy = if is_forgotten(basis, record) {
        DETACH_FIRST.to_owned()
    } else {
        let node = &record.node;
        format!("free the endpoints of that dead node first: `vxplane node rm {node}`")
    };
    check_same(&Occupant::There(record), spec, remedy)?;
    let endpoint = record.endpoint(netns, free_slot(&basis.desired().endpoints)?);
    Ok(changed(&endpoint, spec.changes()))
}

/// The container named by the caller, or one named after the namespace, and in a
/// cluster after the node: the numbers of namespaces are each host's own. What
/// was attached before its host came into the cluster keeps its name.
pub(crate) fn container_id(basis: Basis<'_>, spec: &AttachSpec, netns: &NetnsRef) -> String {
    if let Some(container_id) = &spec.container_id {
        return container_id.clone();
    }
    let by_itself = format!("netns-{}", netns.inode);
    let desired = basis.desired();
    let id = endpoint_id(&by_itself, spec.ifname());
    if desired.cluster.is_none() || desired.endpoints.contains_key(&id) {
        return by_itself;
    }
    format!("netns-{}-{}", basis.node, netns.inode)
}

/// Whether the record is this node's, which does not know its container any more:
/// it lost its state, or the store got back what was detached.
fn is_forgotten(basis: Basis<'_>, record: &EndpointRecord) -> bool {
    *record.node == *basis.node
}

/// Removes an endpoint of this host; its address is remembered, unless nothing is
/// known of its container.
pub(crate) fn detach(basis: Basis<'_>, id: &str) -> Result<Vec<Change>, Error> {
    let forgotten = census::find_there(basis.desired(), id);
    if forgotten.is_some_and(|record| is_forgotten(basis, record)) {
        return Ok(vec![Change::RemoveEndpoint(id.to_owned())]);
    }
    let endpoint = find_own(basis, id)?;
    let hints = &basis.contents.hints;
    let newest = hints.values().map(|hint| hint.sequence).max();
    let hint = Hint {
        endpoint: endpoint.id.clone(),
        network: endpoint.network.clone(),
        ip: endpoint.ip,
        netns: is_nameless(basis, endpoint).then(|| endpoint.netns.path.clone()),
        sequence: newest.map_or(0, |sequence| sequence + 1),
    };
    let mut changes = vec![Change::RemoveEndpoint(id.to_owned())];
    if hints.len() >= MAX_HINTS && !hints.contains_key(&hint.key()) {
        let oldest = hints.values().min_by_key(|hint| hint.sequence);
        changes.extend(oldest.map(|hint| Change::RemoveHint(hint.key())));
    }
    changes.push(Change::PutHint(hint));
    Ok(changes)
}

/// Changes what can change about an endpoint of this host while it is attached.
pub(crate) fn change_endpoint(
    basis: Basis<'_>,
    id: &str,
    change: EndpointChange,
) -> Result<Plan<Endpoint>, Error> {
    change.check()?;
    if let Some(labels) = &change.labels {
        check_ports(labels)?;
    }
    let existing = find_own(basis, id)?;
    let exposed = change.exposed.clone();
    replaced(basis, existing, changed(existing, change), exposed)
}

fn replaced(
    basis: Basis<'_>,
    existing: &Endpoint,
    mut endpoint: Endpoint,
    exposed: Option<BTreeSet<NamedPort>>,
) -> Result<Plan<Endpoint>, Error> {
    let changes = identities::put(basis, &mut endpoint, exposed)?;
    let changes = if endpoint == *existing {
        Vec::new()
    } else {
        changes
    };
    Ok(Plan::existing(endpoint, changes))
}

fn find_own<'a>(basis: Basis<'a>, id: &str) -> Result<&'a Endpoint, Error> {
    let desired = basis.desired();
    if let Some(endpoint) = desired.endpoints.get(id) {
        return Ok(endpoint);
    }
    let Some(record) = census::find_there(desired, id) else {
        return Err(NotFound::Endpoint(id.to_owned()).into());
    };
    let (endpoint, node) = (record.id.to_string(), record.node.to_string());
    Err(if is_forgotten(basis, record) {
        Conflict::EndpointForgotten(endpoint)
    } else if census::alive(desired, &record.node) {
        let what = "it".to_owned();
        Conflict::EndpointElsewhere {
            endpoint,
            what,
            node,
        }
    } else {
        Conflict::EndpointOfDeadNode { endpoint, node }
    }
    .into())
}

/// Refuses to take an endpoint that exists for another network or address.
fn check_same(existing: &Occupant<'_>, spec: &AttachSpec, remedy: String) -> Result<(), Conflict> {
    fn differs<T: PartialEq + Display + ?Sized>(
        has: &T,
        asked: Option<&T>,
    ) -> Option<(String, String)> {
        let asked = asked.filter(|asked| *asked != has)?;
        Some((has.to_string(), asked.to_string()))
    }
    let (network, ip, mac, container, ifname) = match existing {
        Occupant::Here(e) => (&*e.network, &e.ip, &e.mac, &*e.container_id, &*e.ifname),
        Occupant::There(e) => (&*e.network, &e.ip, &e.mac, &*e.container_id, &*e.ifname),
    };
    let difference = [
        ("network", differs(network, Some(spec.network.as_str()))),
        ("address", differs(ip, spec.ip.as_ref())),
        ("MAC address", differs(mac, spec.mac.as_ref())),
    ];
    for (what, difference) in difference {
        if let Some((has, asked)) = difference {
            return Err(Conflict::EndpointDiffers {
                endpoint: format!("endpoint {existing} (`{ifname}` of container {container})"),
                what,
                has,
                asked,
                remedy,
            });
        }
    }
    Ok(())
}

/// Refuses a second owner of one interface of one live namespace. An endpoint
/// that is not wired does not count: its inode number may have been reused.
fn check_ifname_free(
    basis: Basis<'_>,
    id: &str,
    spec: &AttachSpec,
    netns: &NetnsRef,
    wired: impl Fn(&str) -> bool,
) -> Result<(), Conflict> {
    let taken = basis.desired().endpoints.values().find(|other| {
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
            endpoint: Occupant::Here(other).to_string(),
        }),
    }
}

fn check_room(basis: Basis<'_>, network: &str) -> Result<(), Conflict> {
    let endpoints = basis.desired().endpoints.len();
    if endpoints >= MAX_ENDPOINTS as usize {
        return Err(Conflict::TooManyEndpoints(endpoints));
    }
    if census::crowd(basis.desired(), network) >= MAX_FLOOD as usize {
        return Err(Conflict::NetworkCrowded(network.to_owned()));
    }
    Ok(())
}

fn free_slot(endpoints: &BTreeMap<String, Endpoint>) -> Result<u32, Conflict> {
    let used: BTreeSet<u32> = endpoints.values().map(|endpoint| endpoint.slot).collect();
    let free = (0..MAX_ENDPOINTS).find(|slot| !used.contains(slot));
    free.ok_or(Conflict::TooManyEndpoints(endpoints.len()))
}

/// The address this interface had in this network. Without a container ID the
/// inode number stands for the container, and may be a later namespace's: then
/// the path must be the same too.
fn remembered(basis: Basis<'_>, spec: &AttachSpec, id: &str, netns: &NetnsRef) -> Option<Ipv4Addr> {
    let hint = basis.contents.hints.get(&Hint::key_of(id, &spec.network))?;
    let same = hint.netns.as_ref().is_none_or(|path| *path == netns.path);
    same.then_some(hint.ip)
}

/// Whether the container was named by the daemon after its namespace.
fn is_nameless(basis: Basis<'_>, endpoint: &Endpoint) -> bool {
    let (node, inode) = (basis.node, endpoint.netns.inode);
    let name = endpoint.container_id.as_str();
    name == format!("netns-{inode}") || name == format!("netns-{node}-{inode}")
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
        endpoint.labels = labels.into();
    }
    if let Some(limits) = change.limits {
        endpoint.limits = limits;
    }
    endpoint
}
