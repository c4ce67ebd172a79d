//! The embedded store: one host by itself, on its state file.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::sleep,
};
use tracing::warn;

use super::{
    Change, CommitError, Contents, Health, Picture, Pictures, Store, StoreError, file::StateFile,
};
use crate::{
    identity,
    model::{Desired, Node},
};

/// For how long at least an identity is kept that no endpoint has.
const KEPT: Duration = Duration::from_mins(5);

/// Keeps the state of one host.
#[derive(Debug)]
pub struct Embedded {
    inner: Arc<Inner>,
    upkeep: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
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
        let mut contents = file.load().await?;
        let changes = without_identity(&contents.desired);
        file.commit(changes.clone()).await?;
        contents.apply_all(changes);
        let inner = Arc::new(Inner {
            file,
            pictures: Pictures::new(contents),
            committing: Mutex::default(),
        });
        let upkeep = tokio::spawn(collect_identities(Arc::downgrade(&inner)));
        Ok(Self { inner, upkeep })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

/// Gives those endpoints an identity that earlier versions attached without.
fn without_identity(desired: &Desired) -> Vec<Change> {
    let mut identities = desired.identities.clone();
    let mut changes = Vec::new();
    for endpoint in desired.endpoints.values() {
        if identities.contains_key(&endpoint.identity) {
            continue;
        }
        let identity = identity::of(&endpoint.namespace, &endpoint.labels, &BTreeSet::new());
        let Some(number) = identity::number_of(&identity, &identities) else {
            continue;
        };
        let identity = Arc::new(identity);
        identities.insert(number, Arc::clone(&identity));
        let mut endpoint = endpoint.clone();
        endpoint.identity = number;
        changes.push(Change::PutIdentity(number, identity));
        changes.push(Change::PutEndpoint(Box::new(endpoint)));
    }
    changes
}

/// Frees the numbers of identities that no endpoint has had for a while.
async fn collect_identities(inner: Weak<Inner>) {
    let mut idle = HashSet::new();
    loop {
        sleep(KEPT).await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        match inner.collect(&idle).await {
            Ok(still_idle) => idle = still_idle,
            Err(error) => warn!("{error}"),
        }
    }
}

impl Inner {
    /// Frees those that were `idle` before and still are; returns those that are
    /// idle now.
    async fn collect(&self, idle: &HashSet<u32>) -> Result<HashSet<u32>, StoreError> {
        let _one_at_a_time = self.committing.lock().await;
        let picture = self.pictures.latest();
        let (gone, now) = unused(&picture.contents.desired)
            .into_iter()
            .partition(|number| idle.contains(number));
        let gone: HashSet<u32> = gone;
        if !gone.is_empty() {
            let changes: Vec<_> = gone.into_iter().map(Change::RemoveIdentity).collect();
            self.file.commit(changes.clone()).await?;
            self.pictures
                .publish(|contents| contents.apply_all(changes));
        }
        Ok(now)
    }
}

/// The identities that no endpoint has.
fn unused(desired: &Desired) -> HashSet<u32> {
    let endpoints = desired.endpoints.values();
    let used: HashSet<_> = endpoints.map(|endpoint| endpoint.identity).collect();
    let all = desired.identities.keys().copied();
    all.filter(|number| !used.contains(number)).collect()
}

impl Store for Embedded {
    fn pictures(&self) -> watch::Receiver<Arc<Picture>> {
        self.inner.pictures.subscribe()
    }

    fn commit<'a>(
        &'a self,
        planned_on: &'a Picture,
        changes: Vec<Change>,
    ) -> BoxFuture<'a, Result<u64, CommitError>> {
        async move {
            let inner = &self.inner;
            let _one_at_a_time = inner.committing.lock().await;
            if !changes.is_empty() {
                if inner.pictures.latest().number != planned_on.number {
                    return Err(CommitError::Outdated);
                }
                inner.file.commit(changes.clone()).await?;
            }
            let apply = |contents: &mut Contents| contents.apply_all(changes);
            Ok(inner.pictures.publish(apply))
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use vxplane_common::types::MacAddr;

    use super::*;
    use crate::model::{Endpoint, NetnsRef, Network};

    fn endpoint(number: u8, app: &str) -> Box<Endpoint> {
        let ip = Ipv4Addr::new(10, 50, 0, number);
        Box::new(Endpoint {
            id: format!("{number:012x}"),
            container_id: format!("c{number}"),
            name: None,
            ifname: "eth0".to_owned(),
            network: "blue".to_owned(),
            netns: NetnsRef {
                path: "/run/netns/c1".into(),
                inode: 7,
            },
            ip,
            mac: MacAddr::from_ipv4(ip.octets()),
            namespace: "default".to_owned(),
            labels: [("app", app)].into_iter().collect(),
            slot: u32::from(number),
            identity: 0,
            limits: crate::model::Limits::default(),
        })
    }

    #[tokio::test]
    async fn endpoints_of_earlier_versions_get_identities_that_are_kept_while_used() {
        let directory = tempfile::tempdir().unwrap();
        let changes = [(2, "web"), (3, "web"), (4, "db")];
        let changes = changes.map(|(number, app)| Change::PutEndpoint(endpoint(number, app)));
        let file = StateFile::open(directory.path()).unwrap();
        let network = vec![Change::PutNetwork(Network::sample())];
        file.commit([network, changes.into()].concat())
            .await
            .unwrap();
        drop(file);

        let store = Embedded::open(directory.path()).await.unwrap();
        let picture = Arc::clone(&store.pictures().borrow());
        let desired = &picture.contents.desired;
        let of = |number: u8| desired.endpoints[&format!("{number:012x}")].identity;
        assert!(of(2) == of(3) && of(2) != of(4));
        assert_eq!(desired.identities.len(), 2);
        assert_eq!(desired.identities[&of(4)].labels["app"], "db");

        let (db, web) = (of(4), of(2));
        let detached = vec![Change::RemoveEndpoint(format!("{:012x}", 4))];
        store.commit(&picture, detached).await.unwrap();
        let idle = store.inner.collect(&HashSet::new()).await.unwrap();
        assert_eq!(idle, HashSet::from([db]));
        store.inner.collect(&idle).await.unwrap();
        drop(store);
        let store = Embedded::open(directory.path()).await.unwrap();
        let picture = Arc::clone(&store.pictures().borrow());
        let left: Vec<_> = picture
            .contents
            .desired
            .identities
            .keys()
            .copied()
            .collect();
        assert_eq!(left, [web]);
    }
}
