//! A Docker host as its user has it: engine, Powerstrip, daemon.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use vxplane_tests::harness::{
    Daemon, DaemonOptions, EtcdMember, Finished, Host, Lab,
    docker::{self, Engine},
};

use crate::proxy::{Hooks, Proxy};

/// How long the daemon may take to follow what happened in Docker.
const FOLLOW_LIMIT: Duration = Duration::from_secs(30);

/// One Docker host.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) proxy: Proxy,
    pub(crate) engine: Engine,
    pub(crate) daemon: Daemon,
    pub(crate) host: Host,
}

impl Site {
    /// A host with everything, its hooks and further flags of its daemon as given.
    fn with(lab: &Lab, name: &str, hooks: Hooks, flags: &str) -> Result<Self> {
        let host = lab.host(name)?;
        let engine = Engine::start(host.netns(), host.directory().join("docker"))?;
        let options = DaemonOptions {
            hook: "127.0.0.1:6675".to_owned(),
            docker: Some(format!("unix://{}", engine.socket().display())),
            ..DaemonOptions::default()
        };
        let daemon = host.daemon_with(&options.flags(flags))?;
        let proxy = Proxy::start(&host, &engine.socket(), hooks)?;
        Ok(Self {
            proxy,
            engine,
            daemon,
            host,
        })
    }

    /// A host with everything, its hooks as given.
    pub(crate) fn with_hooks(lab: &Lab, name: &str, hooks: Hooks) -> Result<Self> {
        Self::with(lab, name, hooks, "")
    }

    /// A host with everything and all hooks.
    pub(crate) fn new(lab: &Lab, name: &str) -> Result<Self> {
        Self::with(lab, name, Hooks::All, "")
    }

    /// The same in the cluster that this etcd is for. A daemon may be away for a
    /// minute, as on a machine with a lot to do, without its host being given up.
    pub(crate) fn in_cluster(lab: &Lab, name: &str, etcd: &EtcdMember) -> Result<Self> {
        let address = etcd.address();
        let flags = format!("--store etcd://{address} --etcd-lease 60 --node {name}");
        Self::with(lab, name, Hooks::All, &flags)
    }

    /// Runs `docker` as the user does, whatever comes of it.
    pub(crate) fn try_docker(&self, arguments: &[&str]) -> Result<Finished> {
        docker::docker(self.proxy.socket(), self.host.directory(), arguments)
    }

    /// Runs `docker` as the user does; an error unless it succeeds.
    pub(crate) fn docker(&self, line: &str) -> Result<String> {
        let arguments: Vec<_> = line.split_whitespace().collect();
        let done = self.try_docker(&arguments)?.success()?;
        Ok(done.stdout.trim().to_owned())
    }

    /// Runs `docker`, which has to fail, and returns what it said.
    pub(crate) fn refused(&self, line: &str) -> Result<String> {
        let arguments: Vec<_> = line.split_whitespace().collect();
        let done = self.try_docker(&arguments)?;
        ensure!(
            !done.status.success(),
            "`docker {line}` succeeded: {}",
            done.stdout
        );
        Ok(done.stderr)
    }

    /// Starts a container that sleeps, with further arguments of `docker run`.
    pub(crate) fn run(&self, name: &str, arguments: &str) -> Result<String> {
        let image = docker::IMAGE;
        self.docker(&format!(
            "run -d --stop-signal KILL --name {name} {arguments} {image} sleep 1000"
        ))
    }

    /// The endpoint whose container has this name, if there is one.
    pub(crate) fn endpoint(&self, name: &str) -> Result<Option<Value>> {
        Ok(self
            .endpoints()?
            .into_iter()
            .find(|endpoint| endpoint["name"] == name))
    }

    /// All endpoints.
    pub(crate) fn endpoints(&self) -> Result<Vec<Value>> {
        let all = self.daemon.api("GET", "/v1/endpoints", None)?;
        Ok(all.as_array().context("no list of endpoints")?.clone())
    }

    /// What `ip addr` shows of a running container's interface.
    pub(crate) fn address_in(&self, name: &str) -> Result<String> {
        self.engine
            .docker(&["exec", name, "ip", "-4", "addr", "show", "eth0"])
    }

    /// An error unless the running container has exactly this address, as it
    /// and the daemon see it.
    pub(crate) fn must_have(&self, name: &str, ip: &str) -> Result<()> {
        let inside = self.address_in(name)?;
        ensure!(
            inside.contains(&format!("inet {ip}/24 ")),
            "{name} has not {ip}: {inside}"
        );
        let endpoint = self
            .endpoint(name)?
            .with_context(|| format!("{name} has no endpoint"))?;
        ensure!(endpoint["ip"] == format!("{ip}/24"), "{name}: {endpoint}");
        ensure!(endpoint["state"] == "ready", "{name}: {endpoint}");
        Ok(())
    }

    /// Pings once a packet arrives, then counts: none of three may be lost.
    pub(crate) fn must_ping(&self, name: &str, to: &str) -> Result<()> {
        let printed = self
            .engine
            .docker(&["exec", name, "ping", "-c", "3", "-W", "2", to])?;
        ensure!(printed.contains(" 0% packet loss"), "{printed}");
        Ok(())
    }

    /// Names of all containers, running or not, ours included.
    pub(crate) fn containers(&self) -> Result<Vec<String>> {
        let names = self
            .engine
            .docker(&["ps", "--all", "--format", "{{.Names}}"])?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// A container's state, as `docker inspect --format` gives it.
    pub(crate) fn inspect(&self, name: &str, format: &str) -> Result<String> {
        self.engine.docker(&["inspect", "--format", format, name])
    }

    /// The ID of the network-only container that this one joins.
    pub(crate) fn network_container_of(&self, name: &str) -> Result<String> {
        let mode = self.inspect(name, "{{.HostConfig.NetworkMode}}")?;
        let id = mode
            .strip_prefix("container:")
            .with_context(|| format!("mode {mode}"))?;
        Ok(id.to_owned())
    }

    /// Waits until nothing is left: no container, ours included, no endpoint.
    pub(crate) fn wait_until_empty(&self) -> Result<()> {
        eventually("nothing is left", || {
            Ok(self.containers()?.is_empty() && self.endpoints()?.is_empty())
        })
        .with_context(|| format!("left: {:?} {:?}", self.containers(), self.endpoints()))
    }
}

/// Waits until `done` says so; errors of it count as "not yet".
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + FOLLOW_LIMIT;
    loop {
        match done() {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() >= end => bail!("not after {FOLLOW_LIMIT:?}: {what}"),
            Err(error) if Instant::now() >= end => {
                return Err(error.context(format!("not after {FOLLOW_LIMIT:?}: {what}")));
            }
            _ => thread::sleep(Duration::from_millis(100)),
        }
    }
}
