//! What is on the other nodes of the cluster, as the maps should hold it.
//!
//! There may be tens of thousands of endpoints elsewhere, and one changes at a
//! time. So this is kept from pass to pass and follows the difference between
//! two snapshots of the cluster; everything derived from it shares what stays
//! the same, and is compared as fast.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};
use vxplane_common::{
    abi::{FDB_REMOTE, FdbEntry, FdbKey, Neighbour, NeighbourKey, Outer, Peer, PeerKey},
    types::Vni,
};

use super::observe::{Observed, Way};
use crate::model::{Cluster, Desired, EndpointRecord, Node, Word};

/// The endpoints of other nodes, as [`Cluster::endpoints`].
type Records = OrdMap<(Word, Word), Arc<EndpointRecord>>;

/// The other nodes and their endpoints in the networks this host has part in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remotes {
    basis: Option<Arc<Basis>>,
    records: Records,
    fdb: OrdMap<FdbKey, FdbEntry>,
    neighbours: OrdMap<NeighbourKey, Neighbour>,
    peers: OrdMap<PeerKey, Peer>,
    members: BTreeMap<PeerKey, Member>,
    /// By VNI, how many members have an underlay of which MTU.
    mtus: BTreeMap<u32, BTreeMap<u32, usize>>,
    contested: usize,
}

/// What decides how a record becomes map entries.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    /// As long as these are the same, all of it is.
    source: Source,
    /// The other nodes that are alive, by name.
    nodes: BTreeMap<Word, Reached>,
    /// Their addresses, and our own.
    vteps: BTreeSet<Ipv4Addr>,
    /// The addresses of those there is no route to.
    unreached: Vec<Ipv4Addr>,
}

/// What a [`Basis`] is made of. Compared as fast as little of it has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    vtep: Ipv4Addr,
    ifindex: u32,
    port: u16,
    /// The networks this host has part in.
    networks: BTreeMap<String, Vni>,
    nodes: OrdMap<Word, Arc<Node>>,
    routes: OrdMap<Ipv4Addr, Way>,
}

/// Another node, and how the underlay reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reached {
    vtep: Ipv4Addr,
    mtu: u32,
    ifindex: u32,
    on_link: bool,
}

/// A node in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    endpoints: usize,
    mtu: u32,
}

/// What one record is in the maps.
struct Entries {
    fdb: (FdbKey, FdbEntry),
    neighbour: (NeighbourKey, Neighbour),
    peer: (PeerKey, Peer),
    mtu: u32,
}

impl Source {
    fn of(cluster: &Cluster, desired: &Desired, port: u16, observed: &Observed) -> Option<Self> {
        let underlay = observed.underlay.as_ref()?;
        let own_networks = desired.endpoints.values().filter_map(|endpoint| {
            let network = desired.networks.get(&endpoint.network)?;
            Some((network.name.clone(), network.vni))
        });
        Some(Self {
            vtep: underlay.vtep,
            ifindex: underlay.ifindex,
            port,
            networks: own_networks.collect(),
            nodes: cluster.nodes.clone(),
            routes: observed.routes.clone(),
        })
    }

    fn reached(&self, node: &Node) -> Reached {
        let way = self.routes.get(&node.vtep);
        Reached {
            vtep: node.vtep,
            mtu: node.mtu,
            // Without a route there is no better guess, and what comes in from
            // there is good all the same.
            ifindex: way.map_or(self.ifindex, |way| way.ifindex),
            on_link: way.is_some_and(|way| way.on_link),
        }
    }
}

impl From<Source> for Basis {
    fn from(source: Source) -> Self {
        let mut vteps = BTreeSet::from([source.vtep]);
        let mut nodes = BTreeMap::new();
        let mut unreached = Vec::new();
        for (name, node) in &source.nodes {
            // This node itself, or one that took another's address.
            if vteps.insert(node.vtep) {
                nodes.insert(name.clone(), source.reached(node));
                if !source.routes.contains_key(&node.vtep) {
                    unreached.push(node.vtep);
                }
            }
        }
        Self {
            source,
            nodes,
            vteps,
            unreached,
        }
    }
}

impl Basis {
    /// `None` for what is not to be in the maps: another network, or a node that
    /// is not alive.
    fn entries(&self, record: &EndpointRecord) -> Option<Entries> {
        let source = &self.source;
        let vni = *source.networks.get(&*record.network)?;
        let node = self.nodes.get(&record.node)?;
        let outer = Outer::new(source.vtep, node.vtep, source.port, vni);
        let outer = if node.on_link { outer.on_link() } else { outer };
        let (mac, ifindex, vtep) = (record.mac, node.ifindex, node.vtep.octets());
        let vni = vni.get();
        let entry = FdbEntry {
            kind: FDB_REMOTE,
            ifindex,
            ipv4: vtep,
            slot: 0,
            outer,
        };
        let ipv4 = record.ip.octets();
        // All that is behind it is known; there is nothing to learn.
        let peer = Peer::new(0, ifindex, outer);
        Some(Entries {
            fdb: (FdbKey::new(vni, mac), entry),
            neighbour: (
                NeighbourKey { vni, ipv4 },
                Neighbour {
                    mac,
                    pad: [0; 2],
                    identity: record.identity,
                },
            ),
            peer: (PeerKey { vni, vtep }, peer),
            mtu: node.mtu,
        })
    }

    /// The networks and nodes whose records mean something else in `other`.
    fn touched(&self, other: &Self) -> Touched {
        Touched {
            networks: differing(&self.source.networks, &other.source.networks),
            nodes: differing(&self.nodes, &other.nodes),
        }
    }
}

/// The keys that do not have the same value in both.
fn differing<K: Ord + Clone, V: PartialEq>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> BTreeSet<K> {
    let not_in = |(key, value): (&K, &V), other: &BTreeMap<K, V>| {
        (other.get(key) != Some(value)).then(|| key.clone())
    };
    let of_a = a.iter().filter_map(|entry| not_in(entry, b));
    let of_b = b.iter().filter_map(|entry| not_in(entry, a));
    of_a.chain(of_b).collect()
}

/// Networks and nodes, by name.
struct Touched {
    networks: BTreeSet<String>,
    nodes: BTreeSet<Word>,
}

impl Touched {
    fn is_nothing(&self) -> bool {
        self.networks.is_empty() && self.nodes.is_empty()
    }

    fn concerns(&self, record: &EndpointRecord) -> bool {
        self.networks.contains(&*record.network) || self.nodes.contains(&record.node)
    }
}

impl Remotes {
    /// Makes this what is on the other nodes now.
    pub(super) fn follow(&mut self, desired: &Desired, port: u16, observed: &Observed) {
        let cluster = desired.cluster.as_ref();
        let found = cluster.and_then(|cluster| {
            let source = Source::of(cluster, desired, port, observed)?;
            Some((source, &cluster.endpoints))
        });
        let Some((source, records)) = found else {
            *self = Self::default();
            return;
        };
        let before = self.basis.take();
        let basis = match &before {
            Some(before) if before.source == source => Arc::clone(before),
            _ => Arc::new(Basis::from(source)),
        };
        match before {
            Some(before) if Arc::ptr_eq(&before, &basis) && self.records.ptr_eq(records) => {
                self.basis = Some(basis);
            }
            Some(before)
                if self.contested == 0
                    && before.source.vtep == basis.source.vtep
                    && before.source.port == basis.source.port =>
            {
                self.advance(&before, &basis, records);
                // Who of several has an address depends on all of them.
                if self.contested > 0 {
                    self.rebuild(basis, records);
                } else {
                    self.basis = Some(basis);
                }
            }
            _ => self.rebuild(basis, records),
        }
    }

    fn rebuild(&mut self, basis: Arc<Basis>, records: &Records) {
        *self = Self::default();
        for record in records.values() {
            self.give(&basis, record);
        }
        self.basis = Some(basis);
        self.records = records.clone();
    }

    /// First takes away all that is gone, then adds what is new: an address may
    /// have passed from one record to another.
    fn advance(&mut self, before: &Basis, basis: &Basis, records: &Records) {
        let touched = before.touched(basis);
        let last = std::mem::replace(&mut self.records, records.clone());
        let mut gone = Vec::new();
        let mut new = Vec::new();
        for item in last.diff(records) {
            let (old, now) = match item {
                DiffItem::Add(_, now) => (None, Some(now)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            gone.extend(old.filter(|record| !touched.concerns(record)));
            new.extend(now.filter(|record| !touched.concerns(record)));
        }
        if !touched.is_nothing() {
            gone.extend(last.values().filter(|record| touched.concerns(record)));
            new.extend(records.values().filter(|record| touched.concerns(record)));
        }
        for record in gone {
            self.take(before, record);
        }
        for record in new {
            self.give(basis, record);
        }
    }

    fn take(&mut self, basis: &Basis, record: &EndpointRecord) {
        let Some(entries) = basis.entries(record) else {
            return;
        };
        self.fdb.remove(&entries.fdb.0);
        self.neighbours.remove(&entries.neighbour.0);
        let at = entries.peer.0;
        match self.members.get_mut(&at) {
            Some(member) if member.endpoints > 1 => member.endpoints -= 1,
            Some(member) => {
                let mtu = member.mtu;
                self.uncount_mtu(at.vni, mtu);
                self.members.remove(&at);
                self.peers.remove(&at);
            }
            None => {}
        }
    }

    fn uncount_mtu(&mut self, vni: u32, mtu: u32) {
        let Some(mtus) = self.mtus.get_mut(&vni) else {
            return;
        };
        match mtus.get_mut(&mtu) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(mtus.remove(&mtu)),
        }
        if mtus.is_empty() {
            self.mtus.remove(&vni);
        }
    }

    fn give(&mut self, basis: &Basis, record: &EndpointRecord) {
        let Some(entries) = basis.entries(record) else {
            return;
        };
        let (key, entry) = entries.fdb;
        let (asked, answer) = entries.neighbour;
        if self.fdb.contains_key(&key) || self.neighbours.contains_key(&asked) {
            self.contested += 1;
            return;
        }
        self.fdb.insert(key, entry);
        self.neighbours.insert(asked, answer);
        let (at, peer) = entries.peer;
        let mtu = entries.mtu;
        let member = self.members.entry(at).or_insert_with(|| {
            *self.mtus.entry(at.vni).or_default().entry(mtu).or_default() += 1;
            Member { endpoints: 0, mtu }
        });
        member.endpoints += 1;
        if self.peers.get(&at) != Some(&peer) {
            self.peers.insert(at, peer);
        }
    }

    /// Where their MAC addresses are.
    pub(super) fn fdb(&self) -> &OrdMap<FdbKey, FdbEntry> {
        &self.fdb
    }

    /// Who has their addresses.
    pub(super) fn neighbours(&self) -> &OrdMap<NeighbourKey, Neighbour> {
        &self.neighbours
    }

    /// The nodes in each network.
    pub(super) fn peers(&self) -> &OrdMap<PeerKey, Peer> {
        &self.peers
    }

    /// How many endpoints are left out because another has their address.
    pub(super) fn contested(&self) -> usize {
        self.contested
    }

    /// Whether a node that is alive has this address.
    pub(super) fn is_node(&self, vtep: Ipv4Addr) -> bool {
        let basis = self.basis.as_ref();
        basis.is_some_and(|basis| basis.vteps.contains(&vtep))
    }

    /// The smallest MTU among the underlays of the other nodes in a network.
    pub(super) fn smallest_mtu(&self, vni: Vni) -> Option<u32> {
        let mtus = self.mtus.get(&vni.get())?;
        mtus.keys().next().copied()
    }

    /// The addresses of the nodes this host shares a network with and has no route
    /// to.
    pub(super) fn unreached(&self) -> Vec<Ipv4Addr> {
        let Some(basis) = &self.basis else {
            return Vec::new();
        };
        let shares_a_network = |vtep: &&Ipv4Addr| {
            let vtep = vtep.octets();
            let mut vnis = self.mtus.keys();
            vnis.any(|vni| self.members.contains_key(&PeerKey { vni: *vni, vtep }))
        };
        let unreached = basis.unreached.iter();
        unreached.filter(shares_a_network).copied().collect()
    }
}
