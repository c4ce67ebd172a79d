//! Living with others: their programs, devices, ports and pins.

use std::{net::Ipv4Addr, os::unix::fs::MetadataExt, time::Instant};

use anyhow::{Context, Result, ensure};
use vxplane::reconcile::{
    AttachMode, EndpointState, Options, Reconciler, Report, UnderlayChoice, XdpMode,
};
use vxplane_tests::harness::{Host, Lab};

use crate::node::{Wish, all_well, options, reconcile_once, reconcile_with, state, within};

const A: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 11);
const B: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 12);

fn clsact(host: &Host) -> Options {
    Options {
        attach: AttachMode::Clsact,
        ..options(host)
    }
}

#[test]
fn clsact_does_as_well_and_switching_leaves_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let (here, there) = (lab.host("here")?, lab.host("there")?);
    let (a, b) = (lab.container("a")?, lab.container("b")?);
    let mine = Wish::blue()?.endpoint(&a, 11)?.peer(there.ip());
    let theirs = Wish::blue()?.endpoint(&b, 12)?.peer(here.ip());
    // A filter of somebody else's, which matches nothing.
    here.run("tc qdisc add dev eth0 clsact")?;
    let filter = "filter add dev eth0 ingress pref 7 protocol all bpf bytecode";
    let mut tc = here.netns().command("tc");
    let status = tc.args(filter.split(' ')).arg("1,6 0 0 0,").status()?;
    ensure!(status.success());
    let filters = || here.run("tc filter show dev eth0 ingress");

    let report = reconcile_with(clsact(&here), &here, &mine.0)?;
    all_well(&report)?;
    ensure!(
        report
            .datapath
            .is_some_and(|datapath| datapath.attach == "clsact")
    );
    all_well(&reconcile_once(&there, &theirs.0)?)?;
    a.must_reach(B, 5)?;
    b.must_reach(A, 5)?;
    let shown = filters()?;
    ensure!(
        shown.contains("pref 7") && shown.contains("from_underlay"),
        "{shown}"
    );

    let pinger = a.pinger(B)?;
    let again = reconcile_with(clsact(&here), &here, &mine.0)?;
    all_well(&again)?;
    ensure!(again.changes == 0, "{again:?}");
    let pings = pinger.stop()?;
    ensure!(pings.is_lossless(), "{pings}");

    let tcx = Options {
        attach: AttachMode::Tcx,
        ..options(&here)
    };
    all_well(&reconcile_with(tcx, &here, &mine.0)?)?;
    a.must_reach(B, 5)?;
    let shown = filters()?;
    ensure!(
        shown.contains("pref 7") && !shown.contains("from_underlay"),
        "{shown}"
    );

    all_well(&reconcile_with(clsact(&here), &here, &mine.0)?)?;
    a.must_reach(B, 5)?;
    let links = here.bpffs().join("links");
    ensure!(links.read_dir()?.count() == 0, "links are left");
    Ok(())
}

fn xdp(host: &Host, mode: XdpMode) -> Result<Report> {
    let wanted = Options {
        xdp: mode,
        ..options(host)
    };
    reconcile_with(wanted, host, &Wish::blue()?.0)
}

fn place(report: &Report) -> &str {
    report.datapath.as_ref().map_or("", |datapath| datapath.xdp)
}

#[test]
fn the_guard_goes_where_it_is_told_and_yields_to_others() -> Result<()> {
    let lab = Lab::new()?;
    let here = lab.host("here")?;
    let link = || here.run("ip -o link show dev eth0");

    ensure!(place(&xdp(&here, XdpMode::Auto)?) == "off", "a veth");
    for (mode, name, flag) in [
        (XdpMode::Generic, "generic", "xdpgeneric"),
        (XdpMode::Native, "native", " xdp "),
        (XdpMode::Native, "native", " xdp "),
        (XdpMode::Generic, "generic", "xdpgeneric"),
    ] {
        let report = xdp(&here, mode)?;
        all_well(&report)?;
        ensure!(place(&report) == name, "{report:?}");
        let shown = link()?;
        ensure!(shown.contains(flag), "{shown}");
    }
    all_well(&xdp(&here, XdpMode::Off)?)?;
    ensure!(!link()?.contains("xdp"));

    // Another daemon's guard is a program of somebody else's.
    all_well(&xdp(&here, XdpMode::Generic)?)?;
    let before = link()?;
    let mut other = options(&here);
    other.bpffs = here.bpffs().join("other");
    other.xdp = XdpMode::Native;
    let report = reconcile_with(other, &here, &Wish::blue()?.0)?;
    ensure!(place(&report) == "off", "{report:?}");
    ensure!(link()? == before);
    Ok(())
}

#[test]
fn whoever_has_the_port_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let here = lab.host("here")?;
    let a = lab.container("a")?;
    let mine = Wish::blue()?.endpoint(&a, 11)?;

    here.run("ip link add theirs type vxlan id 7 dstport 4789 local 10.99.0.11")?;
    here.run("ip link set theirs up")?;
    let report = reconcile_once(&here, &mine.0)?;
    let problem = report.problems.join("; ");
    ensure!(problem.contains("the VXLAN device theirs"), "{problem}");
    let failed =
        matches!(state(&report, 11)?, EndpointState::Failed(reason) if reason.contains("theirs"));
    ensure!(failed, "{report:?}");
    here.run("ip link del theirs")?;

    let socket = here
        .netns()
        .enter(|| std::net::UdpSocket::bind("0.0.0.0:4789"))??;
    let report = reconcile_once(&here, &mine.0)?;
    let problem = report.problems.join("; ");
    let us = format!("process {}", std::process::id());
    ensure!(problem.contains(&us), "{problem}");
    drop(socket);

    here.run("ip link add vxplane0 type bridge")?;
    let report = reconcile_once(&here, &mine.0)?;
    let problem = report.problems.join("; ");
    ensure!(problem.contains("did not create"), "{problem}");
    here.run("ip link del vxplane0")?;

    all_well(&reconcile_once(&here, &mine.0)?)
}

#[test]
fn a_second_daemon_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let (here, there) = (lab.host("here")?, lab.host("there")?);
    within(&here, async || {
        let _first = Reconciler::start(options(&here)).await?;
        let other = Options {
            bpffs: there.bpffs(),
            ..options(&here)
        };
        let Err(error) = Reconciler::start(other).await else {
            anyhow::bail!("two daemons in one namespace");
        };
        let us = format!("process {}", std::process::id());
        ensure!(error.to_string().contains(&us), "{error}");
        within(&there, async || {
            let shared = Options {
                bpffs: here.bpffs(),
                ..options(&there)
            };
            let error = Reconciler::start(shared).await.err();
            let error = error.context("two daemons upon the same pins")?;
            let text = format!("{:#}", anyhow::Error::new(error));
            ensure!(text.contains("another vxplane daemon uses"), "{text}");
            Ok(())
        })
    })?;
    // When it has ended, the next one may.
    all_well(&reconcile_once(&here, &Wish::blue()?.0)?)
}

#[test]
fn an_interface_that_is_there_is_not_touched() -> Result<()> {
    let lab = Lab::new()?;
    let here = lab.host("here")?;
    let (a, b) = (lab.container("a")?, lab.container("b")?);
    a.run("ip link add eth0 type bridge")?;
    let mine = Wish::blue()?.endpoint(&a, 11)?.endpoint(&b, 12)?;
    let report = reconcile_once(&here, &mine.0)?;
    ensure!(matches!(state(&report, 11)?, EndpointState::Failed(_)));
    ensure!(
        matches!(state(&report, 12)?, EndpointState::Ready { .. }),
        "one broken endpoint keeps no other from being served: {report:?}"
    );
    ensure!(a.run("ip -o link show type bridge")?.contains("eth0"));
    a.run("ip link del eth0")?;
    all_well(&reconcile_once(&here, &mine.0)?)?;
    a.must_reach(B, 5)
}

#[test]
fn pins_of_another_layout_are_refused_and_kept() -> Result<()> {
    let lab = Lab::new()?;
    let here = lab.host("here")?;
    vxplane::mounts::prepare(&here.bpffs())?;
    let maps = here.bpffs().join("maps");
    std::fs::create_dir_all(&maps)?;
    let path = maps.join("FDB");
    here.run(&format!(
        "bpftool map create {} type hash key 4 value 4 entries 8 name FDB",
        path.display()
    ))?;
    let inode = std::fs::metadata(&path)?.ino();
    let report = reconcile_once(&here, &Wish::blue()?.0)?;
    let problem = report.problems.join("; ");
    for part in [
        &*path.to_string_lossy(),
        "4-byte keys",
        "stop the daemon and run `vxplane down`",
    ] {
        ensure!(problem.contains(part), "{part:?} is not in {problem:?}");
    }
    ensure!(std::fs::metadata(&path)?.ino() == inode);
    Ok(())
}

#[test]
fn an_underlay_that_is_missing_is_a_problem_and_no_more() -> Result<()> {
    let lab = Lab::new()?;
    let here = lab.host("here")?;
    let (a, b) = (lab.container("a")?, lab.container("b")?);
    let mine = Wish::blue()?.endpoint(&a, 11)?.endpoint(&b, 12)?;
    let wanted = Options {
        underlay: UnderlayChoice::Device("nowhere0".to_owned()),
        ..options(&here)
    };
    let report = reconcile_with(wanted, &here, &mine.0)?;
    let problem = report.problems.join("; ");
    ensure!(problem.contains("nowhere0"), "{problem}");
    a.must_reach(B, 5)
}

#[test]
fn a_hundred_containers_on_a_host() -> Result<()> {
    let lab = Lab::new()?;
    let here = lab.host("here")?;
    let containers = (0..100)
        .map(|number| lab.container(&format!("c{number}")))
        .collect::<Result<Vec<_>>>()?;
    let mut mine = Wish::blue()?;
    for (container, last) in containers.iter().zip(11..) {
        mine = mine.endpoint(container, last)?;
    }
    within(&here, async || {
        let mut reconciler = Reconciler::start(options(&here)).await?;
        let started = Instant::now();
        all_well(&reconciler.reconcile(&mine.0).await)?;
        println!("100 containers were wired within {:?}", started.elapsed());
        let started = Instant::now();
        let report = reconciler.reconcile(&mine.0).await;
        println!("and looked at again within {:?}", started.elapsed());
        ensure!(report.changes == 0, "{report:?}");
        Ok(())
    })?;
    let [first, .., last] = &containers[..] else {
        anyhow::bail!("there are a hundred");
    };
    first.must_reach(Ipv4Addr::new(10, 50, 0, 110), 5)?;
    last.must_reach(A, 5)
}
