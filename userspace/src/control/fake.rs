//! A daemon for tests: its kernel obeys, fails or hangs as told.

use std::{collections::BTreeMap, io, net::Ipv4Addr, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use ipnetwork::Ipv4Network;
use tokio::sync::watch;

use super::{Control, Error, Host, Invalid, NetnsSource, NodeInfo, Reconcile};
use crate::{
    model::{Desired, Endpoint, NetnsRef, Node},
    reconcile::{Counters, CountersError, EndpointState, Report, Underlay},
    store::{Change, CommitError, Contents, Health, Picture, Pictures, Store},
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

/// The namespace that has interfaces of every name.
pub(crate) const TAKEN: u64 = 666;

/// A host whose namespaces have their process ID as inode number.
pub(crate) struct FakeHost;

impl Host for FakeHost {
    fn routes(&self) -> BoxFuture<'_, io::Result<Vec<Ipv4Network>>> {
        async { Ok(vec!["10.50.0.0/24".parse().unwrap()]) }.boxed()
    }

    fn netns(&self, source: NetnsSource) -> BoxFuture<'_, Result<NetnsRef, Error>> {
        async move {
            let NetnsSource::Pid(pid) = source else {
                return Err(Invalid::NetnsOrPid.into());
            };
            Ok(NetnsRef {
                path: source.path(),
                inode: pid.into(),
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
                vtep: Ipv4Addr::new(192, 0, 2, 1),
                mtu: 1500,
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
    let info = NodeInfo {
        node: "n1".to_owned(),
        port: 4789,
        hook: None,
        patience: Duration::from_millis(300),
    };
    let store = Box::new(store.clone());
    let (control, controller) = Control::start(info, store, Box::new(FakeHost));
    tokio::spawn(controller.run(kernel, std::future::pending()));
    control.ready().await.unwrap();
    control
}
