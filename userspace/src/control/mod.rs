//! What surfaces ask of the daemon: the one place where networks, endpoints,
//! peers and policies are made and unmade.
//!
//! A mutation checks everything first, becomes durable in one transaction, and
//! then waits until the kernel follows. It runs to its end even if whoever
//! asked goes away, so nothing is left half made.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnetwork::Ipv4Network;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tracing::info;

use self::{
    commit::Done,
    controller::{Observed, QUERY_PATIENCE, Query},
    events::Hub,
    plan::removal,
    turns::Turns,
};
pub use self::{
    controller::{Controller, Reconcile},
    error::{Conflict, Error, Invalid, Kind, NotFound},
    events::{EndpointRef, Event, EventType, Interest, Listener, PacketRef, Party},
    host::{Host, ThisHost},
    plan::{Applied, Created},
    spec::{
        AttachSpec, DEFAULT_IFNAME, DEFAULT_NAMESPACE, EndpointChange, NetnsSource, NetworkSpec,
        endpoint_id, parse_cidr, parse_ipv4, parse_ipv4_in, parse_mac, parse_subnet, parse_target,
        parse_vni,
    },
    trace::{ArrivalSpec, Protocol, Trace, TraceSpec, TraceStep, Verdict},
    view::{
        EndpointFilter, EndpointView, ListedEndpoint, NamespaceView, NetworkView, NodeView,
        OtherEndpointView, PeerView, PolicyView, State, StatusView,
    },
};
use crate::{
    model::Network,
    reconcile::{Counters, CountersError},
    store::{Picture, Store},
};

mod census;
mod choose;
#[cfg(test)]
mod cluster_tests;
mod commit;
mod controller;
mod endpoints;
mod error;
mod events;
#[cfg(test)]
pub(crate) mod fake;
mod host;
mod ipam;
mod plan;
mod policies;
mod problems;
mod spec;
pub(crate) mod stored;
#[cfg(test)]
mod tests;
mod trace;
pub(crate) mod turns;
mod view;

/// How long a mutation waits for the kernel to follow, unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What stays the same about this daemon while it runs.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Its name.
    pub node: String,
    /// VXLAN UDP port.
    pub port: u16,
    /// Whether packets bear and are believed group policy IDs.
    pub gbp: bool,
    /// Where the hook endpoint listens, if it does.
    pub hook: Option<SocketAddr>,
    /// How long a mutation waits for the kernel to follow; [`PATIENCE`].
    pub patience: Duration,
}

/// A handle on the daemon's state; clones are the same daemon.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    info: NodeInfo,
    started: Instant,
    store: Arc<dyn Store>,
    host: Box<dyn Host>,
    /// Held from the first check of a mutation until it is durable: those of one
    /// daemon need not outdate one another.
    changing: Mutex<()>,
    pictures: watch::Receiver<Arc<Picture>>,
    observed: watch::Receiver<Arc<Observed>>,
    queries: mpsc::Sender<Query>,
    turns: Turns,
    hub: Arc<Hub>,
}

impl Control {
    /// Takes over what the store holds. The [`Controller`] must be run for any
    /// mutation to complete.
    pub fn start(info: NodeInfo, store: Arc<dyn Store>, host: Box<dyn Host>) -> (Self, Controller) {
        let pictures = store.pictures();
        let (observed_tx, observed) = watch::channel(Arc::new(Observed::default()));
        let (queries, queries_rx) = mpsc::channel(16);
        let controller = Controller {
            info: info.clone(),
            store: Arc::clone(&store),
            announced: None,
            pictures: pictures.clone(),
            observed: observed_tx,
            queries: queries_rx,
        };
        let inner = Inner {
            info,
            started: Instant::now(),
            store,
            host,
            changing: Mutex::default(),
            pictures,
            observed,
            queries,
            turns: Turns::default(),
            hub: Arc::default(),
        };
        let inner = Arc::new(inner);
        (Self { inner }, controller)
    }

    /// Waits until the kernel was compared with the stored state once.
    pub async fn ready(&self) -> Result<(), Error> {
        self.follow(1, "the stored state").await
    }

    /// Calls `told` after each pass of the reconcile loop, as long as there is one.
    pub async fn at_each_pass(&self, mut told: impl FnMut()) {
        let mut observed = self.inner.observed.clone();
        while observed.changed().await.is_ok() {
            told();
        }
    }

    /// Makes a network, or finds it if it is as asked for.
    pub async fn create_network(&self, spec: NetworkSpec) -> Result<(NetworkView, Created), Error> {
        self.to_the_end(|control| async move {
            let routes = match spec.subnet {
                Some(_) => Vec::new(),
                None => control.inner.host.routes().await.map_err(|source| {
                    let what = "the host's routes";
                    Error::Host { what, source }
                })?,
            };
            let underlay = control.underlay();
            let done = control
                .change(|basis| plan::network(basis, &spec, &routes, underlay.as_ref()))
                .await?;
            control.network_made(done).await
        })
        .await
    }

    /// Finds the network with exactly this subnet, or makes one; any number of
    /// callers at once get the same one.
    pub async fn network_for_subnet(
        &self,
        subnet: Ipv4Network,
    ) -> Result<(NetworkView, Created), Error> {
        self.to_the_end(move |control| async move {
            let done = control
                .change(|basis| plan::network_for_subnet(basis, subnet))
                .await?;
            control.network_made(done).await
        })
        .await
    }

    /// Removes a network that has no endpoints; peers of only that network go
    /// with it.
    pub async fn remove_network(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        self.to_the_end(|control| async move {
            loop {
                let done = control
                    .change(|basis| plan::remove_network(basis, &name))
                    .await?;
                if !done.value {
                    info!(network = name, "network removed");
                    return control.follow(done.picture, "the network's removal").await;
                }
            }
        })
        .await
    }

    /// Lets the VTEP `ip` into `networks`, in addition to those it is in; none
    /// named means all, also those made later.
    pub async fn add_peer(
        &self,
        ip: Ipv4Addr,
        networks: BTreeSet<String>,
    ) -> Result<(PeerView, Created), Error> {
        self.to_the_end(move |control| async move {
            let own = control.underlay().map(|underlay| underlay.vtep);
            let done = control
                .change(|basis| plan::add_peer(basis, ip, &networks, own))
                .await?;
            control.follow(done.picture, "the peer").await?;
            let picture = control.picture();
            let view = PeerView::foreign(&picture.contents.desired, &done.value);
            Ok((view, done.created))
        })
        .await
    }

    /// Shuts the VTEP `ip` out of all networks.
    pub async fn remove_peer(&self, ip: Ipv4Addr) -> Result<(), Error> {
        self.to_the_end(move |control| async move {
            let done = control
                .change(|basis| Ok(removal(plan::remove_peer(basis, ip)?)))
                .await?;
            info!(peer = %ip, "peer removed");
            control.follow(done.picture, "the peer's removal").await
        })
        .await
    }

    /// Frees the endpoints of a node that is not alive.
    pub async fn remove_node(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        self.to_the_end(|control| async move {
            loop {
                let done = control
                    .change(|basis| plan::remove_node(basis, &name))
                    .await?;
                if !done.value {
                    info!(node = name, "endpoints of a dead node freed");
                    return control.follow(done.picture, "the node's removal").await;
                }
            }
        })
        .await
    }

    /// The datapath's counters; an error if they cannot be read now.
    pub async fn counters(&self) -> Result<Counters, CountersError> {
        self.query(Query::Counters).await
    }

    /// How many flows an address has that is one of this host's; `None` if they
    /// cannot be counted now.
    async fn count_flows(&self, vni: u32, address: Ipv4Addr) -> Option<u64> {
        let counter = self.query(Query::Flows).await.ok()?;
        let counting = tokio::task::spawn_blocking(move || counter.count(vni, address));
        counting.await.ok()?.ok()
    }

    /// Asks the loop something about the datapath.
    async fn query<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<Result<T, CountersError>>) -> Query,
    ) -> Result<T, CountersError> {
        let (to, answer) = oneshot::channel();
        let asked = async {
            self.inner.queries.send(question(to)).await.ok()?;
            answer.await.ok()
        };
        let answered = tokio::time::timeout(QUERY_PATIENCE, asked).await;
        answered.ok().flatten().unwrap_or(Err(CountersError::Busy))
    }

    async fn network_made(&self, done: Done<Network>) -> Result<(NetworkView, Created), Error> {
        if done.created == Created::New {
            let network = &done.value;
            let (vni, subnet) = (network.vni, network.subnet);
            info!(network = network.name, %vni, %subnet, "network created");
            self.follow(done.picture, "the network").await?;
        }
        let view = self.view_network(&self.picture().contents.desired, &done.value);
        Ok((view, done.created))
    }
}
