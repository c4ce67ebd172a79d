//! One change, from the plan to the picture that has it.
//!
//! What this host must remember of an endpoint is written before the transaction,
//! as unsettled: if the daemon dies in between, etcd is believed. Whatever is
//! remembered as settled and is not in etcd was lost there, and is published
//! again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;

use super::{
    Inner, Link, ObjectKey, Seen,
    client::{Conflict, Connection, Fault, Outcome},
    guard::{Guard, Guarded, Step},
    state::State,
};
use crate::{
    model::{Endpoint, Identity, Network},
    store::{Change, CommitError, Picture, StoreError, file::Note},
};

/// How long to wait for the watch to bring what etcd is known to have.
const ARRIVAL: Duration = Duration::from_secs(10);
/// How long an endpoint may take to come that explains a claim. Longer, if the
/// claim is one that no endpoint has.
const EXPLAINED: Duration = Duration::from_millis(500);
/// How long to wait for a server after one was lost.
const RECONNECT: Duration = Duration::from_secs(10);
/// How long another server may take to be found.
const FAILOVER: Duration = Duration::from_secs(3);
/// How long to wait before a server is asked again that did not answer.
const AGAIN: Duration = Duration::from_millis(200);

/// What this host remembers, to be put back if nothing comes of a change.
#[derive(Debug, Default)]
struct Before(Vec<(String, Option<Endpoint>)>);

impl Inner {
    /// As [`super::Store::commit`].
    pub(super) async fn commit(
        &self,
        planned_on: &Picture,
        changes: Vec<Change>,
    ) -> Result<u64, CommitError> {
        if !changes.is_empty() && self.restore_ends().await? {
            return Err(CommitError::Outdated);
        }
        let _one_at_a_time = self.committing.lock().await;
        let (changes, guarded) = {
            let state = self.state();
            let as_planned_on = self.pictures.latest().number == planned_on.number;
            let applies = as_planned_on && state.restored.is_none();
            if !changes.is_empty() && !applies {
                return Err(CommitError::Outdated);
            }
            let changes = self.with_identities(&state, &changes);
            let guard = Guard::new(&self.keys, &state.mirror, &self.node);
            let guarded = guard.all(&changes)?;
            (changes, guarded)
        };
        if guarded.steps.is_empty() {
            return Ok(self.settle(changes).await?);
        }
        let Some(connection) = self.connection().await else {
            return Err(self.unavailable().into());
        };
        let before = self.remember(&changes).await?;
        match self.transact(&connection, &guarded).await {
            Ok(()) => Ok(self.settle(changes).await?),
            // Unsettled as they are: a new plan or etcd tells what is right.
            Err(CommitError::Store(error @ StoreError::Unknown { .. })) => Err(error.into()),
            Err(error) => {
                self.put_back(before).await?;
                Err(error)
            }
        }
    }

    /// Has etcd do `guarded`, and waits until the mirror has what came of it.
    pub(super) async fn transact(
        &self,
        connection: &Connection,
        guarded: &Guarded,
    ) -> Result<(), CommitError> {
        let epoch = self.seen.borrow().epoch;
        match connection.transact(guarded, 0).await {
            Ok(Outcome::Done(revision)) => {
                if self.arrives(epoch, |seen| seen.revision >= revision).await {
                    return Ok(());
                }
                self.doubted.notify_waiters();
                Err(self.unknown("the watch did not bring it").into())
            }
            Ok(Outcome::Conflict(conflict)) => {
                let known = self.arrives_within(EXPLAINED, epoch, |seen| {
                    self.knows(seen, &conflict) && self.orphans(&conflict.claims).is_none()
                });
                if !known.await && !self.remove_orphans(connection, &conflict.claims).await {
                    let known = self.arrives(epoch, |seen| self.knows(seen, &conflict));
                    if !known.await {
                        self.doubted.notify_waiters();
                    }
                }
                Err(CommitError::Outdated)
            }
            Err(Fault::Lost(reason)) => {
                let mut link = self.link.subscribe();
                self.doubted.notify_waiters();
                // Its answer would come by a connection that is lost.
                let _ = timeout(AGAIN, link.changed()).await;
                match self.asks_anew(guarded).await {
                    Some(conflict) => {
                        if !self
                            .arrives(epoch, |seen| self.knows(seen, &conflict))
                            .await
                        {
                            self.doubted.notify_waiters();
                        }
                        if self.has_come_true(guarded) {
                            return Ok(());
                        }
                        Err(CommitError::Outdated)
                    }
                    None => Err(self.unknown(&reason).into()),
                }
            }
            Err(fault) => Err(self.options.fault(fault).into()),
        }
    }

    /// Waits until the mirror is as far as told, or was read anew meanwhile.
    async fn arrives(&self, epoch: u64, far_enough: impl Fn(&Seen) -> bool) -> bool {
        self.arrives_within(ARRIVAL, epoch, far_enough).await
    }

    async fn arrives_within(
        &self,
        limit: Duration,
        epoch: u64,
        far_enough: impl Fn(&Seen) -> bool,
    ) -> bool {
        let mut seen = self.seen.subscribe();
        let arrived = seen.wait_for(|seen| seen.epoch != epoch || far_enough(seen));
        let arrived = timeout(limit, arrived).await;
        matches!(arrived, Ok(Ok(_)))
    }

    /// The server that is in reach, waiting for another one if the last was lost
    /// just now.
    async fn connection(&self) -> Option<Connection> {
        let mut link = self.link.subscribe();
        let end = match &*link.borrow() {
            Link::Up(connection) => return Some((**connection).clone()),
            // What was read is shown just before the server is said to be in reach.
            Link::Down { since, .. } => (*since + FAILOVER).max(Instant::now() + AGAIN),
        };
        let up = timeout_at(end, link.wait_for(|link| link.connection().is_some()));
        up.await.ok()?.ok()?.connection().cloned()
    }

    /// Asks the next server how things stand that a lost transaction was about.
    async fn asks_anew(&self, guarded: &Guarded) -> Option<Conflict> {
        let end = Instant::now() + RECONNECT;
        while Instant::now() < end {
            let mut link = self.link.subscribe();
            let up = timeout_at(end, link.wait_for(|link| link.connection().is_some()));
            let connection = up.await.ok()?.ok()?.connection().cloned()?;
            if let Ok(conflict) = connection.inspect(guarded).await {
                return Some(conflict);
            }
            sleep(AGAIN).await;
        }
        None
    }

    /// Whether the mirror has what a transaction was to bring about.
    fn has_come_true(&self, guarded: &Guarded) -> bool {
        let state = self.state();
        guarded.steps.iter().all(|step| match step {
            Step::Put(key, value) => match self.object_key(key) {
                Some(object) => state.mirror.has(&object, value),
                None => true,
            },
            Step::Delete(key) => match self.object_key(key) {
                Some(object) => state.mirror.version(&object) == Some(0),
                None => true,
            },
        })
    }

    fn object_key(&self, key: &str) -> Option<ObjectKey> {
        let part = self.keys.object_part(key.as_bytes())?;
        ObjectKey::parse(std::str::from_utf8(part).ok()?)
    }

    /// Whether the mirror has what a transaction stumbled over.
    fn knows(&self, seen: &Seen, conflict: &Conflict) -> bool {
        let state = self.state();
        let old = |(key, version): &(String, i64)| {
            let object = self.object_key(key);
            object.is_some_and(|object| state.mirror.version(&object) == Some(*version))
        };
        seen.revision >= conflict.revision && !conflict.not.iter().any(old)
    }

    fn unknown(&self, reason: &str) -> StoreError {
        StoreError::Unknown {
            store: self.options.describe(),
            reason: reason.to_owned(),
        }
    }

    /// Remembers what this host must know of endpoints that are about to change.
    async fn remember(&self, changes: &[Change]) -> Result<Before, StoreError> {
        let mut before = Before::default();
        let (mut local, mut notes) = (Vec::new(), Vec::new());
        {
            let mut state = self.state();
            for change in changes {
                match change {
                    Change::PutEndpoint(endpoint) => {
                        let id = endpoint.id.clone();
                        let network = self.network_of(endpoint, changes);
                        let had = state.endpoints.insert(id.clone(), (**endpoint).clone());
                        before.0.push((id.clone(), had));
                        if let Some(identity) = self.identity_of(endpoint, changes) {
                            let number = endpoint.identity;
                            local.push(Change::PutIdentity(number, Arc::clone(&identity)));
                            state.identities.insert(number, identity);
                        }
                        if let Some(network) = network {
                            local.push(Change::PutNetwork(network.clone()));
                            state.networks.insert(network.name.clone(), network);
                        }
                        local.push(change.clone());
                        state.unsettled.insert(id.clone());
                        notes.push(Note::Unsettled(id));
                    }
                    Change::RemoveEndpoint(id) => {
                        before
                            .0
                            .push((id.clone(), state.endpoints.get(id).cloned()));
                        state.unsettled.insert(id.clone());
                        notes.push(Note::Unsettled(id.clone()));
                    }
                    _ => {}
                }
            }
        }
        if let Err(error) = self.save(local, notes).await {
            self.put_back_in_memory(before);
            return Err(error);
        }
        Ok(before)
    }

    /// The network of an endpoint, as it is or is about to be.
    fn network_of(&self, endpoint: &Endpoint, changes: &[Change]) -> Option<Network> {
        let new = changes.iter().find_map(|change| match change {
            Change::PutNetwork(network) if network.name == endpoint.network => Some(network),
            _ => None,
        });
        let latest = self.pictures.latest();
        let networks = &latest.contents.desired.networks;
        new.or_else(|| networks.get(&endpoint.network)).cloned()
    }

    /// The identity of an endpoint, likewise.
    fn identity_of(&self, endpoint: &Endpoint, changes: &[Change]) -> Option<Arc<Identity>> {
        let new = changes.iter().find_map(|change| match change {
            Change::PutIdentity(number, identity) if *number == endpoint.identity => Some(identity),
            _ => None,
        });
        let latest = self.pictures.latest();
        let identities = &latest.contents.desired.identities;
        new.or_else(|| identities.get(&endpoint.identity)).cloned()
    }

    /// The changes, and the identities of endpoints among them that only the
    /// picture has yet.
    fn with_identities(&self, state: &State, changes: &[Change]) -> Vec<Change> {
        let known = &state.mirror.view().identities;
        let missing = changes.iter().filter_map(|change| {
            let Change::PutEndpoint(endpoint) = change else {
                return None;
            };
            let number = endpoint.identity;
            let identity = self.identity_of(endpoint, changes)?;
            let lacks = !known.contains_key(&number);
            lacks.then_some((number, identity))
        });
        let missing: BTreeMap<_, _> = missing.collect();
        let put = |(number, identity)| Change::PutIdentity(number, identity);
        let others = changes.iter().filter(|change| match change {
            Change::PutIdentity(number, _) => !missing.contains_key(number),
            _ => true,
        });
        let others: Vec<_> = others.cloned().collect();
        missing.into_iter().map(put).chain(others).collect()
    }

    /// Remembers what came of changes, and shows it.
    async fn settle(&self, changes: Vec<Change>) -> Result<u64, StoreError> {
        let (mut local, mut notes) = (Vec::new(), Vec::new());
        {
            let mut state = self.state();
            for change in &changes {
                match change {
                    Change::PutEndpoint(endpoint) => {
                        let id = endpoint.id.clone();
                        state.endpoints.insert(id.clone(), (**endpoint).clone());
                        state.unsettled.remove(&id);
                        notes.push(Note::Settled(id));
                        local.push(change.clone());
                    }
                    Change::RemoveEndpoint(id) => {
                        state.endpoints.remove(id);
                        state.unsettled.remove(id);
                        notes.push(Note::Settled(id.clone()));
                        local.push(change.clone());
                    }
                    Change::PutHint(_) | Change::RemoveHint(_) => local.push(change.clone()),
                    _ => {}
                }
            }
            local.extend(state.drop_unused());
        }
        if !local.is_empty() {
            self.save(local, notes).await?;
        }
        let state = self.state();
        Ok(self.pictures.publish(|contents| {
            for change in changes {
                if matches!(change, Change::PutHint(_) | Change::RemoveHint(_)) {
                    contents.apply(change);
                }
            }
            state.compose(contents);
        }))
    }

    /// Forgets what was remembered for changes that were not made.
    async fn put_back(&self, before: Before) -> Result<(), StoreError> {
        let mut notes = Vec::new();
        let mut local = Vec::new();
        for (id, had) in &before.0 {
            notes.push(Note::Settled(id.clone()));
            local.push(match had {
                Some(endpoint) => Change::PutEndpoint(Box::new(endpoint.clone())),
                None => Change::RemoveEndpoint(id.clone()),
            });
        }
        local.extend(self.put_back_in_memory(before));
        if local.is_empty() {
            return Ok(());
        }
        self.save(local, notes).await
    }

    fn put_back_in_memory(&self, before: Before) -> Vec<Change> {
        let mut state = self.state();
        for (id, had) in before.0 {
            state.unsettled.remove(&id);
            match had {
                Some(endpoint) => drop(state.endpoints.insert(id, endpoint)),
                None => drop(state.endpoints.remove(&id)),
            }
        }
        let unused = state.drop_unused();
        self.show(&state);
        unused
    }

    pub(super) async fn save(
        &self,
        local: Vec<Change>,
        notes: Vec<Note>,
    ) -> Result<(), StoreError> {
        let saved = self.file.commit_noted(local, notes).await;
        if let Err(error) = &saved {
            warn!("{error}");
        }
        saved
    }
}
