//! The underlay as the daemon finds it, and what becomes of it later.

use std::{net::Ipv4Addr, thread, time::Duration};

use anyhow::{Result, bail, ensure};
use vxplane_tests::harness::{DaemonOptions, Host, KernelVxlan, vxplane_binary};

use crate::site::{Site, blue, eventually, lab, sites};

fn flags(flags: &str) -> DaemonOptions {
    DaemonOptions::default().flags(flags)
}

/// An error unless the daemon sees this and is content, within some seconds.
fn settles_on(site: &Site, device: &str, vtep: Ipv4Addr) -> Result<()> {
    eventually(&format!("the underlay is {vtep} on {device}"), || {
        let status = site.daemon.status()?;
        let underlay = &status["underlay"];
        let right = underlay["device"] == device && underlay["vtep"] == vtep.to_string();
        Ok(right && status["healthy"] == true)
    })
}

#[test]
fn the_underlay_by_device_by_address_or_by_itself() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("host")?;
    host.run("ip link add other type veth peer name another")?;
    host.run("ip link set other up")?;
    host.run("ip link set another up")?;
    host.run("ip addr add 192.0.2.9/24 dev other")?;
    for (underlay, device, vtep) in [
        ("", "eth0", host.ip().to_string()),
        ("--underlay eth0", "eth0", host.ip().to_string()),
        ("--underlay other", "other", "192.0.2.9".to_owned()),
        ("--underlay 192.0.2.9", "other", "192.0.2.9".to_owned()),
    ] {
        let daemon = host.daemon_with(&flags(underlay))?;
        let status = daemon.status()?;
        ensure!(status["healthy"] == true, "{underlay}: {status}");
        ensure!(
            status["underlay"]["device"] == device,
            "{underlay}: {status}"
        );
        ensure!(status["underlay"]["vtep"] == vtep, "{underlay}: {status}");
    }
    Ok(())
}

#[test]
fn an_underlay_that_is_not_there_yet() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("host")?;
    let daemon = host.daemon_with(&flags("--underlay 192.0.2.9"))?;
    let status = daemon.status()?;
    ensure!(
        status["healthy"] == false && status["underlay"].is_null(),
        "{status}"
    );
    let problems = status["problems"].to_string();
    ensure!(problems.contains("192.0.2.9"), "{problems}");
    daemon.network("blue", "10.50.0.0/24", 7)?;
    host.run("ip addr add 192.0.2.9/24 dev eth0")?;
    eventually("the daemon is content", || {
        Ok(daemon.status()?["healthy"] == true)
    })
}

#[test]
fn an_underlay_that_goes_and_comes_back() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, a2) = (a.member(&lab, "a1", 11)?, a.member(&lab, "a2", 12)?);
    let b1 = b.member(&lab, "b1", 21)?;
    a1.must_reach(b1.ip(), 3)?;
    let within = a1.pinger(a2.ip())?;
    a.host.run("ip link set eth0 down")?;
    thread::sleep(Duration::from_secs(1));
    a1.must_not_reach(b1.ip(), 3)?;
    a.host.run("ip link set eth0 up")?;
    a.host.run("ip route add default via 10.99.0.1")?;
    settles_on(&a, "eth0", a.ip())?;
    a1.must_reach(b1.ip(), 5)?;
    b1.must_reach(a1.ip(), 5)?;
    // Who is on the same host needs no underlay.
    let report = within.stop()?;
    ensure!(report.is_lossless(), "{report}");
    Ok(())
}

#[test]
fn a_host_that_gets_another_address() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    a1.must_reach(b1.ip(), 3)?;
    let new = Ipv4Addr::new(10, 99, 0, 111);
    a.host.run(&format!("ip addr add {new}/24 dev eth0"))?;
    a.host.run(&format!("ip addr del {}/24 dev eth0", a.ip()))?;
    a.host.run(&format!("ip addr replace {new}/24 dev eth0"))?;
    a.host.run("ip route replace default via 10.99.0.1")?;
    settles_on(&a, "eth0", new)?;
    // It is a stranger to b until b is told.
    a1.must_not_reach(b1.ip(), 3)?;
    b.daemon.peer(new)?;
    a1.must_reach(b1.ip(), 5)?;
    b1.must_reach(a1.ip(), 5)
}

/// `ip netns exec` gives a process mounts of its own that end with it; what the
/// daemon pins must not.
#[test]
fn a_daemon_started_by_ip_netns_exec() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("host")?;
    let options = DaemonOptions {
        private_mounts: true,
        ..DaemonOptions::default()
    };
    let mut daemon = host.daemon_with(&options)?;
    daemon.network("blue", "10.50.0.0/24", 7)?;
    let (one, two) = (lab.container("one")?, lab.container("two")?);
    for (container, last) in [(&one, 11), (&two, 12)] {
        daemon.attach_at(container, "blue", &blue(last).to_string())?;
    }
    let pinger = one.pinger(blue(12))?;
    for _ in 0..2 {
        daemon.kill()?;
        thread::sleep(Duration::from_millis(300));
        ensure!(host.bpffs().join("maps").is_dir(), "the pins are gone");
        daemon.start_again()?;
    }
    let report = pinger.stop()?;
    ensure!(report.is_lossless(), "{report}");
    Ok(())
}

#[test]
fn a_second_daemon_in_the_same_place_is_refused() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let (a1, a2) = (a.member(&lab, "a1", 11)?, a.member(&lab, "a2", 12)?);
    let pinger = a1.pinger(a2.ip())?;
    let (binary, directory) = (vxplane_binary()?, a.host.directory());
    // Not in the same place, nor with a socket of its own, nor with a state of
    // its own, too.
    for (run, state, words) in [
        ("run", "state", "a daemon is listening"),
        ("second", "state", "state"),
        ("second", "second", "in this network namespace"),
    ] {
        let line = format!(
            "{} daemon --state-dir {} --run-dir {} --bpffs {} --hook off",
            binary.display(),
            directory.join(state).display(),
            directory.join(run).display(),
            a.host.bpffs().display(),
        );
        let Err(said) = a.host.run(&line) else {
            bail!("two daemons run in one place: {line}");
        };
        let said = format!("{said:#}");
        let said = said.split_once("vxplane: ").map_or("", |(_, said)| said);
        ensure!(said.contains(words), "{line}: {said}");
    }
    let report = pinger.stop()?;
    ensure!(report.is_lossless(), "{report}");
    ensure!(a.daemon.status()?["healthy"] == true);
    Ok(())
}

/// The kernel gives a UDP port to one `vxlan` device only: the daemon says whose
/// it is, and takes it once it is free.
#[test]
fn a_port_that_somebody_else_has() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("host")?;
    let network = KernelVxlan::new(&lab, &host, 99, 4789, &[])?;
    let daemon = host.daemon()?;
    let status = daemon.status()?;
    let problems = status["problems"].to_string();
    ensure!(status["healthy"] == false, "{status}");
    ensure!(
        problems.contains(network.device()) && problems.contains("4789"),
        "{problems}"
    );
    host.run(&format!("ip link del {}", network.device()))?;
    eventually("the daemon is content", || {
        Ok(daemon.status()?["healthy"] == true)
    })
}

/// What is pinned is of the port before; a restart makes it that of the new one.
#[test]
fn hosts_that_are_restarted_on_another_port() -> Result<()> {
    let lab = lab()?;
    let hosts = [lab.host("a")?, lab.host("b")?];
    let containers = [lab.container("a1")?, lab.container("b1")?];
    let [there, here] = [blue(12), blue(11)];
    for port in [4789, 8472, 4789] {
        let start = |host: &Host| host.daemon_with(&flags(&format!("--port {port}")));
        let daemons = [start(&hosts[0])?, start(&hosts[1])?];
        for (number, last) in [(0, 11_u8), (1, 12)] {
            let daemon = &daemons[number];
            daemon.network("blue", "10.50.0.0/24", 7)?;
            daemon.peer(hosts[1 - number].ip())?;
            daemon.attach_at(&containers[number], "blue", &blue(last).to_string())?;
            ensure!(daemon.status()?["port"] == port);
        }
        let wire = hosts[0].capture("eth0", &format!("udp dst port {port}"))?;
        containers[0].must_reach(there, 5)?;
        containers[1].must_reach(here, 5)?;
        ensure!(wire.stop()?.len() >= 20, "not on port {port}");
    }
    Ok(())
}
