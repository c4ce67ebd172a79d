//! Later versions take over from earlier ones under load: other programs, other
//! maps. Earlier ones do not take over from later ones.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, ensure};
use vxplane_common::abi::LAYOUT;
use vxplane_tests::harness::{Version, transfer};

use crate::{
    site::{Member, Site, eventually, lab, sites},
    survival::{Traffic, three},
};

/// Packets of later versions carry this IPv4 identification.
const LATER: &str = "udp dst port 4789 and ip[4:2] = 0x6e78";

/// Maps that the next layout changes.
const CHANGED: [&str; 4] = ["DROPS", "LEARNED", "PEERS", "TRAFFIC"];

/// Says that something is over, also where it ends in a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// TCP segments that a container has sent again.
fn sent_again(member: &Member) -> Result<u64> {
    let counters = member.run("cat /proc/net/snmp")?;
    let mut tcp = counters.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (tcp.next(), tcp.next());
    let (names, values) = names.zip(values).context("no counters of TCP")?;
    let mut all = names.split(' ').zip(values.split(' '));
    let again = all.find(|(name, _)| *name == "RetransSegs");
    Ok(again.context("no RetransSegs")?.1.parse()?)
}

/// One established connection after the other between the hosts, for as long as
/// something happens: whatever that is, it happens during one.
fn during_transfers<T>(
    from: &Member,
    to: &Member,
    happening: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let over = AtomicBool::new(false);
    let before = sent_again(from)?;
    thread::scope(|scope| {
        let sending = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                transfer(from.netns(), to.netns(), to.ip(), 200_000_000)?;
            }
            Ok(())
        });
        let happened = {
            let _over = Over(&over);
            happening()
        };
        let sent = sending.join();
        let sent = sent.map_err(|_| anyhow!("the sender panicked"))?;
        sent.context("the connection was not carried on")?;
        // Told, not judged: a sender that waits for a CPU takes it for a loss.
        println!("{} segments were sent again", sent_again(from)? - before);
        happened
    })
}

/// The pinned maps, with what tells one from another of the same name.
fn maps(site: &Site) -> Result<BTreeMap<String, u64>> {
    let mut maps = BTreeMap::new();
    for file in fs::read_dir(site.host.bpffs().join("maps"))? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        maps.insert(name, file.metadata()?.ino());
    }
    Ok(maps)
}

/// The sum of all samples of a metric.
fn metric(site: &Site, name: &str) -> Result<u64> {
    let answer = site.daemon.try_api("GET", "/metrics", None)?;
    let samples = answer.text.lines().filter(|line| line.starts_with(name));
    let values = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(values.sum())
}

fn is_later(site: &Site) -> Result<()> {
    let capture = site.host.capture("eth0", LATER)?;
    let seen = capture.wait_for(1)?;
    ensure!(!seen.is_empty(), "the programs before still run");
    Ok(())
}

/// Whether the maps are those of the next layout alone. Those before go when no
/// program is left that uses them.
fn has_next_layout(site: &Site, before: &BTreeMap<String, u64>) -> Result<()> {
    eventually("the maps before are gone", || {
        Ok(maps(site)?.len() == before.len())
    })?;
    let next = format!("-{}", LAYOUT + 1);
    for (name, inode) in maps(site)? {
        match name.strip_suffix(&next) {
            Some(name) => ensure!(CHANGED.contains(&name), "{name} is new for no reason"),
            None => ensure!(before.get(&name) == Some(&inode), "{name} was not reused"),
        }
    }
    Ok(())
}

/// Killed and started again as each version in turn; no packet is lost, nothing
/// is forgotten.
fn upgrades_lose_nothing(flags: &str) -> Result<()> {
    let lab = lab()?;
    let [mut a, b] = sites(&lab, flags)?;
    let [a1, a2, b1] = three(&lab, [&a, &b])?;
    b1.must_reach(a1.ip(), 3)?;
    let before = maps(&a)?;
    let dropped = a.daemon.dropped()?;
    let traffic = Traffic::start(&[&a1, &a2, &b1])?;
    during_transfers(&a1, &b1, || {
        for version in [
            Version::This,
            Version::NextPrograms,
            Version::NextLayout,
            Version::NextLayout,
        ] {
            let sent = metric(&a, "vxplane_endpoint_packets_total")?;
            let learned = metric(&a, "vxplane_learned_macs")?;
            ensure!(sent > 0 && learned > 0, "{sent} packets, {learned} MACs");
            a.daemon.kill()?;
            a.daemon.start_again_as(version)?;
            ensure!(metric(&a, "vxplane_endpoint_packets_total")? >= sent);
            ensure!(metric(&a, "vxplane_learned_macs")? >= learned);
            match version {
                Version::This => ensure!(maps(&a)? == before),
                Version::NextPrograms => ensure!(maps(&a)? == before && is_later(&a).is_ok()),
                Version::NextLayout => has_next_layout(&a, &before)?,
            }
        }
        is_later(&a)
    })?;
    traffic.stop()?;
    ensure!(a.daemon.dropped()? == dropped, "something was dropped");
    a.member(&lab, "a3", 13)?.must_reach(b1.ip(), 5)
}

#[test]
fn no_packet_is_lost_by_upgrades() -> Result<()> {
    upgrades_lose_nothing("")
}

#[test]
fn no_packet_is_lost_by_upgrades_with_filters() -> Result<()> {
    upgrades_lose_nothing("--attach clsact")
}

/// Wherever an upgrade is cut off, the dataplane forwards, and the next start
/// completes it.
#[test]
fn an_upgrade_that_is_cut_off_harms_nobody() -> Result<()> {
    const CUTS: u32 = 20;
    let lab = lab()?;
    let [mut a, b] = sites(&lab, "")?;
    let [a1, a2, b1] = three(&lab, [&a, &b])?;
    let before = maps(&a)?;
    let traffic = Traffic::start(&[&a1, &a2, &b1])?;
    a.daemon.kill()?;
    let begun = Instant::now();
    a.daemon.start_again()?;
    let start = begun.elapsed();
    a.daemon.kill()?;
    for cut in 0..CUTS {
        a.daemon.begin_as(Version::NextLayout)?;
        // From where maps are made to where those before are let go: an upgrade
        // takes longer than a usual start.
        thread::sleep(start * (CUTS / 2 + 2 * cut) / CUTS);
        a.daemon.kill()?;
    }
    a.daemon.start_again_as(Version::NextLayout)?;
    has_next_layout(&a, &before)?;
    is_later(&a)?;
    traffic.stop()?;
    let status = a.daemon.status()?;
    ensure!(status["healthy"] == true, "{status}");
    a.member(&lab, "a3", 13)?.must_reach(b1.ip(), 5)
}

#[test]
fn an_earlier_version_does_not_take_over() -> Result<()> {
    let lab = lab()?;
    let [mut a, b] = sites(&lab, "")?;
    let [a1, a2, b1] = three(&lab, [&a, &b])?;
    a.daemon.kill()?;
    a.daemon.start_again_as(Version::NextLayout)?;
    eventually("the maps before are gone", || {
        Ok(!maps(&a)?.contains_key("PEERS"))
    })?;
    a.daemon.stop()?;
    let traffic = Traffic::start(&[&a1, &a2, &b1])?;
    let before = maps(&a)?;
    let said = a.daemon.refused_as(Version::This)?;
    let layout = format!("layout {}", LAYOUT + 1);
    for part in [&layout, "a later version", "Install", "vxplane down"] {
        ensure!(said.contains(part), "{part:?} is not in: {said}");
    }
    ensure!(maps(&a)? == before, "something was changed");
    traffic.stop()?;
    a.daemon.start_again_as(Version::NextLayout)?;
    a1.must_reach(b1.ip(), 5)?;
    // What it said to do.
    a.daemon.stop()?;
    a.daemon.down("")?;
    a.daemon.start_again_as(Version::This)?;
    a1.must_reach(b1.ip(), 5)
}
