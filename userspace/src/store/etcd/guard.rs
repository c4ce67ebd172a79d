//! Which transaction makes changes true only if what they were planned on still
//! is. Pure.
//!
//! Each key that is written must be what the mirror has. As an endpoint's own key
//! is among them, only one of several attempts at the same change can succeed,
//! whatever became of the others' answers.

use std::collections::BTreeSet;

use super::{
    keys::{Keys, ObjectKey},
    mirror::Mirror,
    records::encode,
};
use crate::{
    model::{Endpoint, EndpointRecord, Network, Peer, PeerNetworks},
    store::{Change, StoreError},
};

/// What must be so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    /// The key was written last at this revision; 0: it is not there.
    Version(String, i64),
    /// No key with this prefix was written after this revision.
    NoneAfter(String, i64),
    /// There is no key with this prefix.
    Empty(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Writes a key.
    Put(String, Vec<u8>),
    /// Removes a key.
    Delete(String),
}

/// A transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Guarded {
    /// All of these must be so,
    pub(super) conditions: BTreeSet<Condition>,
    /// for these to be done.
    pub(super) steps: Vec<Step>,
}

/// Builds the transaction for changes planned on what a mirror has.
#[derive(Debug)]
pub(super) struct Guard<'a> {
    keys: &'a Keys,
    mirror: &'a Mirror,
    node: &'a str,
    guarded: Guarded,
}

impl<'a> Guard<'a> {
    /// For changes asked of `node`.
    pub(super) fn new(keys: &'a Keys, mirror: &'a Mirror, node: &'a str) -> Self {
        Self {
            keys,
            mirror,
            node,
            guarded: Guarded::default(),
        }
    }

    /// The transaction for all of `changes`; without steps if none of them
    /// concerns others.
    pub(super) fn all(mut self, changes: &[Change]) -> Result<Guarded, StoreError> {
        for change in changes {
            match change {
                Change::PutNetwork(network) => self.put_network(network)?,
                Change::RemoveNetwork(name) => self.remove_network(name)?,
                Change::PutEndpoint(endpoint) => self.put_endpoint(endpoint)?,
                Change::RemoveEndpoint(id) => self.remove_endpoint(id)?,
                Change::PutPeer(peer) => self.put_peer(peer)?,
                Change::RemovePeer(ip) => {
                    let key = ObjectKey::Peer(*ip);
                    self.expect(&key)?;
                    self.delete(&key);
                }
                Change::PutHint(_) | Change::RemoveHint(_) => {}
            }
        }
        Ok(self.guarded)
    }

    /// Publishes an endpoint of this node that is missing, and its network if
    /// that is missing too.
    pub(super) fn publish(
        mut self,
        network: &Network,
        record: &EndpointRecord,
    ) -> Result<Guarded, StoreError> {
        if self.mirror.view().networks.get(&network.name) != Some(network) {
            self.put_network(network)?;
        }
        self.put_record(record)?;
        Ok(self.guarded)
    }

    fn put_network(&mut self, network: &Network) -> Result<(), StoreError> {
        let key = ObjectKey::Network(network.name.clone());
        if self.expect(&key)? == 0 {
            // Neither its VNI nor its subnet was taken meanwhile.
            let all = Condition::NoneAfter(self.keys.networks(), self.mirror.revision());
            self.guarded.conditions.insert(all);
        }
        self.put(&key, encode(network)?);
        Ok(())
    }

    fn remove_network(&mut self, name: &str) -> Result<(), StoreError> {
        let key = ObjectKey::Network(name.to_owned());
        self.expect(&key)?;
        let claims = Condition::Empty(self.keys.claims(name));
        self.guarded.conditions.insert(claims);
        self.delete(&key);
        Ok(())
    }

    fn put_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), StoreError> {
        let record = endpoint.record(self.node);
        let before = self.mirror.endpoint(&record.id);
        if before.is_some_and(|before| **before == record) {
            return Ok(());
        }
        self.put_record(&record)
    }

    fn put_record(&mut self, record: &EndpointRecord) -> Result<(), StoreError> {
        let key = ObjectKey::Endpoint(record.id.clone());
        self.expect(&key)?;
        let before = self.mirror.endpoint(&record.id).cloned();
        if let Some(before) = &before {
            self.expect_gone(&before.node);
        }
        let claims = self.claims(record);
        let had = before.map(|before| self.claims(&before));
        let had = had.unwrap_or_default();
        if claims != had {
            let network = ObjectKey::Network(record.network.clone());
            if !self.puts(&network) {
                self.expect(&network)?;
            }
        }
        for claim in claims.difference(&had) {
            let free = Condition::Version(claim.clone(), 0);
            self.guarded.conditions.insert(free);
            let claim = Step::Put(claim.clone(), record.id.clone().into_bytes());
            self.guarded.steps.push(claim);
        }
        let freed = had.difference(&claims).cloned().map(Step::Delete);
        self.guarded.steps.extend(freed);
        self.put(&key, encode(record)?);
        Ok(())
    }

    fn remove_endpoint(&mut self, id: &str) -> Result<(), StoreError> {
        let key = ObjectKey::Endpoint(id.to_owned());
        let Some(before) = self.mirror.endpoint(id).cloned() else {
            return Ok(());
        };
        self.expect(&key)?;
        self.expect_gone(&before.node);
        let claims = self.claims(&before).into_iter().map(Step::Delete);
        self.guarded.steps.extend(claims);
        self.delete(&key);
        Ok(())
    }

    fn put_peer(&mut self, peer: &Peer) -> Result<(), StoreError> {
        let key = ObjectKey::Peer(peer.ip);
        self.expect(&key)?;
        if let PeerNetworks::Only(names) = &peer.networks {
            for name in names {
                self.expect(&ObjectKey::Network(name.clone()))?;
            }
        }
        self.put(&key, encode(peer)?);
        Ok(())
    }

    /// Only a node that is not alive can have its endpoints taken away.
    fn expect_gone(&mut self, node: &str) {
        if node != self.node {
            let key = self.keys.object(&ObjectKey::Node(node.to_owned()));
            self.guarded.conditions.insert(Condition::Version(key, 0));
        }
    }

    /// The object must be what the mirror has; returns its version.
    fn expect(&mut self, key: &ObjectKey) -> Result<i64, StoreError> {
        let Some(version) = self.mirror.version(key) else {
            return Err(StoreError::Unusable(self.keys.object(key)));
        };
        let condition = Condition::Version(self.keys.object(key), version);
        self.guarded.conditions.insert(condition);
        Ok(version)
    }

    fn claims(&self, record: &EndpointRecord) -> BTreeSet<String> {
        let network = &record.network;
        let ip = self.keys.ip_claim(network, record.ip);
        let mac = self.keys.mac_claim(network, record.mac);
        [ip, mac].into()
    }

    fn puts(&self, key: &ObjectKey) -> bool {
        let key = self.keys.object(key);
        let mut steps = self.guarded.steps.iter();
        steps.any(|step| matches!(step, Step::Put(put, _) if *put == key))
    }

    fn put(&mut self, key: &ObjectKey, value: Vec<u8>) {
        let step = Step::Put(self.keys.object(key), value);
        self.guarded.steps.push(step);
    }

    fn delete(&mut self, key: &ObjectKey) {
        let step = Step::Delete(self.keys.object(key));
        self.guarded.steps.push(step);
    }
}
