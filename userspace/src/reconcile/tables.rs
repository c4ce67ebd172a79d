//! What the maps should hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use imbl::{OrdMap, ordmap::DiffItem};
use vxplane_common::{
    abi::{
        BlockKey, Endpoint, FDB_LOCAL, FdbEntry, FdbKey, FloodKey, FloodTarget, LearnBudget, Limit,
        MAX_BLOCKS, MAX_ENDPOINTS, MAX_FDB, MAX_FLOOD, MAX_LEARNED_PER_NETWORK, MAX_MEMBERS,
        MAX_NETWORKS, MAX_PEERS, MAX_RULES, MemberKey, Neighbour, NeighbourKey, Network, Outer,
        PEER_LEARN, Peer, PeerKey, Prefix, RuleKey, map,
    },
    types::Vni,
};

use super::{Fill, Underlay, observe::Observed, plan::Wanted, rulesets::Under};
use crate::{
    datapath::{self, Maps},
    model,
};

/// The maps the daemon writes. Copies share what is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each field is the map of its name in `abi::map`"
)]
pub struct Tables {
    pub endpoints: OrdMap<u32, Endpoint>,
    pub fdb: OrdMap<FdbKey, FdbEntry>,
    pub neighbours: OrdMap<NeighbourKey, Neighbour>,
    pub networks: OrdMap<u32, Network>,
    pub peers: OrdMap<PeerKey, Peer>,
    pub flood: OrdMap<FloodKey, FloodTarget>,
    pub budgets: OrdMap<u32, LearnBudget>,
    pub members: OrdMap<MemberKey, u32>,
    pub blocks: OrdMap<Prefix<BlockKey>, u32>,
    pub rules: OrdMap<Prefix<RuleKey>, u32>,
    pub limits: OrdMap<u32, Limit>,
}

/// An endpoint that is in the maps: what is desired, and its host veth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wired<'a> {
    pub(super) endpoint: &'a model::Endpoint,
    pub(super) network: &'a model::Network,
    pub(super) ifindex: u32,
}

/// No outer headers: those of a local FDB entry.
const NO_OUTER: Outer = Outer {
    ipv4_sum: 0,
    header: [0; 36],
    next_hop: [0; 4],
};

/// What the maps should hold, and what of it does not fit into them.
pub(super) struct Composed {
    pub(super) tables: Tables,
    pub(super) problems: Vec<String>,
}

impl Composed {
    /// What the maps should hold, given what they hold: flood slots stay where
    /// they are, and budgets are the programs' to spend.
    pub(super) fn new(
        wanted: &Wanted<'_>,
        observed: &Observed,
        held: &Tables,
        wired: &[Wired<'_>],
    ) -> Self {
        let remotes = wanted.remotes;
        let mut composed = Self {
            tables: Tables {
                fdb: remotes.fdb().clone(),
                neighbours: remotes.neighbours().clone(),
                peers: remotes.peers().clone(),
                flood: held.flood.clone(),
                members: wanted.rulesets.members.clone(),
                blocks: wanted.rulesets.blocks.clone(),
                rules: wanted.rulesets.rules.clone(),
                ..Tables::default()
            },
            problems: wanted.rulesets.problems().to_vec(),
        };
        composed.limit_endpoints(wired.len());
        for endpoint in wired {
            let under = wanted.rulesets.under(&endpoint.endpoint.id);
            composed.tables.add_endpoint(*endpoint, under);
        }
        if let Some(underlay) = &observed.underlay {
            for network in wanted.networks() {
                composed
                    .tables
                    .add_peers(wanted, observed, underlay, network);
            }
        }
        composed.limit_peers(wired.len());
        let standing = wanted.before.map(|it| composed.tables.standing(it, held));
        for network in wanted.networks() {
            let vni = network.vni.get();
            let flood_len = standing.as_ref().and_then(|standing| standing.get(&vni));
            if let Some(flood_len) = flood_len {
                composed.tables.keep_network(vni, held, *flood_len);
                continue;
            }
            let endpoints = wired
                .iter()
                .filter(|wired| wired.network.vni == network.vni)
                .map(Target::endpoint);
            let peers = composed.tables.peers_in(network.vni).map(Target::peer);
            let targets: Vec<Target> = peers.chain(endpoints).collect();
            let left_out = targets.len().saturating_sub(MAX_FLOOD as usize);
            if left_out > 0 {
                composed.problems.push(format!(
                    "the network {} is too large for flooding: {left_out} of its endpoints here \
                     receive no broadcasts",
                    network.name
                ));
            }
            composed.tables.add_network(network.vni, held, targets);
        }
        composed.tables.drop_flood_lists_of_others();
        composed
    }

    /// Leaves out endpoints of other nodes that there is no room for.
    fn limit_endpoints(&mut self, own: usize) {
        let room = (MAX_FDB as usize).saturating_sub(own);
        let (fdb, neighbours) = (&mut self.tables.fdb, &mut self.tables.neighbours);
        let left_out = truncate(fdb, room).max(truncate(neighbours, room));
        if left_out > 0 {
            self.problems.push(format!(
                "the networks of this host have {left_out} endpoints on other nodes more than the \
                 {room} there is room for: what is sent to those is flooded"
            ));
        }
    }

    /// Leaves out VTEPs that there is no room for: with the endpoints here, they
    /// fill the flood lists.
    fn limit_peers(&mut self, own: usize) {
        let room = (MAX_PEERS as usize).saturating_sub(own);
        let left_out = truncate(&mut self.tables.peers, room);
        if left_out > 0 {
            self.problems.push(format!(
                "the networks of this host have {left_out} VTEPs more than the {room} in all there \
                 is room for: nothing is accepted from those, and nothing flooded to them"
            ));
        }
    }
}

/// Takes out the last entries beyond `room`, and says how many.
fn truncate<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>, room: usize) -> usize {
    let left_out = map.len().saturating_sub(room);
    for _ in 0..left_out {
        let Some(last) = map.get_max().map(|(key, _)| key.clone()) else {
            break;
        };
        map.remove(&last);
    }
    left_out
}

impl Tables {
    /// Reads the maps.
    pub(super) fn read(maps: &Maps) -> Result<Self, datapath::Error> {
        Ok(Self {
            endpoints: maps.endpoints.entries()?.into_iter().collect(),
            fdb: maps.fdb.entries()?.into_iter().collect(),
            neighbours: maps.neighbours.entries()?.into_iter().collect(),
            networks: maps.networks.entries()?.into_iter().collect(),
            peers: maps.peers.entries()?.into_iter().collect(),
            flood: maps.flood.entries()?.into_iter().collect(),
            budgets: maps.learn_budget.entries()?.into_iter().collect(),
            members: maps.members.entries()?.into_iter().collect(),
            blocks: maps.blocks.entries()?.into_iter().collect(),
            rules: maps.rules.entries()?.into_iter().collect(),
            limits: maps.limits.entries()?.into_iter().collect(),
        })
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.endpoints.len()
            + self.fdb.len()
            + self.neighbours.len()
            + self.networks.len()
            + self.peers.len()
            + self.flood.len()
            + self.budgets.len()
            + self.members.len()
            + self.blocks.len()
            + self.rules.len()
            + self.limits.len()
    }

    /// How full the maps are.
    pub(super) fn fill(&self) -> Vec<Fill> {
        let fill = |map, entries, room| Fill { map, entries, room };
        vec![
            fill(map::ENDPOINTS, self.endpoints.len(), MAX_ENDPOINTS),
            fill(map::FDB, self.fdb.len(), MAX_FDB),
            fill(map::NEIGHBOURS, self.neighbours.len(), MAX_FDB),
            fill(map::NETWORKS, self.networks.len(), MAX_NETWORKS),
            fill(map::PEERS, self.peers.len(), MAX_PEERS),
            fill(map::FLOOD, self.flood.len(), MAX_PEERS),
            fill(map::MEMBERS, self.members.len(), MAX_MEMBERS),
            fill(map::BLOCKS, self.blocks.len(), MAX_BLOCKS),
            fill(map::RULES, self.rules.len(), MAX_RULES),
        ]
    }

    /// In how many entries the two differ. How much is left of a budget is the
    /// programs' business.
    pub(super) fn distance(&self, other: &Self) -> usize {
        let budgets = self.budgets.keys().collect::<BTreeSet<_>>();
        let other_budgets = other.budgets.keys().collect();
        self.endpoints.diff(&other.endpoints).count()
            + self.fdb.diff(&other.fdb).count()
            + self.neighbours.diff(&other.neighbours).count()
            + self.networks.diff(&other.networks).count()
            + self.peers.diff(&other.peers).count()
            + self.flood.diff(&other.flood).count()
            + self.members.diff(&other.members).count()
            + self.blocks.diff(&other.blocks).count()
            + self.rules.diff(&other.rules).count()
            + self.limits.diff(&other.limits).count()
            + budgets.symmetric_difference(&other_budgets).count()
    }

    /// The VTEPs that may send into a network.
    fn peers_in(&self, vni: Vni) -> impl Iterator<Item = [u8; 4]> {
        let vni = vni.get();
        let [first, last] = [0, u8::MAX].map(|byte| PeerKey {
            vni,
            vtep: [byte; 4],
        });
        self.peers.range(first..=last).map(|(key, _)| key.vtep)
    }

    /// The flood list of a network.
    fn flood_list(&self, vni: u32) -> BTreeMap<u32, Target> {
        let [first, last] = [0, u32::MAX].map(|slot| FloodKey { vni, slot });
        let slots = self.flood.range(first..=last);
        slots
            .map(|(key, target)| (key.slot, Target::from(*target)))
            .collect()
    }

    /// The networks that have the same members as in `before`, when each list was
    /// complete, and how long those lists are. None if somebody wrote to the lists
    /// since. A list that is full may lack members, and is to be told of again.
    fn standing(&self, before: &Self, held: &Self) -> BTreeMap<u32, u32> {
        if !held.flood.ptr_eq(&before.flood) {
            return BTreeMap::new();
        }
        let lists = before.networks.iter();
        let mut standing: BTreeMap<u32, u32> = lists
            .map(|(vni, network)| (*vni, network.flood_len))
            .filter(|(_, flood_len)| *flood_len < MAX_FLOOD)
            .collect();
        for item in before.peers.diff(&self.peers) {
            let (DiffItem::Add(key, _)
            | DiffItem::Remove(key, _)
            | DiffItem::Update { new: (key, _), .. }) = item;
            standing.remove(&key.vni);
        }
        for item in before.endpoints.diff(&self.endpoints) {
            let (old, new) = match item {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            for endpoint in old.into_iter().chain(new) {
                standing.remove(&endpoint.vni);
            }
        }
        standing
    }

    /// Keeps a network whose flood list is as it should be.
    fn keep_network(&mut self, vni: u32, held: &Self, flood_len: u32) {
        self.networks.insert(vni, Network { flood_len });
        self.keep_budget(vni, held);
    }

    fn drop_flood_lists_of_others(&mut self) {
        let mut from = 0;
        while let Some(vni) = self.next_flood_list(from) {
            if !self.networks.contains_key(&vni) {
                let slots = self.flood_list(vni).into_keys();
                for slot in slots {
                    self.flood.remove(&FloodKey { vni, slot });
                }
            }
            from = vni + 1;
        }
    }

    /// The network of the first flood list from `vni` on.
    fn next_flood_list(&self, vni: u32) -> Option<u32> {
        let first = FloodKey { vni, slot: 0 };
        self.flood.range(first..).next().map(|(key, _)| key.vni)
    }

    fn add_endpoint(&mut self, wired: Wired<'_>, under: Under) {
        let Wired {
            endpoint,
            network,
            ifindex,
        } = wired;
        let (vni, ipv4) = (network.vni.get(), endpoint.ip.octets());
        let entry = Endpoint {
            vni,
            ipv4,
            mac: endpoint.mac,
            pad: [0; 2],
            slot: endpoint.slot,
            identity: endpoint.identity,
            egress: under.egress,
            ingress: under.ingress,
        };
        self.endpoints.insert(ifindex, entry);
        let key = FdbKey::new(vni, endpoint.mac);
        let entry = FdbEntry {
            kind: FDB_LOCAL,
            ifindex,
            ipv4,
            slot: endpoint.slot,
            outer: NO_OUTER,
        };
        self.fdb.insert(key, entry);
        let neighbour = Neighbour {
            mac: endpoint.mac,
            pad: [0; 2],
            identity: endpoint.identity,
        };
        self.neighbours
            .insert(NeighbourKey { vni, ipv4 }, neighbour);
        if let Some(new_flows_per_second) = endpoint.limits.new_flows_per_second {
            let limit = Limit {
                new_flows_per_second,
            };
            self.limits.insert(endpoint.slot, limit);
        }
    }

    /// Adds the peers of `network` that are no nodes.
    fn add_peers(
        &mut self,
        wanted: &Wanted<'_>,
        observed: &Observed,
        underlay: &Underlay,
        network: &model::Network,
    ) {
        for peer in wanted.peers_of(&network.name, underlay.vtep) {
            let way = observed.routes.get(&peer);
            let outer = Outer::new(underlay.vtep, peer, wanted.port, network.vni);
            let key = PeerKey {
                vni: network.vni.get(),
                vtep: peer.octets(),
            };
            // Without a route there is no better guess, and what comes in from
            // the peer is good all the same.
            let ifindex = way.map_or(underlay.ifindex, |way| way.ifindex);
            let outer = if way.is_some_and(|way| way.on_link) {
                outer.on_link()
            } else {
                outer
            };
            let entry = Peer::new(PEER_LEARN, ifindex, outer);
            self.peers.insert(key, entry);
        }
    }

    fn add_network(&mut self, vni: Vni, held: &Self, targets: Vec<Target>) {
        let vni = vni.get();
        let held_slots = held.flood_list(vni);
        let slots = assign(&held_slots, targets);
        let flood_len = u32::try_from(slots.len()).unwrap_or(MAX_FLOOD);
        self.networks.insert(vni, Network { flood_len });
        for slot in held_slots.range(flood_len..).map(|(slot, _)| *slot) {
            self.flood.remove(&FloodKey { vni, slot });
        }
        for (slot, target) in (0..).zip(slots) {
            if held_slots.get(&slot) != Some(&target) {
                self.flood.insert(FloodKey { vni, slot }, target.into());
            }
        }
        self.keep_budget(vni, held);
    }

    /// Leaves a network what is left of its budget, or begins with a full one.
    fn keep_budget(&mut self, vni: u32, held: &Self) {
        let budget = held.budgets.get(&vni).copied();
        let full = LearnBudget {
            remaining: u64::from(MAX_LEARNED_PER_NETWORK),
            refused: 0,
        };
        self.budgets.insert(vni, budget.unwrap_or(full));
    }
}

/// Who gets a copy of a flooded frame: [`FloodTarget`], in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    ifindex: u32,
    vtep: [u8; 4],
    slot: u32,
}

impl Target {
    fn endpoint(wired: &Wired<'_>) -> Self {
        Self {
            ifindex: wired.ifindex,
            vtep: [0; 4],
            slot: wired.endpoint.slot,
        }
    }

    fn peer(vtep: [u8; 4]) -> Self {
        Self {
            ifindex: 0,
            vtep,
            slot: 0,
        }
    }
}

impl From<FloodTarget> for Target {
    fn from(target: FloodTarget) -> Self {
        Self {
            ifindex: target.ifindex,
            vtep: target.vtep,
            slot: target.slot,
        }
    }
}

impl From<Target> for FloodTarget {
    fn from(target: Target) -> Self {
        Self {
            ifindex: target.ifindex,
            vtep: target.vtep,
            slot: target.slot,
        }
    }
}

/// Puts `targets` into dense slots. Those that have a slot already keep it if it
/// is still among the slots in use, so that a frame flooded meanwhile misses
/// nobody and reaches nobody twice, except where a gap must be closed.
fn assign(held: &BTreeMap<u32, Target>, mut targets: Vec<Target>) -> Vec<Target> {
    targets.truncate(MAX_FLOOD as usize);
    let mut unplaced: BTreeSet<Target> = targets.iter().copied().collect();
    let count = u32::try_from(unplaced.len()).unwrap_or(MAX_FLOOD);
    let kept: Vec<Option<Target>> = (0..count)
        .map(|slot| {
            held.get(&slot)
                .copied()
                .filter(|target| unplaced.remove(target))
        })
        .collect();
    let mut rest = targets.into_iter().filter(|target| unplaced.remove(target));
    kept.into_iter()
        .filter_map(|slot| slot.or_else(|| rest.next()))
        .collect()
}

impl<'a> Wanted<'a> {
    /// The networks this host has part in: in a cluster, those it has endpoints
    /// in.
    pub(super) fn networks(&self) -> impl Iterator<Item = &'a model::Network> + use<'a> {
        let desired = self.desired;
        let of_endpoints: BTreeSet<&str> = desired
            .endpoints
            .values()
            .map(|endpoint| endpoint.network.as_str())
            .collect();
        let has_part = move |network: &&model::Network| {
            desired.cluster.is_none() || of_endpoints.contains(network.name.as_str())
        };
        desired.networks.values().filter(has_part)
    }

    /// The addresses of the peers of a network that are neither nodes nor this
    /// host.
    fn peers_of(&self, network: &str, own: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> {
        let peers = self.desired.peers.values();
        peers
            .filter(move |peer| peer.ip != own && peer.networks.contains(network))
            .map(|peer| peer.ip)
            .filter(|peer| !self.remotes.is_node(*peer))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn veth(ifindex: u32) -> Target {
        Target {
            ifindex,
            vtep: [0; 4],
            slot: ifindex,
        }
    }

    #[test]
    fn slots_are_dense_and_stay() {
        let held = BTreeMap::from([(0, veth(1)), (1, veth(2)), (2, veth(3))]);
        assert_eq!(
            assign(&held, vec![veth(1), veth(2), veth(3), veth(4)]),
            [1, 2, 3, 4].map(veth)
        );
        assert_eq!(assign(&held, vec![veth(3), veth(1)]), [1, 3].map(veth));
        assert_eq!(
            assign(&held, vec![veth(9), veth(3), veth(1)]),
            [1, 9, 3].map(veth)
        );
        assert_eq!(assign(&held, vec![]), []);
    }

    proptest! {
        #[test]
        fn every_target_has_one_slot(
            held in prop::collection::btree_map(0_u32..12, (0_u32..9).prop_map(veth), 0..9),
            targets in prop::collection::btree_set((0_u32..9).prop_map(veth), 0..9),
        ) {
            let slots = assign(&held, targets.iter().copied().collect());
            prop_assert_eq!(slots.len(), targets.len());
            prop_assert_eq!(slots.iter().copied().collect::<BTreeSet<_>>(), targets);
            let held = (0..).zip(slots.iter().copied()).collect();
            prop_assert_eq!(assign(&held, slots.clone()), slots);
        }
    }

    #[test]
    fn no_more_copies_than_the_programs_make() {
        let targets: Vec<Target> = (0..MAX_FLOOD + 5).map(veth).collect();
        assert_eq!(assign(&BTreeMap::new(), targets).len(), MAX_FLOOD as usize);
    }
}
