//! Hosts with daemons that share one etcd, which is on a machine of its own.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vxplane_tests::harness::{
    Container, Daemon, DaemonOptions, Endpoint, EtcdMember, Host, Lab, Response,
};

/// How long may pass until all hosts do what one was told, on a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// The room. Its parts are dropped in this order: daemons before their hosts.
pub(crate) struct Room {
    pub(crate) hosts: Vec<Machine>,
    pub(crate) etcd: EtcdMember,
    _etcd_host: Host,
    pub(crate) lab: Lab,
}

/// A host that runs vxplane.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) daemon: Daemon,
    pub(crate) host: Host,
}

impl Room {
    /// Hosts of these names, with leases of 3 s, and the network `blue`.
    pub(crate) fn new(names: &[&str]) -> Result<Self> {
        let mut lab = Lab::new()?;
        lab.show_logs();
        let etcd_host = lab.host("etcd")?;
        let etcd = EtcdMember::alone(&etcd_host)?;
        let mut hosts = Vec::new();
        for name in names {
            hosts.push(Machine::new(&lab, name, &etcd)?);
        }
        hosts[0].daemon.network("blue", "10.50.0.0/24", 7)?;
        Ok(Self {
            hosts,
            etcd,
            _etcd_host: etcd_host,
            lab,
        })
    }

    /// Waits until every host's dataplane has `endpoints` endpoints of `blue`
    /// among `nodes` live nodes.
    pub(crate) fn settled(&self, endpoints: usize, nodes: usize) -> Result<()> {
        for machine in &self.hosts {
            eventually(&format!("{} knows all", machine.name), || {
                let status = machine.daemon.api("GET", "/v1/status", None)?;
                let counts = &status["counts"];
                let network = machine.daemon.api("GET", "/v1/networks/blue", None)?;
                Ok(counts["nodes"] == nodes && network["cluster_endpoints"] == endpoints)
            })?;
        }
        Ok(())
    }
}

impl Machine {
    /// One more host of that name.
    pub(crate) fn new(lab: &Lab, name: &str, etcd: &EtcdMember) -> Result<Self> {
        let host = lab.host(name)?;
        let store = format!("--store etcd://{}", etcd.address());
        let flags = format!("{store} --etcd-lease 3 --node {name}");
        let daemon = host.daemon_with(&DaemonOptions::default().flags(&flags))?;
        Ok(Self {
            name: name.to_owned(),
            daemon,
            host,
        })
    }

    /// A container of that ID in `blue`.
    pub(crate) fn member(&self, lab: &Lab, id: &str) -> Result<(Container, Endpoint)> {
        let container = lab.container(&format!("{}-{id}", self.name))?;
        let fields = json!({ "container_id": id });
        let endpoint = self.daemon.attach_with(&container, "blue", fields)?;
        Ok((container, endpoint))
    }

    /// Asks for a container to be attached, whatever comes of it.
    pub(crate) fn try_attach(&self, container: &Container, id: &str) -> Result<Response> {
        let netns = format!("/run/netns/{}", container.netns().name());
        let body = json!({ "network": "blue", "netns": netns, "container_id": id });
        self.daemon.try_api("POST", "/v1/endpoints", Some(&body))
    }

    /// Waits until the status is as `wanted`.
    pub(crate) fn until_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        eventually(&format!("{}: {what}", self.name), || {
            Ok(wanted(&self.daemon.api("GET", "/v1/status", None)?))
        })
    }
}

/// Waits until something holds that takes a moment to become true.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + SOON;
    while !holds().with_context(|| format!("asking whether {what}"))? {
        ensure!(Instant::now() < end, "after {SOON:?} still not: {what}");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
