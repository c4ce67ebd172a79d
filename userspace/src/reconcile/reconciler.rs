//! The loop around observe, plan and apply.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as StdError,
    fmt,
    time::{Duration, Instant},
};

use ipnetwork::Ipv4Network;
use tokio::{sync::watch, task::AbortHandle};
use vxplane_common::abi::Config;

use super::{
    AttachMode, Counters, CountersError, DatapathStatus, EndpointState, Options, Report,
    StartError, Underlay, UnderlayChoice,
    apply::{Hands, Outcome},
    claim::Claim,
    describe,
    held::Held,
    observe::{self, Container, FALLBACK, Fallback, HostVeth, ObserveError, Observed, Standing},
    plan::{Plan, Wanted, overlay_mtu, plan},
    remotes::Remotes,
    rulesets::Rulesets,
    tables::Tables,
    ways::Ways,
};
use crate::{
    datapath::{
        self, Datapath, FlowCounter, Program, Takeover, TcMode, Teller,
        guard::{Guard, Place},
    },
    model::{Desired, Network},
    netlink::{self, Link, Netlink},
    underlay::Surroundings,
};

/// Passes of one reconcile. Making everything from nothing takes four: devices,
/// programs, maps and interfaces, and one that finds nothing to do.
const PASSES: usize = 6;

/// For how long what was seen of this host is good enough when only other hosts
/// changed. Shorter than the time within which damage is to be repaired.
const RECENT: Duration = Duration::from_secs(1);

/// The only writer of this host's kernel state.
#[derive(Debug)]
pub struct Reconciler {
    options: Options,
    netlink: Netlink,
    pub(super) datapath: Datapath,
    tc: TcMode,
    /// As found last, for when the default route is gone for a while.
    underlay: Option<Underlay>,
    guard: Option<GuardFor>,
    held: Held,
    remotes: Remotes,
    rulesets: Rulesets,
    ways: Ways,
    last: Option<Settled>,
    changes: watch::Sender<u64>,
    watching: AbortHandle,
    _claim: Claim,
}

/// Where the guard runs, and for which state of things that was decided.
#[derive(Debug)]
struct GuardFor {
    guard: Guard,
    config: Config,
    device: Link,
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// One look at the kernel.
struct Seen {
    observed: Observed,
    underlay_link: Option<Link>,
    /// What is wrong with the underlay.
    problem: Option<String>,
}

/// How this host was when nothing was left to do.
struct Settled {
    seen: Seen,
    /// When that was seen.
    at: Instant,
    /// How many changes the kernel had told of.
    changes: u64,
    /// What was desired.
    desired: Desired,
}

impl fmt::Debug for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settled")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Settled {
    /// Whether what was seen of this host will do for `desired`: nothing but
    /// other hosts changed.
    fn will_do(&self, desired: &Desired, changes: u64) -> bool {
        let before = &self.desired;
        self.at.elapsed() < RECENT
            && self.changes == changes
            && before.networks == desired.networks
            && before.endpoints == desired.endpoints
            && before.peers == desired.peers
            && (before.cluster != desired.cluster
                || before.policies != desired.policies
                || before.namespaces != desired.namespaces
                || before.identities != desired.identities)
    }
}

impl Reconciler {
    /// Connects to the kernel of the network namespace this thread is in. Changes
    /// nothing there yet. Must be called within a tokio runtime.
    #[expect(
        clippy::unused_async,
        reason = "callers must be in a runtime, and may have to wait in a later version"
    )]
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let tc = match (options.attach, datapath::tcx_available()) {
            (AttachMode::Clsact, _) | (AttachMode::Auto, false) => TcMode::Clsact,
            (AttachMode::Auto | AttachMode::Tcx, true) => TcMode::Tcx,
            (AttachMode::Tcx, false) => return Err(StartError::NoTcx),
        };
        let changes = watch::Sender::new(0);
        Ok(Self {
            _claim: Claim::new()?,
            netlink: Netlink::connect().map_err(StartError::Netlink)?,
            datapath: Datapath::open(&options.bpffs, options.mac_age)?,
            tc,
            underlay: None,
            guard: None,
            held: Held::default(),
            remotes: Remotes::default(),
            rulesets: Rulesets::default(),
            ways: Ways::default(),
            last: None,
            watching: netlink::watch(changes.clone()).map_err(StartError::Netlink)?,
            changes,
            options,
        })
    }

    /// What the programs tell of packets goes there. To be called before the first
    /// [`Self::reconcile`].
    pub fn tell(&mut self, teller: Teller) {
        self.datapath.tell(teller);
    }

    /// Makes the kernel equal to `desired` as far as it can and says how far
    /// that was. One broken endpoint or peer keeps no other from being served.
    pub async fn reconcile(&mut self, desired: &Desired) -> Report {
        let mut report = Report::default();
        if let Err(error) = self.converge(desired, &mut report).await {
            let reason = describe(&error);
            for id in desired.endpoints.keys() {
                let failed = EndpointState::Failed(reason.clone());
                report.endpoints.entry(id.clone()).or_insert(failed);
            }
            report.problems.push(reason);
            // A connection that broke stays broken.
            if let (ObserveError::Netlink(_), Ok(netlink)) = (error, Netlink::connect()) {
                self.netlink = netlink;
            }
        }
        report
    }

    async fn converge(
        &mut self,
        desired: &Desired,
        report: &mut Report,
    ) -> Result<(), ObserveError> {
        let changes = *self.changes.borrow();
        let (mut seen, at) = match self.last.take() {
            Some(last) if last.will_do(desired, changes) => {
                (self.look_elsewhere(last.seen, desired).await, last.at)
            }
            _ => {
                let now = Instant::now();
                (self.observe(desired, BTreeMap::new()).await?, now)
            }
        };
        let mut next = self.plan(desired, &seen.observed);
        let mut outcome = Outcome::default();
        for _ in 1..PASSES {
            if next.steps.is_empty() {
                outcome = Outcome::default();
                break;
            }
            let containers = std::mem::take(&mut seen.observed.containers);
            outcome = self.apply(desired, &containers, &next).await;
            report.changes += outcome.changes;
            seen = self.look_again(desired, seen, containers, &next).await?;
            let before = std::mem::replace(&mut next, self.plan(desired, &seen.observed));
            // The same again would fail again.
            if before.steps == next.steps {
                break;
            }
        }
        report.underlay.clone_from(&seen.observed.underlay);
        report.problems.extend(seen.problem.clone());
        let wanted = self.wanted(desired);
        report.problems.extend(problems(&wanted, &seen.observed));
        report.problems.append(&mut next.problems);
        report.problems.append(&mut outcome.problems);
        report.mtus = mtus(&wanted, &seen.observed);
        report.drift = self.held.drift();
        report.policy = self.rulesets.cost();
        report.verdicts = self.rulesets.verdicts();
        report.fill = self.held.known().map(|it| it.fill()).unwrap_or_default();
        report.datapath = self.place_guard(&seen, report);
        report.endpoints = self.states(desired, &seen.observed, &next, outcome, report);
        if next.steps.is_empty() {
            self.held.settle(next.tables);
            self.last = Some(Settled {
                seen,
                at,
                changes,
                desired: desired.clone(),
            });
        }
        Ok(())
    }

    fn wanted<'a>(&'a self, desired: &'a Desired) -> Wanted<'a> {
        Wanted {
            desired,
            remotes: &self.remotes,
            before: self.held.settled(),
            rulesets: &self.rulesets,
            port: self.options.port,
            gbp: self.options.gbp,
        }
    }

    fn plan(&mut self, desired: &Desired, observed: &Observed) -> Plan {
        self.remotes.follow(desired, self.options.port, observed);
        let held = observed.tables.as_ref();
        self.rulesets.follow(desired, &self.remotes, held);
        plan(&self.wanted(desired), observed)
    }

    /// What was `seen` a moment ago, with what other hosts made of it.
    async fn look_elsewhere(&mut self, mut seen: Seen, desired: &Desired) -> Seen {
        seen.observed.routes = self.ways.look_up(&self.netlink, desired).await;
        seen.observed.tables = self.held.known();
        seen
    }

    /// Looks at what `plan` may have changed.
    async fn look_again(
        &mut self,
        desired: &Desired,
        mut seen: Seen,
        mut containers: BTreeMap<String, Container>,
        plan: &Plan,
    ) -> Result<Seen, ObserveError> {
        if plan.is_about_maps_alone() {
            seen.observed.containers = containers;
            seen.observed.tables = self.held.known();
            return Ok(seen);
        }
        // Nothing happened in the other containers.
        for step in &plan.steps {
            let owner = step.owner.as_ref();
            owner.and_then(|id| containers.remove(id));
        }
        self.observe(desired, containers).await
    }

    async fn apply(
        &mut self,
        desired: &Desired,
        containers: &BTreeMap<String, Container>,
        plan: &Plan,
    ) -> Outcome {
        let mut hands = Hands {
            netlink: &self.netlink,
            datapath: &mut self.datapath,
            held: &mut self.held,
            desired,
            containers,
            tc: self.tc,
            port: self.options.port,
            gbp: self.options.gbp,
            inside: None,
        };
        let outcome = hands.take(&plan.steps).await;
        if outcome.stale_learned
            && let Err(error) = self.forget_stale()
        {
            tracing::warn!(
                error = &error as &dyn StdError,
                "cannot forget learned MAC addresses that no longer hold"
            );
        }
        outcome
    }

    fn forget_stale(&self) -> Result<(), datapath::Error> {
        self.datapath.maps()?.sweep_learned()
    }

    /// Looks at everything, but for the containers that are `known`.
    async fn observe(
        &mut self,
        desired: &Desired,
        known: BTreeMap<String, Container>,
    ) -> Result<Seen, ObserveError> {
        let around = Surroundings::observe(&self.netlink).await?;
        let problem = self.find_underlay(&around);
        let underlay = self.underlay.clone();
        let veths = observe::host_veths(&around.links);
        let containers = observe::containers(&self.netlink, desired, &veths, known).await;
        let devices = observe::devices(&around, underlay.as_ref());
        self.ways.check(&around.routes, underlay.as_ref());
        let loaded = self.datapath.config().is_some();
        let standing = if loaded {
            observe::attached(&self.netlink, &self.datapath, self.tc, &devices).await
        } else {
            Standing::default()
        };
        let strays = match (&underlay, self.tc) {
            (Some(underlay), TcMode::Clsact) if loaded => {
                observe::strays(&self.netlink, &self.datapath, &around.links, underlay).await?
            }
            _ => Vec::new(),
        };
        let observed = Observed {
            strays,
            source_ports: observe::source_ports(),
            routes: self.ways.look_up(&self.netlink, desired).await,
            fallback: observe::fallback(&around.links),
            veths: veths
                .iter()
                .map(|(id, link)| (id.clone(), HostVeth::from(*link)))
                .collect(),
            containers,
            config: self.datapath.config(),
            attached: standing.attached,
            unclear: standing.unclear,
            unpinned: self.datapath.is_unpinned(),
            pins: self.datapath.pinned_links()?,
            tc: self.tc,
            tables: self.tables()?,
            takeover: self.datapath.takeover(),
            guard_outdated: self.guard.as_ref().map(|placed| placed.config)
                != self.datapath.config(),
            underlay,
        };
        let index = observed.underlay.as_ref().map(|underlay| underlay.ifindex);
        let underlay_link = around.links.iter().find(|link| Some(link.index) == index);
        Ok(Seen {
            underlay_link: underlay_link.cloned(),
            observed,
            problem,
        })
    }

    /// What the maps hold, once they are loaded.
    fn tables(&mut self) -> Result<Option<Tables>, datapath::Error> {
        match self.datapath.maps() {
            Ok(maps) => self.held.look(|| Tables::read(&maps)).map(Some),
            Err(datapath::Error::NotLoaded) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks for the underlay; a default route that is gone for a while (a lease
    /// being renewed) does not take it away. What is wrong is returned.
    fn find_underlay(&mut self, around: &Surroundings) -> Option<String> {
        let error = match around.underlay(&self.options.underlay) {
            Ok(underlay) => {
                self.underlay = Some(underlay);
                return None;
            }
            Err(error) => error,
        };
        let still_there = self
            .underlay
            .as_ref()
            .filter(|_| self.options.underlay == UnderlayChoice::DefaultRoute)
            .and_then(|last| {
                let same = around.underlay(&UnderlayChoice::Address(last.vtep)).ok()?;
                (same.ifindex == last.ifindex).then_some(same)
            });
        self.underlay = still_there;
        Some(describe(&error))
    }

    /// Puts the guard in its place if anything has changed that it depends on.
    fn place_guard(&mut self, seen: &Seen, report: &mut Report) -> Option<DatapathStatus> {
        let config = self.datapath.config()?;
        if self.datapath.takeover() == Takeover::Filling {
            // Nobody is a peer in maps that are not complete.
            return None;
        }
        let status = |xdp: &'static str, xdp_reason: String| DatapathStatus {
            attach: match self.tc {
                TcMode::Tcx => "tcx",
                TcMode::Clsact => "clsact",
            },
            xdp,
            xdp_reason,
        };
        let Some(link) = &seen.underlay_link else {
            self.guard = None;
            return Some(status("off", "there is no underlay".to_owned()));
        };
        let settled = self.guard.as_ref().filter(|placed| {
            placed.config == config
                && placed.device.xdp == link.xdp
                && placed.device.index == link.index
                // Whoever took it off at once left the device as it was before.
                && (placed.guard.place == Place::Off || link.xdp.is_some())
        });
        if let Some(placed) = settled {
            let guard = &placed.guard;
            return Some(status(guard.place.name(), guard.reason.clone()));
        }
        let placed = match self.datapath.guard(link, self.options.xdp) {
            Ok(guard) => guard,
            Err(error) => {
                self.guard = None;
                let reason = describe(&error);
                report
                    .problems
                    .push(format!("the XDP guard is off: {reason}"));
                return Some(status("off", reason));
            }
        };
        tracing::info!(
            place = placed.place.name(),
            reason = placed.reason,
            "XDP guard"
        );
        let status = status(placed.place.name(), placed.reason.clone());
        self.guard = Some(GuardFor {
            guard: placed,
            config,
            device: link.clone(),
        });
        Some(status)
    }

    fn states(
        &self,
        desired: &Desired,
        observed: &Observed,
        next: &Plan,
        mut outcome: Outcome,
        report: &Report,
    ) -> BTreeMap<String, EndpointState> {
        let unsettled: BTreeSet<&String> =
            next.steps.iter().filter_map(|s| s.owner.as_ref()).collect();
        let state = |id: &String| {
            if matches!(observed.containers.get(id), Some(Container::Gone) | None) {
                return EndpointState::NamespaceGone;
            }
            if let Some(reason) = next.blocked.get(id) {
                return EndpointState::Failed(reason.clone());
            }
            if let Some(reason) = outcome.failed.remove(id) {
                return EndpointState::Failed(reason);
            }
            if self.datapath.config().is_none() {
                let reason = report.problems.join("; ");
                return EndpointState::Failed(format!("the datapath is not loaded: {reason}"));
            }
            if unsettled.contains(id) {
                let reason = "something else keeps changing its interface";
                return EndpointState::Failed(reason.to_owned());
            }
            EndpointState::Ready {
                host_ifname: observe::host_veth(id),
            }
        };
        let ids = desired.endpoints.keys();
        ids.cloned()
            .zip(desired.endpoints.keys().map(state))
            .collect()
    }

    /// The datapath's counters as they stand now.
    pub fn counters(&self) -> Result<Counters, CountersError> {
        match self.datapath.maps().and_then(|maps| maps.counters()) {
            Ok(counters) => Ok(counters),
            Err(datapath::Error::NotLoaded) => Err(CountersError::NotLoaded),
            Err(error) => Err(CountersError::Datapath(error)),
        }
    }

    /// What counts flows, which takes longer than anybody here should wait.
    pub fn flow_counter(&self) -> Result<FlowCounter, CountersError> {
        match self.datapath.maps().and_then(|maps| maps.flow_counter()) {
            Ok(counter) => Ok(counter),
            Err(datapath::Error::NotLoaded) => Err(CountersError::NotLoaded),
            Err(error) => Err(CountersError::Datapath(error)),
        }
    }

    /// The underlay device, as it was when nothing was left to do.
    pub(super) fn underlay_link(&self) -> Option<&Link> {
        self.last.as_ref()?.seen.underlay_link.as_ref()
    }

    /// Marked changed, some 200 ms after the event at the latest, when links,
    /// addresses or routes of this namespace changed: time to reconcile. The
    /// value has no meaning.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The IPv4 subnets this host has routes to (the default route aside), which
    /// a new network should not overlap.
    pub async fn host_subnets(&self) -> Result<Vec<Ipv4Network>, netlink::Error> {
        let routes = self.netlink.routes().await?;
        let subnets = routes.iter().map(|route| route.destination);
        Ok(subnets.filter(|subnet| subnet.prefix() > 0).collect())
    }
}

impl From<&Link> for HostVeth {
    fn from(link: &Link) -> Self {
        Self {
            index: link.index,
            mtu: link.mtu,
            up: link.up,
        }
    }
}

/// What is not as desired and cannot be made so by any step.
fn problems(wanted: &Wanted<'_>, observed: &Observed) -> Vec<String> {
    let mut problems = Vec::new();
    if observed.fallback == Fallback::Foreign {
        problems.push(format!(
            "there is a device {FALLBACK} that vxplane did not create; rename or delete it"
        ));
    }
    // Those of endpoints are told as theirs.
    let unclear = observed.unclear.iter();
    let of_host = unclear.filter(|((program, _), _)| *program != Program::FromContainer);
    problems.extend(of_host.map(|(_, reason)| reason.clone()));
    let own = observed.underlay.as_ref().map(|underlay| underlay.vtep);
    for peer in wanted.desired.peers.keys() {
        // In a cluster one is as good as none.
        if wanted.remotes.is_node(*peer) {
            continue;
        }
        if Some(*peer) == own {
            problems.push(format!("the peer {peer} is this host itself"));
        } else if own.is_some() && !observed.routes.contains_key(peer) {
            problems.push(format!("there is no route to the peer {peer}"));
        }
    }
    let unreached = wanted.remotes.unreached();
    if let Some(vtep) = unreached.first() {
        problems.push(match unreached.len() {
            1 => format!("there is no route to the node at {vtep}"),
            count => format!("there is no route to {count} nodes, one of them at {vtep}"),
        });
    }
    let contested = wanted.remotes.contested();
    if contested > 0 {
        problems.push(format!(
            "{contested} endpoints of other nodes have an address that another endpoint has, too; \
             nothing is sent to them"
        ));
    }
    problems
}

/// The MTUs of the networks this host has part in.
fn mtus(wanted: &Wanted<'_>, observed: &Observed) -> BTreeMap<String, u32> {
    let mtu = |network: &Network| (network.name.clone(), overlay_mtu(network, wanted, observed));
    wanted.networks().map(mtu).collect()
}
