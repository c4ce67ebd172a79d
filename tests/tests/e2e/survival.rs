//! The daemon comes and goes; traffic does not notice.

use std::{net::Ipv4Addr, thread, time::Duration};

use anyhow::{Result, ensure};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::json;
use vxplane_tests::harness::{Lab, Pinger, Version, transfer};

use crate::site::{Member, Site, eventually, lab, sites};

/// How long pings run before and after something happens to the daemon.
const STEADY: Duration = Duration::from_millis(500);

/// Two hosts with traffic in both directions, and within one of them.
pub(crate) struct Traffic {
    pingers: Vec<(String, Pinger)>,
}

impl Traffic {
    pub(crate) fn start(members: &[&Member]) -> Result<Self> {
        let mut pingers = Vec::new();
        for from in members {
            for to in members.iter().filter(|to| to.ip() != from.ip()) {
                let what = format!("{} to {}", from.name(), to.name());
                pingers.push((what, from.pinger(to.ip())?));
            }
        }
        thread::sleep(STEADY);
        Ok(Self { pingers })
    }

    /// An error if even one ping of any of them was lost or answered twice.
    pub(crate) fn stop(self) -> Result<()> {
        thread::sleep(STEADY);
        let mut failed = Vec::new();
        for (what, pinger) in self.pingers {
            let report = pinger.stop()?;
            // Fewer would mean that nothing was measured.
            if !report.is_lossless() || report.sent < 150 {
                failed.push(format!("{what}: {report}"));
            }
        }
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    }
}

pub(crate) fn three(lab: &Lab, [a, b]: [&Site; 2]) -> Result<[Member; 3]> {
    Ok([
        a.member(lab, "a1", 11)?,
        a.member(lab, "a2", 12)?,
        b.member(lab, "b1", 21)?,
    ])
}

fn survives(happening: impl FnOnce(&mut Site) -> Result<()>) -> Result<()> {
    let lab = lab()?;
    let [mut a, b] = sites(&lab, "")?;
    let [a1, a2, b1] = three(&lab, [&a, &b])?;
    let traffic = Traffic::start(&[&a1, &a2, &b1])?;
    happening(&mut a)?;
    traffic.stop()?;
    // It still is the daemon of these containers.
    ensure!(a.daemon.status()?["counts"]["endpoints_ready"] == 2);
    a.member(&lab, "a3", 13)?.must_reach(b1.ip(), 5)
}

#[test]
fn no_ping_is_lost_when_the_daemon_is_restarted() -> Result<()> {
    survives(|site| {
        for _ in 0..3 {
            site.daemon.stop()?;
            site.daemon.start_again()?;
        }
        Ok(())
    })
}

#[test]
fn no_ping_is_lost_when_the_daemon_is_killed() -> Result<()> {
    survives(|site| {
        for _ in 0..3 {
            site.daemon.kill()?;
            thread::sleep(STEADY);
            site.daemon.start_again()?;
        }
        Ok(())
    })
}

/// The kernel gives up looking at a program when its process is stopped meanwhile.
#[test]
fn it_starts_although_it_is_stopped_now_and_then() -> Result<()> {
    survives(|site| {
        site.daemon.kill()?;
        site.daemon.begin_as(Version::This)?;
        let daemon = Pid::from_raw(i32::try_from(site.daemon.id())?);
        for _ in 0..30 {
            thread::sleep(Duration::from_millis(40));
            signal::kill(daemon, Signal::SIGSTOP)?;
            thread::sleep(Duration::from_millis(2));
            signal::kill(daemon, Signal::SIGCONT)?;
        }
        eventually("the daemon answers", || Ok(site.daemon.status().is_ok()))
    })
}

#[test]
fn traffic_goes_on_while_the_daemons_are_dead() -> Result<()> {
    let lab = lab()?;
    let [mut a, mut b] = sites(&lab, "")?;
    let [a1, a2, b1] = three(&lab, [&a, &b])?;
    // What a foreign MAC address leads to is known by now, and stays so.
    b1.must_reach(a1.ip(), 3)?;
    for site in [&mut a, &mut b] {
        site.daemon.kill()?;
    }
    for (from, to) in [(&a1, &b1), (&b1, &a1), (&a2, &b1), (&a1, &a2)] {
        from.must_reach(to.ip(), 20)?;
    }
    transfer(a1.netns(), b1.netns(), b1.ip(), 20_000_000)?;
    for site in [&mut a, &mut b] {
        site.daemon.start_again()?;
        let status = site.daemon.status()?;
        ensure!(status["healthy"] == true, "{status}");
    }
    a1.must_reach(b1.ip(), 5)
}

#[test]
fn no_byte_is_lost_when_the_daemon_is_killed_during_a_transfer() -> Result<()> {
    let lab = lab()?;
    let [mut a, b] = sites(&lab, "")?;
    let [a1, _a2, b1] = three(&lab, [&a, &b])?;
    thread::scope(|scope| {
        let there = scope.spawn(|| transfer(a1.netns(), b1.netns(), b1.ip(), 300_000_000));
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(100));
            a.daemon.kill()?;
            a.daemon.start_again()?;
        }
        match there.join() {
            Ok(result) => result.map(drop),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[test]
fn what_happened_while_the_daemon_was_dead_is_caught_up_with() -> Result<()> {
    let lab = lab()?;
    let [mut a, b] = sites(&lab, "")?;
    let [a1, a2, b1] = three(&lab, [&a, &b])?;
    a.daemon.kill()?;
    // A container goes, and somebody breaks the wire of another.
    let gone = a2.endpoint.id.clone();
    drop(a2);
    // The kernel takes a namespace apart in its own time.
    eventually("one veth pair is left", || Ok(a.host_veths()?.len() == 1))?;
    a.host.run(&format!("ip link del {}", a.host_veths()?[0]))?;
    a.daemon.start_again()?;
    a1.must_reach(b1.ip(), 5)?;
    let endpoint = a
        .daemon
        .api("GET", &format!("/v1/endpoints/{gone}"), None)?;
    ensure!(endpoint["state"] == "namespace-gone", "{endpoint}");
    Ok(())
}

/// Others come, go and fail; two containers that were there before notice nothing.
#[test]
fn churn_harms_nobody() -> Result<()> {
    let lab = lab()?;
    let [mut a, b] = sites(&lab, "")?;
    let [a1, a2, b1] = three(&lab, [&a, &b])?;
    let traffic = Traffic::start(&[&a1, &a2, &b1])?;
    for round in 0..10 {
        for site in [&a, &b] {
            let name = format!("n{round}");
            site.daemon.network(&name, "10.70.0.0/24", 700 + round)?;
            let container = lab.container("passing")?;
            let in_blue = site.daemon.attach(&container, "blue")?;
            let second = json!({ "ifname": "eth1" });
            let in_other = site.daemon.attach_with(&container, &name, second)?;
            site.daemon.peer(Ipv4Addr::new(192, 0, 2, 1))?;
            site.daemon.detach(&in_blue.id)?;
            // The other one's container goes without a word.
            drop(container);
            site.daemon.api("DELETE", "/v1/peers/192.0.2.1", None)?;
            site.daemon.detach(&in_other.id)?;
            let network = format!("/v1/networks/{name}");
            site.daemon.api("DELETE", &network, None)?;
        }
        if round % 4 == 3 {
            a.daemon.kill()?;
            a.daemon.start_again()?;
        }
    }
    traffic.stop()
}

/// Killed at any moment of an attachment, the daemon completes or forgets it.
#[test]
fn nothing_stays_half_made_when_the_daemon_is_killed() -> Result<()> {
    let lab = lab()?;
    let [mut a] = sites(&lab, "")?;
    let other = a.member(&lab, "other", 50)?;
    for delay in (0..30).step_by(3) {
        let container = lab.container("c")?;
        thread::scope(|scope| -> Result<()> {
            let daemon = &a.daemon;
            let attaching = scope.spawn(|| daemon.attach(&container, "blue"));
            thread::sleep(Duration::from_millis(delay));
            signal::kill(Pid::from_raw(i32::try_from(daemon.id())?), Signal::SIGKILL)?;
            // Whether it was told of success is another matter.
            let _ = attaching.join();
            Ok(())
        })?;
        a.daemon.kill()?;
        a.daemon.start_again()?;
        let endpoint = a.daemon.attach(&container, "blue")?;
        container.must_reach(other.ip(), 3)?;
        a.daemon.detach(&endpoint.id)?;
        ensure!(
            a.host_veths()?.len() == 1,
            "{delay} ms: {:?}",
            a.host_veths()?
        );
    }
    Ok(())
}
