//! Foreign VTEPs: the kernel's `vxlan` device and Open vSwitch, which know
//! nothing of vxplane.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use vxplane_tests::harness::{
    Container, Host, KernelVxlan, OpenVswitch, echo, frame, transfer, udp_socket,
};

use crate::{
    reach::{DATAGRAMS, PINGS},
    site::{BLUE, Member, Site, blue, eventually, lab, must_reach_with},
};

const PORT: u16 = 4789;

/// What two hosts must be able to do with each other, in both directions.
fn get_along(ours: &Member, theirs: &Container, their_ip: Ipv4Addr, bytes: usize) -> Result<()> {
    must_reach_with(ours, their_ip, &PINGS)?;
    must_reach_with(theirs, ours.ip(), &PINGS)?;
    echo(ours.netns(), theirs.netns(), their_ip, &DATAGRAMS).context("to them")?;
    echo(theirs.netns(), ours.netns(), ours.ip(), &DATAGRAMS).context("to us")?;
    transfer(ours.netns(), theirs.netns(), their_ip, bytes).context("to them")?;
    transfer(theirs.netns(), ours.netns(), ours.ip(), bytes).context("to us")?;
    broadcast(ours, theirs).context("our broadcast")?;
    broadcast(theirs, ours).context("their broadcast")
}

/// An error unless a broadcast arrives.
fn broadcast(from: &Container, to: &Container) -> Result<()> {
    let sender = udp_socket(from.netns(), Ipv4Addr::UNSPECIFIED)?;
    let receiver = udp_socket(to.netns(), Ipv4Addr::UNSPECIFIED)?;
    sender.set_broadcast(true)?;
    receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
    let port = receiver.local_addr()?.port();
    sender.send_to(b"to all", SocketAddrV4::new(blue(255), port))?;
    let mut buffer = [0; 10];
    let length = receiver.recv(&mut buffer).context("waiting for it")?;
    ensure!(&buffer[..length] == b"to all");
    Ok(())
}

fn learned(site: &Site) -> Result<usize> {
    let metrics = site.daemon.try_api("GET", "/metrics", None)?.text;
    let of_blue = |line: &&str| {
        line.starts_with("vxplane_learned_macs{") && line.contains("network=\"blue\"")
    };
    let Some(line) = metrics.lines().find(of_blue) else {
        return Ok(0);
    };
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

/// The foreign hosts themselves are right: what fails with them elsewhere is ours.
#[test]
fn kernel_and_open_vswitch_reach_each_other() -> Result<()> {
    let lab = lab()?;
    let (linux, ovs) = (lab.host("linux")?, lab.host("ovs")?);
    let bridge = KernelVxlan::new(&lab, &linux, BLUE, PORT, &[ovs.ip()])?;
    let switch = OpenVswitch::new(&lab, &ovs, BLUE, PORT, &[linux.ip()])?;
    let a = bridge.container(&lab, "a", blue(2), 24)?;
    let b = switch.container(&lab, "b", blue(3), 24)?;
    for (from, to) in [(&a, blue(3)), (&b, blue(2))] {
        must_reach_with(from, to, &PINGS)?;
        from.must_not_reach(blue(4), 2)?;
    }
    echo(a.netns(), b.netns(), blue(3), &DATAGRAMS)?;
    transfer(a.netns(), b.netns(), blue(3), 1_000_000)?;
    transfer(b.netns(), a.netns(), blue(2), 1_000_000)?;
    Ok(())
}

fn with_kernel(flags: &str, port: u16, options: &str, bytes: usize) -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a", flags)?;
    let linux = lab.host("linux")?;
    let network = KernelVxlan::with_options(&lab, &linux, BLUE, port, &[site.ip()], options)?;
    site.daemon.peer(linux.ip())?;
    let ours = site.member(&lab, "ours", 11)?;
    let theirs = network.container(&lab, "theirs", blue(101), 24)?;
    get_along(&ours, &theirs, blue(101), bytes)
}

#[test]
fn a_kernel_bridge_with_vxlan() -> Result<()> {
    with_kernel("", PORT, "", 100_000_000)
}

#[test]
fn a_kernel_that_fills_in_the_outer_checksum() -> Result<()> {
    with_kernel("", PORT, "udpcsum", 20_000_000)
}

#[test]
fn a_kernel_that_does_not() -> Result<()> {
    with_kernel("", PORT, "noudpcsum", 20_000_000)
}

#[test]
fn a_kernel_on_another_port() -> Result<()> {
    with_kernel("--port 8472", 8472, "", 20_000_000)
}

#[test]
fn a_kernel_that_sets_df_ttl_and_tos() -> Result<()> {
    with_kernel("", PORT, "df set ttl 3 tos 0x10", 20_000_000)
}

/// No bridge: the address is on the `vxlan` device itself.
#[test]
fn a_kernel_that_ends_the_tunnel_itself() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a", "")?;
    let linux = lab.host("linux")?;
    let network = KernelVxlan::new(&lab, &linux, BLUE, PORT, &[site.ip()])?;
    linux.run(&format!("ip link set {} nomaster", network.device()))?;
    linux.netns().address(network.device(), blue(101), 24)?;
    site.daemon.peer(linux.ip())?;
    let ours = site.member(&lab, "ours", 11)?;
    must_reach_with(&ours, blue(101), &PINGS)?;
    echo(ours.netns(), linux.netns(), blue(101), &DATAGRAMS)?;
    echo(linux.netns(), ours.netns(), ours.ip(), &DATAGRAMS)?;
    transfer(ours.netns(), linux.netns(), blue(101), 20_000_000)?;
    transfer(linux.netns(), ours.netns(), ours.ip(), 20_000_000)?;
    Ok(())
}

#[test]
fn a_kernel_over_a_wire_that_takes_no_super_packets() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a", "")?;
    let linux = lab.host("linux")?;
    for host in [&site.host, &linux] {
        lab.complete_packets_only(host)?;
        host.netns().offloads("eth0", "gro on")?;
    }
    let network = KernelVxlan::new(&lab, &linux, BLUE, PORT, &[site.ip()])?;
    site.daemon.peer(linux.ip())?;
    let ours = site.member(&lab, "ours", 11)?;
    let theirs = network.container(&lab, "theirs", blue(101), 24)?;
    get_along(&ours, &theirs, blue(101), 100_000_000)
}

#[test]
fn open_vswitch() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a", "")?;
    let ovs = lab.host("ovs")?;
    let switch = OpenVswitch::new(&lab, &ovs, BLUE, PORT, &[site.ip()])?;
    site.daemon.peer(ovs.ip())?;
    let ours = site.member(&lab, "ours", 11)?;
    let theirs = switch.container(&lab, "theirs", blue(101), 24)?;
    get_along(&ours, &theirs, blue(101), 20_000_000)?;
    let known = switch.learned()?;
    ensure!(known.contains(&ours.endpoint.mac), "{known}");
    Ok(())
}

/// One vxplane host with both at once, and a second container behind each.
#[test]
fn foreign_hosts_of_both_kinds_in_one_network() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a", "")?;
    let (linux, ovs) = (lab.host("linux")?, lab.host("ovs")?);
    let bridge = KernelVxlan::new(&lab, &linux, BLUE, PORT, &[site.ip(), ovs.ip()])?;
    let switch = OpenVswitch::new(&lab, &ovs, BLUE, PORT, &[site.ip(), linux.ip()])?;
    site.daemon.peer(linux.ip())?;
    site.daemon.peer(ovs.ip())?;
    let ours = [site.member(&lab, "o1", 11)?, site.member(&lab, "o2", 12)?];
    let theirs = [
        (bridge.container(&lab, "k1", blue(101), 24)?, blue(101)),
        (bridge.container(&lab, "k2", blue(102), 24)?, blue(102)),
        (switch.container(&lab, "s1", blue(111), 24)?, blue(111)),
    ];
    for our in &ours {
        for (their, ip) in &theirs {
            our.must_reach(*ip, 5)?;
            their.must_reach(our.ip(), 5)?;
        }
    }
    ensure!(learned(&site)? == 3, "learned {}", learned(&site)?);
    Ok(())
}

/// A container moves from one foreign host to another and says so, as virtual
/// machines do when they are migrated.
#[test]
fn a_foreign_container_may_move() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a", "")?;
    let (one, two) = (lab.host("one")?, lab.host("two")?);
    let ours = site.member(&lab, "ours", 11)?;
    let mut networks = Vec::new();
    for (host, other) in [(&one, &two), (&two, &one)] {
        site.daemon.peer(host.ip())?;
        let peers = [site.ip(), other.ip()];
        networks.push(KernelVxlan::new(&lab, host, BLUE, PORT, &peers)?);
    }
    let before = networks[0].container(&lab, "before", blue(101), 24)?;
    let mac = "02:00:00:00:01:01";
    before.run(&format!("ip link set eth0 address {mac}"))?;
    before.must_reach(ours.ip(), 3)?;
    ours.must_reach(blue(101), 3)?;
    drop(before);
    let after = networks[1].container(&lab, "after", blue(101), 24)?;
    after.run(&format!("ip link set eth0 address {mac}"))?;
    after.must_reach(ours.ip(), 3)?;
    ours.must_reach(blue(101), 20)?;
    ensure!(
        learned(&site)? == 1,
        "one address, learned {}",
        learned(&site)?
    );
    Ok(())
}

/// The kernel's bridge forgets, asks again, and is answered again.
#[test]
fn a_foreign_host_that_forgets() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a", "")?;
    let linux = lab.host("linux")?;
    let network = KernelVxlan::with_options(&lab, &linux, BLUE, PORT, &[site.ip()], "ageing 1")?;
    linux.run(&format!(
        "ip link set {} type bridge ageing_time 100",
        network.bridge()
    ))?;
    site.daemon.peer(linux.ip())?;
    let ours = site.member(&lab, "ours", 11)?;
    let theirs = network.container(&lab, "theirs", blue(101), 24)?;
    for _ in 0..2 {
        theirs.must_reach(ours.ip(), 3)?;
        thread::sleep(Duration::from_millis(2500));
        theirs.run("ip neigh flush all")?;
    }
    ours.must_reach(blue(101), 3)
}

/// However many addresses a foreign host invents, it gets no more than its share
/// and nobody else suffers.
#[test]
fn a_flood_of_foreign_addresses_is_bounded() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a", "")?;
    let (linux, flooder) = (lab.host("linux")?, lab.host("flooder")?);
    let network = KernelVxlan::new(&lab, &linux, BLUE, PORT, &[site.ip()])?;
    site.daemon.peer(linux.ip())?;
    site.daemon.peer(flooder.ip())?;
    let ours = site.member(&lab, "ours", 11)?;
    let theirs = network.container(&lab, "theirs", blue(101), 24)?;
    ours.must_reach(blue(101), 3)?;
    invent_addresses(&flooder, &ours, 20_000, site.ip())?;
    let learned = learned(&site)?;
    ensure!((8000..=8192).contains(&learned), "learned {learned}");
    ours.must_reach(blue(101), 10)?;
    theirs.must_reach(ours.ip(), 10)
}

fn invent_addresses(host: &Host, target: &Member, count: u32, vtep: Ipv4Addr) -> Result<()> {
    let socket = udp_socket(host.netns(), host.ip())?;
    let packet = frame::ipv4(blue(201), target.ip(), frame::UDP, &frame::udp(9, 9, b""));
    for number in 0..count {
        let [a, b, c, d] = number.to_be_bytes();
        let inner = frame::ethernet(target.mac()?, [2, 1, a, b, c, d], frame::IPV4, &packet);
        socket.send_to(
            &frame::vxlan(8, BLUE, &inner),
            SocketAddrV4::new(vtep, PORT),
        )?;
        // Not more at once than the backlog of a busy machine takes.
        if number % 256 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Who answers ARP for somebody else does not get what is meant for us.
#[test]
fn a_foreign_host_cannot_take_our_addresses() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a", "")?;
    let linux = lab.host("linux")?;
    let network = KernelVxlan::new(&lab, &linux, BLUE, PORT, &[site.ip()])?;
    site.daemon.peer(linux.ip())?;
    let (one, two) = (site.member(&lab, "o1", 11)?, site.member(&lab, "o2", 12)?);
    let thief = network.container(&lab, "thief", two.ip(), 24)?;
    thief.run(&format!("ip link set eth0 address {}", two.endpoint.mac))?;
    let before = site.daemon.drops("source_is_local")?;
    thief.must_not_reach(one.ip(), 3)?;
    eventually("it is counted", || {
        Ok(site.daemon.drops("source_is_local")? > before)
    })?;
    one.must_reach(two.ip(), 10)?;
    two.must_reach(one.ip(), 10)
}
