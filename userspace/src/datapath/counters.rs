//! Reading the counters.

use std::collections::BTreeMap;

use vxplane_common::{
    abi::{Counter, Traffic, map},
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

impl Maps {
    /// All counters, summed over CPUs.
    pub fn counters(&self) -> Result<Counters, Error> {
        Ok(Counters {
            drops: self.drop_counts()?,
            traffic: self.traffic_of_endpoints()?,
            learned: self.learned_by_network()?,
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

    fn traffic_of_endpoints(&self) -> Result<BTreeMap<u32, Traffic>, Error> {
        let slots = self.endpoints.snapshot()?;
        let sum = |slot: u32| {
            let per_cpu = self.traffic.get(&slot, 0).map_err(|source| Error::Map {
                map: map::TRAFFIC,
                source,
            })?;
            let total = per_cpu.iter().fold(Traffic::default(), |sum, cpu| Traffic {
                egress: add(sum.egress, &cpu.egress),
                ingress: add(sum.ingress, &cpu.ingress),
            });
            Ok((slot, total))
        };
        slots.values().map(|endpoint| sum(endpoint.slot)).collect()
    }

    fn learned_by_network(&self) -> Result<BTreeMap<u32, u32>, Error> {
        let mut learned = BTreeMap::new();
        for key in self.learned.keys()? {
            *learned.entry(key.vni).or_default() += 1;
        }
        Ok(learned)
    }
}
