//! `cargo xtask demo`: two hosts, made of network namespaces of this machine,
//! share a network before your eyes. All it prints was measured just then.

mod headers;
mod narrate;
mod policy;

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use vxplane_harness::{
    Container, Daemon, Endpoint, Host, Iperf, Lab, Ping, PingReport,
    frame::{self, Vxlan},
    udp_socket,
};

use self::narrate::{Narrator, say, types};
use crate::{
    build::{self, Profile},
    interrupt,
    packages::{self, Purpose},
    process,
    workspace::Workspace,
};

const VNI: u32 = 7;
const PORT: u16 = 4789;

/// How long throughput is measured, in seconds.
const SECONDS: u32 = 3;

/// One of the two hosts, and what runs on it.
struct Site {
    name: &'static str,
    // Dropped in this order: the daemon before the namespace it runs in.
    daemon: Daemon,
    host: Host,
}

/// An attached container.
struct Member {
    container: Container,
    endpoint: Endpoint,
}

/// Builds what is needed and tells the whole story.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    ensure!(
        process::is_root(),
        "the demo makes network namespaces and loads programs, which only root may: \
         run `sudo -E env \"PATH=$PATH\" cargo xtask demo`"
    );
    packages::ensure(Purpose::Demo)?;
    build::ebpf(workspace)?;
    // The packets' way is the same eBPF object; this builds fastest.
    build::daemon(workspace, Profile::Debug)?;
    interrupt::listen()?;
    let narrator = Narrator::new(9);
    tell(&narrator)?;
    println!(
        "\nEverything is taken down again. It took {:.1} s.",
        narrator.elapsed().as_secs_f64()
    );
    Ok(())
}

fn tell(narrator: &Narrator) -> Result<()> {
    narrator.step("Two hosts on one switch, a daemon on each")?;
    let lab = Lab::new()?;
    let mut a = site(&lab, "host-a")?;
    let b = site(&lab, "host-b")?;

    narrator.step("The same network on both, each the other's peer")?;
    for (here, there) in [(&a, &b), (&b, &a)] {
        let create = format!("network create blue --subnet 10.50.0.0/24 --vni {VNI}");
        types(here.name, &here.daemon, &create)?;
        let add = format!("peer add {}", there.host.ip());
        types(here.name, &here.daemon, &add)?;
    }

    narrator.step("Containers: web and cache on host-a, db on host-b")?;
    let web = attach(&lab, &a, "web", "10.50.0.11")?;
    let cache = attach(&lab, &a, "cache", "10.50.0.12")?;
    let db = attach(&lab, &b, "db", "10.50.0.21")?;

    pings(narrator, &a, &b, [&web, &cache, &db])?;
    throughput(narrator, &lab, [&a, &b], [&web, &db])?;
    wire(narrator, &a, &web, &db)?;
    provoke_drops(narrator, &lab, &a, [&web, &cache])?;
    policy::tell(narrator, &lab, &a, [&web, &cache])?;
    kill(narrator, &mut a, &web, &db)
}

fn site(lab: &Lab, name: &'static str) -> Result<Site> {
    let host = lab.host(name)?;
    let daemon = host.daemon()?;
    let status = daemon.status()?;
    say(format_args!(
        "{name}: {} on eth0, MTU {}; programs attached by {}, XDP guard {}",
        host.ip(),
        status["underlay"]["mtu"],
        status["attach"].as_str().unwrap_or("nothing"),
        status["xdp"].as_str().unwrap_or("unknown"),
    ));
    Ok(Site { name, daemon, host })
}

fn attach(lab: &Lab, site: &Site, name: &str, ip: &str) -> Result<Member> {
    let container = lab.container(name)?;
    let path = container.netns().path();
    let attach = format!(
        "endpoint attach --network blue --netns {} --name {name} --ip {ip} --label app={name}",
        path.display()
    );
    types(site.name, &site.daemon, &attach)?;
    let endpoint = site.daemon.endpoint(name)?;
    Ok(Member {
        container,
        endpoint,
    })
}

fn pings(narrator: &Narrator, a: &Site, b: &Site, members: [&Member; 3]) -> Result<()> {
    narrator.step("Ping, one each 5 ms")?;
    let [web, cache, db] = members;
    let hosts = Ping::new(b.host.ip()).count(200).run(a.host.netns())?;
    show_ping("host-a to host-b, no overlay", &hosts);
    for (what, to, size) in [
        ("web to db, across hosts", db, 56),
        ("web to db, 20,000 bytes each", db, 20_000),
        ("web to cache, same host", cache, 56),
    ] {
        let ping = Ping::new(to.endpoint.ip).count(200).size(size);
        let report = web.container.ping(ping)?;
        show_ping(what, &report);
        ensure!(report.is_lossless(), "{what}: {report}");
    }
    Ok(())
}

fn show_ping(what: &str, report: &PingReport) {
    let median = report.median.unwrap_or_default();
    say(format_args!(
        "{what:<30} {report}, median {} µs",
        median.as_micros()
    ));
}

fn throughput(
    narrator: &Narrator,
    lab: &Lab,
    [a, b]: [&Site; 2],
    [web, db]: [&Member; 2],
) -> Result<()> {
    narrator.step("TCP throughput, one flow, by iperf3")?;
    let tcp = Iperf::tcp(SECONDS);
    let bare = tcp.run(a.host.netns(), b.host.netns(), b.host.ip(), lab.directory())?;
    let (from, to) = (web.container.netns(), db.container.netns());
    let overlay = tcp.run(from, to, db.endpoint.ip, lab.directory())?;
    for (what, report) in [
        ("host-a to host-b, no overlay", bare),
        ("web to db", overlay),
    ] {
        say(format_args!(
            "{what:<30} {:.1} Gbit/s, {} segments sent again",
            report.gbit_per_second, report.retransmits
        ));
    }
    say("Both hosts share this machine's processors, with all else that runs: for figures");
    say("that can be compared, `cargo xtask bench`.");
    Ok(())
}

fn wire(narrator: &Narrator, a: &Site, web: &Member, db: &Member) -> Result<()> {
    narrator.step("What is on the wire while web pings db")?;
    let capture = a.host.capture("eth0", &format!("udp port {PORT}"))?;
    web.container.must_reach(db.endpoint.ip, 1)?;
    let packets = capture.wait_for(2)?;
    let pings = packets.iter().filter(|packet| {
        // The protocol number in the inner IPv4 header: what is not ICMP is ARP.
        Vxlan::parse(&packet.bytes).is_some_and(|it| it.frame.get(23) == Some(&1))
    });
    for packet in pings {
        say(headers::describe(&packet.bytes)?);
    }
    Ok(())
}

fn provoke_drops(
    narrator: &Narrator,
    lab: &Lab,
    a: &Site,
    [web, cache]: [&Member; 2],
) -> Result<()> {
    narrator.step("Drops, provoked and counted")?;
    show_drops(a)?;

    say("web pings cache in the name of 10.50.0.99:");
    let stolen = Ipv4Addr::new(10, 50, 0, 99);
    let ping = Ping::new(cache.endpoint.ip).from(stolen);
    let report = web.container.ping(ping)?;
    say(format_args!("  {report}"));
    ensure!(report.received == 0, "a spoofed ping was answered");

    say("a host that is no peer sends five VXLAN packets for web:");
    let stranger = lab.host("stranger")?;
    let socket = udp_socket(stranger.netns(), stranger.ip())?;
    let mac = frame::parse_mac(&web.endpoint.mac).context("a MAC address")?;
    let inner = frame::ethernet(mac, [2, 0, 0, 0, 0, 1], frame::IPV4, &[0; 40]);
    for _ in 0..5 {
        socket.send_to(&frame::vxlan(8, VNI, &inner), (a.host.ip(), PORT))?;
    }
    show_drops(a)
}

fn show_drops(site: &Site) -> Result<()> {
    let status = site.daemon.status()?;
    let drops = status["drops"]
        .as_array()
        .context("a status without drops")?;
    say(format_args!("{} has dropped:", site.name));
    if drops.is_empty() {
        say("  nothing");
    }
    for drop in drops {
        say(format_args!(
            "  {:>3} packets, {:<7} {:<13} {}",
            drop["packets"],
            drop["direction"].as_str().unwrap_or_default(),
            drop["reason"].as_str().unwrap_or_default(),
            drop["text"].as_str().unwrap_or_default(),
        ));
    }
    Ok(())
}

fn kill(narrator: &Narrator, a: &mut Site, web: &Member, db: &Member) -> Result<()> {
    narrator.step("kill -9 of the daemon on host-a while db pings web")?;
    let pinger = db.container.pinger(web.endpoint.ip)?;
    let pause = || std::thread::sleep(std::time::Duration::from_millis(700));
    pause();
    a.daemon.kill()?;
    say("killed");
    pause();
    a.daemon.start_again()?;
    say("started again");
    pause();
    let report = pinger.stop()?;
    say(format_args!("{report} over all of that"));
    ensure!(report.is_lossless(), "pings were lost");
    types(a.name, &a.daemon, "endpoint ls")
}
