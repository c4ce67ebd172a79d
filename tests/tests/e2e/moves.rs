//! Addresses that are somewhere else than they were.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use vxplane_tests::harness::KernelVxlan;

use crate::site::{BLUE, Site, blue, lab, sites};

#[test]
fn who_is_no_longer_a_peer_is_sent_nothing() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    let pinger = a1.pinger(b1.ip())?;
    a.daemon
        .api("DELETE", &format!("/v1/peers/{}", b.ip()), None)?;
    let wire = a
        .host
        .capture("eth0", &format!("dst {} and udp port 4789", b.ip()))?;
    thread::sleep(Duration::from_millis(500));
    let sent = wire.stop()?;
    ensure!(sent.is_empty(), "{} packets were sent to it", sent.len());
    ensure!(!pinger.stop()?.is_lossless());
    a1.must_not_reach(b1.ip(), 2)?;
    a.daemon.peer(b.ip())?;
    a1.must_reach(b1.ip(), 3)
}

/// A container is restarted on another host, with its addresses.
#[test]
fn a_container_moves_to_another_host() -> Result<()> {
    let lab = lab()?;
    let [a, b, c] = sites(&lab, "")?;
    let moving = a.member(&lab, "before", 11)?;
    let others = [
        a.member(&lab, "a2", 12)?,
        b.member(&lab, "b1", 21)?,
        c.member(&lab, "c1", 31)?,
    ];
    for other in &others {
        other.must_reach(moving.ip(), 2)?;
    }
    a.daemon.detach(&moving.endpoint.id)?;
    let moved = b.member(&lab, "after", 11)?;
    ensure!(moved.endpoint.mac == moving.endpoint.mac);
    // It speaks first, as containers do that have just been started.
    for other in &others {
        moved.must_reach(other.ip(), 2)?;
        other.must_reach(moved.ip(), 5)?;
    }
    Ok(())
}

/// Where a MAC address was learned to be does not matter once it is ours.
#[test]
fn an_address_of_ours_is_here_whatever_was_learned() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a", "")?;
    let linux = lab.host("linux")?;
    let network = KernelVxlan::new(&lab, &linux, BLUE, 4789, &[site.ip()])?;
    site.daemon.peer(linux.ip())?;
    let one = site.member(&lab, "one", 11)?;
    let theirs = network.container(&lab, "theirs", blue(12), 24)?;
    theirs.run("ip link set eth0 address 02:42:0a:32:00:0c")?;
    one.must_reach(blue(12), 3)?;
    let two = lab.container("two")?;
    let endpoint = site
        .daemon
        .attach_with(&two, "blue", json!({ "ip": "10.50.0.12" }))?;
    ensure!(endpoint.mac == "02:42:0a:32:00:0c", "{endpoint:?}");
    theirs.run("ip link set eth0 down")?;
    one.must_reach(blue(12), 10)?;
    two.must_reach(one.ip(), 10)
}
