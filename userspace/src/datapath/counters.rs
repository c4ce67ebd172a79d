//! Reading the counters.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::MapError;
use vxplane_common::{
    abi::{Counter, DropKey, EndpointDrops, Traffic, map},
    drop::{Direction, DropReason},
};

use super::{Error, Maps};
use crate::reconcile::{Counters, DropCount};

fn add(a: Counter, b: &Counter) -> Counter {
    Counter {
        packets: a.packets.wrapping_add(b.packets),
        bytes: a.bytes.wrapping_add(b.bytes),
    }
}

/// Those reasons for which something was dropped.
fn by_reason(drops: &EndpointDrops) -> BTreeMap<DropReason, u64> {
    let all = DropReason::ALL.iter();
    let count = |reason: &DropReason| {
        let packets = *drops.packets.get(*reason as usize)?;
        (packets > 0).then_some((*reason, packets))
    };
    all.filter_map(count).collect()
}

/// Whether a drop counter is of a network that is none of `networks`. What is
/// of no network at all stays.
fn is_stale(key: DropKey, networks: &BTreeSet<u32>) -> bool {
    key.vni != 0 && !networks.contains(&key.vni)
}

impl Maps {
    /// All counters, summed over CPUs.
    pub fn counters(&self) -> Result<Counters, Error> {
        Ok(Counters {
            drops: self.drop_counts()?,
            traffic: self.traffic_of_endpoints()?,
            endpoint_drops: self.drops_of_endpoints()?,
            learned: self.learned_by_network()?,
            unlearned: self.unlearned_by_network()?,
            flows: self.flow_counts()?,
        })
    }

    fn drop_counts(&self) -> Result<Vec<DropCount>, Error> {
        let mut drops = Vec::new();
        for entry in &self.drops {
            let (key, per_cpu) = entry.map_err(|source| Error::Map {
                map: map::DROPS,
                source,
            })?;
            // A code of a newer version, met after a downgrade, has no name.
            let (Some(reason), Some(direction)) = (
                DropReason::from_u8(key.reason),
                Direction::from_u8(key.direction),
            ) else {
                continue;
            };
            drops.push(DropCount {
                vni: key.vni,
                reason,
                direction,
                count: per_cpu.iter().fold(Counter::default(), add),
            });
        }
        drops.sort_by_key(|drop| (drop.vni, drop.reason, drop.direction));
        Ok(drops)
    }

    /// Forgets the drops of networks that are no longer there: with them, the
    /// map would be full some day.
    pub(super) fn sweep_drops(&mut self) -> Result<(), Error> {
        if self.filling {
            return Ok(());
        }
        let error = |source| Error::Map {
            map: map::DROPS,
            source,
        };
        let keys: Result<Vec<_>, _> = self.drops.keys().collect();
        let keys = keys.map_err(error)?;
        let networks: BTreeSet<u32> = self.networks.keys()?.into_iter().collect();
        for key in keys.iter().filter(|key| is_stale(**key, &networks)) {
            match self.drops.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(error(source)),
            }
        }
        Ok(())
    }

    fn traffic_of_endpoints(&self) -> Result<BTreeMap<u32, Traffic>, Error> {
        let slots = self.endpoints.snapshot()?;
        let sum = |slot: u32| {
            let per_cpu = self.traffic.get(&slot, 0).map_err(|source| Error::Map {
                map: map::TRAFFIC,
                source,
            })?;
            let mut total = Traffic::default();
            for cpu in per_cpu.iter() {
                total.egress = add(total.egress, &cpu.egress);
                total.ingress = add(total.ingress, &cpu.ingress);
            }
            Ok((slot, total))
        };
        slots.values().map(|endpoint| sum(endpoint.slot)).collect()
    }

    fn drops_of_endpoints(&self) -> Result<BTreeMap<u32, BTreeMap<DropReason, u64>>, Error> {
        let slots = self.endpoints.snapshot()?;
        let of_slot = |slot: u32| {
            let error = |source| Error::Map {
                map: map::ENDPOINT_DROPS,
                source,
            };
            let drops = self.endpoint_drops.get(&slot, 0).map_err(error)?;
            Ok((slot, by_reason(&drops)))
        };
        slots
            .values()
            .map(|endpoint| of_slot(endpoint.slot))
            .collect()
    }

    fn learned_by_network(&self) -> Result<BTreeMap<u32, u32>, Error> {
        let mut learned = BTreeMap::new();
        for key in self.learned.keys()? {
            *learned.entry(key.vni).or_default() += 1;
        }
        Ok(learned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_no_network_are_never_stale() {
        let networks = BTreeSet::from([7]);
        let stale = |vni| {
            let key = DropKey::new(vni, DropReason::UnknownMac, Direction::Ingress);
            is_stale(key, &networks)
        };
        assert_eq!([0, 7, 8].map(stale), [false, false, true]);
    }
}
