//! `vxplane down` takes away what the daemon made, and nothing else.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Result, ensure};
use vxplane_tests::harness::{DaemonOptions, Host};

use crate::{
    coexist::foreign_xdp,
    site::{BLUE, Site, lab},
};

/// A filter of somebody else's.
const FILTER: &str = "prio 7 protocol ip u32 match ip protocol 47 0xff flowid 1:1";

/// Everything of a host that a daemon could have left something in.
fn snapshot(host: &Host) -> Result<String> {
    let mut text = String::new();
    for line in [
        "ip -d -o link show",
        "ip -4 -o addr show",
        "ip -4 -o route show table all",
        "ip rule show",
        "tc qdisc show",
        "tc filter show dev eth0 ingress",
        "tc filter show dev eth0 egress",
        "bpftool net show",
    ] {
        write!(text, "{line}\n{}\n", host.run(line)?)?;
    }
    for directory in [host.bpffs(), host.directory().join("run")] {
        writeln!(text, "{} {}", directory.display(), directory.exists())?;
    }
    Ok(text)
}

/// Other people's devices and filters.
fn furnish(host: &Host) -> Result<()> {
    host.run("ip link add vxp-mine type bridge")?;
    host.run("ip link add vxpaaaaaaaaaaaa type bridge")?;
    host.run("ip link add veth0 type veth peer name veth1")?;
    host.run("tc qdisc add dev veth0 clsact")?;
    Ok(())
}

fn must_be_as_before(host: &Host, before: &str) -> Result<()> {
    let after = snapshot(host)?;
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (lines(before), lines(&after));
    let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    let left: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    ensure!(before == after, "gone: {gone:#?}\nleft behind: {left:#?}");
    Ok(())
}

/// A daemon that has had to do with containers and peers, killed.
fn used(lab: &vxplane_tests::harness::Lab, host: Host, flags: &str) -> Result<Site> {
    let daemon = host.daemon_with(&DaemonOptions::default().flags(flags))?;
    daemon.network("blue", "10.50.0.0/24", BLUE)?;
    let mut site = Site { daemon, host };
    site.daemon.peer([10, 99, 0, 200].into())?;
    let (one, two) = (site.member(lab, "one", 11)?, site.member(lab, "two", 12)?);
    one.must_reach(two.ip(), 3)?;
    let refused = site.daemon.try_down("")?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    ensure!(refused.stderr.contains("stop it first"), "{refused:?}");
    one.must_reach(two.ip(), 3)?;
    site.daemon.kill()?;
    site.daemon.down("")?;
    ensure!(!one.run("ip -o link show")?.contains("eth0"));
    Ok(site)
}

fn leaves_no_trace(flags: &str) -> Result<()> {
    let lab = lab()?;
    let host = lab.host("host")?;
    furnish(&host)?;
    let before = snapshot(&host)?;
    let site = used(&lab, host, flags)?;
    must_be_as_before(&site.host, &before)
}

#[test]
fn it_leaves_no_trace() -> Result<()> {
    leaves_no_trace("")
}

#[test]
fn it_leaves_no_trace_of_filters_and_their_qdisc() -> Result<()> {
    leaves_no_trace("--attach clsact")
}

#[test]
fn it_leaves_no_trace_of_the_guard() -> Result<()> {
    leaves_no_trace("--xdp generic")
}

#[test]
fn what_others_have_on_the_underlay_stays() -> Result<()> {
    let lab = lab()?;
    for (name, flags) in [("links", ""), ("filters", "--attach clsact")] {
        let host = lab.host(name)?;
        furnish(&host)?;
        let _xdp = foreign_xdp(&host)?;
        host.run("tc qdisc add dev eth0 clsact")?;
        host.run(&format!("tc filter add dev eth0 ingress {FILTER}"))?;
        let before = snapshot(&host)?;
        let site = used(&lab, host, flags)?;
        must_be_as_before(&site.host, &before)?;
    }
    // One that came later, into the daemon's qdisc, keeps it.
    let host = lab.host("later")?;
    let mut daemon = host.daemon_with(&DaemonOptions::default().flags("--attach clsact"))?;
    host.run(&format!("tc filter add dev eth0 egress {FILTER}"))?;
    daemon.stop()?;
    daemon.down("")?;
    let filters = host.run("tc filter show dev eth0 egress")?;
    ensure!(filters.contains("u32"), "{filters}");
    ensure!(
        host.run("tc filter show dev eth0 ingress")?
            .trim()
            .is_empty()
    );
    Ok(())
}

#[test]
fn the_state_stays_until_it_is_purged() -> Result<()> {
    let lab = lab()?;
    let mut site = Site::new(&lab, "host", "")?;
    let (one, two) = (site.member(&lab, "one", 11)?, site.member(&lab, "two", 12)?);
    site.daemon.stop()?;
    ensure!(site.daemon.down("")?.contains("vxplane0"));
    ensure!(site.daemon.down("")?.contains("nothing"));
    // All that is needed to make everything anew is there.
    site.daemon.start_again()?;
    one.must_reach(two.ip(), 3)?;
    site.daemon.stop()?;
    let state = site.host.directory().join("state");
    let bystander = state.join("somebodys-notes");
    fs::write(&bystander, "")?;
    ensure!(site.daemon.down("--purge")?.contains("state"));
    let left = |directory: &Path| -> Result<usize> { Ok(fs::read_dir(directory)?.count()) };
    ensure!(left(&state)? == 1 && bystander.exists());
    Ok(())
}
