//! What surfaces ask of the daemon: the one place where networks, endpoints and
//! peers are made and unmade.
//!
//! A mutation checks everything first, becomes durable in one transaction, and
//! then waits until the kernel follows. It runs to its end even if whoever
//! asked goes away, so nothing is left half made.

use std::{
    collections::BTreeSet,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnetwork::Ipv4Network;
use tokio::sync::{Mutex, MutexGuard, mpsc, oneshot, watch};
use tracing::{info, warn};

pub use self::{
    controller::{Controller, Reconcile},
    error::{Conflict, Error, Invalid, Kind, NotFound},
    host::{Host, ThisHost},
    plan::Created,
    spec::{
        AttachSpec, DEFAULT_IFNAME, DEFAULT_NAMESPACE, EndpointChange, NetnsSource, NetworkSpec,
        endpoint_id, parse_cidr, parse_ipv4, parse_mac, parse_subnet, parse_vni,
    },
    view::{EndpointView, NetworkView, State, StatusView},
};
use self::{
    controller::{CountersQuery, Observed, Revision},
    plan::Plan,
    turns::Turns,
};
use crate::{
    model::{Endpoint, NetnsRef, Peer},
    reconcile::{Counters, CountersError, EndpointState},
    store::{Change, Contents, Store},
};

mod choose;
mod controller;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod host;
mod ipam;
mod plan;
mod spec;
#[cfg(test)]
mod tests;
pub(crate) mod turns;
mod view;

/// How long a mutation waits for the kernel to follow, unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long to wait for counters; a pass that takes longer is in trouble.
const COUNTERS_PATIENCE: Duration = Duration::from_secs(3);

/// What stays the same about this daemon while it runs.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Its name.
    pub node: String,
    /// VXLAN UDP port.
    pub port: u16,
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
    store: Box<dyn Store>,
    host: Box<dyn Host>,
    /// Held from the first check of a mutation until it is durable.
    state: Mutex<Contents>,
    desired: watch::Sender<Arc<Revision>>,
    observed: watch::Receiver<Arc<Observed>>,
    queries: mpsc::Sender<CountersQuery>,
    turns: Turns,
}

impl Control {
    /// Takes over what the store holds. The [`Controller`] must be run for any
    /// mutation to complete.
    pub async fn start(
        info: NodeInfo,
        store: Box<dyn Store>,
        host: Box<dyn Host>,
    ) -> Result<(Self, Controller), Error> {
        let contents = store.load().await?;
        let first = Revision {
            number: 1,
            desired: contents.desired.clone(),
        };
        let (desired, desired_rx) = watch::channel(Arc::new(first));
        let (observed_tx, observed) = watch::channel(Arc::new(Observed::default()));
        let (queries, queries_rx) = mpsc::channel(16);
        let inner = Inner {
            info,
            started: Instant::now(),
            store,
            host,
            state: Mutex::new(contents),
            desired,
            observed,
            queries,
            turns: Turns::default(),
        };
        let controller = Controller {
            desired: desired_rx,
            observed: observed_tx,
            queries: queries_rx,
        };
        Ok((
            Self {
                inner: Arc::new(inner),
            },
            controller,
        ))
    }

    /// Waits until the kernel was compared with the stored state once.
    pub async fn ready(&self) -> Result<(), Error> {
        self.reached(1, "the first reconcile").await.map(drop)
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
            let plan = control
                .change(|state| plan::network(state, &spec, &routes, underlay.as_ref()))
                .await?;
            control.network_made(plan).await
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
            let plan = control
                .change(|state| plan::network_for_subnet(state, subnet))
                .await?;
            control.network_made(plan).await
        })
        .await
    }

    /// All networks, by name.
    pub fn networks(&self) -> Vec<NetworkView> {
        let revision = self.revision();
        let networks = revision.desired.networks.values();
        networks
            .map(|network| self.view_network(&revision, network))
            .collect()
    }

    /// One network.
    pub fn network(&self, name: &str) -> Result<NetworkView, Error> {
        let revision = self.revision();
        match revision.desired.networks.get(name) {
            Some(network) => Ok(self.view_network(&revision, network)),
            None => Err(NotFound::Network(name.to_owned()).into()),
        }
    }

    /// Removes a network that has no endpoints; peers of only that network go
    /// with it.
    pub async fn remove_network(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        self.to_the_end(|control| async move {
            control
                .change(|state| Ok(removal(plan::remove_network(state, &name)?)))
                .await?;
            info!(network = name, "network removed");
            control.follow("removing the network").await
        })
        .await
    }

    /// Attaches a container's interface, or finds it attached; waits until it
    /// works. If it cannot be made to work, nothing of it is kept: an endpoint
    /// that was there before is as it was.
    pub async fn attach(&self, spec: AttachSpec) -> Result<(EndpointView, Created), Error> {
        self.to_the_end(|control| async move { control.attach_to_the_end(spec).await })
            .await
    }

    /// Removes an endpoint by ID, and its interface; its address is free, and
    /// remembered in case the same container comes back.
    pub async fn detach(&self, id: &str) -> Result<(), Error> {
        let id = id.to_owned();
        self.to_the_end(|control| async move {
            let _turn = control.inner.turns.take(&id).await;
            control
                .change(|state| Ok(removal(plan::detach(state, &id)?)))
                .await?;
            info!(endpoint = id, "endpoint detached");
            control.follow("detaching the endpoint").await
        })
        .await
    }

    /// Changes what can change about an endpoint while it is attached.
    pub async fn change_endpoint(
        &self,
        id: &str,
        change: EndpointChange,
    ) -> Result<EndpointView, Error> {
        let id = id.to_owned();
        self.to_the_end(|control| async move {
            let _turn = control.inner.turns.take(&id).await;
            let plan = control
                .change(|state| plan::change_endpoint(state, &id, change))
                .await?;
            Ok(control.view_endpoint(&control.revision(), &plan.value)?)
        })
        .await
    }

    /// All endpoints, by ID, without traffic counters.
    pub fn endpoints(&self) -> Vec<EndpointView> {
        let revision = self.revision();
        let endpoints = revision.desired.endpoints.values();
        endpoints
            .filter_map(|endpoint| self.view_endpoint(&revision, endpoint).ok())
            .collect()
    }

    /// One endpoint by its whole ID, without traffic counters.
    pub fn endpoint(&self, id: &str) -> Result<EndpointView, Error> {
        let revision = self.revision();
        match revision.desired.endpoints.get(id) {
            Some(endpoint) => Ok(self.view_endpoint(&revision, endpoint)?),
            None => Err(NotFound::Endpoint(id.to_owned()).into()),
        }
    }

    /// The ID of the endpoint that a person means: by ID, container name or
    /// ID, or the beginning of either ID.
    pub fn find_endpoint(&self, text: &str) -> Result<String, Error> {
        view::find_endpoint(&self.revision().desired, text)
    }

    /// Lets the VTEP `ip` into `networks`, in addition to those it is in; none
    /// named means all, also those made later.
    pub async fn add_peer(
        &self,
        ip: Ipv4Addr,
        networks: BTreeSet<String>,
    ) -> Result<(Peer, Created), Error> {
        self.to_the_end(move |control| async move {
            let own = control.underlay().map(|underlay| underlay.vtep);
            let plan = control
                .change(|state| plan::add_peer(state, ip, &networks, own))
                .await?;
            control.follow("adding the peer").await?;
            Ok((plan.value, plan.created))
        })
        .await
    }

    /// All peers, by address.
    pub fn peers(&self) -> Vec<Peer> {
        self.revision().desired.peers.values().cloned().collect()
    }

    /// Shuts the VTEP `ip` out of all networks.
    pub async fn remove_peer(&self, ip: Ipv4Addr) -> Result<(), Error> {
        self.to_the_end(move |control| async move {
            control
                .change(|state| Ok(removal(plan::remove_peer(state, ip)?)))
                .await?;
            info!(peer = %ip, "peer removed");
            control.follow("removing the peer").await
        })
        .await
    }

    /// Has the kernel compared again and waits until that is done.
    pub async fn reconcile(&self) -> Result<(), Error> {
        self.follow("reconciling").await
    }

    /// The datapath's counters; an error if they cannot be read now.
    pub async fn counters(&self) -> Result<Counters, CountersError> {
        let (query, answer) = oneshot::channel();
        let asked = async {
            self.inner.queries.send(query).await.ok()?;
            answer.await.ok()
        };
        let answered = tokio::time::timeout(COUNTERS_PATIENCE, asked).await;
        answered.ok().flatten().unwrap_or(Err(CountersError::Busy))
    }

    /// Runs a mutation on its own task: it ends even if the caller is dropped.
    async fn to_the_end<T, F, Fut>(&self, mutation: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(Self) -> Fut,
        Fut: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let task = tokio::spawn(mutation(self.clone()));
        // The task is never aborted, so it is gone only with the runtime.
        task.await.unwrap_or(Err(Error::Stopping))
    }

    async fn attach_to_the_end(self, spec: AttachSpec) -> Result<(EndpointView, Created), Error> {
        spec.check()?;
        plan::find_network(&*self.state().await, &spec.network)?;
        let netns = self.inner.host.netns(spec.netns.clone()).await?;
        let id = endpoint_id(&plan::container_id(&spec, &netns), spec.ifname());
        let _turn = self.inner.turns.take(&id).await;
        let before = self.revision().desired.endpoints.get(&id).cloned();
        if before.as_ref().is_none_or(|before| before.netns != netns) {
            self.check_no_interface(&netns, spec.ifname()).await?;
        }
        let observed = Arc::clone(&self.inner.observed.borrow());
        let wired = |id: &str| {
            matches!(
                observed.report.endpoints.get(id),
                Some(EndpointState::Ready { .. })
            )
        };
        let plan = self
            .change(|state| plan::attach(state, &spec, netns, wired))
            .await?;
        let endpoint = plan.value;
        match self.wired(&endpoint).await {
            Ok(()) => {
                if plan.created == Created::New {
                    let (id, network, ip) = (&endpoint.id, &endpoint.network, endpoint.ip);
                    info!(endpoint = id, network, %ip, "endpoint attached");
                }
                Ok((
                    self.view_endpoint(&self.revision(), &endpoint)?,
                    plan.created,
                ))
            }
            Err(error) => {
                warn!(endpoint = endpoint.id, "attach undone: {error}");
                self.undo_attach(&endpoint.id, before).await;
                Err(error)
            }
        }
    }

    /// Refuses a namespace that has an interface of that name, unless it is an
    /// endpoint's, which the plan will say more precisely.
    async fn check_no_interface(&self, netns: &NetnsRef, ifname: &str) -> Result<(), Error> {
        let found = self.inner.host.has_interface(netns, ifname).await;
        let what = "the container's interfaces";
        let found = found.map_err(|source| Error::Host { what, source })?;
        let revision = self.revision();
        let mut endpoints = revision.desired.endpoints.values();
        let ours = |e: &Endpoint| e.netns.inode == netns.inode && e.ifname == ifname;
        if !found || endpoints.any(ours) {
            return Ok(());
        }
        let (netns, ifname) = (netns.path.display().to_string(), ifname.to_owned());
        Err(Conflict::IfnameForeign { netns, ifname }.into())
    }

    /// Puts the endpoint back to what it was before a failed attach. If the
    /// store fails here too, the log says so, and the endpoint stays listed as
    /// failed until it is detached.
    async fn undo_attach(&self, id: &str, before: Option<Endpoint>) {
        let change = match before {
            Some(endpoint) => Change::PutEndpoint(Box::new(endpoint)),
            None => Change::RemoveEndpoint(id.to_owned()),
        };
        let undone = self.change(|_| Ok(removal(vec![change]))).await;
        let followed = match undone {
            Ok(_) => self.follow("undoing the attach").await,
            Err(error) => Err(error),
        };
        if let Err(error) = followed {
            warn!(endpoint = id, "undoing the attach is not complete: {error}");
        }
    }

    /// Waits for a pass that saw this endpoint as it is stored now, and for
    /// what came of it.
    async fn wired(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let observed = self.next_pass("attaching the endpoint").await?;
        let reason = match observed.report.endpoints.get(&endpoint.id) {
            Some(EndpointState::Ready { .. }) => return Ok(()),
            Some(EndpointState::NamespaceGone) => "its network namespace is gone".to_owned(),
            Some(EndpointState::Failed(reason)) => reason.clone(),
            None => "it was detached meanwhile".to_owned(),
        };
        Err(Error::Attach {
            network: endpoint.network.clone(),
            container_id: endpoint.container_id.clone(),
            ifname: endpoint.ifname.clone(),
            reason,
        })
    }

    async fn network_made(
        &self,
        plan: Plan<crate::model::Network>,
    ) -> Result<(NetworkView, Created), Error> {
        if plan.created == Created::New {
            let network = &plan.value;
            let (vni, subnet) = (network.vni, network.subnet);
            info!(network = network.name, %vni, %subnet, "network created");
            self.follow("creating the network").await?;
        }
        Ok((
            self.view_network(&self.revision(), &plan.value),
            plan.created,
        ))
    }

    /// Plans on the state, makes the changes durable, and only then visible.
    async fn change<T>(
        &self,
        plan: impl FnOnce(&Contents) -> Result<Plan<T>, Error>,
    ) -> Result<Plan<T>, Error> {
        let mut state = self.state().await;
        let plan = plan(&state)?;
        if plan.changes.is_empty() {
            return Ok(plan);
        }
        self.inner.store.commit(plan.changes.clone()).await?;
        for change in plan.changes.iter().cloned() {
            state.apply(change);
        }
        let desired = state.desired.clone();
        self.inner.desired.send_modify(|revision| {
            *revision = Arc::new(Revision {
                number: revision.number + 1,
                desired,
            });
        });
        Ok(plan)
    }

    async fn state(&self) -> MutexGuard<'_, Contents> {
        self.inner.state.lock().await
    }

    fn revision(&self) -> Arc<Revision> {
        Arc::clone(&self.inner.desired.borrow())
    }

    /// Waits for a pass; its problems are the status page's business.
    async fn follow(&self, what: &str) -> Result<(), Error> {
        self.next_pass(what).await.map(drop)
    }

    /// Waits for a pass that begins after now, even if nothing changed.
    async fn next_pass(&self, what: &str) -> Result<Arc<Observed>, Error> {
        let mut number = 0;
        self.inner.desired.send_modify(|revision| {
            number = revision.number + 1;
            let desired = revision.desired.clone();
            *revision = Arc::new(Revision { number, desired });
        });
        self.reached(number, what).await
    }

    async fn reached(&self, number: u64, what: &str) -> Result<Arc<Observed>, Error> {
        let mut observed = self.inner.observed.clone();
        let reached = observed.wait_for(|observed| observed.revision >= number);
        let patience = self.inner.info.patience;
        match tokio::time::timeout(patience, reached).await {
            Ok(Ok(observed)) => Ok(Arc::clone(&observed)),
            Ok(Err(_)) => Err(Error::Stopping),
            Err(_) => Err(Error::TimedOut {
                what: what.to_owned(),
                seconds: patience.as_secs(),
            }),
        }
    }
}

/// A plan whose outcome is only its changes.
fn removal(changes: Vec<Change>) -> Plan<()> {
    Plan {
        value: (),
        created: Created::Existing,
        changes,
    }
}
