//! What the maps hold, without asking for every entry at every look.
//!
//! The daemon is the only one to write them, so it knows what it wrote. That
//! nobody else did is checked by reading them anew: small maps at every look,
//! large ones as often as that costs little.

use std::time::{Duration, Instant};

use super::{
    Drift,
    plan::{Entry, Key, Op},
    tables::Tables,
};

/// Up to how many entries in all are read at every look.
const FEW: usize = 4096;

/// How much of the time may go into reading: one part in so many.
const SHARE: u32 = 50;

/// How long damage may go unnoticed, however large the maps are.
const AT_LEAST_EVERY: Duration = Duration::from_mins(1);

/// How often something that costs time is done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// When it was done last, and how long that took.
    last: Option<(Instant, Duration)>,
}

impl Pace {
    /// Whether it has been long enough ago.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|(when, took)| {
            let pause = took.saturating_mul(SHARE).min(AT_LEAST_EVERY);
            now.saturating_duration_since(when) >= pause
        })
    }

    /// Says that it was done from `begun` until now.
    pub(super) fn done(&mut self, begun: Instant) {
        let now = Instant::now();
        self.last = Some((now, now - begun));
    }
}

/// What the maps are known to hold.
#[derive(Debug, Default)]
pub(super) struct Held {
    tables: Option<Tables>,
    settled: Option<Tables>,
    pace: Pace,
    drift: Drift,
}

impl Held {
    /// What the maps hold: read anew if that is due.
    pub(super) fn look<E>(
        &mut self,
        read: impl FnOnce() -> Result<Tables, E>,
    ) -> Result<Tables, E> {
        let begun = Instant::now();
        let known = match self.tables.take() {
            Some(known) if known.len() > FEW && !self.pace.is_due(begun) => known,
            known => {
                let found = read()?;
                let tables = self.compare(known, found);
                self.pace.done(begun);
                tables
            }
        };
        self.tables = Some(known.clone());
        Ok(known)
    }

    /// What the maps hold, as far as that is known.
    pub(super) fn known(&self) -> Option<Tables> {
        self.tables.clone()
    }

    /// Counts in how many entries that which was `found` is unexpected, and
    /// returns what is to be believed.
    fn compare(&mut self, known: Option<Tables>, found: Tables) -> Tables {
        self.drift.audits += 1;
        self.drift.entries = found.len();
        // The first time, they are as the daemon before left them.
        self.drift.last = known.as_ref().map_or(0, |known| known.distance(&found));
        self.drift.total += self.drift.last as u64;
        match known {
            // What is the same is better kept: it shares memory with what is
            // wanted, and is compared as fast.
            Some(known) if self.drift.last == 0 => Tables {
                budgets: found.budgets,
                ..known
            },
            _ => found,
        }
    }

    /// Says that a step was taken.
    pub(super) fn note(&mut self, op: &Op) {
        let Some(tables) = &mut self.tables else {
            return;
        };
        match op {
            Op::Put(entry) => tables.put(*entry),
            Op::Remove(key) => tables.remove(*key),
            _ => {}
        }
    }

    /// Says that the maps hold just what is wanted.
    pub(super) fn settle(&mut self, wanted: Option<Tables>) {
        if wanted.is_some() {
            self.tables.clone_from(&wanted);
            self.settled = wanted;
        }
    }

    /// What the maps were last said to hold as is wanted.
    pub(super) fn settled(&self) -> Option<&Tables> {
        self.settled.as_ref()
    }

    /// How the last reading compared.
    pub(super) fn drift(&self) -> Drift {
        self.drift
    }
}

impl Tables {
    /// Writes one entry.
    pub(super) fn put(&mut self, entry: Entry) {
        match entry {
            Entry::Endpoint(key, value) => drop(self.endpoints.insert(key, value)),
            Entry::Fdb(key, value) => drop(self.fdb.insert(key, value)),
            Entry::Neighbour(key, value) => drop(self.neighbours.insert(key, value)),
            Entry::Network(key, value) => drop(self.networks.insert(key, value)),
            Entry::Peer(key, value) => drop(self.peers.insert(key, value)),
            Entry::Flood(key, value) => drop(self.flood.insert(key, value)),
            Entry::Budget(key, value) => drop(self.budgets.insert(key, value)),
            Entry::Rule(key, value) => drop(self.rules.insert(key, value)),
            Entry::Block(key, value) => drop(self.blocks.insert(key, value)),
            Entry::Member(key, value) => drop(self.members.insert(key, value)),
            Entry::Limit(key, value) => drop(self.limits.insert(key, value)),
        }
    }

    /// Removes one entry.
    pub(super) fn remove(&mut self, key: Key) {
        match key {
            Key::Endpoint(key) => drop(self.endpoints.remove(&key)),
            Key::Fdb(key) => drop(self.fdb.remove(&key)),
            Key::Neighbour(key) => drop(self.neighbours.remove(&key)),
            Key::Network(key) => drop(self.networks.remove(&key)),
            Key::Peer(key) => drop(self.peers.remove(&key)),
            Key::Flood(key) => drop(self.flood.remove(&key)),
            Key::Budget(key) => drop(self.budgets.remove(&key)),
            Key::Rule(key) => drop(self.rules.remove(&key)),
            Key::Block(key) => drop(self.blocks.remove(&key)),
            Key::Member(key) => drop(self.members.remove(&key)),
            Key::Limit(key) => drop(self.limits.remove(&key)),
        }
    }
}
