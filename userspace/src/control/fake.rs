//! A daemon for tests: its kernel obeys, fails or hangs as told.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use imbl::OrdMap;
use ipnetwork::Ipv4Network;
use tokio::sync::watch;

use super::{Control, Error, Host, Invalid, NetnsSource, NodeInfo, Reconcile};
use crate::{
    model::{Cluster, Desired, Endpoint, EndpointRecord, NetnsRef, Node, Word},
    reconcile::{Counters, CountersError, DatapathStatus, EndpointState, Report, Underlay},
    store::{
        Change, CommitError, Contents, Health, Picture, Pictures, SharedHealth, Store, StoreError,
    },
};

/// Keeps everything, durably as long as the test runs.
#[derive(Clone)]
pub(crate) struct Memory(pub(crate) Arc<Pictures>);

impl Default for Memory {
    fn default() -> Self {
        Self(Arc::new(Pictures::new(Contents::default())))
    }
}

impl Store for Memory {
    fn pictures(&self) -> watch::Receiver<Arc<Picture>> {
        self.0.subscribe()
    }

    fn commit<'a>(
        &'a self,
        _planned_on: &'a Picture,
        changes: Vec<Change>,
    ) -> BoxFuture<'a, Result<u64, CommitError>> {
        let number = self.0.publish(|contents| {
            for change in changes {
                contents.apply(change);
            }
        });
        async move { Ok(number) }.boxed()
    }

    fn announce(&self, _node: Node) {}

    fn health(&self) -> Health {
        Health::default()
    }
}

/// What the daemons of several hosts share.
#[derive(Clone, Default)]
pub(crate) struct Site(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    desired: Desired,
    records: BTreeMap<Word, EndpointRecord>,
    nodes: OrdMap<Word, Arc<Node>>,
    members: Vec<(String, Arc<Pictures>)>,
    away: bool,
    /// After how many changes more it is away, if that is said.
    left: Option<usize>,
}

/// One host's way to what is shared.
pub(crate) struct Member {
    node: String,
    site: Site,
    pictures: Arc<Pictures>,
}

impl Site {
    /// The host of that name, which knows nothing yet.
    pub(crate) fn member(&self, node: &str) -> Member {
        let mut shared = self.0.lock().unwrap();
        let pictures = Arc::new(Pictures::new(Contents::default()));
        let member = (node.to_owned(), Arc::clone(&pictures));
        shared.members.push(member);
        shared.show(node, &[]);
        Member {
            node: node.to_owned(),
            site: self.clone(),
            pictures,
        }
    }

    /// The lease of that host's node runs out.
    pub(crate) fn lose(&self, node: &str) {
        let mut shared = self.0.lock().unwrap();
        shared.nodes.remove(node);
        shared.show(node, &[]);
    }

    /// The store is out of everybody's reach after that many changes.
    pub(crate) fn set_away_after(&self, changes: usize) {
        self.0.lock().unwrap().left = Some(changes);
    }

    /// Whether the store is out of everybody's reach.
    pub(crate) fn set_away(&self, away: bool) {
        let mut shared = self.0.lock().unwrap();
        (shared.away, shared.left) = (away, None);
    }
}

impl Shared {
    /// Whether nothing has changed that `changes` by `node` depend on.
    fn allows(&self, node: &str, planned_on: &Desired, changes: &[Change]) -> bool {
        let seen = |id: &str| {
            let cluster = planned_on.cluster.as_ref().unwrap();
            let mut others = cluster.endpoints.values();
            let other = others.find(|record| *record.id == *id);
            let own = planned_on.endpoints.get(id).map(|own| own.record(node));
            other.map(|record| (**record).clone()).or(own)
        };
        let free = |record: &EndpointRecord| {
            let dead = *record.node == *node || !self.nodes.contains_key(&record.node);
            dead && seen(&record.id).as_ref() == Some(record)
        };
        let held = |id: &str| self.records.get(id);
        changes.iter().all(|change| match change {
            Change::PutNetwork(_) => planned_on.networks == self.desired.networks,
            Change::RemoveNetwork(name) => self.records.values().all(|r| *r.network != **name),
            Change::PutEndpoint(endpoint) => {
                let mut others = self.records.values().filter(|r| *r.id != *endpoint.id);
                self.desired.networks.contains_key(&endpoint.network)
                    && held(&endpoint.id).is_none_or(free)
                    && others.all(|other| {
                        let differ = other.ip != endpoint.ip && other.mac != endpoint.mac;
                        *other.network != *endpoint.network || differ
                    })
            }
            Change::RemoveEndpoint(id) => held(id).is_none_or(free),
            _ => true,
        })
    }

    fn apply(&mut self, node: &str, changes: &[Change]) {
        for change in changes {
            match change {
                Change::PutEndpoint(endpoint) => {
                    let record = endpoint.record(node);
                    self.records.insert(record.id.clone(), record);
                }
                Change::RemoveEndpoint(id) => {
                    self.records.remove(id.as_str());
                }
                Change::PutHint(_) | Change::RemoveHint(_) => {}
                change => {
                    let desired = std::mem::take(&mut self.desired);
                    let mut contents = Contents {
                        desired,
                        ..Contents::default()
                    };
                    contents.apply(change.clone());
                    self.desired = contents.desired;
                }
            }
        }
    }

    /// Shows everybody what there is now, after `changes` by `node`, and returns
    /// the number of its picture.
    fn show(&self, node: &str, changes: &[Change]) -> u64 {
        let mut number = 0;
        for (name, pictures) in &self.members {
            let changes = if name == node { changes } else { &[] };
            let shown = pictures.publish(|contents| {
                for change in changes {
                    contents.apply(change.clone());
                }
                let desired = &mut contents.desired;
                desired.networks.clone_from(&self.desired.networks);
                desired.peers.clone_from(&self.desired.peers);
                desired
                    .endpoints
                    .retain(|id, _| self.records.get(&**id).is_some_and(|r| *r.node == **name));
                let known = &desired.endpoints;
                let others = self.records.values();
                let others = others.filter(|record| !known.contains_key(&*record.id));
                desired.cluster = Some(Cluster {
                    own: name.as_str().into(),
                    nodes: self.nodes.clone(),
                    endpoints: others.map(|r| (r.key(), Arc::new(r.clone()))).collect(),
                });
            });
            if name == node {
                number = shown;
            }
        }
        number
    }
}

impl Store for Member {
    fn pictures(&self) -> watch::Receiver<Arc<Picture>> {
        self.pictures.subscribe()
    }

    fn commit<'a>(
        &'a self,
        planned_on: &'a Picture,
        changes: Vec<Change>,
    ) -> BoxFuture<'a, Result<u64, CommitError>> {
        async move {
            // Others have their turn, as on the way to a server.
            tokio::task::yield_now().await;
            let mut shared = self.site.0.lock().unwrap();
            let is_last = shared.left == Some(0);
            shared.left = shared.left.map(|left| left.saturating_sub(1));
            if (shared.away || is_last) && !changes.is_empty() {
                let (store, reason) = ("etcd".to_owned(), "it is away".to_owned());
                return Err(StoreError::Unavailable { store, reason }.into());
            }
            if !shared.allows(&self.node, &planned_on.contents.desired, &changes) {
                return Err(CommitError::Outdated);
            }
            shared.apply(&self.node, &changes);
            Ok(shared.show(&self.node, &changes))
        }
        .boxed()
    }

    fn announce(&self, node: Node) {
        let mut shared = self.site.0.lock().unwrap();
        shared
            .nodes
            .insert(node.name.as_str().into(), Arc::new(node));
        shared.show(&self.node, &[]);
    }

    fn health(&self) -> Health {
        let connected = !self.site.0.lock().unwrap().away;
        Health {
            store: "etcd://fake".to_owned(),
            problems: Vec::new(),
            shared: Some(SharedHealth {
                connected,
                ..SharedHealth::default()
            }),
        }
    }
}

/// The namespace that has interfaces of every name.
pub(crate) const TAKEN: u64 = 666;

/// A host whose namespaces have their process ID as inode number, or what is behind
/// the `@` in their path.
pub(crate) struct FakeHost;

impl Host for FakeHost {
    fn routes(&self) -> BoxFuture<'_, io::Result<Vec<Ipv4Network>>> {
        async { Ok(vec!["10.50.0.0/24".parse().unwrap()]) }.boxed()
    }

    fn netns(&self, source: NetnsSource) -> BoxFuture<'_, Result<NetnsRef, Error>> {
        async move {
            let path = match &source {
                NetnsSource::Pid(pid) => format!("{}@{pid}", source.path().display()),
                NetnsSource::Path(path) => path.display().to_string(),
            };
            let (path, inode) = path.split_once('@').ok_or(Invalid::NetnsOrPid)?;
            Ok(NetnsRef {
                path: path.into(),
                inode: inode.parse().unwrap(),
            })
        }
        .boxed()
    }

    fn has_interface<'a>(
        &'a self,
        netns: &'a NetnsRef,
        _ifname: &'a str,
    ) -> BoxFuture<'a, io::Result<bool>> {
        async { Ok(netns.inode == TAKEN) }.boxed()
    }
}

/// Wires every endpoint but those of containers in `fails`, and hangs while
/// `hangs` has an endpoint.
#[derive(Clone, Default)]
pub(crate) struct FakeKernel {
    pub(crate) fails: BTreeMap<String, String>,
    pub(crate) hangs: Option<String>,
    /// How far this host's VTEP address is from 192.0.2.1, and how much its underlay's
    /// MTU is below 1500.
    pub(crate) underlay: (u8, u32),
}

impl Reconcile for FakeKernel {
    async fn reconcile(&mut self, desired: &Desired) -> Report {
        let containers = || desired.endpoints.values().map(|e| &e.container_id);
        if containers().any(|container| self.hangs.as_ref() == Some(container)) {
            std::future::pending::<()>().await;
        }
        let state = |endpoint: &Endpoint| match self.fails.get(&endpoint.container_id) {
            Some(reason) => EndpointState::Failed(reason.clone()),
            None => EndpointState::Ready {
                host_ifname: format!("vxp{}", endpoint.id),
            },
        };
        Report {
            endpoints: desired
                .endpoints
                .iter()
                .map(|(id, e)| (id.clone(), state(e)))
                .collect(),
            underlay: Some(Underlay {
                device: "under0".to_owned(),
                ifindex: 2,
                vtep: Ipv4Addr::new(192, 0, 2, 1 + self.underlay.0),
                mtu: 1500 - self.underlay.1,
            }),
            datapath: Some(DatapathStatus {
                attach: "tcx",
                xdp: "native",
                xdp_reason: String::new(),
            }),
            ..Report::default()
        }
    }

    fn counters(&self) -> Result<Counters, CountersError> {
        Ok(Counters::default())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

/// A daemon on `store` that lives as long as the test's runtime.
pub(crate) async fn daemon(store: &Memory, kernel: FakeKernel) -> Control {
    start("n1", Arc::new(store.clone()), kernel).await
}

/// The daemon of host `node` of a site.
pub(crate) async fn member(site: &Site, node: &str, kernel: FakeKernel) -> Control {
    start(node, Arc::new(site.member(node)), kernel).await
}

async fn start(node: &str, store: Arc<dyn Store>, kernel: FakeKernel) -> Control {
    let info = NodeInfo {
        node: node.to_owned(),
        port: 4789,
        gbp: false,
        hook: None,
        // Long enough on a busy machine, short where it is waited in vain.
        patience: Duration::from_millis(if kernel.hangs.is_some() { 300 } else { 10_000 }),
    };
    let (control, controller) = Control::start(info, store, Box::new(FakeHost));
    tokio::spawn(controller.run(kernel, std::future::pending()));
    control.ready().await.unwrap();
    control
}
