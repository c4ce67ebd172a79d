//! What others do to the kernel's state is put right.

use std::{net::Ipv4Addr, process::Command};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, MapData};
use vxplane::{
    datapath::map_file,
    reconcile::{AttachMode, EndpointState, Options, Reconciler, UnderlayChoice},
};
use vxplane_common::abi::{Endpoint, map};
use vxplane_tests::harness::{Container, Host, Lab};

use crate::node::{Wish, all_well, options, reconcile_once, reconcile_with, state, within};

const A: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 11);
const B: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 12);

/// A lab of two hosts with a container each, in one network.
struct Pair {
    here: Host,
    there: Host,
    a: Container,
    b: Container,
    mine: Wish,
    theirs: Wish,
}

impl Pair {
    fn new(lab: &Lab) -> Result<Self> {
        let (here, there) = (lab.host("here")?, lab.host("there")?);
        let (a, b) = (lab.container("a")?, lab.container("b")?);
        let mine = Wish::blue()?.endpoint(&a, 11)?.peer(there.ip());
        let theirs = Wish::blue()?.endpoint(&b, 12)?.peer(here.ip());
        all_well(&reconcile_once(&here, &mine.0)?)?;
        all_well(&reconcile_once(&there, &theirs.0)?)?;
        a.must_reach(B, 5)?;
        Ok(Self {
            here,
            there,
            a,
            b,
            mine,
            theirs,
        })
    }
}

#[test]
fn what_others_delete_comes_back() -> Result<()> {
    let lab = Lab::new()?;
    let pair = Pair::new(&lab)?;
    let delete_map_entries = || -> Result<()> {
        let path = pair
            .here
            .bpffs()
            .join("maps")
            .join(map_file(map::ENDPOINTS));
        let mut endpoints: HashMap<_, u32, Endpoint> =
            HashMap::try_from(aya::maps::Map::HashMap(MapData::from_pin(path)?))?;
        let keys: Vec<u32> = endpoints.keys().collect::<Result<_, _>>()?;
        ensure!(keys.len() == 1);
        endpoints.remove(&keys[0])?;
        Ok(())
    };
    within(&pair.here, async || {
        let mut reconciler = Reconciler::start(options(&pair.here)).await?;
        let mut mend = async |what: &str| -> Result<()> {
            let report = reconciler.reconcile(&pair.mine.0).await;
            all_well(&report).with_context(|| format!("after {what}"))?;
            ensure!(report.changes > 0, "nothing was done about {what}");
            pair.a
                .must_reach(B, 5)
                .with_context(|| format!("after {what}"))?;
            let again = reconciler.reconcile(&pair.mine.0).await;
            ensure!(again.changes == 0, "{what}: {again:?}");
            Ok(())
        };
        // Taking over comes first; it changes nothing.
        ensure!(mend("nothing").await.is_err());
        for line in [
            "ip link del vxp00000000000b",
            "ip link set vxp00000000000b down",
            "ip link set vxp00000000000b mtu 1000",
            "ip link del vxplane0",
            "ip link set vxplane0 down",
        ] {
            pair.here.run(line)?;
            mend(line).await?;
        }
        for line in [
            "ip addr flush dev eth0",
            "ip addr add 10.50.0.99/24 dev eth0",
            "ip link set eth0 down",
            "ip link set eth0 address 02:00:00:00:00:01",
            "ip link set eth0 name eth7",
            "ip link del eth0",
        ] {
            pair.a.run(line)?;
            mend(line).await?;
        }
        delete_map_entries()?;
        mend("a map entry that is gone").await
    })
}

#[test]
fn the_underlay_is_followed() -> Result<()> {
    let lab = Lab::new()?;
    let pair = Pair::new(&lab)?;
    let shows = |container: &Container, what: &str| -> Result<()> {
        let link = container.run("ip -o link show dev eth0")?;
        ensure!(link.contains(what), "{what} is not in {link}");
        Ok(())
    };
    shows(&pair.a, "mtu 1450")?;
    within(&pair.here, async || {
        let mut reconciler = Reconciler::start(options(&pair.here)).await?;
        all_well(&reconciler.reconcile(&pair.mine.0).await)?;
        let mut changes = reconciler.changes();

        pair.here.run("ip link set eth0 mtu 1400")?;
        tokio::time::timeout(std::time::Duration::from_secs(2), changes.changed())
            .await
            .context("nobody told of the new MTU")??;
        let report = reconciler.reconcile(&pair.mine.0).await;
        all_well(&report)?;
        ensure!(report.underlay.is_some_and(|underlay| underlay.mtu == 1400));
        shows(&pair.a, "mtu 1350")?;
        pair.a.must_reach(B, 5)?;

        // A new address: the peers hear of it, and so does the wire.
        let moved = Ipv4Addr::new(10, 99, 0, 77);
        pair.here
            .run(&format!("ip addr del {}/24 dev eth0", pair.here.ip()))?;
        pair.here.run(&format!("ip addr add {moved}/24 dev eth0"))?;
        pair.here.run("ip route add default via 10.99.0.1")?;
        let report = reconciler.reconcile(&pair.mine.0).await;
        all_well(&report)?;
        ensure!(
            report
                .underlay
                .is_some_and(|underlay| underlay.vtep == moved)
        );
        let there = pair.theirs.clone().peer(moved);
        all_well(&reconcile_once(&pair.there, &there.0)?)?;
        pair.a.must_reach(B, 5)?;
        pair.b.must_reach(A, 5)?;

        // Without a default route for a while.
        pair.here.run("ip route del default")?;
        let report = reconciler.reconcile(&pair.mine.0).await;
        ensure!(report.changes == 0, "{report:?}");
        ensure!(report.problems.len() == 1, "{report:?}");
        pair.a.must_reach(B, 5)
    })
}

#[test]
fn a_device_that_was_the_underlay_is_left_as_it_was() -> Result<()> {
    let lab = Lab::new()?;
    let here = lab.host("here")?;
    here.run("ip link add other type bridge")?;
    here.run("ip addr add 192.0.2.1/24 dev other")?;
    here.run("ip link set other up")?;
    let on = |device: &str| {
        let mut options = options(&here);
        options.attach = AttachMode::Clsact;
        options.underlay = UnderlayChoice::Device(device.to_owned());
        options
    };
    let has_filter = |device: &str| -> Result<bool> {
        let filters = here.run(&format!("tc filter show dev {device} ingress"))?;
        Ok(filters.contains("from_underlay"))
    };
    all_well(&reconcile_with(on("eth0"), &here, &Wish::blue()?.0)?)?;
    ensure!(has_filter("eth0")? && !has_filter("other")?);
    all_well(&reconcile_with(on("other"), &here, &Wish::blue()?.0)?)?;
    ensure!(!has_filter("eth0")? && has_filter("other")?);
    Ok(())
}

#[test]
fn links_are_swapped_without_a_lost_packet() -> Result<()> {
    programs_are_swapped_without_a_lost_packet(AttachMode::Auto)
}

#[test]
fn filters_are_swapped_without_a_lost_packet() -> Result<()> {
    programs_are_swapped_without_a_lost_packet(AttachMode::Clsact)
}

fn programs_are_swapped_without_a_lost_packet(attach: AttachMode) -> Result<()> {
    let lab = Lab::new()?;
    let pair = Pair::new(&lab)?;
    let options = Options {
        attach,
        ..options(&pair.here)
    };
    within(&pair.here, async || {
        let mut reconciler = Reconciler::start(options).await?;
        all_well(&reconciler.reconcile(&pair.mine.0).await)?;
        let pinger = pair.a.pinger(B)?;
        for first in 20_000..20_008 {
            // A constant of the programs: the entropy ports.
            let range = format!("{first} 60000");
            pair.here
                .netns()
                .sysctl("net/ipv4/ip_local_port_range", &range)?;
            let report = reconciler.reconcile(&pair.mine.0).await;
            all_well(&report)?;
            ensure!(report.changes == 0, "{report:?}");
        }
        let pings = pinger.stop()?;
        ensure!(pings.is_lossless(), "{pings}");
        let capture = pair.here.capture("eth0", "udp dst port 4789")?;
        pair.a.must_reach(B, 5)?;
        let sent = capture.wait_for(1)?;
        ensure!(!sent.is_empty(), "the programs loaded last send nothing");
        Ok(())
    })
}

#[test]
fn namespaces_come_and_go() -> Result<()> {
    let lab = Lab::new()?;
    let pair = Pair::new(&lab)?;
    let name = pair.a.netns().name().to_owned();
    let run = |line: &str| pair.there.netns().run(line);

    // Another namespace at the same path is the one that is meant.
    run(&format!("ip netns del {name}"))?;
    run(&format!("ip netns add {name}"))?;
    let report = reconcile_once(&pair.here, &pair.mine.0)?;
    all_well(&report)?;
    pair.a.must_reach(B, 5)?;

    run(&format!("ip netns del {name}"))?;
    let report = reconcile_once(&pair.here, &pair.mine.0)?;
    ensure!(*state(&report, 11)? == EndpointState::NamespaceGone);
    let links = pair.here.run("ip -o link show type veth")?;
    ensure!(!links.contains("vxp00000000000b"), "{links}");
    run(&format!("ip netns add {name}"))?;
    all_well(&reconcile_once(&pair.here, &pair.mine.0)?)?;
    pair.a.must_reach(B, 5)?;

    // A process that is not there, and a number that another process has now.
    let mut of_process = pair.mine.clone();
    for endpoint in of_process.0.endpoints.values_mut() {
        endpoint.netns.path = "/proc/self/ns/net".into();
    }
    let report = reconcile_once(&pair.here, &of_process.0)?;
    ensure!(*state(&report, 11)? == EndpointState::NamespaceGone);
    Ok(())
}

#[test]
fn a_container_that_dies_takes_nobody_along() -> Result<()> {
    let lab = Lab::new()?;
    let here = lab.host("here")?;
    let (a, b) = (lab.container("a")?, lab.container("b")?);
    let name = b.netns().name().to_owned();
    within(&here, async || {
        let mut reconciler = Reconciler::start(options(&here)).await?;
        for round in 0..16 {
            let other = Wish::blue()?.endpoint(&b, 12)?;
            all_well(&reconciler.reconcile(&other.0).await)?;
            // One is attached while the other's devices vanish, each time at
            // another moment.
            let line = format!("sleep 0.{round:03}; ip netns del {name}");
            let mut dying = Command::new("sh").args(["-c", &line]).spawn()?;
            let both = other.endpoint(&a, 11)?;
            for _ in 0..4 {
                let report = reconciler.reconcile(&both.0).await;
                let lives = matches!(state(&report, 11)?, EndpointState::Ready { .. });
                ensure!(lives, "round {round}: {report:?}");
            }
            ensure!(dying.wait()?.success());
            here.run(&format!("ip netns add {name}"))?;
        }
        Ok(())
    })
}

#[test]
fn what_is_no_longer_desired_goes_and_nothing_else() -> Result<()> {
    let lab = Lab::new()?;
    let pair = Pair::new(&lab)?;
    pair.here.run("ip link add vxp-mine type bridge")?;
    pair.here.run("ip link add vxpaaaaaaaaaaaa type bridge")?;
    pair.here
        .run("ip link add veth0 type veth peer name veth1")?;
    let report = reconcile_once(&pair.here, &Wish::blue()?.0)?;
    all_well(&report)?;
    let links = pair.here.run("ip -o link show")?;
    for stays in [
        "vxp-mine",
        "vxpaaaaaaaaaaaa",
        "veth0",
        "veth1",
        "vxplane0",
        "eth0",
    ] {
        ensure!(links.contains(stays), "{stays} is gone: {links}");
    }
    ensure!(!links.contains("vxp00000000000b"), "{links}");
    ensure!(!pair.a.run("ip -o link show")?.contains("eth0"));
    pair.b.must_not_reach(A, 2)
}
