//! Whole hosts on one etcd: what their containers see of it.

use std::{net::SocketAddrV4, thread, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use vxplane_tests::harness::{frame, transfer, udp_socket};

use crate::room::{Room, eventually};

/// VXLAN with ARP inside, which starts 50 bytes into the frame: its `EtherType`
/// is at 12 of the inner Ethernet header, at 28 of the UDP datagram.
const ARP_INSIDE: &str = "udp port 4789 and udp[28:2] = 0x0806";

#[test]
fn containers_on_three_hosts_reach_each_other_and_arp_stays_at_home() -> Result<()> {
    let room = Room::new(&["a", "b", "c"])?;
    let mut arp = Vec::new();
    for machine in &room.hosts {
        arp.push(machine.host.capture("eth0", ARP_INSIDE)?);
    }
    let mut members = Vec::new();
    for machine in &room.hosts {
        members.push(machine.member(&room.lab, &format!("c-{}", machine.name))?);
    }
    room.settled(3, 3)?;
    for (from, own) in &members {
        for (_, other) in members.iter().filter(|(_, other)| other != own) {
            from.must_reach(other.ip, 10)?;
        }
    }
    transfer(
        members[0].0.netns(),
        members[1].0.netns(),
        members[1].1.ip,
        4 << 20,
    )?;
    for capture in arp {
        let seen = capture.stop()?;
        ensure!(seen.is_empty(), "{} ARP packets left a host", seen.len());
    }
    let peers = room.hosts[0].daemon.cli_json("peer ls")?;
    let names: Vec<_> = peers.as_array().into_iter().flatten().collect();
    ensure!(names.len() == 2 && names[0]["node"] == "b", "{peers}");
    let listed = room.hosts[2].daemon.cli("endpoint ls --node a")?;
    ensure!(
        listed.lines().count() == 2 && listed.contains("remote"),
        "{listed}"
    );
    Ok(())
}

#[test]
fn hosts_that_share_no_network_are_strangers() -> Result<()> {
    let room = Room::new(&["a", "b"])?;
    let (a, b) = (&room.hosts[0], &room.hosts[1]);
    b.daemon.network("red", "10.60.0.0/24", 8)?;
    let (_a1, _) = a.member(&room.lab, "a1")?;
    let b1 = room.lab.container("b1")?;
    b.daemon.attach(&b1, "red")?;
    room.settled(1, 2)?;
    for machine in [a, b] {
        let peers = machine.daemon.api("GET", "/v1/peers", None)?;
        ensure!(peers == json!([]), "{peers}");
    }
    // B sends into A's network all the same.
    let socket = udp_socket(b.host.netns(), b.host.ip())?;
    let payload = frame::vxlan(8, 7, &[0xff; 64]);
    socket.send_to(&payload, SocketAddrV4::new(a.host.ip(), 4789))?;
    a.until_status("the stranger's packet is counted", |status| {
        let drops = status["drops"].as_array().into_iter().flatten();
        drops
            .into_iter()
            .any(|drop| drop["reason"] == "unknown_vtep")
    })
}

/// Detached on one host and attached on another: with its address, and whoever
/// talks to it need not be told.
#[test]
fn an_endpoint_that_moves_and_an_address_that_is_reused_are_right_everywhere() -> Result<()> {
    let room = Room::new(&["a", "b", "c"])?;
    let [a, b, c] = &room.hosts[..] else {
        unreachable!()
    };
    let (watcher, _) = c.member(&room.lab, "watcher")?;
    let (_before, endpoint) = a.member(&room.lab, "mobile")?;
    room.settled(2, 3)?;
    watcher.must_reach(endpoint.ip, 3)?;
    let elsewhere = room.lab.container("elsewhere")?;
    let refused = b.try_attach(&elsewhere, "mobile")?;
    ensure!(
        refused.status == 409 && refused.text.contains("node a"),
        "{}",
        refused.text
    );
    let detach = format!("/v1/endpoints/{}", endpoint.id);
    let refused = b.daemon.try_api("DELETE", &detach, None)?;
    ensure!(
        refused.status == 409 && refused.text.contains("node a"),
        "{}",
        refused.text
    );

    a.daemon.detach(&endpoint.id)?;
    let (_after, moved) = b.member(&room.lab, "mobile")?;
    ensure!(
        moved.ip == endpoint.ip && moved.id == endpoint.id,
        "{moved:?}"
    );
    eventually("the watcher reaches it where it is now", || {
        Ok(watcher.must_reach(moved.ip, 1).is_ok())
    })?;
    watcher.must_reach(moved.ip, 20)?;

    // Another interface with another MAC address gets that address.
    b.daemon.detach(&moved.id)?;
    let heir = room.lab.container("heir")?;
    let fields = json!({ "ip": moved.ip.to_string(), "mac": "02:00:00:00:00:77" });
    a.daemon.attach_with(&heir, "blue", fields)?;
    eventually("the watcher reaches the heir", || {
        Ok(watcher.must_reach(moved.ip, 1).is_ok())
    })?;
    watcher.must_reach(moved.ip, 20)
}

/// A node's lease runs out: nobody sends to it any more, its addresses are kept.
/// Its container may start elsewhere; what is left is its own when it is back.
#[test]
fn a_dead_node_is_withdrawn_and_takes_its_endpoints_again() -> Result<()> {
    let mut room = Room::new(&["a", "b"])?;
    let (here, _) = room.hosts[0].member(&room.lab, "here")?;
    let (stays, stayed) = room.hosts[1].member(&room.lab, "stays")?;
    let (_moves, moved) = room.hosts[1].member(&room.lab, "moves")?;
    room.settled(3, 2)?;
    here.must_reach(stayed.ip, 3)?;
    room.hosts[1].daemon.kill()?;
    // The dataplane forwards on until the lease is over.
    here.must_reach(stayed.ip, 3)?;
    let a = &room.hosts[0];
    eventually("b is down", || {
        Ok(a.daemon.cli_json("node inspect b")?["state"] == "down")
    })?;
    eventually("b is no peer", || {
        Ok(a.daemon.api("GET", "/v1/peers", None)? == json!([]))
    })?;
    let listed = a.daemon.cli_json("endpoint ls --node b")?;
    ensure!(listed[0]["state"] == "node-down", "{listed}");
    let anew = room.lab.container("anew")?;
    let fields = json!({ "container_id": "moves" });
    let taken = a.daemon.attach_with(&anew, "blue", fields)?;
    ensure!(taken.ip == moved.ip, "{taken:?} was {moved:?}");

    room.hosts[1].daemon.start_again()?;
    let b = &room.hosts[1];
    b.until_status("only its own is left", |status| {
        status["counts"]["endpoints"] == 1 && status["counts"]["nodes"] == 2
    })?;
    eventually("both reach each other again", || {
        Ok(here.must_reach(stayed.ip, 1).is_ok() && stays.must_reach(taken.ip, 1).is_ok())
    })?;
    let refused = room.hosts[0].daemon.try_cli("node rm b")?;
    ensure!(refused.stderr.contains("is alive"), "{}", refused.stderr);
    Ok(())
}

/// etcd away: packets flow, changes are refused and say why, a daemon that is
/// killed and started knows everything; etcd back: all is as before.
#[test]
fn without_etcd_the_dataplane_goes_on_and_changes_wait() -> Result<()> {
    let mut room = Room::new(&["a", "b"])?;
    let (here, own) = room.hosts[0].member(&room.lab, "here")?;
    let (_there, other) = room.hosts[1].member(&room.lab, "there")?;
    room.settled(2, 2)?;
    here.must_reach(other.ip, 3)?;
    // What was seen is written down now and then.
    thread::sleep(Duration::from_secs(2));
    let pinger = here.pinger(other.ip)?;
    room.etcd.kill()?;
    let late = room.lab.container("late")?;
    let refused = room.hosts[0].try_attach(&late, "late")?;
    ensure!(
        refused.status == 503 && refused.json["code"] == "store_unavailable",
        "{} {}",
        refused.status,
        refused.text
    );
    room.hosts[0].until_status("it says so", |status| {
        let problems = status["problems"].to_string();
        status["store"]["connected"] == false && problems.contains("out of reach")
    })?;
    room.hosts[0].daemon.kill()?;
    room.hosts[0].daemon.start_again()?;
    let a = &room.hosts[0].daemon;
    let listed = a.cli_json("endpoint ls")?;
    ensure!(
        listed.as_array().is_some_and(|all| all.len() == 2),
        "{listed}"
    );
    let known = a.api("GET", &format!("/v1/endpoints/{}", own.id), None)?;
    ensure!(known["state"] == "ready", "{known}");
    // Nobody's lease ends while nobody keeps it: etcd is what ends them.
    thread::sleep(Duration::from_secs(4));

    room.etcd.start()?;
    room.etcd.ready()?;
    for machine in &room.hosts {
        machine.until_status("healthy again", |status| {
            status["healthy"] == true && status["counts"]["nodes"] == 2
        })?;
    }
    let report = pinger.stop()?;
    ensure!(report.is_lossless(), "{report}");
    let attached = room.hosts[0].try_attach(&late, "late")?;
    ensure!(attached.status == 201, "{}", attached.text);
    here.must_reach(other.ip, 10)
}
