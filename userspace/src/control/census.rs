//! Who is in a network, on this host and on others.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::Ipv4Addr,
};

use vxplane_common::types::MacAddr;

use crate::model::{Cluster, Desired, Endpoint, EndpointRecord, Word};

/// Somebody who has an address in a network.
#[derive(Clone, Copy, Debug)]
pub(super) enum Occupant<'a> {
    /// On this host.
    Here(&'a Endpoint),
    /// On another node.
    There(&'a EndpointRecord),
}

impl fmt::Display for Occupant<'_> {
    /// The endpoint's ID, its container's name where known, and its node where
    /// that is another.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, name, node) = match self {
            Self::Here(endpoint) => (&*endpoint.id, endpoint.name.as_deref(), None),
            Self::There(record) => (&*record.id, record.name.as_deref(), Some(&*record.node)),
        };
        f.write_str(id)?;
        if let Some(name) = name {
            write!(f, " ({name})")?;
        }
        match node {
            Some(node) => write!(f, " on node {node}"),
            None => Ok(()),
        }
    }
}

/// Everybody in one network by what nobody else may have, gathered in one pass.
#[derive(Debug, Default)]
pub(super) struct Census<'a> {
    pub(super) by_ip: HashMap<Ipv4Addr, Occupant<'a>>,
    pub(super) by_mac: HashMap<MacAddr, Occupant<'a>>,
}

impl<'a> Census<'a> {
    pub(super) fn of(desired: &'a Desired, network: &str) -> Self {
        let mut census = Self::default();
        for endpoint in here(desired, network) {
            let occupant = Occupant::Here(endpoint);
            census.by_ip.insert(endpoint.ip, occupant);
            census.by_mac.insert(endpoint.mac, occupant);
        }
        for record in there(desired, network) {
            let occupant = Occupant::There(record);
            census.by_ip.insert(record.ip, occupant);
            census.by_mac.insert(record.mac, occupant);
        }
        census
    }
}

/// How many are in a network, and on which other nodes that are alive.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally<'a> {
    /// Endpoints of this host.
    pub(super) here: usize,
    /// Endpoints of other nodes, alive or not.
    pub(super) there: usize,
    /// Other nodes that are alive and have endpoints in it.
    pub(super) nodes: BTreeSet<&'a str>,
}

impl<'a> Tally<'a> {
    /// That of one network.
    pub(super) fn of(desired: &'a Desired, network: &str) -> Self {
        let mut tally = Self {
            here: here(desired, network).count(),
            ..Self::default()
        };
        for record in there(desired, network) {
            tally.add(desired, record);
        }
        tally
    }

    /// Those of all networks, in one pass; of none where nobody is in it.
    pub(super) fn of_all(desired: &'a Desired) -> HashMap<&'a str, Self> {
        let mut tallies = HashMap::<_, Self>::new();
        for endpoint in desired.endpoints.values() {
            tallies.entry(endpoint.network.as_str()).or_default().here += 1;
        }
        for record in desired.others() {
            let tally = tallies.entry(&*record.network).or_default();
            tally.add(desired, record);
        }
        tallies
    }

    fn add(&mut self, desired: &Desired, record: &'a EndpointRecord) {
        self.there += 1;
        if !self.nodes.contains(&*record.node) && is_other(desired, &record.node) {
            self.nodes.insert(&record.node);
        }
    }
}

/// The endpoints of this host in that network.
pub(super) fn here<'a>(desired: &'a Desired, network: &str) -> impl Iterator<Item = &'a Endpoint> {
    let endpoints = desired.endpoints.values();
    endpoints.filter(move |endpoint| endpoint.network == network)
}

/// The endpoints of other nodes in that network, their nodes alive or not, and
/// those of this node that it has forgotten.
pub(super) fn there<'a>(
    desired: &'a Desired,
    network: &str,
) -> impl Iterator<Item = &'a EndpointRecord> {
    let cluster = desired.cluster.iter();
    cluster.flat_map(move |cluster| cluster.in_network(network).map(AsRef::as_ref))
}

/// How many copies a broadcast in that network becomes on this host.
pub(super) fn crowd(desired: &Desired, network: &str) -> usize {
    let peers = desired.peers.values();
    let foreign = peers.filter(|peer| peer.networks.contains(network));
    let tally = Tally::of(desired, network);
    tally.here + tally.nodes.len() + foreign.count()
}

/// Whether it is another node, and alive.
pub(super) fn is_other(desired: &Desired, node: &str) -> bool {
    let cluster = desired.cluster.as_ref();
    cluster.is_some_and(|cluster| *cluster.own != *node && cluster.is_alive(node))
}

/// Whether a node is alive.
pub(super) fn alive(desired: &Desired, node: &str) -> bool {
    let cluster = desired.cluster.as_ref();
    cluster.is_some_and(|cluster| cluster.is_alive(node))
}

/// Another node's endpoint of that ID.
pub(super) fn find_there<'a>(desired: &'a Desired, id: &str) -> Option<&'a EndpointRecord> {
    let Cluster { endpoints, .. } = desired.cluster.as_ref()?;
    let id = Word::from(id);
    let mut networks = desired.networks.keys();
    networks.find_map(|network| {
        let record = endpoints.get(&(network.as_str().into(), Word::clone(&id)))?;
        Some(&**record)
    })
}
