//! What was learned from peers, and when it is forgotten: by the clock that
//! nobody can set.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use vxplane_tests::harness::Daemon;

use crate::site::{Member, Site, eventually, lab, sites};

/// The shortest age there is.
const AGE: &str = "--mac-age 5";

fn learned(daemon: &Daemon) -> Result<u64> {
    daemon.metric("vxplane_learned_macs")
}

/// An error unless of two MAC addresses behind a peer the one in use is remembered,
/// without a ping lost, and the other one forgotten in its time.
fn forgets_only_the_silent(
    here: &Site,
    asker: &Member,
    used: &Member,
    silent: &Member,
) -> Result<()> {
    asker.must_reach(silent.ip(), 3)?;
    let pinger = asker.pinger(used.ip())?;
    ensure!(learned(&here.daemon)? == 2, "{}", learned(&here.daemon)?);
    thread::sleep(Duration::from_secs(3));
    ensure!(learned(&here.daemon)? == 2, "forgotten before its time");
    eventually("one is forgotten", || Ok(learned(&here.daemon)? < 2))?;
    thread::sleep(Duration::from_secs(3));
    ensure!(learned(&here.daemon)? == 1, "{}", learned(&here.daemon)?);
    let report = pinger.stop()?;
    ensure!(report.is_lossless(), "{report}");
    asker.must_reach(silent.ip(), 3)
}

/// A daemon whose `CLOCK_MONOTONIC` is not the kernel's: in a time namespace, or as
/// if it had jumped while the daemon was away. The wall clock, which a test cannot
/// set for one process, is not asked for anything (`clippy.toml`).
fn with_another_clock(offset: i64) -> Result<()> {
    let lab = lab()?;
    let [mut a, b] = sites(&lab, AGE)?;
    let a1 = a.member(&lab, "a1", 11)?;
    let (used, silent) = (b.member(&lab, "used", 21)?, b.member(&lab, "silent", 22)?);
    // Kernels ask after neighbours now and then; this one shall be silent.
    silent.run(&format!(
        "ip neigh replace {} lladdr {} nud permanent dev eth0",
        a1.ip(),
        a1.endpoint.mac
    ))?;
    a1.must_reach(used.ip(), 1)?;
    if offset != 0 {
        a.daemon.kill()?;
        // A machine that slept has more of the one than of the other.
        let boottime = offset / 2;
        a.daemon.set_through(&format!(
            "unshare --time --monotonic {offset} --boottime {boottime}"
        ));
        a.daemon.start_again()?;
    }
    forgets_only_the_silent(&a, &a1, &used, &silent)
}

#[test]
fn a_silent_mac_address_is_forgotten_and_a_used_one_stays() -> Result<()> {
    with_another_clock(0)
}

#[test]
fn a_clock_that_is_ahead_ages_nothing_early() -> Result<()> {
    with_another_clock(1_000_000)
}

#[test]
fn a_clock_that_is_behind_keeps_nothing_for_ever() -> Result<()> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds = uptime.split('.').next().context("no uptime")?;
    with_another_clock(-(seconds.parse::<i64>()? / 2))
}
