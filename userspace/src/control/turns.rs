//! One request at a time for each endpoint, without one waiting for another's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

type Turnstile = Arc<tokio::sync::Mutex<()>>;

/// A lock for each key in use.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    by_key: Mutex<HashMap<String, Turnstile>>,
}

impl Turns {
    /// Waits until nobody else has `key`'s turn; it lasts as long as the guard.
    pub(crate) async fn take(&self, key: &str) -> OwnedMutexGuard<()> {
        let turnstile = {
            let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever waits for or has a turn holds a clone; others are stale.
            by_key.retain(|_, turnstile| Arc::strong_count(turnstile) > 1);
            Arc::clone(by_key.entry(key.to_owned()).or_default())
        };
        turnstile.lock_owned().await
    }
}
