//! The host the daemon runs on has troubles: a full disk, no descriptors left, a
//! second daemon, an end in the middle of everything.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::json;
use vxplane_tests::harness::{
    Container, Daemon, DaemonOptions, Host, finish_within, vxplane_binary,
};

use crate::site::{Site, eventually, lab, sites};

/// A small disk of its own, mounted where a daemon keeps its state.
struct Disk {
    path: PathBuf,
}

impl Disk {
    fn new(host: &Host) -> Result<Self> {
        let path = host.directory().join("state");
        fs::create_dir(&path)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs"]);
        finish_within(mount.arg(&path), Duration::from_secs(10))?.success()?;
        Ok(Self { path })
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Until not a byte is left.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.ballast())?;
        for size in [65_536, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        umount.arg("--lazy").arg(&self.path);
        if let Err(error) = finish_within(&mut umount, Duration::from_secs(10)) {
            eprintln!("{} stays mounted: {error:#}", self.path.display());
        }
    }
}

fn network_names(daemon: &Daemon) -> Result<Vec<String>> {
    let list = daemon.api("GET", "/v1/networks", None)?;
    let names = list.as_array().into_iter().flatten();
    Ok(names
        .filter_map(|network| Some(network["name"].as_str()?.to_owned()))
        .collect())
}

/// Makes networks until one is refused, which must be for want of space; returns
/// the number of the refused one.
fn networks_until_full(daemon: &Daemon, first: u32) -> Result<u32> {
    for number in first..first + 200 {
        let body = json!({
            "name": format!("n{number}"), "subnet": format!("10.60.{number}.0/24"),
        });
        let answer = daemon.try_api("POST", "/v1/networks", Some(&body))?;
        if answer.status == 201 {
            continue;
        }
        ensure!(answer.status == 500, "{answer:?}");
        ensure!(answer.json["code"] == "store_failed", "{answer:?}");
        ensure!(answer.text.contains("no space left"), "{answer:?}");
        return Ok(number);
    }
    bail!("200 networks fit onto a full disk");
}

#[test]
fn a_full_disk_refuses_changes_and_nothing_else() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("a")?;
    let disk = Disk::new(&host)?;
    let mut daemon = host.daemon()?;
    daemon.network("blue", "10.50.0.0/24", 7)?;
    let containers = [lab.container("one")?, lab.container("two")?];
    daemon.attach_at(&containers[0], "blue", "10.50.0.11")?;
    daemon.attach_at(&containers[1], "blue", "10.50.0.12")?;
    let pinger = containers[0].pinger([10, 50, 0, 12].into())?;
    disk.fill()?;
    // Every time, not only once: and what is refused is not there.
    let mut expected = network_names(&daemon)?.len();
    let mut next = 0;
    for _ in 0..3 {
        let refused = networks_until_full(&daemon, next)?;
        expected += usize::try_from(refused - next)?;
        let names = network_names(&daemon)?;
        ensure!(names.len() == expected, "{names:?}");
        ensure!(!names.contains(&format!("n{refused}")), "{names:?}");
        next = refused;
    }
    ensure!(daemon.status()?["counts"]["endpoints_ready"] == 2);
    disk.make_room()?;
    daemon.network(&format!("n{next}"), "10.61.0.0/24", 900)?;
    let report = pinger.stop()?;
    ensure!(report.is_lossless(), "{report}");
    // All of it, and nothing else, is what the next daemon finds.
    let names = network_names(&daemon)?;
    daemon.kill()?;
    daemon.start_again()?;
    ensure!(network_names(&daemon)? == names);
    containers[0].must_reach([10, 50, 0, 12].into(), 5)
}

#[test]
fn a_daemon_that_finds_the_disk_full_says_so() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("a")?;
    let disk = Disk::new(&host)?;
    disk.fill()?;
    let said = host.daemon_refused(&DaemonOptions::default())?;
    ensure!(said.to_lowercase().contains("no space left"), "{said}");
    ensure!(said.contains(&disk.path.display().to_string()), "{said}");
    disk.make_room()?;
    host.daemon().map(drop)
}

/// In a network namespace of its own, with its own sockets and pins.
#[test]
fn a_state_directory_has_one_daemon() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let (a1, a2) = (a.member(&lab, "a1", 11)?, a.member(&lab, "a2", 12)?);
    let pinger = a1.pinger(a2.ip())?;
    let other = lab.host("other")?;
    let line = format!(
        "{} daemon --state-dir {} --run-dir {} --bpffs {} --hook off",
        vxplane_binary()?.display(),
        a.host.directory().join("state").display(),
        other.directory().display(),
        other.bpffs().display(),
    );
    let Err(said) = other.run(&line) else {
        bail!("two daemons share a state directory");
    };
    let said = format!("{said:#}");
    let holder = format!("process {}", a.daemon.id());
    ensure!(said.contains("in use") && said.contains(&holder), "{said}");
    let links = other.run("ip -br link")?;
    ensure!(!links.contains("vxplane0"), "it had begun: {links}");
    a.member(&lab, "a3", 13)?.must_reach(a1.ip(), 3)?;
    let report = pinger.stop()?;
    ensure!(report.is_lossless(), "{report}");
    Ok(())
}

/// Asks for many attachments at once and ends the daemon meanwhile; what was
/// promised is there afterwards, and nothing else.
fn ended_after(site: &mut Site, containers: &[Container], delay: Duration) -> Result<()> {
    let daemon = &site.daemon;
    let promised: Vec<bool> = thread::scope(|scope| {
        let attaching: Vec<_> = containers
            .iter()
            .map(|container| scope.spawn(|| daemon.attach(container, "blue").is_ok()))
            .collect();
        thread::sleep(delay);
        signal::kill(Pid::from_raw(i32::try_from(daemon.id())?), Signal::SIGTERM)?;
        let outcomes = attaching.into_iter().map(thread::ScopedJoinHandle::join);
        let outcomes: Result<_, _> = outcomes.collect();
        outcomes.map_err(|_| anyhow!("a request panicked"))
    })?;
    let status = site.daemon.stop()?;
    ensure!(status.success(), "it ended by {status}");
    site.daemon.start_again()?;
    let list = site.daemon.api("GET", "/v1/endpoints", None)?;
    let list = list.as_array().context("no list")?;
    for (container, promised) in containers.iter().zip(&promised) {
        let path = container.netns().path().display().to_string();
        let is_there = list
            .iter()
            .any(|it| it["netns"] == path && it["state"] == "ready");
        ensure!(!promised || is_there, "{path} was attached: {list:?}");
    }
    ensure!(site.host_veths()?.len() == list.len(), "{list:?}");
    for endpoint in list {
        site.daemon
            .detach(endpoint["id"].as_str().context("no ID")?)?;
    }
    ensure!(site.host_veths()?.is_empty());
    Ok(())
}

#[test]
fn an_end_in_the_middle_of_requests() -> Result<()> {
    let lab = lab()?;
    let [mut a] = sites(&lab, "")?;
    let containers: Vec<_> = (0..12)
        .map(|number| lab.container(&format!("c{number}")))
        .collect::<Result<_>>()?;
    for delay in [0, 15, 60, 200] {
        ended_after(&mut a, &containers, Duration::from_millis(delay))
            .with_context(|| format!("SIGTERM after {delay} ms"))?;
    }
    Ok(())
}

fn limit_descriptors(daemon: &Daemon, limit: usize) -> Result<()> {
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &daemon.id().to_string()]);
    // The soft one: not everybody may raise the hard one again.
    prlimit.arg(format!("--nofile={limit}:"));
    finish_within(&mut prlimit, Duration::from_secs(10))?.success()?;
    Ok(())
}

#[test]
fn without_descriptors_it_waits_for_better_times() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    let pinger = a1.pinger(b1.ip())?;
    let descriptors = Path::new("/proc")
        .join(a.daemon.id().to_string())
        .join("fd");
    let used = fs::read_dir(descriptors)?.count();
    limit_descriptors(&a.daemon, used + 2)?;
    let waiting: Result<Vec<_>, _> = (0..32)
        .map(|_| UnixStream::connect(a.daemon.socket()))
        .collect();
    // Meanwhile a container goes, and looks at the kernel fail.
    let gone = a.host_veths()?;
    thread::sleep(Duration::from_secs(3));
    drop(waiting?);
    limit_descriptors(&a.daemon, 1024)?;
    eventually("it is well again", || {
        let status = a.daemon.try_api("GET", "/v1/status", None)?;
        Ok(status.json["healthy"] == true)
    })?;
    ensure!(a.host_veths()? == gone, "{:?}", a.host_veths()?);
    let report = pinger.stop()?;
    ensure!(report.is_lossless(), "{report}");
    a.member(&lab, "a2", 12)?.must_reach(b1.ip(), 3)
}

/// The other containers notice nothing, its address stays its own, and it can be
/// detached.
#[test]
fn a_container_whose_namespace_vanishes() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    let vanishing = lab.container("vanishing")?;
    // By an ID of its own: numbers of namespaces are used again.
    let named = json!({ "container_id": "v".repeat(64) });
    let endpoint = a.daemon.attach_with(&vanishing, "blue", named)?;
    let pinger = a1.pinger(b1.ip())?;
    let (id, ip) = (endpoint.id, endpoint.ip.to_string());
    drop(vanishing);
    eventually("it is told", || {
        let endpoint = a.daemon.api("GET", &format!("/v1/endpoints/{id}"), None)?;
        Ok(endpoint["state"] == "namespace-gone")
    })?;
    let listed = a.daemon.cli("endpoint ls")?;
    ensure!(listed.contains("namespace-gone"), "{listed}");
    let other = lab.container("other")?;
    let refused = a.daemon.attach_at(&other, "blue", &ip);
    ensure!(refused.is_err(), "its address was given away: {refused:?}");
    a.daemon.detach(&id)?;
    ensure!(a.daemon.attach_at(&other, "blue", &ip)?.ip.to_string() == ip);
    other.must_reach(b1.ip(), 3)?;
    let report = pinger.stop()?;
    ensure!(report.is_lossless(), "{report}");
    Ok(())
}
