//! Forgetting flows. The programs take a flow that is over for none, by the same
//! rule; it is removed here, so that those that last find room.
//!
//! New flows need no looking after: their map drives out the oldest. The kernel
//! does not tell how many, so that number is what is missing: those that began,
//! less those that lasted, ended, or are still there.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
};

use aya::maps::MapError;
use vxplane_common::abi::{Flow, FlowKey, FlowStats, MAX_FLOWS, map};

use super::{Error, Maps, batch::visit, clock, maps::Table};
use crate::reconcile::FlowCounts;

/// Above this part of the room in percent, flows that are closing make way.
const CROWDED: usize = 90;
/// Until it is down to this part.
const ROOMY: usize = 80;

/// What the last sweep found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    lasting: u64,
    new: u64,
    expired: u64,
    crowded_out: u64,
    evicted: u64,
}

/// What is to be forgotten.
#[derive(Debug, Default, PartialEq, Eq)]
struct Victims {
    /// They are over.
    expired: Vec<FlowKey>,
    /// They are not, but an end has closed them, those silent for longest.
    crowded_out: Vec<FlowKey>,
}

/// What of `flows` is to be forgotten at the second `now` in a map with `room`.
fn victims(flows: &[(FlowKey, Flow)], now: u32, room: usize) -> Victims {
    let is_over = |(key, flow): &&(FlowKey, Flow)| flow.is_over(key.protocol(), now);
    let expired: Vec<FlowKey> = flows.iter().filter(is_over).map(|(key, _)| *key).collect();
    let left = flows.len().saturating_sub(expired.len());
    if left * 100 <= room * CROWDED {
        return Victims {
            expired,
            crowded_out: Vec::new(),
        };
    }
    let mut closing: Vec<&(FlowKey, Flow)> = flows
        .iter()
        .filter(|entry| !is_over(entry) && !entry.1.takes_part())
        .collect();
    closing.sort_by_key(|(key, flow)| (flow.seen, *key));
    let too_many = left.saturating_sub(room * ROOMY / 100);
    let crowded_out = closing.iter().take(too_many).map(|(key, _)| *key);
    Victims {
        expired,
        crowded_out: crowded_out.collect(),
    }
}

fn is_of(key: &FlowKey, vni: u32, address: Ipv4Addr) -> bool {
    key.vni() == vni && [key.low, key.high].contains(&address.octets())
}

/// Counts the flows of single addresses. It looks at every flow there is, which
/// takes a while.
#[derive(Debug)]
pub struct FlowCounter {
    maps: [OwnedFd; 2],
}

impl FlowCounter {
    /// How many flows an address has that are not over.
    pub fn count(&self, vni: u32, address: Ipv4Addr) -> io::Result<u64> {
        let now = second();
        let mut count = 0;
        for map in &self.maps {
            visit(map.as_fd(), |key: FlowKey, flow: Flow| {
                let counts = is_of(&key, vni, address) && !flow.is_over(key.protocol(), now);
                count += u64::from(counts);
            })?;
        }
        Ok(count)
    }
}

/// The second, as the programs count them.
fn second() -> u32 {
    u32::try_from(clock::now().as_secs()).unwrap_or(u32::MAX)
}

impl Maps {
    /// Forgets the flows that are over, and in a crowd those that are closing.
    pub(super) fn sweep_flows(&mut self) -> Result<(), Error> {
        if self.filling {
            return Ok(());
        }
        let stats = self.flow_stats()?;
        let flows = self.flows.entries()?;
        let victims = victims(&flows, second(), MAX_FLOWS as usize);
        for key in victims.expired.iter().chain(&victims.crowded_out) {
            self.flows.remove(key)?;
        }
        let new = self.new_flows.keys()?.len() as u64;
        let gone = stats.settled.saturating_add(stats.ended);
        let removed = victims.expired.len() + victims.crowded_out.len();
        let tally = &mut self.ageing.flows;
        tally.lasting = flows.len().saturating_sub(removed) as u64;
        tally.new = new;
        tally.expired += victims.expired.len() as u64;
        tally.crowded_out += victims.crowded_out.len() as u64;
        // What begins between the reading of the one and the other is no loss.
        let missing = stats.begun.saturating_sub(gone).saturating_sub(new);
        tally.evicted = tally.evicted.max(missing);
        Ok(())
    }

    /// Removes the endpoint behind a host veth, and its flows: the next one to have
    /// its address has no part in them.
    pub fn remove_endpoint(&mut self, ifindex: u32) -> Result<(), Error> {
        let endpoint = self.endpoints.get(&ifindex)?;
        self.endpoints.remove(&ifindex)?;
        endpoint.map_or(Ok(()), |endpoint| {
            self.forget_flows(endpoint.vni, endpoint.ipv4.into())
        })
    }

    fn forget_flows(&mut self, vni: u32, address: Ipv4Addr) -> Result<(), Error> {
        for table in [&mut self.flows, &mut self.new_flows] {
            for key in table.keys()? {
                if is_of(&key, vni, address) {
                    table.remove(&key)?;
                }
            }
        }
        Ok(())
    }

    /// What counts flows without holding the maps meanwhile.
    pub fn flow_counter(&self) -> Result<FlowCounter, Error> {
        let [lasting, new] = [&self.flows, &self.new_flows].map(Table::descriptor);
        Ok(FlowCounter {
            maps: [lasting?, new?],
        })
    }

    /// How many flows there are and were. Sizes, and what was driven out, are as of
    /// the last sweep.
    pub(super) fn flow_counts(&self) -> Result<FlowCounts, Error> {
        let stats = self.flow_stats()?;
        let tally = self.ageing.flows;
        Ok(FlowCounts {
            lasting: tally.lasting,
            new: tally.new,
            begun: stats.begun,
            refused: stats.unsettled,
            expired: tally.expired,
            crowded_out: tally.crowded_out,
            evicted: tally.evicted,
        })
    }

    fn flow_stats(&self) -> Result<FlowStats, Error> {
        let per_cpu = self.flow_stats.get(&0, 0).map_err(failed)?;
        let add = |a: FlowStats, b: &FlowStats| FlowStats {
            begun: a.begun.wrapping_add(b.begun),
            settled: a.settled.wrapping_add(b.settled),
            unsettled: a.unsettled.wrapping_add(b.unsettled),
            ended: a.ended.wrapping_add(b.ended),
        };
        Ok(per_cpu.iter().fold(FlowStats::default(), add))
    }
}

fn failed(source: MapError) -> Error {
    Error::Map {
        map: map::FLOW_STATS,
        source,
    }
}

#[cfg(test)]
mod tests {
    use vxplane_common::{
        flow::{ESTABLISHED, REPLIED, RESPONDER_FINISHED, vni_protocol},
        wire::protocol,
    };

    use super::*;

    const NOW: u32 = 10_000;

    fn flow(number: u8, protocol: u8, seen: u32, state: u32) -> (FlowKey, Flow) {
        let key = FlowKey {
            low: [10, 0, 0, 1],
            high: [10, 0, 0, number],
            low_port: [0, 1],
            high_port: [0, 2],
            vni_protocol: vni_protocol(7, protocol),
        };
        let flow = Flow {
            seen,
            state,
            ..Flow::default()
        };
        (key, flow)
    }

    #[test]
    fn only_what_is_over_goes_while_there_is_room() {
        let flows = [
            flow(2, protocol::UDP, NOW - 20, 0),
            flow(3, protocol::UDP, NOW - 100, 0),
            flow(4, protocol::UDP, NOW - 100, REPLIED | ESTABLISHED),
            flow(5, protocol::TCP, NOW - 7000, REPLIED | ESTABLISHED),
        ];
        let found = victims(&flows, NOW, 100);
        assert_eq!(found.expired, [flows[1].0]);
        assert_eq!(found.crowded_out, []);
    }

    #[test]
    fn in_a_crowd_the_oldest_that_are_closing_make_way() {
        let closing = REPLIED | ESTABLISHED | RESPONDER_FINISHED;
        let mut flows = vec![
            flow(2, protocol::TCP, NOW - 1, closing),
            flow(3, protocol::TCP, NOW - 9, closing),
            flow(4, protocol::TCP, NOW - 5, closing),
        ];
        flows.extend((5..12).map(|n| flow(n, protocol::TCP, NOW - 99, REPLIED | ESTABLISHED)));
        let found = victims(&flows, NOW, 10);
        assert_eq!(
            found.crowded_out,
            [flows[1].0, flows[2].0],
            "down to 8 of 10"
        );
        assert_eq!(
            victims(&flows[3..], NOW, 7),
            Victims::default(),
            "whoever takes part stays"
        );
    }

    #[test]
    fn flows_of_an_address() {
        let (key, _) = flow(9, protocol::UDP, 0, 0);
        assert!(is_of(&key, 7, Ipv4Addr::new(10, 0, 0, 9)));
        assert!(is_of(&key, 7, Ipv4Addr::new(10, 0, 0, 1)));
        assert!(!is_of(&key, 7, Ipv4Addr::new(10, 0, 0, 2)));
        assert!(!is_of(&key, 8, Ipv4Addr::new(10, 0, 0, 9)));
    }
}
