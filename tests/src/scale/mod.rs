//! A large cluster, played: real etcd and one real daemon with real endpoints,
//! and as many other nodes as wanted, of which there is only what is in etcd.

mod contention;
mod meter;
mod play;
mod policies;
mod world;

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

pub use self::{
    contention::{Contention, Crowd, contend},
    policies::{Enforcement, Rules, enforce},
    world::Shape,
};
use self::{
    meter::{FdbEye, NeighbourEye, Usage, map_memory},
    play::Players,
    world::World,
};
use crate::harness::{Container, Daemon, DaemonOptions, EtcdMember, Host, Lab};

/// How long anything may take that happens by itself.
const LIMIT: Duration = Duration::from_mins(2);

/// How much of what is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Changes made one after the other.
    pub changes: u32,
    /// Time between two of them.
    pub spacing: Duration,
    /// Changes made at once.
    pub burst: u32,
    /// How long the daemon is watched with nothing to do.
    pub idle: Duration,
}

/// What was measured. Times in milliseconds, memory in bytes, CPU in parts of one
/// core.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Figures {
    pub nodes: u32,
    pub endpoints: u32,
    pub networks: u32,
    pub etcd_load_seconds: f64,
    pub etcd_keys_per_second: f64,
    pub etcd_db_bytes: u64,
    pub etcd_rss_bytes: u64,
    pub etcd_idle_cpu: f64,
    pub cold_start_ms: f64,
    pub warm_start_ms: f64,
    pub change_p50_ms: f64,
    pub change_p99_ms: f64,
    pub change_max_ms: f64,
    pub commit_p50_ms: f64,
    pub cpu_ms_per_change: f64,
    pub burst_changes: u32,
    pub burst_ms: f64,
    pub burst_cpu_ms_per_change: f64,
    pub node_gone_ms: f64,
    pub idle_cpu: f64,
    pub rss_bytes: u64,
    pub map_bytes: u64,
    pub map_entries: u64,
    pub drift: u64,
}

/// The daemon, what it runs on, and what it talks to. Dropped in this order.
struct Site {
    daemon: Daemon,
    _containers: Vec<Container>,
    host: Host,
    etcd: EtcdMember,
    _etcd_host: Host,
    _lab: Lab,
}

/// Plays a cluster of that shape and measures.
pub fn run(shape: Shape, effort: Effort) -> Result<Figures> {
    let world = World::new(shape)?;
    let mut figures = Figures {
        nodes: shape.nodes,
        endpoints: shape.nodes * shape.endpoints_per_node,
        networks: shape.networks,
        ..Figures::default()
    };
    let lab = Lab::new()?;
    let (etcd_host, host) = (lab.host("etcd")?, lab.host("node")?);
    let etcd = EtcdMember::alone(&etcd_host)?;
    let players = Players::new(&host, etcd.address())?;

    let begun = Instant::now();
    let keys = players.publish(&world)?;
    let took = begun.elapsed().as_secs_f64();
    figures.etcd_load_seconds = took;
    figures.etcd_keys_per_second = f64::from(keys) / took;
    eprintln!("{keys} keys in etcd after {took:.1} s");

    let flags = format!("--store etcd://{} --node this", etcd.address());
    let daemon = host.daemon_with(&DaemonOptions::default().flags(&flags))?;
    let containers = attach(&lab, &daemon, &world)?;
    let mut site = Site {
        daemon,
        _containers: containers,
        host,
        etcd,
        _etcd_host: etcd_host,
        _lab: lab,
    };
    site.starts(&world, &mut figures)?;
    site.idle(effort, &mut figures)?;
    site.changes(&players, &world, effort, &mut figures)?;
    site.burst(&players, &world, effort, &mut figures)?;
    site.death(&players, &world, &mut figures)?;
    site.sizes(&mut figures)?;
    Ok(figures)
}

/// One container in each network, so that all endpoints matter.
fn attach(lab: &Lab, daemon: &Daemon, world: &World) -> Result<Vec<Container>> {
    // It answers before it has heard from etcd.
    until("the daemon knows the networks", || {
        let known = daemon.api("GET", "/v1/networks", None)?;
        Ok(known.as_array().map(Vec::len) == Some(world.networks().len()))
    })?;
    let mut containers = Vec::new();
    for network in world.networks() {
        let container = lab.container(&format!("c-{}", network.name))?;
        daemon.attach(&container, &network.name)?;
        containers.push(container);
    }
    Ok(containers)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Asks `is_so` until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// The value of that share of `sorted`.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into some hundreds of values"
    )]
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

impl Site {
    fn status(&self) -> Result<Value> {
        self.daemon.status()
    }

    fn starts(&mut self, world: &World, figures: &mut Figures) -> Result<()> {
        // Written last.
        let (last_key, last_mac) = world.last_neighbour().context("an empty world")?;
        self.daemon.stop()?;
        std::fs::remove_dir_all(self.host.bpffs())?;
        let begun = Instant::now();
        self.daemon.start_again()?;
        let bpffs = self.host.bpffs();
        until("all endpoints are in the maps", || {
            // The map is not there at first.
            let Ok(eye) = NeighbourEye::open(&bpffs) else {
                return Ok(false);
            };
            Ok(eye.mac(last_key) == Some(last_mac))
        })?;
        figures.cold_start_ms = ms(begun.elapsed());
        until("the daemon is healthy", || {
            Ok(self.status()?["healthy"] == Value::Bool(true))
        })?;

        self.daemon.kill()?;
        let begun = Instant::now();
        self.daemon.start_again()?;
        until("the daemon is healthy", || {
            Ok(self.status()?["healthy"] == Value::Bool(true))
        })?;
        figures.warm_start_ms = ms(begun.elapsed());
        eprintln!(
            "started in {:.0} ms, again in {:.0} ms",
            figures.cold_start_ms, figures.warm_start_ms
        );
        Ok(())
    }

    fn idle(&self, effort: Effort, figures: &mut Figures) -> Result<()> {
        std::thread::sleep(Duration::from_secs(2));
        let (own, etcd) = (self.daemon.id(), self.etcd.id()?);
        let (before, etcd_before) = (Usage::of(own)?, Usage::of(etcd)?);
        std::thread::sleep(effort.idle);
        let (after, etcd_after) = (Usage::of(own)?, Usage::of(etcd)?);
        let seconds = effort.idle.as_secs_f64();
        figures.idle_cpu = after.cpu_since(before).as_secs_f64() / seconds;
        figures.etcd_idle_cpu = etcd_after.cpu_since(etcd_before).as_secs_f64() / seconds;
        figures.rss_bytes = after.rss;
        figures.etcd_rss_bytes = etcd_after.rss;
        Ok(())
    }

    /// Endpoints move, one after the other.
    fn changes(
        &self,
        players: &Players,
        world: &World,
        effort: Effort,
        figures: &mut Figures,
    ) -> Result<()> {
        let eye = FdbEye::open(&self.host.bpffs())?;
        let own = self.daemon.id();
        let before = Usage::of(own)?;
        let begun = Instant::now();
        let (mut seen, mut committed) = (Vec::new(), Vec::new());
        for number in 0..effort.changes {
            let (record, vtep) = world.moved(number)?;
            let key = world.fdb_key(&record)?;
            let start = Instant::now();
            players.put(std::slice::from_ref(&record))?;
            committed.push(ms(start.elapsed()));
            until("the change is in the map", || {
                Ok(eye.vtep(key) == Some(vtep))
            })?;
            seen.push(ms(start.elapsed()));
            std::thread::sleep(effort.spacing);
        }
        let used = Usage::of(own)?.cpu_since(before);
        let resting = begun.elapsed().mul_f64(figures.idle_cpu);
        figures.cpu_ms_per_change = ms(used.saturating_sub(resting)) / f64::from(effort.changes);
        seen.sort_by(f64::total_cmp);
        committed.sort_by(f64::total_cmp);
        figures.change_p50_ms = percentile(&seen, 0.5);
        figures.change_p99_ms = percentile(&seen, 0.99);
        figures.change_max_ms = percentile(&seen, 1.0);
        figures.commit_p50_ms = percentile(&committed, 0.5);
        Ok(())
    }

    /// Endpoints move, all at once.
    fn burst(
        &self,
        players: &Players,
        world: &World,
        effort: Effort,
        figures: &mut Figures,
    ) -> Result<()> {
        let eye = FdbEye::open(&self.host.bpffs())?;
        let moved: Vec<_> = (effort.changes..effort.changes + effort.burst)
            .map(|number| world.moved(number))
            .collect::<Result<_>>()?;
        let records: Vec<_> = moved.iter().map(|(record, _)| record.clone()).collect();
        let own = self.daemon.id();
        let before = Usage::of(own)?;
        let begun = Instant::now();
        players.put(&records)?;
        for (record, vtep) in &moved {
            let key = world.fdb_key(record)?;
            until("the burst is in the map", || {
                Ok(eye.vtep(key) == Some(*vtep))
            })?;
        }
        figures.burst_ms = ms(begun.elapsed());
        figures.burst_changes = effort.burst;
        std::thread::sleep(Duration::from_secs(1));
        let used = ms(Usage::of(own)?.cpu_since(before));
        figures.burst_cpu_ms_per_change = used / f64::from(effort.burst);
        Ok(())
    }

    /// A node is gone, and comes back.
    fn death(&self, players: &Players, world: &World, figures: &mut Figures) -> Result<()> {
        let eye = FdbEye::open(&self.host.bpffs())?;
        let (node, record) = world.victim()?;
        let key = world.fdb_key(&record)?;
        let home: Option<Ipv4Addr> = Some(node.vtep);
        ensure!(eye.vtep(key) == home, "{record:?} is elsewhere");
        let begun = Instant::now();
        players.remove_node(&node)?;
        until("the node's endpoints are withdrawn", || {
            Ok(eye.vtep(key).is_none())
        })?;
        figures.node_gone_ms = ms(begun.elapsed());
        players.put_node(&node)?;
        until("the node is back", || Ok(eye.vtep(key) == home))?;
        // Each endpoint, those here included, in FDB and in NEIGHBOURS.
        let all = u64::from(figures.endpoints + figures.networks) * 2;
        until("all endpoints are in the maps", || {
            Ok(map_memory(&self.host.bpffs())?.entries == all)
        })
    }

    fn sizes(&self, figures: &mut Figures) -> Result<()> {
        let memory = map_memory(&self.host.bpffs())?;
        (figures.map_bytes, figures.map_entries) = (memory.bytes, memory.entries);
        let fields = self.etcd.ctl("endpoint status -w fields")?.success()?;
        let size = fields.stdout.lines().find_map(|line| {
            let value = line.strip_prefix("\"DBSize\" :")?;
            value.trim().parse().ok()
        });
        figures.etcd_db_bytes = size.context("etcd does not say its size")?;
        figures.rss_bytes = figures.rss_bytes.max(Usage::of(self.daemon.id())?.rss);
        let status = self.status()?;
        ensure!(status["healthy"] == Value::Bool(true), "{status:#}");
        let drift = status["drift"]["total"].as_u64();
        figures.drift = drift.context("the status says nothing of drift")?;
        Ok(())
    }
}

impl Figures {
    /// One line each: what, how much, and what it should be at most.
    pub fn lines(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut lines = self.times();
        lines.extend(self.costs());
        lines
    }

    fn times(&self) -> Vec<(&'static str, String, &'static str)> {
        let line = |what, ms: f64, target| (what, format!("{ms:.1} ms"), target);
        vec![
            line("start, all maps to be written", self.cold_start_ms, "10 s"),
            line("start, maps as they should be", self.warm_start_ms, "10 s"),
            line("one change to map entry, median", self.change_p50_ms, ""),
            line("one change to map entry, p99", self.change_p99_ms, "200 ms"),
            line("one change to map entry, longest", self.change_max_ms, ""),
            line("of that, until etcd has it, median", self.commit_p50_ms, ""),
            line("CPU for one change", self.cpu_ms_per_change, ""),
            line(
                "many changes at once, until all are there",
                self.burst_ms,
                "",
            ),
            line("CPU for each of them", self.burst_cpu_ms_per_change, ""),
            line(
                "a node's key gone, to its endpoints gone",
                self.node_gone_ms,
                "",
            ),
        ]
    }

    fn costs(&self) -> Vec<(&'static str, String, &'static str)> {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let share = |cpu: f64| format!("{:.2} %", cpu * 100.0);
        let number = |number: f64| format!("{number:.0}");
        vec![
            ("CPU with nothing to do", share(self.idle_cpu), ""),
            ("resident memory", mib(self.rss_bytes), "200 MB"),
            ("kernel memory of the maps", mib(self.map_bytes), ""),
            (
                "entries of FDB and NEIGHBOURS",
                self.map_entries.to_string(),
                "",
            ),
            (
                "etcd: keys written a second",
                number(self.etcd_keys_per_second),
                "",
            ),
            ("etcd: database", mib(self.etcd_db_bytes), ""),
            ("etcd: resident memory", mib(self.etcd_rss_bytes), ""),
            (
                "etcd: CPU with lease keepalives alone",
                share(self.etcd_idle_cpu),
                "",
            ),
        ]
    }
}
