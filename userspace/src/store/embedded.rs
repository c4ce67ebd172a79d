//! The embedded store: one host by itself, on its state file.

use std::{path::Path, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::{Mutex, watch};

use super::{Change, CommitError, Health, Picture, Pictures, Store, StoreError, file::StateFile};
use crate::model::Node;

/// Keeps the state of one host.
#[derive(Debug)]
pub struct Embedded {
    file: StateFile,
    pictures: Pictures,
    /// Held from looking at the latest picture until there is a new one.
    committing: Mutex<()>,
}

impl Embedded {
    /// Opens the store in `directory`, making it if need be.
    pub async fn open(directory: &Path) -> Result<Self, StoreError> {
        let file = StateFile::open(directory)?;
        if file.is_in_cluster().await? {
            let path = directory.to_owned();
            return Err(StoreError::InCluster { path });
        }
        let pictures = Pictures::new(file.load().await?);
        let committing = Mutex::default();
        Ok(Self {
            file,
            pictures,
            committing,
        })
    }
}

impl Store for Embedded {
    fn pictures(&self) -> watch::Receiver<Arc<Picture>> {
        self.pictures.subscribe()
    }

    fn commit<'a>(
        &'a self,
        planned_on: &'a Picture,
        changes: Vec<Change>,
    ) -> BoxFuture<'a, Result<u64, CommitError>> {
        async move {
            let _one_at_a_time = self.committing.lock().await;
            if !changes.is_empty() {
                if self.pictures.latest().number != planned_on.number {
                    return Err(CommitError::Outdated);
                }
                self.file.commit(changes.clone()).await?;
            }
            Ok(self.pictures.publish(|contents| {
                for change in changes {
                    contents.apply(change);
                }
            }))
        }
        .boxed()
    }

    fn announce(&self, _node: Node) {}

    fn health(&self) -> Health {
        Health {
            store: "embedded".to_owned(),
            ..Health::default()
        }
    }
}
