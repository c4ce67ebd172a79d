//! What etcd holds, and which of it is believed. Pure.
//!
//! An object that does not hold up by itself (see [`super::records`]) or that
//! contradicts an older one is kept out of the view, and said to be wrong until
//! it is changed, removed, or what it contradicts is gone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::Arc,
};

use imbl::OrdMap;
use vxplane_common::types::MacAddr;

use super::{
    keys::ObjectKey,
    records::{Record, decode},
};
use crate::{
    control::stored::check_place,
    model::{Cluster, EndpointRecord, Identity, Namespace, Network, Node, Peer, Word, Words},
    policy::document::NetworkPolicy,
};

/// Unusable objects that are remembered by key; more are only counted.
const UNUSABLE_MAX: usize = 1000;

/// A key and its value, or that it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Update {
    /// The key behind `objects/`.
    pub(super) key: Vec<u8>,
    /// `None` if it is gone.
    pub(super) value: Option<Stored>,
}

/// A value and when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// The value itself.
    pub(super) value: Vec<u8>,
    /// The revision that made the key.
    pub(super) created: i64,
    /// The revision that wrote the value.
    pub(super) modified: i64,
}

/// What is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// By name.
    pub(super) networks: BTreeMap<String, Network>,
    /// By address.
    pub(super) peers: BTreeMap<Ipv4Addr, Peer>,
    /// The endpoints of this node, by ID.
    pub(super) own: BTreeMap<Word, Arc<EndpointRecord>>,
    /// The nodes, and the endpoints of all other nodes.
    pub(super) cluster: Cluster,
    /// By namespace and name.
    pub(super) policies: OrdMap<(String, String), Arc<NetworkPolicy>>,
    /// Those with labels, by name.
    pub(super) namespaces: OrdMap<String, Arc<Namespace>>,
    /// By number.
    pub(super) identities: OrdMap<u32, Arc<Identity>>,
}

#[derive(Clone, Debug)]
struct Held<T> {
    value: T,
    created: i64,
    modified: i64,
}

/// All objects.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// This node's name.
    node: String,
    /// Everything up to here is in it.
    revision: i64,
    networks: BTreeMap<String, Held<Arc<Network>>>,
    endpoints: HashMap<Word, Held<Arc<EndpointRecord>>>,
    /// When those objects were written that contradict no others.
    single: HashMap<ObjectKey, i64>,
    view: View,
    ips: HashMap<(Word, Ipv4Addr), Word>,
    macs: HashMap<(Word, MacAddr), Word>,
    words: Words,
    /// How many endpoints say that they have an identity, by its number.
    uses: HashMap<u32, usize>,
    /// Those of the identities that none has.
    idle: BTreeSet<u32>,
    /// Objects that hold up by themselves but not with the others, and why.
    contested: BTreeMap<ObjectKey, String>,
    /// Objects that mean nothing, by their key as text, and why.
    unusable: BTreeMap<String, String>,
    uncounted: usize,
}

impl Mirror {
    /// An empty one.
    pub(super) fn new(node: &str) -> Self {
        let mut mirror = Self {
            node: node.to_owned(),
            ..Self::default()
        };
        mirror.view.cluster.own = node.into();
        mirror
    }

    /// What is believed.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Everything that happened up to this revision is in it.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision that wrote the object; 0 if there is none, `None` if it is
    /// one that cannot be told, because it is not believed.
    pub(super) fn version(&self, key: &ObjectKey) -> Option<i64> {
        if self.contested.contains_key(key) || self.unusable.contains_key(&key.to_string()) {
            return None;
        }
        let version = match key {
            ObjectKey::Network(name) => self.networks.get(&**name).map(|held| held.modified),
            ObjectKey::Endpoint(id) => self.endpoints.get(id).map(|held| held.modified),
            single => self.single.get(single).copied(),
        };
        Some(version.unwrap_or(0))
    }

    /// What is wrong with which object, and how many more there are.
    pub(super) fn problems(&self) -> (impl Iterator<Item = (String, &str)>, usize) {
        let contested = self.contested.iter();
        let contested = contested.map(|(key, reason)| (key.to_string(), reason.as_str()));
        let unusable = self.unusable.iter();
        let unusable = unusable.map(|(key, reason)| (key.clone(), reason.as_str()));
        (contested.chain(unusable), self.uncounted)
    }

    /// Holds some of what a full read finds. None of it is believed until
    /// [`Self::judge`]; what is as it is in `before` shares its memory.
    pub(super) fn read(&mut self, before: &Self, found: impl IntoIterator<Item = Update>) {
        for update in found {
            let Some(ObjectKey::Endpoint(id)) = self.take(update) else {
                continue;
            };
            if let (Some(held), Some(known)) =
                (self.endpoints.get_mut(&id), before.endpoints.get(&id))
                && held.value == known.value
            {
                held.value = Arc::clone(&known.value);
            }
        }
    }

    /// Believes what was read, which is everything up to `revision`.
    pub(super) fn judge(&mut self, revision: i64) {
        self.revision = revision;
        self.judge_all();
    }

    /// Follows what happened up to `revision`, and says to which objects.
    pub(super) fn follow(
        &mut self,
        revision: i64,
        updates: impl IntoIterator<Item = Update>,
    ) -> BTreeSet<ObjectKey> {
        let updates = updates.into_iter();
        let touched: BTreeSet<_> = updates.filter_map(|update| self.take(update)).collect();
        self.revision = self.revision.max(revision);
        if touched
            .iter()
            .any(|key| matches!(key, ObjectKey::Network(_)))
        {
            self.judge_all();
            return touched;
        }
        let waiting = touched.iter().chain(self.contested.keys());
        let mut waiting: BTreeSet<Word> = waiting
            .filter_map(|key| match key {
                ObjectKey::Endpoint(id) => Some(id.clone()),
                _ => None,
            })
            .collect();
        let rivals: Vec<_> = waiting.iter().flat_map(|id| self.rivals(id)).collect();
        for id in rivals {
            self.withdraw(&id);
            waiting.insert(id);
        }
        self.judge_endpoints(&waiting);
        touched
    }

    /// Those that are believed to have what this endpoint says it has.
    fn rivals(&self, id: &str) -> Vec<Word> {
        let Some(held) = self.endpoints.get(id) else {
            return Vec::new();
        };
        let (network, record) = (&held.value.network, &held.value);
        let ip = self.ips.get(&(network.clone(), record.ip));
        let mac = self.macs.get(&(network.clone(), record.mac));
        ip.into_iter().chain(mac).cloned().collect()
    }

    /// Takes over what is written, without a judgement on endpoints and networks;
    /// returns the key, if it is one.
    fn take(&mut self, update: Update) -> Option<ObjectKey> {
        let text = String::from_utf8_lossy(&update.key).into_owned();
        self.unusable.remove(&text);
        let Some(key) = ObjectKey::parse(&text) else {
            if update.value.is_some() {
                self.note_unusable(text, "no object has such a key".to_owned());
            }
            return None;
        };
        self.forget(&key);
        if let Some(stored) = update.value {
            match decode(&key, &stored.value) {
                Ok(record) => self.hold(&key, record, &stored),
                Err(reason) => self.note_unusable(text, reason),
            }
        }
        Some(key)
    }

    fn note_unusable(&mut self, key: String, reason: String) {
        if self.unusable.len() < UNUSABLE_MAX {
            self.unusable.insert(key, reason);
        } else {
            self.uncounted += 1;
        }
    }

    fn forget(&mut self, key: &ObjectKey) {
        match key {
            ObjectKey::Network(name) => drop(self.networks.remove(&**name)),
            ObjectKey::Endpoint(id) => {
                self.withdraw(id);
                if let Some(held) = self.endpoints.remove(id) {
                    self.disuse_identity(held.value.identity);
                }
                self.contested.remove(key);
            }
            ObjectKey::Peer(ip) => drop(self.view.peers.remove(ip)),
            ObjectKey::Node(name) => drop(self.view.cluster.nodes.remove(name)),
            ObjectKey::Policy(namespace, name) => {
                let key = (namespace.to_string(), name.to_string());
                self.view.policies.remove(&key);
            }
            ObjectKey::Namespace(name) => drop(self.view.namespaces.remove(&**name)),
            ObjectKey::Identity(number) => {
                self.view.identities.remove(number);
                self.idle.remove(number);
            }
        }
        self.single.remove(key);
    }

    fn hold(&mut self, key: &ObjectKey, record: Record, stored: &Stored) {
        let &Stored {
            created, modified, ..
        } = stored;
        match record {
            Record::Network(value) => {
                let held = Held {
                    value,
                    created,
                    modified,
                };
                self.networks.insert(held.value.name.clone(), held);
                return;
            }
            Record::Endpoint(mut value) => {
                // Nobody else has it yet, so nothing is copied.
                self.share(Arc::make_mut(&mut value));
                self.use_identity(value.identity);
                let held = Held {
                    value,
                    created,
                    modified,
                };
                self.endpoints.insert(held.value.id.clone(), held);
                return;
            }
            Record::Peer(peer) => drop(self.view.peers.insert(peer.ip, (*peer).clone())),
            Record::Node(node) => {
                let name = Word::from(node.name.as_str());
                self.view.cluster.nodes.insert(name, node);
            }
            Record::Policy(policy) => drop(self.view.policies.insert(policy.key(), policy)),
            Record::Namespace(namespace) => {
                let name = namespace.name.clone();
                self.view.namespaces.insert(name, namespace);
            }
            Record::Identity(number, identity) => {
                self.view.identities.insert(number, identity);
                if !self.uses.contains_key(&number) {
                    self.idle.insert(number);
                }
            }
        }
        self.single.insert(key.clone(), modified);
    }

    /// Counts one more endpoint that says it has this identity.
    fn use_identity(&mut self, number: u32) {
        *self.uses.entry(number).or_default() += 1;
        self.idle.remove(&number);
    }

    /// Counts one less.
    fn disuse_identity(&mut self, number: u32) {
        let Some(count) = self.uses.get_mut(&number) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.uses.remove(&number);
            if self.view.identities.contains_key(&number) {
                self.idle.insert(number);
            }
        }
    }

    /// The identities that no endpoint has.
    pub(super) fn idle(&self) -> &BTreeSet<u32> {
        &self.idle
    }

    /// Has `record` share what it has in common with others. The rest is its own.
    fn share(&mut self, record: &mut EndpointRecord) {
        let words = &mut self.words;
        for word in [
            &mut record.ifname,
            &mut record.network,
            &mut record.node,
            &mut record.namespace,
        ] {
            words.share(word);
        }
        words.share_labels(&mut record.labels);
    }

    fn judge_all(&mut self) {
        self.contested.clear();
        self.judge_networks();
        self.ips.clear();
        self.macs.clear();
        self.view.own.clear();
        self.view.cluster.endpoints = OrdMap::new();
        let all = self.endpoints.keys().cloned().collect();
        self.judge_endpoints(&all);
    }

    /// Of networks that contradict each other, the one made first is believed.
    fn judge_networks(&mut self) {
        let mut held: Vec<_> = self.networks.values().collect();
        held.sort_by(|a, b| (a.created, &a.value.name).cmp(&(b.created, &b.value.name)));
        let mut believed: BTreeMap<String, Network> = BTreeMap::new();
        for Held { value: network, .. } in held {
            let same = |other: &&Network| {
                other.vni == network.vni || other.subnet.overlaps(network.subnet)
            };
            if let Some(other) = believed.values().find(same) {
                let reason = format!(
                    "VNI {} or subnet {} is that of network {}",
                    network.vni, network.subnet, other.name
                );
                let key = ObjectKey::Network(network.name.as_str().into());
                self.contested.insert(key, reason);
            } else {
                believed.insert(network.name.clone(), (**network).clone());
            }
        }
        self.view.networks = believed;
    }

    /// Believes those of the endpoints that fit what is believed already, the
    /// one made first before others.
    fn judge_endpoints(&mut self, ids: &BTreeSet<Word>) {
        let mut held: Vec<_> = ids
            .iter()
            .filter_map(|id| self.endpoints.get(id).map(|held| (held.created, id)))
            .collect();
        held.sort();
        let held: Vec<Word> = held.into_iter().map(|(_, id)| id.clone()).collect();
        for id in held {
            let key = ObjectKey::Endpoint(id.clone());
            self.contested.remove(&key);
            let Some(record) = self.endpoints.get(&id).map(|held| Arc::clone(&held.value)) else {
                continue;
            };
            match self.contradiction(&record) {
                None => self.believe(record),
                Some(reason) => drop(self.contested.insert(key, reason)),
            }
        }
    }

    fn contradiction(&self, record: &EndpointRecord) -> Option<String> {
        let Some(network) = self.view.networks.get(&*record.network) else {
            return Some(format!("there is no network {}", record.network));
        };
        if let Err(error) = check_place(record, network) {
            return Some(error.to_string());
        }
        let in_network = |id: &Word| *id != record.id;
        let ip = (record.network.clone(), record.ip);
        if let Some(other) = self.ips.get(&ip).filter(|id| in_network(id)) {
            return Some(format!("{} is that of endpoint {other}", record.ip));
        }
        let mac = (record.network.clone(), record.mac);
        let other = self.macs.get(&mac).filter(|id| in_network(id))?;
        Some(format!("{} is that of endpoint {other}", record.mac))
    }

    fn believe(&mut self, record: Arc<EndpointRecord>) {
        let network = record.network.clone();
        self.ips
            .insert((network.clone(), record.ip), record.id.clone());
        self.macs.insert((network, record.mac), record.id.clone());
        if *record.node == *self.node {
            self.view.own.insert(record.id.clone(), record);
        } else {
            self.view.cluster.endpoints.insert(record.key(), record);
        }
    }

    /// Takes what is believed of an endpoint out of the view.
    fn withdraw(&mut self, id: &str) {
        let Some(held) = self.endpoints.get(id) else {
            return;
        };
        let record = Arc::clone(&held.value);
        let ip = (record.network.clone(), record.ip);
        if self.ips.get(&ip).is_some_and(|it| **it == *id) {
            self.ips.remove(&ip);
        }
        let mac = (record.network.clone(), record.mac);
        if self.macs.get(&mac).is_some_and(|it| **it == *id) {
            self.macs.remove(&mac);
        }
        self.view.own.remove(id);
        self.view.cluster.endpoints.remove(&record.key());
    }

    /// The node of that name, as it is believed.
    pub(super) fn node(&self, name: &str) -> Option<&Node> {
        self.view.cluster.nodes.get(name).map(AsRef::as_ref)
    }

    /// Whether the object is there, believed, and has this value.
    pub(super) fn has(&self, key: &ObjectKey, value: &[u8]) -> bool {
        let Ok(record) = decode(key, value) else {
            return false;
        };
        match record {
            Record::Network(it) => self.view.networks.get(&it.name) == Some(&*it),
            Record::Endpoint(it) => self.endpoint(&it.id) == Some(&it),
            Record::Peer(it) => self.view.peers.get(&it.ip) == Some(&*it),
            Record::Node(it) => self.node(&it.name) == Some(&*it),
            Record::Policy(it) => self.view.policies.get(&it.key()) == Some(&it),
            Record::Namespace(it) => self.view.namespaces.get(&it.name) == Some(&it),
            Record::Identity(number, it) => self.view.identities.get(&number) == Some(&it),
        }
    }

    /// The keys of all objects that hold up by themselves.
    pub(super) fn keys(&self) -> impl Iterator<Item = ObjectKey> {
        let networks = self.networks.keys();
        let networks = networks.map(|name| ObjectKey::Network(name.as_str().into()));
        let endpoints = self.endpoints.keys().cloned().map(ObjectKey::Endpoint);
        let others = self.single.keys().cloned();
        networks.chain(endpoints).chain(others)
    }

    /// The object, if it holds up by itself.
    pub(super) fn record(&self, key: &ObjectKey) -> Option<Record> {
        match key {
            ObjectKey::Network(name) => {
                let held = self.networks.get(&**name)?;
                Some(Record::Network(Arc::clone(&held.value)))
            }
            ObjectKey::Endpoint(id) => {
                let held = self.endpoints.get(id)?;
                Some(Record::Endpoint(Arc::clone(&held.value)))
            }
            ObjectKey::Peer(ip) => {
                let peer = self.view.peers.get(ip)?;
                Some(Record::Peer(Arc::new(peer.clone())))
            }
            ObjectKey::Node(name) => {
                let node = self.view.cluster.nodes.get(name)?;
                Some(Record::Node(Arc::clone(node)))
            }
            ObjectKey::Policy(namespace, name) => {
                let key = (namespace.to_string(), name.to_string());
                let policy = self.view.policies.get(&key)?;
                Some(Record::Policy(Arc::clone(policy)))
            }
            ObjectKey::Namespace(name) => {
                let namespace = self.view.namespaces.get(&**name)?;
                Some(Record::Namespace(Arc::clone(namespace)))
            }
            ObjectKey::Identity(number) => {
                let identity = self.view.identities.get(number)?;
                Some(Record::Identity(*number, Arc::clone(identity)))
            }
        }
    }

    /// Whether there is an endpoint of that ID, believed or not.
    pub(super) fn holds(&self, id: &str) -> bool {
        self.endpoints.contains_key(id)
    }

    /// The endpoint that is believed to have the address or the MAC address, and
    /// which of them.
    pub(super) fn holder(
        &self,
        network: &str,
        ip: Ipv4Addr,
        mac: MacAddr,
    ) -> Option<(&str, String)> {
        if let Some(id) = self.ips.get(&(network.into(), ip)) {
            return Some((id, ip.to_string()));
        }
        let id = self.macs.get(&(network.into(), mac))?;
        Some((id, mac.to_string()))
    }

    /// The endpoint of that ID, of whichever node, if it is believed.
    pub(super) fn endpoint(&self, id: &str) -> Option<&Arc<EndpointRecord>> {
        let held = self.endpoints.get(id)?;
        let contested = self.contested.contains_key(&ObjectKey::Endpoint(id.into()));
        (!contested).then_some(&held.value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vxplane_common::types::Vni;

    use super::*;
    use crate::{model::Labels, store::etcd::records::encode};

    fn network(name: u8, vni: u8) -> Network {
        Network {
            name: format!("n{name}"),
            vni: Vni::new(u32::from(vni) + 1).unwrap(),
            subnet: format!("10.50.{vni}.0/24").parse().unwrap(),
            gateway: Ipv4Addr::new(10, 50, vni, 1),
            mtu: None,
            internal: false,
        }
    }

    fn endpoint(id: u8, network: u8, subnet: u8, ip: u8, mac: u8, node: u8) -> EndpointRecord {
        EndpointRecord {
            id: format!("{id:012x}").into(),
            container_id: format!("c{id}").into(),
            name: None,
            ifname: "eth0".into(),
            network: format!("n{network}").into(),
            node: format!("node{node}").into(),
            ip: Ipv4Addr::new(10, 50, subnet, ip),
            mac: MacAddr::from_ipv4([10, 0, 0, mac]),
            namespace: "default".into(),
            labels: Labels::default(),
            identity: 0,
            limits: crate::model::Limits::default(),
        }
    }

    /// What somebody who may write anything writes.
    fn written() -> impl Strategy<Value = (String, Option<Vec<u8>>)> {
        let gone = proptest::bool::weighted(0.3);
        let networks = (0u8..3, 0u8..3, gone).prop_map(|(name, vni, gone)| {
            let value = encode(&network(name, vni)).unwrap();
            (format!("networks/n{name}"), (!gone).then_some(value))
        });
        let endpoints = (0u8..6, 0u8..3, 0u8..3, 0u8..5, 0u8..4, 0u8..2);
        let endpoints = (endpoints, proptest::bool::weighted(0.3));
        let endpoints = endpoints.prop_map(|((id, network, subnet, ip, mac, node), gone)| {
            let value = encode(&endpoint(id, network, subnet, ip, mac, node)).unwrap();
            (format!("endpoints/{id:012x}"), (!gone).then_some(value))
        });
        let nonsense = (0u8..3).prop_map(|n| (format!("networks/n{n}"), Some(vec![b'{'])));
        prop_oneof![2 => networks, 6 => endpoints, 1 => nonsense]
    }

    proptest! {
        /// Following each change leads to what reading everything at the end does,
        /// and what is believed contradicts nothing.
        #[test]
        fn following_is_reading(written in proptest::collection::vec(written(), 0..60)) {
            let mut followed = Mirror::new("node0");
            let mut stored: BTreeMap<String, Stored> = BTreeMap::new();
            for (revision, (key, value)) in (1..).zip(written) {
                let created = stored.get(&key).map_or(revision, |stored| stored.created);
                let value = value.map(|value| Stored { value, created, modified: revision });
                match &value {
                    Some(value) => drop(stored.insert(key.clone(), value.clone())),
                    None => drop(stored.remove(&key)),
                }
                followed.follow(revision, [Update { key: key.into_bytes(), value }]);
            }
            let mut read = Mirror::new("node0");
            let all = stored.into_iter();
            let all = all.map(|(key, value)| Update { key: key.into_bytes(), value: Some(value) });
            read.read(&Mirror::default(), all);
            read.judge(followed.revision());
            prop_assert_eq!(followed.view(), read.view());
            let problems = |mirror: &Mirror| {
                let (problems, more) = mirror.problems();
                (problems.map(|(key, _)| key).collect::<Vec<_>>(), more)
            };
            prop_assert_eq!(problems(&followed), problems(&read));
            check(read.view())?;
        }
    }

    fn check(view: &View) -> Result<(), TestCaseError> {
        let networks: Vec<_> = view.networks.values().collect();
        for (n, network) in networks.iter().enumerate() {
            for other in &networks[..n] {
                prop_assert!(network.vni != other.vni && !network.subnet.overlaps(other.subnet));
            }
        }
        let mut taken = BTreeSet::new();
        for record in view.own.values().chain(view.cluster.endpoints.values()) {
            let network = &view.networks[&*record.network];
            prop_assert!(check_place(record, network).is_ok());
            prop_assert!(taken.insert((&record.network, record.ip.to_string())));
            prop_assert!(taken.insert((&record.network, record.mac.to_string())));
        }
        Ok(())
    }

    #[test]
    fn only_so_many_keys_without_meaning_are_remembered() {
        let mut mirror = Mirror::new("node0");
        let value = |modified| Stored {
            value: Vec::new(),
            created: modified,
            modified,
        };
        let updates = (0..1500).map(|n| Update {
            key: format!("odd/{n}").into_bytes(),
            value: Some(value(n + 1)),
        });
        mirror.read(&Mirror::default(), updates);
        let (problems, more) = mirror.problems();
        assert_eq!((problems.count(), more), (UNUSABLE_MAX, 500));
    }
}
