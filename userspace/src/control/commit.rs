//! How a mutation comes about: planned on the state, made durable in one
//! transaction, and waited for until the kernel follows.

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    Control, Error,
    controller::Observed,
    plan::{Basis, Created, Plan},
};
use crate::store::{CommitError, Picture};

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
        plan: impl Fn(Basis<'_>) -> Result<Plan<T>, Error>,
    ) -> Result<Done<T>, Error> {
        let deadline = Instant::now() + self.patience();
        let waiting = timeout_at(deadline, self.inner.changing.lock());
        let _one_at_a_time = waiting.await.map_err(|_| Error::Contended)?;
        let mut attempt = 0;
        loop {
            let picture = self.picture();
            let basis = Basis {
                contents: &picture.contents,
                node: &self.inner.info.node,
                attempt,
            };
            let Plan {
                value,
                created,
                changes,
            } = plan(basis)?;
            match self.inner.store.commit(&picture, changes).await {
                Ok(picture) => {
                    return Ok(Done {
                        value,
                        created,
                        picture,
                    });
                }
                Err(CommitError::Outdated) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
            attempt += 1;
            let again = Instant::now() + pause(attempt);
            if again >= deadline {
                return Err(Error::Contended);
            }
            sleep_until(again).await;
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

/// How long to wait before planning anew, so that of many nodes that want the
/// same not all try again at once: random, and longer each time.
fn pause(attempt: u32) -> Duration {
    let longest = 4_000_u64 << attempt.min(6);
    let random = RandomState::new().hash_one(attempt);
    Duration::from_micros(random % longest)
}
