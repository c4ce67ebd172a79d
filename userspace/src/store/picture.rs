//! What is stored, as this daemon sees it: numbered snapshots.

use std::sync::Arc;

use tokio::sync::watch;

use super::Contents;

/// What was stored at some instant.
#[derive(Debug, Default)]
pub struct Picture {
    /// Grows by at least one from picture to picture while the daemon runs; the
    /// first is 1.
    pub number: u64,
    /// What was stored.
    pub contents: Contents,
}

/// Where a store shows its pictures.
#[derive(Debug)]
pub struct Pictures(watch::Sender<Arc<Picture>>);

impl Pictures {
    /// Starts with what is stored now.
    pub fn new(contents: Contents) -> Self {
        let number = 1;
        Self(watch::Sender::new(Arc::new(Picture { number, contents })))
    }

    /// Everybody who wants to see them.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Picture>> {
        self.0.subscribe()
    }

    /// The latest.
    pub fn latest(&self) -> Arc<Picture> {
        Arc::clone(&self.0.borrow())
    }

    /// Shows what `change` makes of the latest contents, and returns the number.
    pub fn publish(&self, change: impl FnOnce(&mut Contents)) -> u64 {
        let mut number = 0;
        self.0.send_modify(|picture| {
            let mut contents = picture.contents.clone();
            change(&mut contents);
            number = picture.number + 1;
            *picture = Arc::new(Picture { number, contents });
        });
        number
    }
}
