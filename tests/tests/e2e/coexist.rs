//! Others use the same devices; the XDP guard helps and harms nobody.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};
use vxplane::datapath::{OBJECT, undisturbed};
use vxplane_common::abi::Config;
use vxplane_tests::harness::{DaemonOptions, Host, Ping, echo, frame, transfer, udp_socket};

use crate::{
    reach::{DATAGRAMS, PINGS},
    site::{BLUE, eventually, lab, must_reach_with, sites},
};

/// The UDP port that the foreign XDP program cares for.
const FOREIGN_PORT: u16 = 9999;

/// Whether this host answers a ping.
fn answers(from: &Host, to: &Host) -> Result<bool> {
    let ping = Ping::new(to.ip()).count(3);
    let report = ping
        .patience(Duration::from_millis(300))
        .run(from.netns())?;
    Ok(report.received > 0)
}

#[test]
fn filters_of_others_keep_working() -> Result<()> {
    let lab = lab()?;
    let (before, after) = (lab.host("before")?, lab.host("after")?);
    let other = lab.host("other")?;
    // Takes what others send to ping, and leads it nowhere.
    let block = |host: &Host| -> Result<()> {
        host.run("ip link add sink type veth peer name drain")?;
        host.run("ip link set sink up")?;
        host.run("tc qdisc add dev eth0 clsact")?;
        host.run(
            "tc filter add dev eth0 ingress protocol ip u32 match ip protocol 1 0xff \
             action mirred egress redirect dev sink",
        )?;
        Ok(())
    };
    block(&before)?;
    let mut daemons = [before.daemon()?, after.daemon()?];
    block(&after)?;
    let filters = |host: &Host| host.run("tc filter show dev eth0 ingress");
    for host in [&before, &after] {
        ensure!(!answers(&other, host)?, "the filter has no effect");
        ensure!(filters(host)?.contains("mirred"), "{}", filters(host)?);
    }
    for daemon in &mut daemons {
        daemon.stop()?;
        daemon.start_again()?;
    }
    for host in [&before, &after] {
        ensure!(!answers(&other, host)?, "the filter has no effect any more");
        host.run("tc qdisc del dev eth0 clsact")?;
        ensure!(answers(&other, host)?, "something else is in the way");
    }
    Ok(())
}

/// An XDP program of somebody else: the guard of another daemon, as it were, for
/// another port. It ends when it is dropped.
pub(crate) fn foreign_xdp(host: &Host) -> Result<Ebpf> {
    let config = Config {
        vtep: host.ip().octets(),
        port: FOREIGN_PORT.to_be_bytes(),
        source_port_min: 40_000,
        source_port_range: 1,
        underlay_mtu: 1500,
        ..Config::default()
    };
    let mut loaded = EbpfLoader::new()
        .override_global("CONFIG", &config, true)
        .load(OBJECT)?;
    let program: &mut Xdp = loaded
        .program_mut("guard_underlay")
        .context("no program guard_underlay")?
        .try_into()?;
    undisturbed(|| program.load())?;
    host.netns()
        .enter(|| program.attach("eth0", XdpMode::Skb))??;
    Ok(loaded)
}

/// Whether a datagram gets to this port of a host.
fn gets_through(from: &Host, to: &Host) -> Result<bool> {
    let bind = |host: &Host, port| -> Result<UdpSocket> {
        let address = SocketAddrV4::new(host.ip(), port);
        Ok(host.netns().enter(|| UdpSocket::bind(address))??)
    };
    let (sender, receiver) = (bind(from, 0)?, bind(to, FOREIGN_PORT)?);
    receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
    sender.send_to(b"no VXLAN at all", SocketAddrV4::new(to.ip(), FOREIGN_PORT))?;
    Ok(receiver.recv(&mut [0; 100]).is_ok())
}

#[test]
fn an_xdp_program_of_others_is_never_replaced() -> Result<()> {
    let lab = lab()?;
    let (host, other) = (lab.host("host")?, lab.host("other")?);
    ensure!(gets_through(&other, &host)?, "there is no way even without");
    let foreign = foreign_xdp(&host)?;
    ensure!(
        !gets_through(&other, &host)?,
        "the foreign program does nothing"
    );
    for mode in ["auto", "native", "generic", "off"] {
        let options = DaemonOptions::default().flags(&format!("--xdp {mode}"));
        let status = host.daemon_with(&options)?.status()?;
        ensure!(status["xdp"] == "off", "--xdp {mode}: {status}");
        ensure!(
            !gets_through(&other, &host)?,
            "--xdp {mode} took the foreign program away"
        );
    }
    drop(foreign);
    ensure!(gets_through(&other, &host)?);
    Ok(())
}

/// With the guard in `mode`, a stranger's packets never become visible on the
/// device, are counted, and everything else is as without it.
fn guarded(mode: &str) -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, &format!("--xdp {mode}"))?;
    for site in [&a, &b] {
        let status = site.daemon.status()?;
        ensure!(status["xdp"] == mode, "{status}");
    }
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    must_reach_with(&a1, b1.ip(), &PINGS)?;
    echo(a1.netns(), b1.netns(), b1.ip(), &DATAGRAMS)?;
    transfer(a1.netns(), b1.netns(), b1.ip(), 20_000_000)?;
    transfer(b1.netns(), a1.netns(), a1.ip(), 20_000_000)?;
    ensure!(answers(&a.host, &b.host)?, "the hosts themselves");

    let stranger = lab.host("stranger")?;
    let socket = udp_socket(stranger.netns(), stranger.ip())?;
    let seen = a
        .host
        .capture("eth0", &format!("src {} and udp", stranger.ip()))?;
    let asks = frame::arp_request([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 50, 0, 99), a1.ip());
    for (reason, payload) in [
        ("unknown_vtep", frame::vxlan(8, BLUE, &asks)),
        ("vni_flag", frame::vxlan(0, BLUE, &asks)),
        ("unknown_vni", frame::vxlan(8, 0x1234, &asks)),
        ("malformed_outer", vec![8, 0, 0, 0]),
    ] {
        let before = a.daemon.drops(reason)?;
        socket.send_to(&payload, SocketAddrV4::new(a.ip(), 4789))?;
        eventually(&format!("{reason} is counted"), || {
            Ok(a.daemon.drops(reason)? == before + 1)
        })?;
    }
    let seen = seen.stop()?;
    ensure!(seen.is_empty(), "{} packets passed the guard", seen.len());
    Ok(())
}

#[test]
fn the_xdp_guard_in_the_driver() -> Result<()> {
    guarded("native")
}

#[test]
fn the_xdp_guard_in_the_generic_hook() -> Result<()> {
    guarded("generic")
}

/// A restart with another `--xdp` puts the guard elsewhere or takes it away.
#[test]
fn the_xdp_guard_goes_where_the_last_start_wants_it() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("host")?;
    for (mode, place) in [
        ("native", "native"),
        ("generic", "generic"),
        ("native", "native"),
        ("auto", "off"),
        ("generic", "generic"),
        ("off", "off"),
    ] {
        let options = DaemonOptions::default().flags(&format!("--xdp {mode}"));
        let status = host.daemon_with(&options)?.status()?;
        ensure!(status["xdp"] == place, "--xdp {mode}: {status}");
        ensure!(status["healthy"] == true, "--xdp {mode}: {status}");
        let attached = host.run("ip -d link show dev eth0")?;
        let found = match place {
            "native" => attached.contains("prog/xdp") && !attached.contains("xdpgeneric"),
            "generic" => attached.contains("xdpgeneric"),
            _ => !attached.contains("prog/xdp"),
        };
        ensure!(found, "--xdp {mode}: {attached}");
    }
    Ok(())
}

#[test]
fn the_xdp_guard_is_off_where_it_costs() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let status = a.daemon.status()?;
    ensure!(status["xdp"] == "off", "{status}");
    let reason = status["xdp_reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("veth"), "{status}");
    Ok(())
}

/// Two daemons on one machine: what one does to its networks is nothing to the
/// other, also if all their names are the same.
#[test]
fn daemons_do_not_disturb_one_another() -> Result<()> {
    let lab = lab()?;
    let [mut a, b] = sites(&lab, "")?;
    let (b1, b2) = (b.member(&lab, "b1", 21)?, b.member(&lab, "b2", 22)?);
    let a1 = a.member(&lab, "a1", 11)?;
    let pinger = b1.pinger(b2.ip())?;
    a.daemon.detach(&a1.endpoint.id)?;
    a.daemon.api("DELETE", "/v1/networks/blue", None)?;
    a.daemon.kill()?;
    std::fs::remove_dir_all(a.host.bpffs())?;
    a.daemon.start_again()?;
    let report = pinger.stop()?;
    ensure!(report.is_lossless(), "{report}");
    let networks = b.daemon.api("GET", "/v1/networks", None)?;
    ensure!(networks.as_array().is_some_and(|all| all.len() == 1));
    Ok(())
}
