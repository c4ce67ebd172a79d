//! From a host by itself to a cluster: what its state file has is published.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use serde::Serialize;

use super::{
    EtcdOptions,
    client::{Connection, Fault, Outcome},
    guard::Guard,
    keys::Keys,
    mirror::Mirror,
    state::network_obstacle,
};
use crate::{
    identity,
    model::{Desired, Peer, PeerNetworks},
    store::{Change, StoreError, file::StateFile},
};

/// Objects published at once: etcd takes 128 steps and as many conditions in one
/// transaction, and an endpoint is four.
const BATCH: usize = 30;
/// The same in conditions. A peer has one for each network that it is let into.
const BATCH_WEIGHT: usize = 120;

/// What was published, and what was there already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// Networks that are new in the cluster.
    pub networks: usize,
    /// Endpoints that are new in the cluster.
    pub endpoints: usize,
    /// Peers that are new in the cluster.
    pub peers: usize,
    /// Policies that are new in the cluster.
    pub policies: usize,
    /// Namespaces whose labels are new in the cluster.
    pub namespaces: usize,
    /// Objects that the cluster had, as they are here.
    pub existing: usize,
    /// Whether the host is in a cluster already, so that nothing was looked at.
    pub already: bool,
}

/// Why nothing, or not everything, was published.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// One of the stores could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cluster has something else.
    #[error(
        "nothing was published, as the cluster has something else already:\n{}\nchange or remove \
         these, here or there, and run this again", conflicts.join("\n")
    )]
    Conflicts {
        /// What, in sentences.
        conflicts: Vec<String>,
    },
    /// Others changed it between the check and the writing, or an answer was lost.
    #[error(
        "not everything was published ({0}); run this again: what was published is found, and \
         this host's state is as it was"
    )]
    Interrupted(String),
}

/// Publishes what the state file in `directory` has for the node of that name,
/// after which the directory belongs to the cluster. Running it again is fine. The
/// daemon must not run.
pub async fn migrate(
    options: &EtcdOptions,
    directory: &Path,
    node: &str,
) -> Result<Migrated, MigrateError> {
    let file = StateFile::open(directory)?;
    let keys = Keys::new(&options.prefix);
    let connection = connect(options, &keys).await?;
    if file.is_in_cluster().await? {
        return Ok(Migrated {
            already: true,
            ..Migrated::default()
        });
    }
    let mut desired = file.load().await?.desired;
    let mut mirror = read(options, &connection, &keys, node).await?;
    renumber(&mirror, &mut desired);
    let conflicts = conflicts(&mirror, &desired, node);
    if !conflicts.is_empty() {
        return Err(MigrateError::Conflicts { conflicts });
    }
    let (migrated, networks, others) = missing(&mirror, &desired);
    // Each batch of networks must see those before it, to compare VNIs with.
    for batch in networks.chunks(BATCH) {
        publish(&connection, &keys, &mirror, node, batch).await?;
        mirror = read(options, &connection, &keys, node).await?;
    }
    for batch in batches(others) {
        // With the identities of the batches before.
        mirror = read(options, &connection, &keys, node).await?;
        publish(&connection, &keys, &mirror, node, &batch).await?;
    }
    file.join_cluster(true).await?;
    file.commit(kept(desired)).await?;
    Ok(migrated)
}

/// Changes in transactions that are not too large.
fn batches(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut batches: Vec<Vec<Change>> = Vec::new();
    let mut room = 0;
    for change in changes {
        let weight = match &change {
            Change::PutPeer(Peer {
                networks: PeerNetworks::Only(names),
                ..
            }) => 1 + names.len(),
            _ => BATCH_WEIGHT / BATCH,
        };
        match batches.last_mut() {
            Some(batch) if weight <= room => {
                room -= weight;
                batch.push(change);
            }
            _ => {
                room = BATCH_WEIGHT.saturating_sub(weight);
                batches.push(vec![change]);
            }
        }
    }
    batches
}

/// Gives identities the numbers that they have in the cluster, or will have.
fn renumber(mirror: &Mirror, desired: &mut Desired) {
    let mut identities = mirror.view().identities.clone();
    for endpoint in desired.endpoints.values_mut() {
        let (namespace, labels) = (&endpoint.namespace, &endpoint.labels);
        let had = desired.identities.get(&endpoint.identity);
        let had = had.filter(|had| identity::fits(had, namespace, labels));
        let identity = had.map_or_else(
            || Arc::new(identity::of(namespace, labels, &BTreeSet::new())),
            Arc::clone,
        );
        if let Some(number) = identity::number_of(&identity, &identities) {
            identities.insert(number, identity);
            endpoint.identity = number;
        }
    }
    desired.identities = identities;
}

/// What a host of the cluster has by itself: its own endpoints with their networks
/// and identities.
fn kept(desired: Desired) -> Vec<Change> {
    let peers = desired.peers.into_keys().map(Change::RemovePeer);
    let policies = desired.policies.keys().cloned().map(Change::RemovePolicy);
    let namespaces = desired.namespaces.keys().cloned();
    let namespaces = namespaces.map(Change::RemoveNamespace);
    let endpoints = desired.endpoints.values();
    let identities = endpoints.filter_map(|endpoint| {
        let identity = desired.identities.get(&endpoint.identity)?;
        Some(Change::PutIdentity(endpoint.identity, Arc::clone(identity)))
    });
    let endpoints = desired.endpoints.values().cloned().map(Box::new);
    peers
        .chain(policies)
        .chain(namespaces)
        .chain(identities)
        .chain(endpoints.map(Change::PutEndpoint))
        .collect()
}

/// The first server that is of use.
async fn connect(options: &EtcdOptions, keys: &Keys) -> Result<Connection, StoreError> {
    let mut reasons = Vec::new();
    for server in &options.servers {
        match Connection::open(options, keys, server).await {
            Ok(connection) => return Ok(connection),
            Err(Fault::Lost(reason)) => reasons.push(format!("{server}: {reason}")),
            Err(fault) => return Err(options.fault(fault)),
        }
    }
    Err(options.fault(Fault::Lost(reasons.join("; "))))
}

async fn read(
    options: &EtcdOptions,
    connection: &Connection,
    keys: &Keys,
    node: &str,
) -> Result<Mirror, StoreError> {
    let (before, mut mirror) = (Mirror::default(), Mirror::new(node));
    let revision = connection
        .objects(keys, |page| mirror.read(&before, page))
        .await
        .map_err(|fault| options.fault(fault))?;
    mirror.judge(revision);
    Ok(mirror)
}

/// Everything that cannot be published, all at once.
fn conflicts(mirror: &Mirror, desired: &Desired, node: &str) -> Vec<String> {
    let mut conflicts = Vec::new();
    let view = mirror.view();
    for network in desired.networks.values() {
        let why = network_obstacle(view, network);
        conflicts.extend(why.map(|why| format!("network {}: {why}", network.name)));
    }
    for endpoint in desired.endpoints.values() {
        let why = match mirror.endpoint(&endpoint.id) {
            Some(other) if **other == endpoint.record(node) => None,
            Some(other) => Some(format!("node {} has it", other.node)),
            None => mirror
                .holder(&endpoint.network, endpoint.ip, endpoint.mac)
                .map(|(other, what)| format!("{what} is that of endpoint {other}")),
        };
        let who = format!("endpoint {} ({})", endpoint.id, endpoint.container_id);
        conflicts.extend(why.map(|why| format!("{who}: {why}")));
    }
    for peer in desired.peers.values() {
        let other = view.peers.get(&peer.ip).filter(|other| *other != peer);
        let other = other.map(|_| format!("peer {}: it is in other networks there", peer.ip));
        conflicts.extend(other);
    }
    for (key, policy) in &desired.policies {
        if view.policies.get(key).is_some_and(|other| other != policy) {
            let (namespace, name) = key;
            conflicts.push(format!(
                "policy {namespace}/{name}: it is another one there"
            ));
        }
    }
    for (name, namespace) in &desired.namespaces {
        if view
            .namespaces
            .get(name)
            .is_some_and(|other| other != namespace)
        {
            conflicts.push(format!("namespace {name}: it has other labels there"));
        }
    }
    conflicts
}

/// What the cluster lacks: networks, and all else.
fn missing(mirror: &Mirror, desired: &Desired) -> (Migrated, Vec<Change>, Vec<Change>) {
    let view = mirror.view();
    let networks = desired.networks.values();
    let networks = networks.filter(|it| !view.networks.contains_key(&it.name));
    let networks: Vec<_> = networks.cloned().map(Change::PutNetwork).collect();
    let policies = desired.policies.iter();
    let policies = policies.filter(|(key, _)| !view.policies.contains_key(*key));
    // Before the endpoints: none is without its policies for a moment.
    let mut others: Vec<_> = policies
        .map(|(_, policy)| Change::PutPolicy(Arc::clone(policy)))
        .collect();
    let policies = others.len();
    let namespaces = desired.namespaces.iter();
    let namespaces = namespaces.filter(|(name, _)| !view.namespaces.contains_key(*name));
    others.extend(namespaces.map(|(_, it)| Change::PutNamespace(Arc::clone(it))));
    let namespaces = others.len() - policies;
    let peers = desired.peers.values();
    let peers: Vec<_> = peers
        .filter(|it| !view.peers.contains_key(&it.ip))
        .collect();
    others.extend(peers.iter().copied().cloned().map(Change::PutPeer));
    let endpoints = desired.endpoints.values();
    let endpoints = endpoints.filter(|it| mirror.endpoint(&it.id).is_none());
    let endpoints: Vec<_> = endpoints.collect();
    let all = desired.networks.len()
        + desired.endpoints.len()
        + desired.peers.len()
        + desired.policies.len()
        + desired.namespaces.len();
    let migrated = Migrated {
        networks: networks.len(),
        endpoints: endpoints.len(),
        peers: peers.len(),
        policies,
        namespaces,
        existing: all - networks.len() - others.len() - endpoints.len(),
        already: false,
    };
    for endpoint in endpoints {
        let identity = desired.identities.get(&endpoint.identity);
        if let Some(identity) = identity {
            others.push(Change::PutIdentity(endpoint.identity, Arc::clone(identity)));
        }
        others.push(Change::PutEndpoint(Box::new(endpoint.clone())));
    }
    (migrated, networks, others)
}

async fn publish(
    connection: &Connection,
    keys: &Keys,
    mirror: &Mirror,
    node: &str,
    changes: &[Change],
) -> Result<(), MigrateError> {
    let guarded = Guard::new(keys, mirror, node).all(changes)?;
    match connection.transact(&guarded, 0).await {
        Ok(Outcome::Done(_)) => Ok(()),
        Ok(Outcome::Conflict(_)) => Err(MigrateError::Interrupted(
            "others were making changes".to_owned(),
        )),
        Err(fault) => Err(MigrateError::Interrupted(fault.to_string())),
    }
}
