//! What is done without being asked: endpoints that etcd has lost are published
//! again, the restore of a backup is made up for, those that others have taken over are given up, what etcd says of
//! unsettled ones is believed, this node is no foreign peer, identities are published
//! and freed, and what was seen is saved.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Inner, guard::Guard, identities::Idle, records::Record, touch::Touch};
use crate::{
    model::{Endpoint, Network},
    store::{Change, CommitError, StoreError, file::Note},
};

/// How long to wait after each round: what is seen is saved in one go.
const PAUSE: Duration = Duration::from_millis(500);
/// How often to look without being told.
const PERIOD: Duration = Duration::from_secs(5);
/// How often it is saved that there was nothing new.
const TOUCH_PERIOD: Duration = Duration::from_mins(1);

/// Keeps up for ever.
pub(super) async fn keep_up(inner: Arc<Inner>) {
    let mut idle = Idle::default();
    loop {
        // Being told is a hint only.
        let _ = timeout(PERIOD, inner.upkeep.notified()).await;
        if let Err(error) = inner.round(&mut idle).await {
            warn!("{error}");
        }
        sleep(PAUSE).await;
    }
}

impl Inner {
    async fn round(&self, idle: &mut Idle) -> Result<(), CommitError> {
        let synced = self.state().synced;
        if synced && self.link.borrow().connection().is_some() {
            let one_at_a_time = self.committing.lock().await;
            if self.state().restored.is_some() {
                self.make_up_for_restore().await?;
                self.publish_missing().await?;
                self.end_restore();
                // The rest is for when the picture is that of etcd again.
                self.upkeep.notify_one();
                return Ok(());
            }
            self.believe_unsettled().await?;
            self.give_up().await?;
            self.publish_missing().await?;
            self.be_no_foreign_peer().await?;
            drop(one_at_a_time);
            self.identify_own().await?;
            self.collect_identities(idle).await?;
        }
        if self.state().restored.is_some() {
            // What was saved before the restore is worth more.
            return Ok(());
        }
        Ok(self.save_seen().await?)
    }

    /// Nobody is changing anything now, so what is unsettled was left over.
    async fn believe_unsettled(&self) -> Result<(), StoreError> {
        let (mut local, mut notes) = (Vec::new(), Vec::new());
        {
            let mut state = self.state();
            for id in std::mem::take(&mut state.unsettled) {
                if !state.mirror.view().own.contains_key(&*id) {
                    state.endpoints.remove(&id);
                    local.push(Change::RemoveEndpoint(id.clone()));
                }
                notes.push(Note::Settled(id));
            }
            if notes.is_empty() {
                return Ok(());
            }
            local.extend(state.drop_unused());
            self.show(&state);
        }
        self.save(local, notes).await
    }

    /// Gives up endpoints that others have taken over, or that cannot be
    /// published again.
    async fn give_up(&self) -> Result<(), StoreError> {
        let mut local = Vec::new();
        {
            let mut state = self.state();
            let mut lost = state.taken_over();
            for (_, node) in &mut lost {
                *node = format!("it is on node {node} now");
            }
            let obstacles = state.missing().filter_map(|(endpoint, network)| {
                let why = state.obstacle(endpoint, network)?;
                Some((endpoint.id.clone(), why))
            });
            let obstacles: Vec<_> = obstacles.collect();
            lost.extend(obstacles);
            if lost.is_empty() {
                return Ok(());
            }
            for (id, why) in lost {
                // Not inside the macro, which does nothing where nobody logs.
                let told = state.lose(&id, &why);
                warn!("{told}");
                local.push(Change::RemoveEndpoint(id));
            }
            local.extend(state.drop_unused());
            self.show(&state);
        }
        self.save(local, Vec::new()).await
    }

    async fn publish_missing(&self) -> Result<(), CommitError> {
        let missing: Vec<(Endpoint, Network)> = {
            let state = self.state();
            let missing = state.missing().chain(state.usurped());
            missing
                .filter(|(endpoint, network)| state.obstacle(endpoint, network).is_none())
                .map(|(endpoint, network)| (endpoint.clone(), network.clone()))
                .collect()
        };
        for (endpoint, network) in missing {
            let Some(connection) = self.link.borrow().connection().cloned() else {
                return Ok(());
            };
            let guarded = {
                let state = self.state();
                let mut endpoint = endpoint.clone();
                let mut identities = state.mirror.view().identities.clone();
                state.identify(&mut endpoint, &mut identities);
                let Some(identity) = identities.get(&endpoint.identity) else {
                    continue;
                };
                let record = endpoint.record(&self.node);
                let guard = Guard::new(&self.keys, &state.mirror, &self.node);
                guard.publish(&network, identity, &record)?
            };
            match self.transact(&connection, &guarded).await {
                Ok(()) => info!(
                    endpoint = endpoint.id,
                    "published again, as etcd had lost it"
                ),
                // The next round looks again, with what is known by then.
                Err(CommitError::Outdated) => self.upkeep.notify_one(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes this node's address out of the foreign peers, where it may be from the
    /// time before it came into the cluster: nodes are peers by themselves, and one
    /// that is gone is to be withdrawn, not let in again as a stranger.
    async fn be_no_foreign_peer(&self) -> Result<(), CommitError> {
        let Some(connection) = self.link.borrow().connection().cloned() else {
            return Ok(());
        };
        let (vtep, guarded) = {
            let state = self.state();
            let own = state.mirror.node(&self.node);
            let own = own.filter(|node| node.instance == self.instance);
            let Some(vtep) = own.map(|node| node.vtep) else {
                return Ok(());
            };
            if !state.mirror.view().peers.contains_key(&vtep) {
                return Ok(());
            }
            let removal = [Change::RemovePeer(vtep)];
            (
                vtep,
                Guard::new(&self.keys, &state.mirror, &self.node).all(&removal)?,
            )
        };
        match self.transact(&connection, &guarded).await {
            Ok(()) => info!(peer = %vtep, "no foreign peer any more, as it is this node"),
            Err(CommitError::Outdated) => self.upkeep.notify_one(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Saves what was seen, for when etcd is away at the next start.
    async fn save_seen(&self) -> Result<(), StoreError> {
        let heard = *self.heard.borrow();
        let away = self.link.borrow().connection().is_none();
        let (unsaved, touch) = {
            let mut state = self.state();
            let news = |kept: Instant| heard > kept + TOUCH_PERIOD || away && heard > kept;
            let is_news = state.synced && state.kept.is_none_or(news);
            if state.unsaved.is_empty() && !is_news {
                return Ok(());
            }
            let revision = state.mirror.revision();
            let touch = state.synced.then_some(Touch { revision, heard });
            state.kept = touch.map(|touch| touch.heard);
            (std::mem::take(&mut state.unsaved), touch)
        };
        let unsaved: Arc<[_]> = unsaved.into_iter().collect();
        let objects = Arc::clone(&unsaved);
        // Encoded one by one as they are written.
        let objects = (0..objects.len()).map(move |number| {
            let (key, record) = &objects[number];
            let value = record.as_ref().map(Record::encode).transpose()?;
            Ok((key.to_string(), value))
        });
        let saved = self
            .file
            .save_objects(objects, touch.and_then(Touch::to_text))
            .await;
        if let Err(error) = &saved {
            warn!("{error}");
            let mut state = self.state();
            for (key, record) in &*unsaved {
                let not_again = state.unsaved.entry(key.clone());
                not_again.or_insert_with(|| record.clone());
            }
        }
        saved
    }
}
