//! A reconciler in the namespace of a host, and what to give it.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, bail};
use vxplane::{
    model::{Desired, Endpoint, Labels, NetnsRef, Network, Peer, PeerNetworks},
    netlink,
    reconcile::{AttachMode, EndpointState, Options, Reconciler, Report, UnderlayChoice, XdpMode},
};
use vxplane_common::types::{MacAddr, Vni};
use vxplane_tests::harness::{Container, Host};

/// Options of a daemon on `host`.
pub(crate) fn options(host: &Host) -> Options {
    Options {
        underlay: UnderlayChoice::DefaultRoute,
        port: 4789,
        bpffs: host.bpffs(),
        attach: AttachMode::Auto,
        gbp: false,
        xdp: XdpMode::Auto,
        mac_age: Duration::from_mins(5),
    }
}

/// Runs `work` on a thread in the namespace of `host`, within a runtime.
pub(crate) fn within<T: Send>(
    host: &Host,
    work: impl AsyncFnOnce() -> Result<T> + Send,
) -> Result<T> {
    vxplane::mounts::prepare(&host.bpffs())?;
    host.netns().enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(work())
    })?
}

/// Makes `desired` true on `host` with a reconciler that starts and ends.
pub(crate) fn reconcile_once(host: &Host, desired: &Desired) -> Result<Report> {
    reconcile_with(options(host), host, desired)
}

/// The same with other options.
pub(crate) fn reconcile_with(options: Options, host: &Host, desired: &Desired) -> Result<Report> {
    within(host, async || {
        let mut reconciler = Reconciler::start(options).await?;
        Ok(reconciler.reconcile(desired).await)
    })
}

/// What a test wants of one host.
#[derive(Clone, Default)]
pub(crate) struct Wish(pub(crate) Desired);

impl Wish {
    /// With a network `blue`, VNI 7, 10.50.0.0/24.
    pub(crate) fn blue() -> Result<Self> {
        let mut wish = Self::default();
        let network = Network {
            name: "blue".to_owned(),
            vni: Vni::new(7).context("a valid VNI")?,
            subnet: "10.50.0.0/24".parse()?,
            gateway: Ipv4Addr::new(10, 50, 0, 1),
            mtu: None,
            internal: false,
        };
        wish.0.networks.insert(network.name.clone(), network);
        Ok(wish)
    }

    /// With `container` at 10.50.0.`last` by `eth0`.
    pub(crate) fn endpoint(mut self, container: &Container, last: u8) -> Result<Self> {
        let ip = Ipv4Addr::new(10, 50, 0, last);
        let path = container.netns().path();
        let endpoint = Endpoint {
            id: format!("{last:012x}"),
            container_id: container.name().to_owned(),
            name: None,
            ifname: "eth0".to_owned(),
            network: "blue".to_owned(),
            netns: NetnsRef {
                inode: netlink::inode(&path)?,
                path,
            },
            ip,
            mac: MacAddr::from_ipv4(ip.octets()),
            namespace: "default".to_owned(),
            labels: Labels::default(),
            slot: u32::from(last),
            identity: 0,
            limits: vxplane::model::Limits::default(),
        };
        self.0.endpoints.insert(endpoint.id.clone(), endpoint);
        Ok(self)
    }

    /// With the peer at `ip` in `blue`.
    pub(crate) fn peer(mut self, ip: Ipv4Addr) -> Self {
        let peer = Peer {
            ip,
            networks: PeerNetworks::Only(BTreeSet::from(["blue".to_owned()])),
        };
        self.0.peers.insert(ip, peer);
        self
    }
}

/// An error unless everything in `report` is as desired.
pub(crate) fn all_well(report: &Report) -> Result<()> {
    for (id, state) in &report.endpoints {
        let EndpointState::Ready { .. } = state else {
            bail!("endpoint {id}: {state:?}, problems {:?}", report.problems);
        };
    }
    let problem = report.problems.first();
    problem.map_or(Ok(()), |text| bail!("a problem: {text}"))
}

/// The state of the endpoint at 10.50.0.`last`.
pub(crate) fn state(report: &Report, last: u8) -> Result<&EndpointState> {
    report
        .endpoints
        .get(&format!("{last:012x}"))
        .context("the endpoint is not in the report")
}
