//! How a mutation comes about: planned on the state, made durable in one
//! transaction, and waited for until the kernel follows.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Control, Error,
    controller::Observed,
    plan::{Created, Plan},
};
use crate::store::{CommitError, Contents, Picture};

/// A plan that is durable.
#[derive(Debug)]
pub(super) struct Done<T> {
    pub(super) value: T,
    pub(super) created: Created,
    /// The picture it is in, even if it changed nothing: a pass over it looks at
    /// the kernel after the request.
    pub(super) picture: u64,
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

    /// Plans on the stored state and makes the changes durable. What others have
    /// changed meanwhile is planned on anew.
    pub(super) async fn change<T>(
        &self,
        plan: impl Fn(&Contents) -> Result<Plan<T>, Error>,
    ) -> Result<Done<T>, Error> {
        let _one_at_a_time = self.inner.changing.lock().await;
        let deadline = Instant::now() + self.patience();
        loop {
            let picture = self.picture();
            let Plan {
                value,
                created,
                changes,
            } = plan(&picture.contents)?;
            match self.inner.store.commit(&picture, changes).await {
                Ok(picture) => {
                    return Ok(Done {
                        value,
                        created,
                        picture,
                    });
                }
                Err(CommitError::Outdated) if Instant::now() < deadline => {}
                Err(CommitError::Outdated) => return Err(Error::Contended),
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }

    /// Waits for a pass over `picture`; its problems are the status page's
    /// business. `what` is durable by now and stays so.
    pub(super) async fn follow(&self, picture: u64, what: &'static str) -> Result<(), Error> {
        if self.reached(picture).await?.is_some() {
            return Ok(());
        }
        let seconds = self.patience().as_secs();
        Err(Error::Behind { what, seconds })
    }

    /// Waits for a pass over `picture`, but no longer than requests may take.
    pub(super) async fn reached(&self, picture: u64) -> Result<Option<Arc<Observed>>, Error> {
        let mut observed = self.inner.observed.clone();
        let reached = observed.wait_for(|observed| observed.picture >= picture);
        match tokio::time::timeout(self.patience(), reached).await {
            Ok(Ok(observed)) => Ok(Some(Arc::clone(&observed))),
            Ok(Err(_)) => Err(Error::Stopping),
            Err(_) => Ok(None),
        }
    }

    pub(super) fn patience(&self) -> Duration {
        self.inner.info.patience
    }

    /// What is stored now.
    pub(super) fn picture(&self) -> Arc<Picture> {
        Arc::clone(&self.inner.pictures.borrow())
    }
}
