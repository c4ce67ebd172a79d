//! From nothing to a network, and the second look that finds nothing to do.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use vxplane::reconcile::Reconciler;
use vxplane_tests::harness::Lab;

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
