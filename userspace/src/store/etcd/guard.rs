//! Which transaction makes changes true only if what they were planned on still
//! is. Pure.
//!
//! An identity is in use as long as there is a key that says so, which is written
//! with the endpoint: so its number is freed only where nobody can be about to
//! take it.
//!
//! Each key that is written must be what the mirror has. As an endpoint's own key
//! is among them, only one of several attempts at the same change can succeed,
//! whatever became of the others' answers.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    keys::{Keys, ObjectKey},
    mirror::Mirror,
    records::encode,
};
use crate::{
    model::{Endpoint, EndpointRecord, Identity, Network, Peer, PeerNetworks},
    store::{Change, StoreError},
};

/// What must be so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    /// The key was written last at this revision; 0: it is not there.
    Version(String, i64),
    /// No key with this prefix was written after this revision.
    NoneAfter(String, i64),
    /// Nobody has this claim.
    Free(String),
    /// Nobody has a claim with this prefix.
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
                Change::RemovePeer(ip) => self.remove(&ObjectKey::Peer(*ip))?,
                Change::PutPolicy(policy) => {
                    let key = policy_key(&policy.key());
                    self.expect(&key)?;
                    self.put(&key, encode(policy)?);
                }
                Change::RemovePolicy(key) => self.remove(&policy_key(key))?,
                Change::PutNamespace(namespace) => {
                    let key = ObjectKey::Namespace(namespace.name.as_str().into());
                    self.expect(&key)?;
                    self.put(&key, encode(namespace)?);
                }
                Change::RemoveNamespace(name) => {
                    self.remove(&ObjectKey::Namespace(name.as_str().into()))?;
                }
                Change::PutIdentity(number, identity) => self.put_identity(*number, identity)?,
                Change::RemoveIdentity(number) => {
                    let unused = Condition::Empty(self.keys.uses(*number));
                    self.guarded.conditions.insert(unused);
                    self.remove(&ObjectKey::Identity(*number))?;
                }
                Change::PutHint(_) | Change::RemoveHint(_) => {}
            }
        }
        Ok(self.guarded)
    }

    /// Publishes an endpoint of this node that is missing or, where etcd was put back
    /// to an older state, another node's; and its network and identity if those are
    /// missing too.
    pub(super) fn publish(
        mut self,
        network: &Network,
        identity: &Arc<Identity>,
        record: &EndpointRecord,
    ) -> Result<Guarded, StoreError> {
        if self.mirror.view().networks.get(&network.name) != Some(network) {
            self.put_network(network)?;
        }
        self.put_identity(record.identity, identity)?;
        self.write_record(record)?;
        Ok(self.guarded)
    }

    fn put_network(&mut self, network: &Network) -> Result<(), StoreError> {
        let key = ObjectKey::Network(network.name.as_str().into());
        if self.expect(&key)? == 0 {
            // Neither its VNI nor its subnet was taken meanwhile.
            let all = Condition::NoneAfter(self.keys.networks(), self.mirror.revision());
            self.guarded.conditions.insert(all);
        }
        self.put(&key, encode(network)?);
        Ok(())
    }

    fn remove_network(&mut self, name: &str) -> Result<(), StoreError> {
        let key = ObjectKey::Network(name.into());
        self.expect(&key)?;
        let claims = Condition::Empty(self.keys.claims(name));
        self.guarded.conditions.insert(claims);
        // None was let into it meanwhile: it would be in the next one of that name.
        let peers = Condition::NoneAfter(self.keys.peers(), self.mirror.revision());
        self.guarded.conditions.insert(peers);
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
        if let Some(before) = self.mirror.endpoint(&record.id) {
            self.expect_gone(&before.node);
        }
        self.write_record(record)
    }

    fn write_record(&mut self, record: &EndpointRecord) -> Result<(), StoreError> {
        let key = ObjectKey::Endpoint(record.id.clone());
        self.expect(&key)?;
        let before = self.mirror.endpoint(&record.id).cloned();
        let claims = self.claims(record);
        let had = before.as_ref().map(|before| self.claims(before));
        let had = had.unwrap_or_default();
        if claims != had {
            let network = ObjectKey::Network(record.network.clone());
            if !self.puts(&network) {
                self.expect(&network)?;
            }
        }
        self.put_use(record, before.as_deref())?;
        for claim in claims.difference(&had) {
            let free = Condition::Free(claim.clone());
            self.guarded.conditions.insert(free);
            let claim = Step::Put(claim.clone(), record.id.as_bytes().to_vec());
            self.guarded.steps.push(claim);
        }
        let freed = had.difference(&claims).cloned().map(Step::Delete);
        self.guarded.steps.extend(freed);
        self.put(&key, encode(record)?);
        Ok(())
    }

    /// A number that has none is given to the identity. What has another one
    /// there now makes the transaction fail.
    fn put_identity(&mut self, number: u32, identity: &Arc<Identity>) -> Result<(), StoreError> {
        let key = ObjectKey::Identity(number);
        if self.puts(&key) {
            return Ok(());
        }
        if self.mirror.view().identities.get(&number) == Some(identity) {
            self.expect(&key)?;
            return Ok(());
        }
        if self.mirror.version(&key).is_none() {
            return Err(StoreError::Unusable(self.keys.object(&key)));
        }
        let none = Condition::Version(self.keys.object(&key), 0);
        self.guarded.conditions.insert(none);
        self.put(&key, encode(identity)?);
        Ok(())
    }

    /// The identity stays what it is as long as an endpoint is noted to have it.
    fn put_use(
        &mut self,
        record: &EndpointRecord,
        before: Option<&EndpointRecord>,
    ) -> Result<(), StoreError> {
        let had = before.map_or(0, |before| before.identity);
        if record.identity == had {
            return Ok(());
        }
        let key = ObjectKey::Identity(record.identity);
        if record.identity != 0 {
            if !self.puts(&key) {
                self.expect(&key)?;
            }
            let used = self.keys.used_by(record.identity, &record.id);
            self.guarded.steps.push(Step::Put(used, Vec::new()));
        }
        if had != 0 {
            let used = self.keys.used_by(had, &record.id);
            self.guarded.steps.push(Step::Delete(used));
        }
        Ok(())
    }

    fn remove(&mut self, key: &ObjectKey) -> Result<(), StoreError> {
        self.expect(key)?;
        self.delete(key);
        Ok(())
    }

    fn remove_endpoint(&mut self, id: &str) -> Result<(), StoreError> {
        let key = ObjectKey::Endpoint(id.into());
        let Some(before) = self.mirror.endpoint(id).cloned() else {
            return Ok(());
        };
        self.expect(&key)?;
        self.expect_gone(&before.node);
        let claims = self.claims(&before).into_iter().map(Step::Delete);
        self.guarded.steps.extend(claims);
        if before.identity != 0 {
            let used = self.keys.used_by(before.identity, id);
            self.guarded.steps.push(Step::Delete(used));
        }
        self.delete(&key);
        Ok(())
    }

    fn put_peer(&mut self, peer: &Peer) -> Result<(), StoreError> {
        let key = ObjectKey::Peer(peer.ip);
        self.expect(&key)?;
        let before = self.mirror.view().peers.get(&peer.ip);
        if let PeerNetworks::Only(names) = &peer.networks {
            // Those it was let into before are there, or it would have changed, too.
            let is_new = |name: &&String| before.is_none_or(|it| !it.networks.contains(name));
            let new: Vec<_> = names.iter().filter(is_new).collect();
            for name in new {
                self.expect(&ObjectKey::Network(name.as_str().into()))?;
            }
        }
        self.put(&key, encode(peer)?);
        Ok(())
    }

    /// Only a node that is not alive can have its endpoints taken away.
    fn expect_gone(&mut self, node: &str) {
        if node != self.node {
            let key = self.keys.object(&ObjectKey::Node(node.into()));
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
        self.keys.claims_of(record)
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

fn policy_key((namespace, name): &(String, String)) -> ObjectKey {
    ObjectKey::Policy(namespace.as_str().into(), name.as_str().into())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use vxplane_common::types::MacAddr;

    use super::*;
    use crate::{
        model::{Labels, NetnsRef},
        store::etcd::mirror::{Stored, Update},
    };

    fn endpoint() -> Endpoint {
        Endpoint {
            id: "0123456789ab".to_owned(),
            container_id: "c1".to_owned(),
            name: None,
            ifname: "eth0".to_owned(),
            network: "blue".to_owned(),
            netns: NetnsRef {
                path: "/run/netns/c1".into(),
                inode: 1,
            },
            ip: Ipv4Addr::new(10, 50, 0, 2),
            mac: MacAddr::from_ipv4([10, 50, 0, 2]),
            namespace: "default".to_owned(),
            labels: Labels::default(),
            slot: 0,
            identity: 0,
            limits: crate::model::Limits::default(),
        }
    }

    /// An object that has not changed since it was created.
    fn object(key: &str, value: Vec<u8>, revision: i64) -> Update {
        Update {
            key: key.as_bytes().to_vec(),
            value: Some(Stored {
                value,
                created: revision,
                modified: revision,
            }),
        }
    }

    /// The network as of revision 3, the endpoint of `node` as of 5; read at 9.
    fn mirror(node: Option<&str>) -> Mirror {
        let mut all = vec![object(
            "networks/blue",
            encode(&Network::sample()).unwrap(),
            3,
        )];
        if let Some(node) = node {
            let record = encode(&endpoint().record(node)).unwrap();
            all.push(object("endpoints/0123456789ab", record, 5));
        }
        let mut mirror = Mirror::new("me");
        mirror.read(&Mirror::default(), all);
        mirror.judge(9);
        mirror
    }

    fn guard(mirror: &Mirror, change: Change) -> (Vec<Condition>, Vec<String>) {
        let keys = Keys::new("");
        let guarded = Guard::new(&keys, mirror, "me").all(&[change]).unwrap();
        let steps = guarded.steps.iter().map(|step| match step {
            Step::Put(key, _) => format!("+{key}"),
            Step::Delete(key) => format!("-{key}"),
        });
        (guarded.conditions.into_iter().collect(), steps.collect())
    }

    fn version(key: &str, version: i64) -> Condition {
        Condition::Version(format!("/v1/{key}"), version)
    }

    const NETWORK: &str = "objects/networks/blue";
    const ENDPOINT: &str = "objects/endpoints/0123456789ab";
    const IP: &str = "claims/blue/ip/10.50.0.2";
    const MAC: &str = "claims/blue/mac/02:42:0a:32:00:02";

    #[test]
    fn a_new_network_needs_all_networks_as_they_were() {
        let (conditions, steps) = guard(&Mirror::new("me"), Change::PutNetwork(Network::sample()));
        let none_after = Condition::NoneAfter("/v1/objects/networks/".to_owned(), 0);
        assert_eq!(conditions, [version(NETWORK, 0), none_after]);
        assert_eq!(steps, ["+/v1/objects/networks/blue"]);
    }

    #[test]
    fn a_network_goes_only_without_claims() {
        let removal = Change::RemoveNetwork("blue".to_owned());
        let (conditions, steps) = guard(&mirror(None), removal);
        let peers = Condition::NoneAfter("/v1/objects/peers/".to_owned(), 9);
        let empty = Condition::Empty("/v1/claims/blue/".to_owned());
        assert_eq!(conditions, [version(NETWORK, 3), peers, empty]);
        assert_eq!(steps, ["-/v1/objects/networks/blue"]);
    }

    #[test]
    fn a_new_endpoint_claims_what_is_free_in_a_network_that_stays() {
        let (conditions, steps) = guard(&mirror(None), Change::PutEndpoint(endpoint().into()));
        let expected = [
            version(ENDPOINT, 0),
            version(NETWORK, 3),
            Condition::Free(format!("/v1/{IP}")),
            Condition::Free(format!("/v1/{MAC}")),
        ];
        assert_eq!(conditions, expected);
        let expected = [IP, MAC, ENDPOINT].map(|key| format!("+/v1/{key}"));
        assert_eq!(steps, expected);
    }

    #[test]
    fn what_only_this_host_knows_needs_no_transaction() {
        let moved = Endpoint {
            slot: 9,
            ..endpoint()
        };
        let (conditions, steps) = guard(&mirror(Some("me")), Change::PutEndpoint(moved.into()));
        assert_eq!((conditions.len(), steps.len()), (0, 0));
    }

    #[test]
    fn an_endpoint_is_taken_only_from_a_node_that_is_gone() {
        let gone = version("objects/nodes/other", 0);
        let taken = Change::PutEndpoint(endpoint().into());
        let freed = Change::RemoveEndpoint(endpoint().id);
        for change in [taken, freed] {
            let (conditions, _) = guard(&mirror(Some("other")), change.clone());
            assert_eq!(
                conditions,
                [version(ENDPOINT, 5), gone.clone()],
                "{change:?}"
            );
            let (conditions, _) = guard(&mirror(Some("me")), change);
            assert!(!conditions.contains(&gone));
        }
    }

    #[test]
    fn another_address_frees_the_one_before() {
        let moved = Endpoint {
            ip: Ipv4Addr::new(10, 50, 0, 3),
            ..endpoint()
        };
        let (conditions, steps) = guard(&mirror(Some("me")), Change::PutEndpoint(moved.into()));
        let free = Condition::Free("/v1/claims/blue/ip/10.50.0.3".to_owned());
        assert!(conditions.contains(&free), "{conditions:?}");
        let expected = [
            "+/v1/claims/blue/ip/10.50.0.3".to_owned(),
            format!("-/v1/{IP}"),
            format!("+/v1/{ENDPOINT}"),
        ];
        assert_eq!(steps, expected);
    }

    fn web() -> Arc<Identity> {
        Arc::new(Identity {
            namespace: "default".to_owned(),
            ..Identity::default()
        })
    }

    /// The endpoint, with an identity.
    fn identified() -> Endpoint {
        Endpoint {
            identity: 300,
            ..endpoint()
        }
    }

    /// As [`mirror`], with the identity 300 as of revision 4, and of `node` what
    /// `has` is.
    fn with_identity(node: Option<&str>, has: &Endpoint) -> Mirror {
        let mut mirror = mirror(None);
        let identity = encode(&*web()).unwrap();
        mirror.follow(4, [object("identities/300", identity, 4)]);
        if let Some(node) = node {
            let record = encode(&has.record(node)).unwrap();
            mirror.follow(5, [object("endpoints/0123456789ab", record, 5)]);
        }
        mirror
    }

    const IDENTITY: &str = "objects/identities/300";
    const USE: &str = "uses/300/0123456789ab";

    #[test]
    fn an_identity_is_made_with_the_endpoint_that_needs_it() {
        let keys = Keys::new("");
        let changes = [
            Change::PutIdentity(300, web()),
            Change::PutEndpoint(identified().into()),
        ];
        let mirror = mirror(None);
        let guarded = Guard::new(&keys, &mirror, "me").all(&changes).unwrap();
        assert!(guarded.conditions.contains(&version(IDENTITY, 0)));
        let puts = guarded.steps.iter().filter(|step| match step {
            Step::Put(key, _) => key.contains("/300"),
            Step::Delete(_) => false,
        });
        assert_eq!(puts.count(), 2, "{:?}", guarded.steps);
    }

    #[test]
    fn an_identity_that_is_used_is_what_it_was() {
        let put = || Change::PutEndpoint(identified().into());
        let (conditions, steps) = guard(&with_identity(None, &endpoint()), put());
        assert!(conditions.contains(&version(IDENTITY, 4)), "{conditions:?}");
        assert!(steps.contains(&format!("+/v1/{USE}")), "{steps:?}");
        // One that had none takes it up in place, one that has it changes nothing.
        let (_, steps) = guard(&with_identity(Some("me"), &endpoint()), put());
        assert_eq!(steps, [USE, ENDPOINT].map(|key| format!("+/v1/{key}")));
        let (_, steps) = guard(&with_identity(Some("me"), &identified()), put());
        assert!(steps.is_empty(), "{steps:?}");
    }

    #[test]
    fn an_identity_goes_only_when_nobody_has_it() {
        let mirror = with_identity(Some("me"), &identified());
        assert!(mirror.idle().is_empty());
        let (_, steps) = guard(&mirror, Change::RemoveEndpoint("0123456789ab".to_owned()));
        assert!(steps.contains(&format!("-/v1/{USE}")), "{steps:?}");
        let mirror = with_identity(None, &endpoint());
        assert_eq!(mirror.idle(), &BTreeSet::from([300]));
        let (conditions, steps) = guard(&mirror, Change::RemoveIdentity(300));
        let unused = Condition::Empty("/v1/uses/300/".to_owned());
        assert_eq!(conditions, [version(IDENTITY, 4), unused]);
        assert_eq!(steps, [format!("-/v1/{IDENTITY}")]);
    }

    #[test]
    fn a_number_that_means_something_else_by_now_is_not_taken() {
        let other = Arc::new(Identity {
            namespace: "other".to_owned(),
            ..Identity::default()
        });
        let mirror = with_identity(None, &endpoint());
        let (conditions, _) = guard(&mirror, Change::PutIdentity(300, other));
        assert_eq!(conditions, [version(IDENTITY, 0)]);
        let (_, steps) = guard(&mirror, Change::PutIdentity(300, web()));
        assert!(steps.is_empty(), "{steps:?}");
    }
}
