//! The upkeep of identities: this node's endpoints have theirs in etcd, and the
//! numbers of those that nobody has any more are freed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::debug;

use super::{Inner, session::below};
use crate::store::{Change, CommitError};

/// How many identities are written or freed in one transaction.
const AT_ONCE: usize = 30;

/// When the numbers of identities that nobody has are to be freed.
#[derive(Debug, Default)]
pub(super) struct Idle(BTreeMap<u32, Instant>);

impl Idle {
    /// Looks which are idle now; those that have been for `kept` and a bit are due
    /// and forgotten here. The bit is another one on each node and for each number,
    /// so that not all nodes want to free the same at once.
    fn due(
        &mut self,
        now: Instant,
        now_idle: impl Iterator<Item = u32>,
        kept: Duration,
    ) -> Vec<u32> {
        let before = std::mem::take(&mut self.0);
        let later = || now + kept + kept.mul_f64(f64::from(random(1000)) / 1000.0);
        self.0 = now_idle
            .map(|number| (number, before.get(&number).copied().unwrap_or_else(later)))
            .collect();
        let due = self.0.iter().filter(|(_, due)| **due <= now);
        let due: Vec<_> = due.map(|(number, _)| *number).take(AT_ONCE).collect();
        for number in &due {
            self.0.remove(number);
        }
        due
    }
}

fn random(end: u64) -> u32 {
    u32::try_from(below(end)).unwrap_or(0)
}

impl Inner {
    /// Publishes the identities of this node's endpoints that etcd does not have:
    /// they were attached by an earlier version, or somebody removed them.
    pub(super) async fn identify_own(&self) -> Result<(), CommitError> {
        let picture = self.pictures.latest();
        let differ = self.state().unidentified(&picture.contents);
        let identities = &picture.contents.desired.identities;
        let mut changes = Vec::new();
        for endpoint in differ.into_iter().take(AT_ONCE) {
            if let Some(identity) = identities.get(&endpoint.identity) {
                let identity = Arc::clone(identity);
                changes.push(Change::PutIdentity(endpoint.identity, identity));
                changes.push(Change::PutEndpoint(Box::new(endpoint)));
            }
        }
        self.try_commit(changes).await
    }

    /// Frees the numbers of identities that no endpoint has had for a while.
    pub(super) async fn collect_identities(&self, idle: &mut Idle) -> Result<(), CommitError> {
        let due = {
            let state = self.state();
            let now_idle = state.mirror.idle().iter().copied();
            idle.due(Instant::now(), now_idle, self.options.idle)
        };
        if !due.is_empty() {
            debug!(?due, "identities that nobody has are removed");
        }
        self.try_commit(due.into_iter().map(Change::RemoveIdentity).collect())
            .await
    }

    /// Commits what a later round can do as well if others are faster.
    async fn try_commit(&self, changes: Vec<Change>) -> Result<(), CommitError> {
        if changes.is_empty() {
            return Ok(());
        }
        match self.commit(&self.pictures.latest(), changes).await {
            Ok(_) | Err(CommitError::Outdated) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_idle_is_freed() {
        let (kept, begun) = (Duration::from_secs(10), Instant::now());
        let mut idle = Idle::default();
        let mut due = |seconds, now_idle: &[u32]| {
            let now = begun + Duration::from_secs(seconds);
            idle.due(now, now_idle.iter().copied(), kept)
        };
        assert!(due(0, &[1, 2]).is_empty());
        assert!(due(5, &[1]).is_empty());
        assert!(due(9, &[1, 2]).is_empty());
        let mut both = due(30, &[1, 2]);
        both.sort_unstable();
        assert_eq!(both, [1, 2]);
        // What could not be freed is looked at anew.
        assert!(due(31, &[1]).is_empty());
        assert_eq!(due(60, &[1]), [1]);
    }
}
