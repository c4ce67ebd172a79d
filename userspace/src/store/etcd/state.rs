//! What this node knows: the mirror of etcd, and of its own endpoints what etcd
//! does not hold. Pure; what comes of both is the picture.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use imbl::OrdMap;
use tokio::time::Instant;

use super::{
    keys::ObjectKey,
    mirror::{Mirror, Update, View},
    records::Record,
    restored::{Restored, went_back},
};
use crate::{
    identity,
    model::{Endpoint, Identity, Network, Word},
    store::{Change, Contents},
};

/// Identities by number.
pub(super) type Identities = OrdMap<u32, Arc<Identity>>;

/// Losses that are remembered.
const LOSSES_MAX: usize = 20;
/// For how long.
const LOSSES_SHOWN: Duration = Duration::from_mins(5);

/// What this node knows.
#[derive(Debug)]
pub(super) struct State {
    /// What etcd holds.
    pub(super) mirror: Mirror,
    /// This node's endpoints as they were made here, by ID.
    pub(super) endpoints: BTreeMap<String, Endpoint>,
    /// Their networks, by name.
    pub(super) networks: BTreeMap<String, Network>,
    /// Their identities, by the numbers that they had when they were made.
    pub(super) identities: Identities,
    /// Those of which it is not known whether etcd has them: it is believed.
    pub(super) unsettled: BTreeSet<String>,
    /// Objects that the state file does not have as they are now.
    pub(super) unsaved: BTreeMap<ObjectKey, Option<Record>>,
    /// What this node had to give up, and why: the latest, and when.
    losses: VecDeque<(Instant, String)>,
    /// The last that happened to an object, as far as is known.
    pub(super) last: Option<Happened>,
    /// Whether the mirror was ever more than what was remembered.
    pub(super) synced: bool,
    /// When the server was heard last, as far as the state file has it.
    pub(super) kept: Option<Instant>,
    /// Whether the server had another history than was followed.
    pub(super) contradicted: bool,
    /// If etcd was put back to an older state, until that is made up for.
    pub(super) restored: Option<Restored>,
}

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Happened {
    /// When.
    pub(super) revision: i64,
    /// What.
    pub(super) update: Update,
}

/// A full read under way.
#[derive(Debug)]
pub(super) struct Reading {
    mirror: Mirror,
    /// The latest of what was found.
    last: Option<Happened>,
    /// How many objects were found.
    pub(super) objects: usize,
}

impl Reading {
    /// Nothing yet, for the node of that name.
    pub(super) fn new(node: &str) -> Self {
        Self {
            mirror: Mirror::new(node),
            last: None,
            objects: 0,
        }
    }
}

impl State {
    /// Takes some of what is found into `reading`.
    pub(super) fn read(&self, reading: &mut Reading, found: Vec<Update>) {
        reading.objects += found.len();
        let modified = |it: &Update| it.value.as_ref().map_or(0, |stored| stored.modified);
        let latest = found.iter().max_by_key(|it| modified(it));
        let before = reading.last.as_ref().map_or(0, |last| last.revision);
        if let Some(update) = latest.filter(|it| modified(it) > before) {
            reading.last = Some(Happened {
                revision: modified(update),
                update: update.clone(),
            });
        }
        reading.mirror.read(&self.mirror, found);
    }

    /// Has what was read take the place of what was known.
    pub(super) fn replace(&mut self, revision: i64, reading: Reading) {
        let Reading {
            mut mirror, last, ..
        } = reading;
        mirror.judge(revision);
        let before = std::mem::replace(&mut self.mirror, mirror);
        let gone = before
            .keys()
            .filter(|key| self.mirror.record(key).is_none());
        let gone = gone.map(|key| (key, None));
        let new = self.mirror.keys().filter_map(|key| {
            let record = self.mirror.record(&key);
            (record != before.record(&key)).then_some((key, record))
        });
        self.unsaved.extend(gone.chain(new));
        self.last = last;
        self.synced = true;
        let contradicted = std::mem::take(&mut self.contradicted);
        if contradicted || went_back(&before, &self.mirror) {
            self.make_up_for(before);
        }
    }

    /// Follows what happened at `revision`.
    pub(super) fn follow(&mut self, revision: i64, updates: Vec<Update>) {
        let last = updates.last().cloned();
        self.last = last.map(|update| Happened { revision, update });
        for key in self.mirror.follow(revision, updates) {
            let record = self.mirror.record(&key);
            self.unsaved.insert(key, record);
        }
    }

    /// What is known at the start.
    pub(super) fn new(mirror: Mirror) -> Self {
        Self {
            mirror,
            endpoints: BTreeMap::new(),
            networks: BTreeMap::new(),
            identities: Identities::new(),
            unsettled: BTreeSet::new(),
            unsaved: BTreeMap::new(),
            losses: VecDeque::new(),
            last: None,
            synced: false,
            kept: None,
            contradicted: false,
            restored: None,
        }
    }

    /// Makes `contents` what is known; while a restore is made up for, it stays what
    /// it is.
    pub(super) fn compose(&self, contents: &mut Contents) {
        if self.restored.is_some() {
            return;
        }
        let view = self.mirror.view();
        let desired = &mut contents.desired;
        desired.networks.clone_from(&view.networks);
        desired.peers.clone_from(&view.peers);
        desired.policies = view.policies.clone();
        desired.namespaces = view.namespaces.clone();
        desired.identities = view.identities.clone();
        desired.endpoints.clear();
        let mut cluster = view.cluster.clone();
        for (id, record) in &view.own {
            let Some(made) = self.endpoints.get(&**id) else {
                // Without its namespace it is an endpoint like those of others.
                cluster.endpoints.insert(record.key(), Arc::clone(record));
                continue;
            };
            let mut endpoint = record.endpoint(made.netns.clone(), made.slot);
            self.identify(&mut endpoint, &mut desired.identities);
            desired.endpoints.insert(endpoint.id.clone(), endpoint);
        }
        for (endpoint, network) in self.missing() {
            if self.obstacle(endpoint, network).is_none() {
                let (networks, endpoints) = (&mut desired.networks, &mut desired.endpoints);
                networks.insert(network.name.clone(), network.clone());
                let mut endpoint = endpoint.clone();
                self.identify(&mut endpoint, &mut desired.identities);
                endpoints.insert(endpoint.id.clone(), endpoint);
            }
        }
        desired.cluster = Some(cluster);
    }

    /// Makes sure that an endpoint of this node has an identity among
    /// `identities`: its own unless that is missing there, or another one by now.
    pub(super) fn identify(&self, endpoint: &mut Endpoint, identities: &mut Identities) {
        let (namespace, labels) = (&endpoint.namespace, &endpoint.labels);
        let fits = |identity: &Arc<Identity>| identity::fits(identity, namespace, labels);
        if identities.get(&endpoint.identity).is_some_and(fits) {
            return;
        }
        let made = self.endpoints.get(&endpoint.id);
        let made = made.and_then(|made| self.identities.get(&made.identity));
        let identity = made.filter(|made| fits(made)).map_or_else(
            || Arc::new(identity::of(namespace, labels, &BTreeSet::new())),
            Arc::clone,
        );
        if let Some(number) = identity::number_of(&identity, identities) {
            identities.insert(number, identity);
            endpoint.identity = number;
        }
    }

    /// This node's endpoints that have another identity in `contents` than in etcd,
    /// or one that is not there.
    pub(super) fn unidentified(&self, contents: &Contents) -> Vec<Endpoint> {
        let view = self.mirror.view();
        let own = view.own.values();
        let differ = own.filter_map(|record| {
            let endpoint = contents.desired.endpoints.get(&*record.id)?;
            let known = view.identities.contains_key(&record.identity);
            let same = known && record.identity == endpoint.identity;
            (!same).then(|| endpoint.clone())
        });
        differ.collect()
    }

    /// This node's endpoints that etcd should have and has not, with their
    /// networks.
    pub(super) fn missing(&self) -> impl Iterator<Item = (&Endpoint, &Network)> {
        let missing = self.endpoints.values().filter(|endpoint| {
            !self.unsettled.contains(&endpoint.id) && !self.mirror.holds(&endpoint.id)
        });
        missing.filter_map(|endpoint| {
            let network = self.networks.get(&endpoint.network)?;
            Some((endpoint, network))
        })
    }

    /// Why a missing endpoint cannot be published: others have by now what was
    /// its own.
    pub(super) fn obstacle(&self, endpoint: &Endpoint, network: &Network) -> Option<String> {
        if let Some(why) = network_obstacle(self.mirror.view(), network) {
            return Some(format!("its network {}: {why}", network.name));
        }
        let (other, what) = self
            .mirror
            .holder(&endpoint.network, endpoint.ip, endpoint.mac)?;
        if *other == *endpoint.id {
            return None;
        }
        Some(format!("{what} is now that of endpoint {other}"))
    }

    /// Endpoints that are not this node's any more, and whose they are.
    pub(super) fn taken_over(&self) -> Vec<(String, String)> {
        let ours = self.endpoints.keys();
        let ours = ours.filter(|id| !self.unsettled.contains(*id));
        ours.filter_map(|id| {
            let record = self.mirror.endpoint(id)?;
            let gone = !self.mirror.view().own.contains_key(&**id);
            gone.then(|| (id.clone(), record.node.to_string()))
        })
        .collect()
    }

    /// Endpoints of this node whose namespace is not known here.
    pub(super) fn forgotten(&self) -> impl Iterator<Item = &Word> {
        let own = self.mirror.view().own.keys();
        own.filter(|id| !self.endpoints.contains_key(&***id))
    }

    /// Gives an endpoint up, and says why.
    pub(super) fn lose(&mut self, id: &str, why: &str) -> String {
        self.endpoints.remove(id);
        let text = format!("endpoint {id} was given up here: {why}");
        self.tell(text.clone());
        text
    }

    /// Has it shown for a while.
    pub(super) fn tell(&mut self, text: String) {
        if self.losses.len() == LOSSES_MAX {
            self.losses.pop_front();
        }
        self.losses.push_back((Instant::now(), text));
    }

    /// What was given up lately. Nothing is to be done about it, so it is told for a
    /// while only.
    pub(super) fn losses(&self) -> impl Iterator<Item = &String> {
        let losses = self.losses.iter();
        let recent = losses.filter(|(when, _)| when.elapsed() < LOSSES_SHOWN);
        recent.map(|(_, text)| text)
    }

    /// Forgets networks and identities that none of this node's endpoints has any
    /// more.
    pub(super) fn drop_unused(&mut self) -> Vec<Change> {
        let endpoints = self.endpoints.values();
        let used: BTreeSet<_> = endpoints.clone().map(|it| &it.network).collect();
        let networks = self.networks.keys().filter(|name| !used.contains(name));
        let networks: Vec<_> = networks.cloned().collect();
        let used: BTreeSet<_> = endpoints.map(|it| it.identity).collect();
        let identities = self.identities.keys().copied();
        let identities: Vec<_> = identities.filter(|it| !used.contains(it)).collect();
        for name in &networks {
            self.networks.remove(name);
        }
        for number in &identities {
            self.identities.remove(number);
        }
        let networks = networks.into_iter().map(Change::RemoveNetwork);
        let identities = identities.into_iter().map(Change::RemoveIdentity);
        networks.chain(identities).collect()
    }
}

/// Why a network cannot be published: others have by now what was its own.
pub(super) fn network_obstacle(view: &View, network: &Network) -> Option<String> {
    if let Some(other) = view.networks.get(&network.name) {
        let same = other == network;
        return (!same).then(|| "another network has that name".to_owned());
    }
    let same = |other: &&Network| other.vni == network.vni || other.subnet.overlaps(network.subnet);
    let other = view.networks.values().find(same)?;
    let (vni, subnet) = (network.vni, network.subnet);
    let name = &other.name;
    Some(format!(
        "VNI {vni} or subnet {subnet} is that of network {name}"
    ))
}
