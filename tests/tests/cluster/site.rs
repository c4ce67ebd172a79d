//! A machine room: etcd servers, and stores of nodes that use them.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use vxplane::{
    identity,
    model::{Endpoint, Identity, Labels, NetnsRef, Network, Node},
    store::{
        Change, CommitError, Contents, Picture, Store, StoreError,
        etcd::{Etcd, EtcdOptions},
    },
};
use vxplane_common::types::{MacAddr, Vni};
use vxplane_tests::harness::{EtcdMember, Host, Lab};

/// How long anything may take that is to happen by itself.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// One etcd, and a host that nodes' stores are on.
pub(crate) struct Site {
    pub(crate) etcd: EtcdMember,
    pub(crate) nodes: Host,
    pub(crate) _etcd_host: Host,
    pub(crate) lab: Lab,
}

impl Site {
    pub(crate) fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let etcd_host = lab.host("etcd")?;
        let nodes = lab.host("nodes")?;
        let etcd = EtcdMember::alone(&etcd_host)?;
        Ok(Self {
            etcd,
            nodes,
            _etcd_host: etcd_host,
            lab,
        })
    }

    pub(crate) fn options(&self) -> EtcdOptions {
        let mut options = EtcdOptions::new(vec![self.etcd.address()]);
        options.lease = Duration::from_secs(5);
        options
    }

    pub(crate) fn directory(&self, node: &str) -> PathBuf {
        self.nodes.directory().join(node)
    }

    pub(crate) async fn store(&self, node: &str) -> Result<TestNode> {
        self.store_with(node, self.options()).await
    }

    pub(crate) async fn store_with(&self, node: &str, options: EtcdOptions) -> Result<TestNode> {
        open(options, &self.directory(node), node).await
    }

    /// Runs `test` on the nodes' host.
    pub(crate) fn run(&self, test: impl Future<Output = Result<()>> + Send) -> Result<()> {
        run_on(&self.nodes, test)
    }
}

/// The store of the node of that name. One that was dropped just now may still be
/// writing.
pub(crate) async fn open(options: EtcdOptions, directory: &Path, node: &str) -> Result<TestNode> {
    let end = Instant::now() + SOON;
    let store = loop {
        match Etcd::open(options.clone(), directory, node).await {
            Err(StoreError::Locked { .. }) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => break opened?,
        }
    };
    Ok(TestNode {
        name: node.to_owned(),
        store: Arc::new(store),
    })
}

/// Runs `test` with all its sockets on that host.
pub(crate) fn run_on(host: &Host, test: impl Future<Output = Result<()>> + Send) -> Result<()> {
    host.netns().enter(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let outcome = runtime.block_on(test);
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    })?
}

/// A node as far as its store goes: there is no dataplane.
#[derive(Clone)]
pub(crate) struct TestNode {
    pub(crate) name: String,
    pub(crate) store: Arc<Etcd>,
}

impl TestNode {
    pub(crate) fn picture(&self) -> Arc<Picture> {
        Arc::clone(&self.store.pictures().borrow())
    }

    /// Waits until the picture is as `wanted`.
    pub(crate) async fn until(
        &self,
        what: &str,
        wanted: impl FnMut(&Contents) -> bool,
    ) -> Result<()> {
        let mut wanted = wanted;
        let mut pictures = self.store.pictures();
        let arrived = pictures.wait_for(|picture| wanted(&picture.contents));
        match tokio::time::timeout(SOON, arrived).await {
            Ok(Ok(_)) => Ok(()),
            _ => bail!(
                "{}: not within {SOON:?}: {what}\n{:#?}\n{:#?}",
                self.name,
                self.store.health(),
                self.picture().contents.desired
            ),
        }
    }

    /// Waits until what is said to be wrong is as `wanted`.
    pub(crate) async fn until_problems(
        &self,
        what: &str,
        wanted: impl Fn(&[String]) -> bool,
    ) -> Result<Vec<String>> {
        let end = Instant::now() + SOON;
        loop {
            let problems = self.store.health().problems;
            if wanted(&problems) {
                return Ok(problems);
            }
            if Instant::now() > end {
                bail!("{}: not within {SOON:?}: {what}: {problems:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Plans on the latest picture and commits, again as long as others were first.
    pub(crate) async fn change(
        &self,
        plan: impl Fn(&Contents) -> Result<Vec<Change>>,
    ) -> Result<u64> {
        let end = Instant::now() + SOON;
        loop {
            let picture = self.picture();
            let changes = plan(&picture.contents)?;
            match self.store.commit(&picture, changes).await {
                Ok(number) => return Ok(number),
                Err(CommitError::Outdated) if Instant::now() < end => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(crate) async fn put(&self, changes: Vec<Change>) -> Result<u64> {
        self.change(|_| Ok(changes.clone())).await
    }

    /// Attaches a container at the lowest free address.
    pub(crate) async fn attach(&self, network: &str, container: &str) -> Result<Endpoint> {
        self.attach_as(network, container, "any").await
    }

    /// As [`Self::attach`], with the label `app`, or gives it that label. Its
    /// identity has the lowest number that is free, which all others want too.
    pub(crate) async fn attach_as(
        &self,
        network: &str,
        container: &str,
        app: &str,
    ) -> Result<Endpoint> {
        self.change(|contents| {
            let mut endpoint = plan_attach(contents, network, container)?;
            endpoint.labels = [("app", app)].into_iter().collect();
            let (number, identity) = plan_identity(contents, &endpoint)?;
            endpoint.identity = number;
            Ok(vec![
                Change::PutIdentity(number, identity),
                Change::PutEndpoint(Box::new(endpoint)),
            ])
        })
        .await?;
        let picture = self.picture();
        let id = endpoint_id(container);
        let made = picture.contents.desired.endpoints.get(&id).cloned();
        made.with_context(|| format!("{container} is not in the picture"))
    }

    pub(crate) async fn detach(&self, container: &str) -> Result<()> {
        let id = endpoint_id(container);
        self.put(vec![Change::RemoveEndpoint(id)]).await.map(drop)
    }

    pub(crate) fn announce(&self, last: u8) {
        self.store.announce(Node {
            name: String::new(),
            instance: String::new(),
            vtep: Ipv4Addr::new(192, 0, 2, last),
            mtu: 1500,
            port: 4789,
            version: "test".to_owned(),
            capabilities: [].into(),
        });
    }
}

pub(crate) fn endpoint_id(container: &str) -> String {
    vxplane::control::endpoint_id(container, "eth0")
}

fn plan_identity(contents: &Contents, endpoint: &Endpoint) -> Result<(u32, Arc<Identity>)> {
    let identities = &contents.desired.identities;
    let wanted = identity::of(&endpoint.namespace, &endpoint.labels, &BTreeSet::new());
    let has = identities.iter().find(|(_, has)| ***has == wanted);
    let free = || (256..1000).find(|number| !identities.contains_key(number));
    let number = has.map(|(number, _)| *number).or_else(free);
    Ok((number.context("no free number")?, Arc::new(wanted)))
}

fn plan_attach(contents: &Contents, network: &str, container: &str) -> Result<Endpoint> {
    let desired = &contents.desired;
    let net = desired.networks.get(network).context("no such network")?;
    let id = endpoint_id(container);
    if let Some(endpoint) = desired.endpoints.get(&id) {
        return Ok(endpoint.clone());
    }
    let cluster = desired.cluster.as_ref().context("no cluster")?;
    let others = cluster.in_network(network).filter(|other| *other.id != *id);
    let own = desired
        .endpoints
        .values()
        .filter(|it| it.network == network);
    let used: Vec<_> = others.map(|it| it.ip).chain(own.map(|it| it.ip)).collect();
    let first = net.subnet.network().to_bits() + 2;
    let ip = (first..net.subnet.broadcast().to_bits())
        .map(Ipv4Addr::from_bits)
        .find(|ip| !used.contains(ip))
        .context("no free address")?;
    Ok(endpoint(network, container, ip))
}

pub(crate) fn endpoint(network: &str, container: &str, ip: Ipv4Addr) -> Endpoint {
    Endpoint {
        id: endpoint_id(container),
        container_id: container.to_owned(),
        name: None,
        ifname: "eth0".to_owned(),
        network: network.to_owned(),
        netns: NetnsRef {
            path: format!("/run/netns/{container}").into(),
            inode: 1,
        },
        ip,
        mac: MacAddr::from_ipv4(ip.octets()),
        namespace: "default".to_owned(),
        labels: Labels::default(),
        slot: 0,
        identity: 0,
        limits: vxplane::model::Limits::default(),
    }
}

pub(crate) fn network(name: &str, number: u8) -> Result<Network> {
    Ok(Network {
        name: name.to_owned(),
        vni: Vni::new(u32::from(number) + 1).context("a VNI")?,
        subnet: format!("10.50.{number}.0/24").parse()?,
        gateway: Ipv4Addr::new(10, 50, number, 1),
        mtu: None,
        internal: false,
    })
}
