//! What the maps should hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use vxplane_common::{
    abi::{
        Endpoint, FDB_LOCAL, FdbEntry, FdbKey, FloodKey, FloodTarget, LearnBudget, MAX_FLOOD,
        MAX_LEARNED_PER_NETWORK, Neighbour, NeighbourKey, Network, Outer, PEER_LEARN, Peer,
        PeerKey,
    },
    types::Vni,
};

use super::{Underlay, observe::Observed, plan::Wanted};
use crate::model;

/// The maps the daemon writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each field is the map of its name in `abi::map`"
)]
pub struct Tables {
    pub endpoints: BTreeMap<u32, Endpoint>,
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    pub neighbours: BTreeMap<NeighbourKey, Neighbour>,
    pub networks: BTreeMap<u32, Network>,
    pub peers: BTreeMap<PeerKey, Peer>,
    pub flood: BTreeMap<FloodKey, FloodTarget>,
    pub budgets: BTreeMap<u32, LearnBudget>,
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

impl Tables {
    /// What the maps should hold, given what they hold: flood slots stay where
    /// they are, and budgets are the programs' to spend.
    pub(super) fn wanted(
        wanted: &Wanted<'_>,
        observed: &Observed,
        held: &Self,
        wired: &[Wired<'_>],
    ) -> Self {
        let mut tables = Self::default();
        for endpoint in wired {
            tables.add_endpoint(*endpoint);
        }
        for network in wanted.desired.networks.values() {
            let peers = match &observed.underlay {
                Some(underlay) => tables.add_peers(wanted, observed, underlay, network),
                None => Vec::new(),
            };
            let endpoints = wired
                .iter()
                .filter(|wired| wired.network.vni == network.vni)
                .map(Target::endpoint);
            let targets = peers.into_iter().map(Target::peer).chain(endpoints);
            tables.add_network(network.vni, held, targets.collect());
        }
        tables
    }

    fn add_endpoint(&mut self, wired: Wired<'_>) {
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
        };
        self.neighbours
            .insert(NeighbourKey { vni, ipv4 }, neighbour);
    }

    /// Adds the peers of `network` and returns their addresses.
    fn add_peers(
        &mut self,
        wanted: &Wanted<'_>,
        observed: &Observed,
        underlay: &Underlay,
        network: &model::Network,
    ) -> Vec<[u8; 4]> {
        let mut vteps = Vec::new();
        for peer in wanted.peers_of(&network.name, underlay.vtep) {
            let vtep = peer.octets();
            let way = observed.routes.get(&peer);
            let outer = Outer::new(underlay.vtep, peer, wanted.port, network.vni);
            let key = PeerKey {
                vni: network.vni.get(),
                vtep,
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
            vteps.push(vtep);
        }
        vteps
    }

    fn add_network(&mut self, vni: Vni, held: &Self, targets: Vec<Target>) {
        let vni = vni.get();
        let held_slots = held
            .flood
            .range(
                FloodKey { vni, slot: 0 }..=FloodKey {
                    vni,
                    slot: u32::MAX,
                },
            )
            .map(|(key, target)| (key.slot, Target::from(*target)));
        let slots = assign(&held_slots.collect(), targets);
        let flood_len = u32::try_from(slots.len()).unwrap_or(MAX_FLOOD);
        self.networks.insert(vni, Network { flood_len });
        for (slot, target) in (0..).zip(slots) {
            self.flood.insert(FloodKey { vni, slot }, target.into());
        }
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

/// How many copies of a flooded frame would be left out: 0, or a problem.
pub(super) fn flood_overflow(endpoints: usize, peers: usize) -> usize {
    (endpoints + peers).saturating_sub(MAX_FLOOD as usize)
}

impl Wanted<'_> {
    /// The addresses of the peers of a network; our own is none.
    pub(super) fn peers_of(&self, network: &str, own: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> {
        let peers = self.desired.peers.values();
        peers
            .filter(move |peer| peer.ip != own && peer.networks.contains(network))
            .map(|peer| peer.ip)
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
        assert_eq!(flood_overflow(1000, 29), 5);
        assert_eq!(flood_overflow(10, 2), 0);
    }
}
