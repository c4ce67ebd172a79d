//! Many nodes that want addresses of one network at the same time: of each there
//! is the real control plane on the real store, and a kernel that obeys at once.

use std::{
    collections::BTreeSet,
    io,
    net::Ipv4Addr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::{FutureExt, future::BoxFuture};
use ipnetwork::Ipv4Network;
use serde::Serialize;
use tokio::{
    sync::{Barrier, watch},
    task::JoinSet,
    time::timeout,
};
use vxplane::{
    control::{
        AttachSpec, Control, Error, Host, Kind, NetnsSource, NetworkSpec, NodeInfo, PATIENCE,
        Reconcile,
    },
    descriptors,
    model::{Desired, NetnsRef},
    reconcile::{Counters, CountersError, DatapathStatus, EndpointState, Report, Underlay},
    store::{
        Store,
        etcd::{Etcd, EtcdOptions},
    },
};

use super::{LIMIT, ms, percentile};
use crate::harness::{EtcdMember, Lab};

/// The network that all want addresses of.
const NETWORK: &str = "wanted";
/// A directory in memory: each node would have a disk of its own.
const MEMORY: &str = "/dev/shm";

/// How many contend.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// Nodes.
    pub nodes: u32,
    /// Endpoints that each of them attaches, one after the other.
    pub endpoints_per_node: u32,
}

/// What came of it. Times in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Contention {
    pub nodes: u32,
    pub attached: u32,
    pub refused: u32,
    pub all_ms: f64,
    pub attach_p50_ms: f64,
    pub attach_p99_ms: f64,
    pub attach_max_ms: f64,
}

impl Contention {
    /// As [`super::Figures::lines`].
    pub fn lines(&self) -> Vec<(&'static str, String, &'static str)> {
        let line = |what, ms: f64| (what, format!("{ms:.0} ms"), "");
        vec![
            ("nodes that contend", self.nodes.to_string(), ""),
            ("endpoints attached", self.attached.to_string(), ""),
            ("endpoints refused", self.refused.to_string(), "0"),
            line("until all are attached", self.all_ms),
            line("one attach, median", self.attach_p50_ms),
            line("one attach, p99", self.attach_p99_ms),
            line("one attach, longest", self.attach_max_ms),
        ]
    }
}

/// Has the crowd attach endpoints, and sees that no address was given twice.
pub fn contend(crowd: Crowd) -> Result<Contention> {
    descriptors::raise_limit()?;
    let lab = Lab::new()?;
    let (etcd_host, host) = (lab.host("etcd")?, lab.host("nodes")?);
    let etcd = EtcdMember::alone(&etcd_host)?;
    let options = EtcdOptions::new(vec![etcd.address()]);
    let directory = tempfile::tempdir_in(MEMORY)?;
    host.netns().enter(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let outcome = runtime.block_on(all_at_once(crowd, &options, directory.path()));
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    })?
}

async fn all_at_once(crowd: Crowd, options: &EtcdOptions, directory: &Path) -> Result<Contention> {
    let mut members = Vec::new();
    for number in 0..crowd.nodes {
        members.push(Member::new(number, options, directory).await?);
    }
    let first = members.first().context("an empty crowd")?;
    let network = NetworkSpec {
        name: NETWORK.to_owned(),
        subnet: Some("10.99.0.0/16".parse()?),
        gateway: None,
        vni: None,
        mtu: None,
        internal: false,
    };
    first.control.create_network(network).await?;
    for member in &members {
        member
            .until("knows the network and all nodes", |desired| {
                let nodes = desired.cluster.as_ref().map_or(0, |it| it.nodes.len());
                desired.networks.contains_key(NETWORK) && nodes == crowd.nodes as usize
            })
            .await?;
    }
    let figures = attach_all(crowd, &members).await?;
    for member in &members {
        member
            .until("sees every endpoint", |desired| {
                let others = desired.cluster.as_ref().map_or(0, |it| it.endpoints.len());
                desired.endpoints.len() + others == figures.attached as usize
            })
            .await?;
    }
    check_unique(&members, figures.attached)?;
    Ok(figures)
}

/// All members attach theirs, beginning at the same moment.
async fn attach_all(crowd: Crowd, members: &[Member]) -> Result<Contention> {
    let start = Arc::new(Barrier::new(members.len() + 1));
    let mut tasks = JoinSet::new();
    for member in members {
        let (start, control) = (Arc::clone(&start), member.control.clone());
        let name = member.name.clone();
        tasks.spawn(async move {
            start.wait().await;
            let mut took = Vec::new();
            for number in 0..crowd.endpoints_per_node {
                let begun = Instant::now();
                let answer = control.attach(container(&name, number)).await;
                took.push((begun.elapsed(), answer.map(drop)));
            }
            took
        });
    }
    start.wait().await;
    let begun = Instant::now();
    let mut figures = Contention {
        nodes: crowd.nodes,
        ..Contention::default()
    };
    let mut times = Vec::new();
    while let Some(took) = tasks.join_next().await {
        for (time, answer) in took? {
            match answer {
                Ok(()) => {
                    figures.attached += 1;
                    times.push(ms(time));
                }
                Err(error) if error.kind() == Kind::Unavailable => {
                    eprintln!("refused: {error}");
                    figures.refused += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    figures.all_ms = ms(begun.elapsed());
    times.sort_by(f64::total_cmp);
    figures.attach_p50_ms = percentile(&times, 0.5);
    figures.attach_p99_ms = percentile(&times, 0.99);
    figures.attach_max_ms = percentile(&times, 1.0);
    Ok(figures)
}

fn check_unique(members: &[Member], attached: u32) -> Result<()> {
    let mut taken = BTreeSet::new();
    for member in members {
        let picture = Arc::clone(&member.store.pictures().borrow());
        for endpoint in picture.contents.desired.endpoints.values() {
            ensure!(taken.insert(endpoint.ip), "{} was given twice", endpoint.ip);
        }
    }
    ensure!(
        taken.len() == attached as usize,
        "{} addresses",
        taken.len()
    );
    Ok(())
}

fn container(node: &str, number: u32) -> AttachSpec {
    AttachSpec {
        container_id: Some(format!("{node}-c{number}")),
        ..AttachSpec::new(NETWORK, NetnsSource::Pid(number + 1))
    }
}

/// A node: all of its daemon but for surfaces and kernel.
struct Member {
    name: String,
    store: Arc<Etcd>,
    control: Control,
}

impl Member {
    async fn new(number: u32, options: &EtcdOptions, directory: &Path) -> Result<Self> {
        let name = format!("n{number:04}");
        let store = Etcd::open(options.clone(), &directory.join(&name), &name).await?;
        let store = Arc::new(store);
        let info = NodeInfo {
            node: name.clone(),
            port: 4789,
            gbp: false,
            hook: None,
            patience: PATIENCE,
        };
        let shared: Arc<dyn Store> = Arc::<Etcd>::clone(&store);
        let (control, controller) = Control::start(info, shared, Box::new(NoHost));
        let vtep = Ipv4Addr::from_bits(Ipv4Addr::new(172, 30, 0, 1).to_bits() + number);
        tokio::spawn(controller.run(Obedient { vtep }, std::future::pending()));
        Ok(Self {
            name,
            store,
            control,
        })
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Desired) -> bool) -> Result<()> {
        let mut pictures = self.store.pictures();
        let arrived = pictures.wait_for(|picture| is_so(&picture.contents.desired));
        timeout(LIMIT, arrived)
            .await
            .ok()
            .and_then(Result::ok)
            .with_context(|| format!("not within {LIMIT:?}: {} {what}", self.name))?;
        Ok(())
    }
}

/// A host that has whatever namespace is asked for, by process ID.
struct NoHost;

impl Host for NoHost {
    fn routes(&self) -> BoxFuture<'_, io::Result<Vec<Ipv4Network>>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn netns(&self, source: NetnsSource) -> BoxFuture<'_, Result<NetnsRef, Error>> {
        let inode = match &source {
            NetnsSource::Pid(pid) => u64::from(*pid),
            NetnsSource::Path(_) => 0,
        };
        let path = source.path();
        async move { Ok(NetnsRef { path, inode }) }.boxed()
    }

    fn has_interface<'a>(
        &'a self,
        _netns: &'a NetnsRef,
        _ifname: &'a str,
    ) -> BoxFuture<'a, io::Result<bool>> {
        async { Ok(false) }.boxed()
    }
}

/// A kernel in which everything is as desired at once.
struct Obedient {
    vtep: Ipv4Addr,
}

impl Reconcile for Obedient {
    async fn reconcile(&mut self, desired: &Desired) -> Report {
        let ready = |id: &String| {
            let host_ifname = format!("vxp{id}");
            (id.clone(), EndpointState::Ready { host_ifname })
        };
        Report {
            endpoints: desired.endpoints.keys().map(ready).collect(),
            underlay: Some(Underlay {
                device: "under0".to_owned(),
                ifindex: 2,
                vtep: self.vtep,
                mtu: 1500,
            }),
            datapath: Some(DatapathStatus {
                attach: "tcx",
                xdp: "off",
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
