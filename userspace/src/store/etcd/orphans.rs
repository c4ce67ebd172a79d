//! Claims that no endpoint has. Endpoints and their claims come and go together, so
//! only somebody else's write makes one. It would keep an address for ever, or a
//! network from being removed; whoever stumbles over it removes it.

use std::str;

use tracing::{debug, warn};

use super::{
    Inner, ObjectKey,
    client::{Claim, Connection, Outcome},
    guard::{Condition, Guarded, Step},
};

impl Inner {
    /// Has etcd remove those of `claims` that are orphans, if they still are;
    /// whether that was done.
    pub(super) async fn remove_orphans(&self, connection: &Connection, claims: &[Claim]) -> bool {
        let Some(removal) = self.orphans(claims) else {
            return false;
        };
        match connection.transact(&removal, 0).await {
            Ok(Outcome::Done(_)) => {
                for step in removal.steps {
                    if let Step::Delete(key) = step {
                        warn!(key, "removed a claim that no endpoint has");
                    }
                }
                true
            }
            Ok(Outcome::Conflict(_)) => false,
            Err(fault) => {
                debug!("claims that no endpoint has stay for now: {fault}");
                false
            }
        }
    }

    /// The removal of orphans among `claims`, as far as is known here; none if
    /// there are none.
    pub(super) fn orphans(&self, claims: &[Claim]) -> Option<Guarded> {
        let mut removal = Guarded::default();
        for claim in claims {
            let Some(without) = self.without_endpoint(claim) else {
                continue;
            };
            let as_seen = Condition::Version(claim.key.clone(), claim.version);
            removal.conditions.insert(as_seen);
            removal.conditions.extend(without);
            removal.steps.push(Step::Delete(claim.key.clone()));
        }
        (!removal.steps.is_empty()).then_some(removal)
    }

    /// What must be so for a claim to be an orphan, beyond its being there; none if
    /// it is not one, or if that cannot be told.
    fn without_endpoint(&self, claim: &Claim) -> Option<Vec<Condition>> {
        let id = str::from_utf8(&claim.holder).ok();
        let key = id.and_then(|id| ObjectKey::parse(&format!("endpoints/{id}")));
        let Some(key @ ObjectKey::Endpoint(_)) = key else {
            // No endpoint has such an ID.
            return Some(Vec::new());
        };
        let state = self.state();
        let version = state.mirror.version(&key)?;
        let record = id.and_then(|id| state.mirror.endpoint(id));
        let is_its_own =
            record.is_some_and(|record| self.keys.claims_of(record).contains(&claim.key));
        let as_known = Condition::Version(self.keys.object(&key), version);
        (!is_its_own).then(|| vec![as_known])
    }
}
