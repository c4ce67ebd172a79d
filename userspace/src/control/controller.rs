//! The one loop that makes the kernel follow what is desired.
//!
//! It runs at every change of what is desired, at every change of the kernel
//! that was told of, and on a timer for those that were not.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tracing::{info, warn};

use super::NodeInfo;
use crate::{
    datapath::{FlowCounter, Traced},
    memory,
    model::{Desired, Node},
    reconcile::{Counters, CountersError, Probe, ProbeError, Reconciler, Report},
    store::{Picture, Store},
};

/// How often the kernel is compared even if nothing is known to have changed: what
/// was damaged without a word is mended within two seconds, the pass included.
const PERIOD: Duration = Duration::from_millis(1500);

/// A pass with more changes leaves memory behind that is worth giving back.
const MANY_CHANGES: usize = 1000;

/// How long after a pass the next may begin for the sake of other hosts. They may
/// change a thousand times a second, which are not to be a thousand passes.
const PAUSE: Duration = Duration::from_millis(20);

/// Makes the kernel equal to what is desired.
pub trait Reconcile: Send {
    /// One pass, as [`Reconciler::reconcile`].
    fn reconcile(&mut self, desired: &Desired) -> impl Future<Output = Report> + Send;

    /// What becomes of a packet, as [`Reconciler::probe`]; nothing is known of it where
    /// there are no programs.
    fn probe(&mut self, _: &Probe) -> Result<Traced, ProbeError> {
        Err(ProbeError::NotSettled)
    }

    /// The datapath's counters, as [`Reconciler::counters`].
    fn counters(&self) -> Result<Counters, CountersError>;

    /// What counts flows, as [`Reconciler::flow_counter`]; there are none where there
    /// are no programs.
    fn flow_counter(&self) -> Result<FlowCounter, CountersError> {
        Err(CountersError::NotLoaded)
    }

    /// Told when the kernel changed, as [`Reconciler::changes`].
    fn changes(&self) -> watch::Receiver<u64>;
}

impl Reconcile for Reconciler {
    fn reconcile(&mut self, desired: &Desired) -> impl Future<Output = Report> + Send {
        Reconciler::reconcile(self, desired)
    }

    fn probe(&mut self, probe: &Probe) -> Result<Traced, ProbeError> {
        Reconciler::probe(self, probe)
    }

    fn counters(&self) -> Result<Counters, CountersError> {
        Reconciler::counters(self)
    }

    fn flow_counter(&self) -> Result<FlowCounter, CountersError> {
        Reconciler::flow_counter(self)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        Reconciler::changes(self)
    }
}

/// How long to wait for an answer; a pass that takes longer is in trouble.
pub(super) const QUERY_PATIENCE: Duration = Duration::from_secs(3);

/// What is asked of the loop, and where the answer goes.
pub(super) enum Query {
    /// For the datapath's counters.
    Counters(oneshot::Sender<Result<Counters, CountersError>>),
    /// For what counts flows.
    Flows(oneshot::Sender<Result<FlowCounter, CountersError>>),
    /// For what becomes of a packet.
    Probe(Probe, oneshot::Sender<Result<Traced, ProbeError>>),
}

/// What the last pass found, and which picture it was about.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// [`Picture::number`], or 0 before the first pass.
    pub(super) picture: u64,
    pub(super) report: Report,
}

impl Observed {
    /// What others are to know of this host, as soon as it can carry packets.
    pub(super) fn node(&self, info: &NodeInfo) -> Option<Node> {
        let underlay = self.report.underlay.as_ref()?;
        let datapath = self.report.datapath.as_ref()?;
        let gbp = info.gbp.then(|| "gbp".to_owned());
        let xdp = (datapath.xdp != "off").then(|| format!("xdp-{}", datapath.xdp));
        Some(Node {
            name: info.node.clone(),
            instance: String::new(),
            vtep: underlay.vtep,
            mtu: underlay.mtu,
            port: info.port,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: xdp
                .into_iter()
                .chain([datapath.attach.to_owned()])
                .chain(gbp)
                .collect(),
        })
    }
}

/// That nobody waits for the answer any more is no error.
fn answer(query: Query, reconciler: &mut impl Reconcile) {
    match query {
        Query::Counters(to) => drop(to.send(reconciler.counters())),
        Query::Flows(to) => drop(to.send(reconciler.flow_counter())),
        Query::Probe(probe, to) => drop(to.send(reconciler.probe(&probe))),
    }
}

/// The loop's two ends, made by [`super::Control::start`].
pub struct Controller {
    pub(super) info: NodeInfo,
    pub(super) store: Arc<dyn Store>,
    /// What the store was told last.
    pub(super) announced: Option<Node>,
    pub(super) pictures: watch::Receiver<Arc<Picture>>,
    pub(super) observed: watch::Sender<Arc<Observed>>,
    pub(super) queries: mpsc::Receiver<Query>,
}

impl Controller {
    /// Runs until the last [`super::Control`] is gone or `stop` completes; a
    /// pass that has begun is finished.
    pub async fn run(mut self, mut reconciler: impl Reconcile, stop: impl Future<Output = ()>) {
        let mut kernel = reconciler.changes();
        let mut timer = interval(PERIOD);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        let mut here = self.pass(&mut reconciler).await;
        let mut ended = Instant::now();
        loop {
            tokio::select! {
                changed = self.pictures.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.gather(&here, ended).await;
                }
                Some(query) = self.queries.recv() => {
                    answer(query, &mut reconciler);
                    continue;
                }
                Ok(()) = kernel.changed() => {}
                _ = timer.tick() => {}
                () = &mut stop => return,
            }
            here = self.pass(&mut reconciler).await;
            ended = Instant::now();
        }
    }

    /// Lets changes of other hosts gather for a moment if the last pass `ended`
    /// just now. What somebody here waits for is not held up.
    async fn gather(&mut self, before: &Picture, ended: Instant) {
        let until = ended + PAUSE;
        let of_others_alone = |now: &Picture| {
            let (before, now) = (&before.contents.desired, &now.contents.desired);
            before.networks == now.networks
                && before.endpoints == now.endpoints
                && before.peers == now.peers
                && before.policies.ptr_eq(&now.policies)
                && before.namespaces.ptr_eq(&now.namespaces)
        };
        loop {
            let now = Arc::clone(&self.pictures.borrow_and_update());
            if !of_others_alone(&now) {
                return;
            }
            if !matches!(timeout_at(until, self.pictures.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Reconciles with the latest picture and returns it.
    async fn pass(&mut self, reconciler: &mut impl Reconcile) -> Arc<Picture> {
        let picture = Arc::clone(&self.pictures.borrow_and_update());
        let begun = Instant::now();
        let report = reconciler.reconcile(&picture.contents.desired).await;
        if report.changes > 0 {
            let (changes, took) = (report.changes, begun.elapsed());
            info!(changes, ?took, "the kernel was brought up to date");
            if changes > MANY_CHANGES {
                memory::give_back();
            }
        }
        self.log_new_problems(&report);
        let observed = Observed {
            picture: picture.number,
            report,
        };
        self.announce(&observed);
        self.observed.send_replace(Arc::new(observed));
        picture
    }

    /// Makes this host known, and known anew when it has changed. A host whose
    /// underlay is gone for a while stays known as it was.
    fn announce(&mut self, observed: &Observed) {
        let node = observed.node(&self.info);
        if let Some(node) = node
            && self.announced.as_ref() != Some(&node)
        {
            self.announced = Some(node.clone());
            self.store.announce(node);
        }
    }

    /// A problem is told when it appears, not at every pass it lasts.
    fn log_new_problems(&self, report: &Report) {
        let before = Arc::clone(&self.observed.borrow());
        for problem in &report.problems {
            if !before.report.problems.contains(problem) {
                warn!("{problem}");
            }
        }
    }
}
