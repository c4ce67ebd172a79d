//! Docker's own overlay: two real engines in a swarm, one container on each.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use vxplane_harness::docker::{self, Engine};

use super::{Directory, Ground, Site, underlay};
use crate::process;

/// The network's subnet, and the containers' addresses in it.
const SUBNET: &str = "10.99.0.0/24";
const CONTAINERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 10), Ipv4Addr::new(10, 99, 0, 11)];

/// Both hosts with one container each.
pub(super) fn site(ground: &Ground<'_>) -> Result<Site> {
    let hosts = underlay::hosts(ground)?;
    let mut engines = Vec::new();
    let mut directories = Vec::new();
    for host in &hosts {
        let directory = Directory::of(host)?;
        engines.push(Engine::start(host, directory.0.join("docker"))?.quiet());
        directories.push(Box::new(directory) as _);
    }
    let [a, b] = [&engines[0], &engines[1]];
    swarm(a, b)?;
    let mtu = format!("com.docker.network.driver.mtu={}", ground.overlay_mtu());
    a.docker(&[
        "network",
        "create",
        "--driver=overlay",
        "--attachable",
        "--subnet",
        SUBNET,
        "--opt",
        &mtu,
        "bench",
    ])?;
    let containers = [run(a, CONTAINERS[0])?, run(b, CONTAINERS[1])?];
    for (own, other) in [(0, 1), (1, 0)] {
        settle(&containers[own], CONTAINERS[other])?;
    }
    let [client, server] = containers;
    Ok(Site {
        variant: ground.variant,
        client,
        server,
        server_address: CONTAINERS[1],
        _running: engines
            .into_iter()
            .map(|it| Box::new(it) as _)
            .chain(directories)
            .collect(),
        _namespaces: hosts.into(),
    })
}

/// Makes one swarm of both.
fn swarm(a: &Engine, b: &Engine) -> Result<()> {
    let [own, other] = underlay::ADDRESSES.map(|it| it.to_string());
    a.docker(&["swarm", "init", "--advertise-addr", &own])?;
    let token = a.docker(&["swarm", "join-token", "--quiet", "worker"])?;
    let manager = format!("{own}:2377");
    b.docker(&[
        "swarm",
        "join",
        "--token",
        &token,
        "--advertise-addr",
        &other,
        &manager,
    ])
    .map(drop)
}

/// Starts a container and returns its network namespace.
fn run(engine: &Engine, address: Ipv4Addr) -> Result<PathBuf> {
    let address = address.to_string();
    engine.docker(&[
        "run",
        "--detach",
        "--name=box",
        "--network=bench",
        "--ip",
        &address,
        docker::IMAGE,
        "sleep",
        "100000",
    ])?;
    let pid = engine.docker(&["inspect", "--format", "{{.State.Pid}}", "box"])?;
    Ok(["/proc", &pid, "ns/net"].iter().collect())
}

/// What the namespaces of the other variants are made with.
fn settle(netns: &Path, other: Ipv4Addr) -> Result<()> {
    let neighbour = format!(
        "ip neighbour replace {other} lladdr {} dev eth0 nud permanent",
        underlay::mac(other)
    );
    let reno = "echo reno > /proc/sys/net/ipv4/tcp_congestion_control";
    for script in [neighbour.as_str(), reno] {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", netns.display()));
        process::run(command.args(["sh", "-c", script]))?;
    }
    Ok(())
}
