//! Ageing of learned MAC addresses. The programs only ever learn; the daemon
//! forgets, and sets how much may be learned anew.

use std::{collections::BTreeMap, time::Duration};

use tokio::task::AbortHandle;
use vxplane_common::abi::{
    FdbEntry, FdbKey, LearnBudget, Learned, MAX_LEARNED_PER_NETWORK, PEER_LEARN, Peer, PeerKey,
};

use super::{Error, Maps, SharedMaps, clock, flows::Tally, lock};

/// How often it is looked after, at the least. Also how long a network that spent
/// its budget learns nothing more.
const INTERVAL: Duration = Duration::from_secs(10);

/// An address is forgotten no later than this part of the age after its time.
const LATE: u32 = 5;

/// What outlives a load of the programs.
#[derive(Debug)]
pub(super) struct Ageing {
    /// How long a silent MAC address is remembered.
    max_age: Duration,
    /// By VNI: packets that brought an address there was no room for, up to the
    /// last refill of the budgets, which count those since.
    unlearned: BTreeMap<u32, u64>,
    /// What the last sweep of the flows found.
    pub(super) flows: Tally,
}

impl Ageing {
    pub(super) fn new(max_age: Duration) -> Self {
        Self {
            max_age,
            unlearned: BTreeMap::new(),
            flows: Tally::default(),
        }
    }
}

/// What decides whether a learned address stays.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// What the control plane says of that address.
    endpoint: Option<FdbEntry>,
    /// The peer it is behind.
    peer: Option<Peer>,
    /// Since boot.
    now: Duration,
    max_age: Duration,
}

impl Known {
    /// Young enough, not (any more) the address of an endpoint, and behind a peer
    /// that is learned from and reached as it was then.
    fn keeps(&self, entry: &Learned) -> bool {
        let age = self.now.saturating_sub(Duration::from_nanos(entry.seen));
        let as_then = |peer: &Peer| {
            peer.flags & PEER_LEARN != 0
                && peer.outer == entry.outer
                && peer.ifindex == entry.ifindex
        };
        age < self.max_age && self.endpoint.is_none() && self.peer.as_ref().is_some_and(as_then)
    }
}

/// How many more addresses each network may learn.
fn budgets<'a>(networks: &[u32], learned: impl Iterator<Item = &'a FdbKey>) -> BTreeMap<u32, u64> {
    let mut budgets: BTreeMap<u32, u64> = networks
        .iter()
        .map(|vni| (*vni, u64::from(MAX_LEARNED_PER_NETWORK)))
        .collect();
    for key in learned {
        if let Some(budget) = budgets.get_mut(&key.vni) {
            *budget = budget.saturating_sub(1);
        }
    }
    budgets
}

impl Maps {
    /// Forgets what no longer holds and refills the budgets. Not while maps are
    /// being filled: nobody is a peer in an empty one.
    pub fn sweep_learned(&mut self) -> Result<(), Error> {
        if self.filling {
            return Ok(());
        }
        let (now, max_age) = (clock::now(), self.ageing.max_age);
        let mut stay = Vec::new();
        let mut forgotten = false;
        for (key, entry) in self.learned.entries()? {
            let peer = PeerKey {
                vni: key.vni,
                vtep: entry.vtep,
            };
            // Looked up one by one: the maps they are in may be far larger.
            let known = Known {
                endpoint: self.fdb.get(&key)?,
                peer: self.peers.get(&peer)?,
                now,
                max_age,
            };
            if known.keeps(&entry) {
                stay.push(key);
            } else {
                self.learned.remove(&key)?;
                forgotten = true;
            }
        }
        if forgotten {
            // Packets may be on shortcuts to where these were.
            self.bump_epoch()?;
        }
        let networks = self.networks.keys()?;
        self.ageing.unlearned = self.unlearned_by_network()?;
        for (vni, remaining) in budgets(&networks, stay.iter()) {
            let budget = LearnBudget {
                remaining,
                refused: 0,
            };
            self.learn_budget.put(vni, budget)?;
        }
        Ok(())
    }
}

impl Maps {
    /// How many packets brought an address that was not learned, by VNI.
    pub(super) fn unlearned_by_network(&self) -> Result<BTreeMap<u32, u64>, Error> {
        let mut unlearned = BTreeMap::new();
        for (vni, budget) in self.learn_budget.snapshot()? {
            let before = self.ageing.unlearned.get(&vni).copied();
            unlearned.insert(vni, budget.refused.saturating_add(before.unwrap_or(0)));
        }
        Ok(unlearned)
    }
}

fn sweep(maps: &mut Maps) -> Result<(), Error> {
    maps.sweep_learned()?;
    maps.sweep_flows()?;
    maps.sweep_drops()
}

/// Sweeps for as long as the task lives.
pub(super) fn keep_sweeping(maps: SharedMaps, max_age: Duration) -> AbortHandle {
    let sweeping = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL.min(max_age / LATE));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = sweep(&mut lock(&maps)) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot age out learned MAC addresses, flows and old counters"
                );
            }
        }
    });
    sweeping.abort_handle()
}

#[cfg(test)]
mod tests {
    use vxplane_common::{
        abi::{FDB_LOCAL, Outer},
        types::MacAddr,
    };

    use super::*;

    const VTEP: [u8; 4] = [192, 0, 2, 2];

    fn key(vni: u32, last: u8) -> FdbKey {
        FdbKey {
            vni,
            mac: MacAddr([2, 0, 0, 0, 0, last]),
            pad: [0; 2],
        }
    }

    const fn outer(byte: u8) -> Outer {
        Outer {
            ipv4_sum: 0,
            header: [byte; 36],
            next_hop: [0; 4],
        }
    }

    const fn peer(flags: u32, ifindex: u32) -> Peer {
        Peer::new(flags, ifindex, outer(1))
    }

    fn learned(seen: Duration) -> Learned {
        let seen = u64::try_from(seen.as_nanos()).unwrap();
        Learned::new(seen, 0, VTEP, 3, outer(1))
    }

    #[test]
    fn forgets_the_old_the_known_and_what_is_behind_others() {
        let known = Known {
            endpoint: None,
            peer: Some(peer(PEER_LEARN, 3)),
            now: Duration::from_secs(1000),
            max_age: Duration::from_mins(5),
        };
        let fresh = learned(Duration::from_secs(999));
        assert!(known.keeps(&fresh));
        assert!(known.keeps(&learned(Duration::from_secs(701))));
        assert!(!known.keeps(&learned(Duration::from_secs(700))));
        let seen_after_now = learned(Duration::from_secs(1001));
        assert!(known.keeps(&seen_after_now));

        let endpoint = FdbEntry {
            kind: FDB_LOCAL,
            ifindex: 9,
            ipv4: [0; 4],
            slot: 0,
            outer: outer(0),
        };
        let of_endpoint = Known {
            endpoint: Some(endpoint),
            ..known
        };
        assert!(!of_endpoint.keeps(&fresh), "an endpoint's address");
        for (peer, what) in [
            (None, "not a peer of that network"),
            (Some(peer(0, 3)), "a node, whose endpoints are known"),
            (Some(peer(PEER_LEARN, 4)), "reached another way now"),
        ] {
            assert!(!Known { peer, ..known }.keeps(&fresh), "{what}");
        }
    }

    #[test]
    fn each_network_has_a_budget_of_its_own() {
        let learned = [key(7, 1), key(7, 2), key(9, 1)];
        let expected = BTreeMap::from([
            (7, u64::from(MAX_LEARNED_PER_NETWORK) - 2),
            (8, u64::from(MAX_LEARNED_PER_NETWORK)),
        ]);
        assert_eq!(budgets(&[7, 8], learned.iter()), expected);
    }
}
