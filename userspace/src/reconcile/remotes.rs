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

use super::{Underlay, observe::Observed};
use crate::model::{Cluster, Desired, EndpointRecord, Word};

/// The endpoints of other nodes, as [`Cluster::endpoints`].
type Records = OrdMap<(Word, Word), Arc<EndpointRecord>>;

/// The other nodes and their endpoints in the networks this host has part in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remotes {
    basis: Option<Basis>,
    records: Records,
    fdb: OrdMap<FdbKey, FdbEntry>,
    neighbours: OrdMap<NeighbourKey, Neighbour>,
    peers: OrdMap<PeerKey, Peer>,
    members: BTreeMap<PeerKey, Member>,
    contested: usize,
}

/// What decides how a record becomes map entries.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    vtep: Ipv4Addr,
    port: u16,
    /// The networks this host has part in.
    networks: BTreeMap<String, Vni>,
    /// The other nodes that are alive, by name.
    nodes: BTreeMap<String, Reached>,
    /// Their addresses, and our own.
    vteps: BTreeSet<Ipv4Addr>,
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

impl Basis {
    fn of(cluster: &Cluster, desired: &Desired, port: u16, observed: &Observed) -> Option<Self> {
        let underlay = observed.underlay.as_ref()?;
        let own_networks = desired.endpoints.values().filter_map(|endpoint| {
            let network = desired.networks.get(&endpoint.network)?;
            Some((network.name.clone(), network.vni))
        });
        let mut vteps = BTreeSet::from([underlay.vtep]);
        let mut nodes = BTreeMap::new();
        for node in cluster.nodes.values() {
            // This node itself, or one that took another's address.
            if vteps.insert(node.vtep) {
                let reached = Reached::new(node.vtep, node.mtu, underlay, observed);
                nodes.insert(node.name.clone(), reached);
            }
        }
        Some(Self {
            vtep: underlay.vtep,
            port,
            networks: own_networks.collect(),
            nodes,
            vteps,
        })
    }

    /// `None` for what is not to be in the maps: another network, or a node that
    /// is not alive.
    fn entries(&self, record: &EndpointRecord) -> Option<Entries> {
        let vni = *self.networks.get(&*record.network)?;
        let node = self.nodes.get(&*record.node)?;
        let outer = Outer::new(self.vtep, node.vtep, self.port, vni);
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
                    identity: 0,
                },
            ),
            peer: (PeerKey { vni, vtep }, peer),
            mtu: node.mtu,
        })
    }

    /// The networks and nodes whose records mean something else in `other`.
    fn touched(&self, other: &Self) -> Touched {
        Touched {
            networks: differing(&self.networks, &other.networks),
            nodes: differing(&self.nodes, &other.nodes),
        }
    }
}

/// The keys that do not have the same value in both.
fn differing<V: PartialEq>(a: &BTreeMap<String, V>, b: &BTreeMap<String, V>) -> BTreeSet<String> {
    let not_in = |(key, value): (&String, &V), other: &BTreeMap<String, V>| {
        (other.get(key) != Some(value)).then(|| key.clone())
    };
    let of_a = a.iter().filter_map(|entry| not_in(entry, b));
    let of_b = b.iter().filter_map(|entry| not_in(entry, a));
    of_a.chain(of_b).collect()
}

/// Networks and nodes, by name.
struct Touched {
    networks: BTreeSet<String>,
    nodes: BTreeSet<String>,
}

impl Touched {
    fn is_nothing(&self) -> bool {
        self.networks.is_empty() && self.nodes.is_empty()
    }

    fn concerns(&self, record: &EndpointRecord) -> bool {
        self.networks.contains(&*record.network) || self.nodes.contains(&*record.node)
    }
}

impl Reached {
    fn new(vtep: Ipv4Addr, mtu: u32, underlay: &Underlay, observed: &Observed) -> Self {
        let way = observed.routes.get(&vtep);
        Self {
            vtep,
            mtu,
            // Without a route there is no better guess, and what comes in from
            // there is good all the same.
            ifindex: way.map_or(underlay.ifindex, |way| way.ifindex),
            on_link: way.is_some_and(|way| way.on_link),
        }
    }
}

impl Remotes {
    /// Makes this what is on the other nodes now.
    pub(super) fn follow(&mut self, desired: &Desired, port: u16, observed: &Observed) {
        let cluster = desired.cluster.as_ref();
        let found = cluster.and_then(|cluster| {
            let basis = Basis::of(cluster, desired, port, observed)?;
            Some((basis, &cluster.endpoints))
        });
        let Some((basis, records)) = found else {
            *self = Self::default();
            return;
        };
        match self.basis.take() {
            Some(before) if before == basis && self.records.ptr_eq(records) => {
                self.basis = Some(basis);
            }
            Some(before)
                if self.contested == 0
                    && before.vtep == basis.vtep
                    && before.port == basis.port =>
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

    fn rebuild(&mut self, basis: Basis, records: &Records) {
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
            _ => {
                self.members.remove(&at);
                self.peers.remove(&at);
            }
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
        let member = Member { endpoints: 0, mtu };
        self.members.entry(at).or_insert(member).endpoints += 1;
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
        let vni = vni.get();
        let [first, last] = [0, u8::MAX].map(|byte| PeerKey {
            vni,
            vtep: [byte; 4],
        });
        let members = self.members.range(first..=last);
        members.map(|(_, member)| member.mtu).min()
    }

    /// The nodes this host shares a network with, by address.
    pub(super) fn vteps(&self) -> BTreeSet<Ipv4Addr> {
        let vteps = self.members.keys().map(|key| Ipv4Addr::from(key.vtep));
        vteps.collect()
    }
}
