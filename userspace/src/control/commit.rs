//! How a mutation comes about: planned on the state, made durable in one
//! transaction, shown to the controller, and waited for.

use std::{future::Future, sync::Arc, time::Duration};

use super::{
    Control, Error,
    controller::{Observed, Revision},
    plan::{Created, Plan},
};
use crate::store::Contents;

/// A plan that is durable.
#[derive(Debug)]
pub(super) struct Done<T> {
    pub(super) value: T,
    pub(super) created: Created,
    /// The revision it is in, even if it changed nothing: a pass over it looks
    /// at the kernel after the request.
    pub(super) revision: u64,
}

impl Control {
    /// Runs a mutation on its own task: it ends even if the caller is dropped.
    pub(super) async fn to_the_end<T, F, Fut>(&self, mutation: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(Self) -> Fut,
        Fut: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let task = tokio::spawn(mutation(self.clone()));
        // The task is never aborted, so it is gone only with the runtime.
        task.await.unwrap_or(Err(Error::Stopping))
    }

    /// Plans on the state, makes the changes durable, and only then visible.
    pub(super) async fn change<T>(
        &self,
        plan: impl FnOnce(&Contents) -> Result<Plan<T>, Error>,
    ) -> Result<Done<T>, Error> {
        let mut state = self.inner.state.lock().await;
        let Plan {
            value,
            created,
            changes,
        } = plan(&state)?;
        if !changes.is_empty() {
            self.inner.store.commit(changes.clone()).await?;
            for change in changes {
                state.apply(change);
            }
        }
        let desired = state.desired.clone();
        let mut number = 0;
        self.inner.desired.send_modify(|revision| {
            number = revision.number + 1;
            *revision = Arc::new(Revision { number, desired });
        });
        Ok(Done {
            value,
            created,
            revision: number,
        })
    }

    /// Waits for a pass over `revision`; its problems are the status page's
    /// business. `what` is durable by now and stays so.
    pub(super) async fn follow(&self, revision: u64, what: &'static str) -> Result<(), Error> {
        if self.reached(revision).await?.is_some() {
            return Ok(());
        }
        let seconds = self.patience().as_secs();
        Err(Error::Behind { what, seconds })
    }

    /// Waits for a pass over `revision`, but no longer than requests may take.
    pub(super) async fn reached(&self, revision: u64) -> Result<Option<Arc<Observed>>, Error> {
        let mut observed = self.inner.observed.clone();
        let reached = observed.wait_for(|observed| observed.revision >= revision);
        match tokio::time::timeout(self.patience(), reached).await {
            Ok(Ok(observed)) => Ok(Some(Arc::clone(&observed))),
            Ok(Err(_)) => Err(Error::Stopping),
            Err(_) => Ok(None),
        }
    }

    pub(super) fn patience(&self) -> Duration {
        self.inner.info.patience
    }

    /// What is desired now.
    pub(super) fn revision(&self) -> Arc<Revision> {
        Arc::clone(&self.inner.desired.borrow())
    }
}
