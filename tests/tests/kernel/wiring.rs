//! From nothing to a network, and the second look that finds nothing to do.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Result, ensure};
use vxplane::reconcile::Reconciler;
use vxplane_common::drop::DropReason;
use vxplane_tests::harness::{KernelVxlan, Lab};

use crate::node::{Wish, all_well, options, reconcile_once, within};

const A: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 11);
const B: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 12);

#[test]
fn two_hosts_share_a_network() -> Result<()> {
    let lab = Lab::new()?;
    let (here, there) = (lab.host("here")?, lab.host("there")?);
    let (a, b) = (lab.container("a")?, lab.container("b")?);
    let mine = Wish::blue()?.endpoint(&a, 11)?.peer(there.ip());
    let theirs = Wish::blue()?.endpoint(&b, 12)?.peer(here.ip());

    let report = reconcile_once(&here, &mine.0)?;
    all_well(&report)?;
    ensure!(report.changes > 0);
    all_well(&reconcile_once(&there, &theirs.0)?)?;
    a.must_reach(B, 20)?;
    b.must_reach(A, 20)?;

    // A daemon that starts again finds everything in place.
    let pinger = a.pinger(B)?;
    for _ in 0..5 {
        let report = reconcile_once(&here, &mine.0)?;
        all_well(&report)?;
        ensure!(report.changes == 0, "{report:?}");
    }
    let pings = pinger.stop()?;
    ensure!(pings.is_lossless(), "{pings}");

    let counters = within(&here, async || {
        let mut reconciler = Reconciler::start(options(&here)).await?;
        all_well(&reconciler.reconcile(&mine.0).await)?;
        Ok(reconciler.counters()?)
    })?;
    let traffic = counters.traffic[&11];
    ensure!(traffic.egress.packets >= 40, "{counters:?}");
    ensure!(traffic.ingress.packets >= 40, "{counters:?}");
    Ok(())
}

#[test]
fn interfaces_have_no_address_of_their_own_making() -> Result<()> {
    let lab = Lab::new()?;
    let here = lab.host("here")?;
    let a = lab.container("a")?;
    for netns in [here.netns(), a.netns()] {
        netns.sysctl("net/ipv6/conf/all/disable_ipv6", "0")?;
        netns.sysctl("net/ipv6/conf/default/disable_ipv6", "0")?;
    }
    let mine = Wish::blue()?.endpoint(&a, 11)?;
    all_well(&reconcile_once(&here, &mine.0)?)?;
    for (netns, device) in [
        (a.netns(), "eth0"),
        (here.netns(), "vxp00000000000b"),
        (here.netns(), "vxplane0"),
    ] {
        let shown = netns
            .run(&format!("ip -6 -o addr show dev {device}"))?
            .stdout;
        ensure!(shown.is_empty(), "{device}: {shown}");
    }
    Ok(())
}

#[test]
fn what_is_learned_behind_a_peer_goes_with_the_peer() -> Result<()> {
    let lab = Lab::new()?;
    let (here, there) = (lab.host("here")?, lab.host("there")?);
    let a = lab.container("a")?;
    let foreign = KernelVxlan::new(&lab, &there, 7, 4789, &[here.ip()])?;
    let b = foreign.container(&lab, "b", B, 24)?;
    let mine = Wish::blue()?.endpoint(&a, 11)?;
    within(&here, async || {
        let mut reconciler = Reconciler::start(options(&here)).await?;
        let with_peer = mine.clone().peer(there.ip());
        all_well(&reconciler.reconcile(&with_peer.0).await)?;
        a.must_reach(B, 5)?;
        let learned = reconciler.counters()?.learned;
        ensure!(learned == BTreeMap::from([(7, 1)]), "{learned:?}");
        all_well(&reconciler.reconcile(&mine.0).await)?;
        let counters = reconciler.counters()?;
        ensure!(counters.learned.is_empty(), "{counters:?}");
        b.must_not_reach(A, 2)?;
        let drops = reconciler.counters()?.drops;
        let strangers = drops.iter().find(|d| d.reason == DropReason::UnknownVtep);
        ensure!(strangers.is_some_and(|d| d.count.packets > 0), "{drops:?}");
        Ok(())
    })
}

#[test]
fn the_drops_of_a_network_go_with_the_network() -> Result<()> {
    let lab = Lab::new()?;
    let here = lab.host("here")?;
    let a = lab.container("a")?;
    let drops = async |desired: &Wish| -> Result<usize> {
        let mut reconciler = Reconciler::start(options(&here)).await?;
        all_well(&reconciler.reconcile(&desired.0).await)?;
        // From an address that is not its own.
        a.run("ping -c 1 -W 1 -I 10.50.0.77 10.50.0.99").ok();
        // The sweeper has its turn.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let drops = reconciler.counters()?.drops;
        Ok(drops.iter().filter(|drop| drop.vni == 7).count())
    };
    a.run("ip addr add 10.50.0.77/32 dev lo")?;
    let mine = Wish::blue()?.endpoint(&a, 11)?;
    ensure!(within(&here, async || drops(&mine).await)? > 0);
    // One that starts finds them, and the network gone.
    reconcile_once(&here, &Wish::default().0)?;
    ensure!(within(&here, async || drops(&Wish::default()).await)? == 0);
    Ok(())
}
