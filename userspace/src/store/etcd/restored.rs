//! What is done when etcd has gone back to an older state, because somebody
//! restored a backup.
//!
//! What was seen last is closer to the truth than the backup: containers were
//! attached, moved and detached since, and policies made. So the picture stays as
//! it was until the nodes have published again what is theirs, and each node what
//! nobody's containers are: networks, policies, namespaces and peers. What was only
//! changed since is older in etcd now, and told.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{
    Inner,
    guard::Guard,
    keys::ObjectKey,
    mirror::Mirror,
    records::Record,
    state::{State, network_obstacle},
};
use crate::{
    model::{Endpoint, EndpointRecord, Network},
    store::{Change, CommitError, StoreError},
};

/// How long the nodes have to publish again what is theirs.
const GRACE: Duration = Duration::from_secs(10);
/// How long a change waits for that.
const PATIENCE: Duration = Duration::from_secs(5);
/// Objects that are published in one transaction.
const AT_ONCE: usize = 10;

/// What is said while it lasts.
pub(super) const TOLD: &str = "etcd holds an older state than was seen before, as after the \
                               restore of a backup: the dataplane stays as it is until what the \
                               nodes have is published again";

/// A restore of etcd that is not over yet.
#[derive(Debug)]
pub(super) struct Restored {
    /// What was known before it.
    before: Mirror,
    /// When the nodes have had their time.
    until: Instant,
}

/// Whether what is in etcd now is older than what was `before`. Revisions only
/// grow, and a key that is written twice never has the same one.
pub(super) fn went_back(before: &Mirror, now: &Mirror) -> bool {
    let went_back = |key: ObjectKey| {
        let written = |mirror: &Mirror| mirror.version(&key).filter(|version| *version > 0);
        let (Some(was), Some(is)) = (written(before), written(now)) else {
            return false;
        };
        is < was || is == was && before.record(&key) != now.record(&key)
    };
    now.revision() < before.revision() || before.keys().any(went_back)
}

impl State {
    /// Starts to make up for a restore. If another one is not over yet, what was
    /// known before that is what counts.
    pub(super) fn make_up_for(&mut self, before: Mirror) {
        let until = Instant::now() + GRACE;
        let before = match self.restored.take() {
            Some(earlier) => earlier.before,
            None => before,
        };
        self.restored = Some(Restored { before, until });
    }

    /// The endpoints that were this node's when they were seen last, and are
    /// another's in an older state; with their networks.
    pub(super) fn usurped(&self) -> impl Iterator<Item = (&Endpoint, &Network)> {
        let settled = self.endpoints.values();
        let settled = settled.filter(|endpoint| !self.unsettled.contains(&endpoint.id));
        let usurped = settled.filter(|endpoint| self.is_usurped(&endpoint.id));
        usurped.filter_map(|endpoint| {
            let network = self.networks.get(&endpoint.network)?;
            Some((endpoint, network))
        })
    }

    /// What another node wrote after that is newer, and counts.
    fn is_usurped(&self, id: &str) -> bool {
        let Some(Restored { before, .. }) = &self.restored else {
            return false;
        };
        let (Some(was), Some(is)) = (before.endpoint(id), self.mirror.endpoint(id)) else {
            return false;
        };
        let own = self.mirror.view().cluster.own.clone();
        was.node == own && is.node != own && self.is_older(before, &ObjectKey::Endpoint(id.into()))
    }

    /// Whether an object is older in etcd than it was. Of what was only remembered it
    /// is not known when it was written.
    fn is_older(&self, before: &Mirror, key: &ObjectKey) -> bool {
        let written = |mirror: &Mirror| mirror.version(key).unwrap_or(0);
        written(before) == 0 || written(&self.mirror) < written(before)
    }

    /// The endpoints that this node had detached, or others had taken over, and that
    /// are this node's in an older state.
    fn returned(&self) -> Vec<String> {
        let Some(Restored { before, .. }) = &self.restored else {
            return Vec::new();
        };
        let own = before.view();
        let detached = self.forgotten();
        let detached = detached.filter(|id| !own.own.contains_key(&***id));
        detached.map(ToString::to_string).collect()
    }

    /// What is gone that is no node's: some networks, or else some of the rest.
    fn vanished(&self) -> Vec<Change> {
        let Some(Restored { before, .. }) = &self.restored else {
            return Vec::new();
        };
        let (was, is) = (before.view(), self.mirror.view());
        let networks = was.networks.values();
        let networks = networks.filter(|it| !is.networks.contains_key(&it.name));
        let networks = networks.filter(|it| network_obstacle(is, it).is_none());
        let networks: Vec<_> = networks.cloned().map(Change::PutNetwork).collect();
        if !networks.is_empty() {
            return networks;
        }
        let namespaces = was.namespaces.iter();
        let namespaces = namespaces
            .filter(|(name, _)| !is.namespaces.contains_key(*name))
            .map(|(_, namespace)| Change::PutNamespace(Arc::clone(namespace)));
        let policies = was.policies.iter();
        let policies = policies
            .filter(|(key, _)| !is.policies.contains_key(*key))
            .map(|(_, policy)| Change::PutPolicy(Arc::clone(policy)));
        let peers = was.peers.values();
        let peers = peers
            .filter(|peer| !is.peers.contains_key(&peer.ip))
            .map(|peer| Change::PutPeer(peer.clone()));
        namespaces.chain(policies).chain(peers).collect()
    }

    /// Whether a node that was alive has not made itself or an endpoint known again.
    fn is_anything_awaited(&self, before: &Mirror) -> bool {
        let was = &before.view().cluster;
        let mut nodes = was.nodes.keys();
        let mut endpoints = was.endpoints.values();
        let is_missing = |record: &&Arc<EndpointRecord>| {
            let now = self.mirror.endpoint(&record.id);
            was.is_alive(&record.node) && now.is_none_or(|now| now.node != record.node)
        };
        nodes.any(|name| self.mirror.node(name).is_none())
            || endpoints.any(|record| is_missing(&record))
            || self.missing().next().is_some()
            || self.usurped().next().is_some()
            || !self.returned().is_empty()
            || !self.vanished().is_empty()
    }

    /// Ends it when all is made up for, or the time for it is over; says what is
    /// not as it was, or none if it goes on.
    fn end_restore(&mut self) -> Option<Vec<String>> {
        let Restored { before, until } = self.restored.as_ref()?;
        if self.is_anything_awaited(before) && Instant::now() < *until {
            return None;
        }
        let gone = self.vanished().iter().map(what).collect::<Vec<_>>();
        let gone = gone.into_iter().map(|what| {
            format!(
                "{what} was not in the state that etcd was put back to, and could not be put \
                 there again; do it yourself if it is missed"
            )
        });
        let keys = before.keys().filter(|key| {
            let differ = differ(before.record(key), self.mirror.record(key));
            differ && self.is_older(before, key)
        });
        let older = keys.map(|key| {
            format!(
                "{key} in etcd is an older one than was seen before etcd was put back; if the \
                 newer one is wanted, apply it again"
            )
        });
        let told = gone.chain(older).collect();
        self.restored = None;
        Some(told)
    }
}

/// Whether both are there and differ, of those that people write.
fn differ(was: Option<Record>, is: Option<Record>) -> bool {
    match (was, is) {
        (Some(Record::Policy(was)), Some(Record::Policy(is))) => was != is,
        (Some(Record::Namespace(was)), Some(Record::Namespace(is))) => was != is,
        (Some(Record::Peer(was)), Some(Record::Peer(is))) => was != is,
        _ => false,
    }
}

/// What is changed, for people.
fn what(change: &Change) -> String {
    match change {
        Change::PutNetwork(network) => format!("network {}", network.name),
        Change::PutNamespace(namespace) => format!("namespace {}", namespace.name),
        Change::PutPolicy(policy) => {
            let (namespace, name) = policy.key();
            format!("policy {namespace}/{name}")
        }
        Change::PutPeer(peer) => format!("peer {}", peer.ip),
        _ => "an object".to_owned(),
    }
}

impl Inner {
    /// Waits until a restore is made up for, if one is to be.
    pub(super) async fn restore_ends(&self) -> Result<bool, StoreError> {
        if self.state().restored.is_none() {
            return Ok(false);
        }
        let mut pictures = self.pictures.subscribe();
        let over = async {
            while self.state().restored.is_some() {
                if pictures.changed().await.is_err() {
                    break;
                }
            }
        };
        if timeout(PATIENCE, over).await.is_ok() {
            return Ok(true);
        }
        Err(StoreError::Unavailable {
            store: self.options.describe(),
            reason: "it was put back to an older state, and what the nodes have is being \
                     published again"
                .to_owned(),
        })
    }

    /// Removes again what this node had detached, and publishes what is gone.
    pub(super) async fn make_up_for_restore(&self) -> Result<(), CommitError> {
        let returned = self.state().returned();
        for id in returned {
            let told = format!("endpoint {id}: detached before etcd was put back, so now again");
            let removal = [Change::RemoveEndpoint(id)];
            if self.make_up(&removal).await? {
                info!("{told}");
            }
        }
        // What comes after the networks needs them.
        for _ in 0..2 {
            let vanished = self.state().vanished();
            for changes in vanished.chunks(AT_ONCE) {
                if self.make_up(changes).await? {
                    for change in changes {
                        let told = what(change);
                        info!("{told}: published again, as etcd had lost it");
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether it was done; if others were faster, the next round looks again.
    async fn make_up(&self, changes: &[Change]) -> Result<bool, CommitError> {
        let Some(connection) = self.link.borrow().connection().cloned() else {
            return Ok(false);
        };
        let guarded = {
            let state = self.state();
            Guard::new(&self.keys, &state.mirror, &self.node).all(changes)?
        };
        match self.transact(&connection, &guarded).await {
            Ok(()) => Ok(true),
            Err(CommitError::Outdated) => {
                self.upkeep.notify_one();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Shows what is in etcd again, once a restore is made up for.
    pub(super) fn end_restore(&self) {
        let mut state = self.state();
        let Some(told) = state.end_restore() else {
            return;
        };
        info!("what the nodes have is in etcd again");
        for text in told {
            warn!("{text}");
            state.tell(text);
        }
        self.show(&state);
    }
}
