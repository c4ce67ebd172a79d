//! Nothing leaves a network for another, nothing is taken from a stranger, and
//! nobody pretends to be somebody else. What is dropped is counted.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use vxplane_tests::harness::{
    Daemon, PacketSocket, Ping,
    frame::{self, BROADCAST, IPV4, UDP},
};

use crate::{
    raw::{Letter, RawVtep},
    site::{BLUE, Member, Site, blue, eventually, lab, red, sites},
};

/// The VNI of the second network.
const RED: u32 = 8;

/// EtherType of an IEEE 802.1Q tag.
const VLAN: u16 = 0x8100;

/// Waits until a reason was counted `more` times more than `before`, and not once
/// more than that.
fn counted(daemon: &Daemon, reason: &str, before: u64, more: u64) -> Result<()> {
    let waited = eventually(&format!("{more} drops for {reason}"), || {
        Ok(daemon.drops(reason)? >= before + more)
    });
    waited.with_context(|| format!("all drops: {:?}", daemon.dropped()))?;
    let now = daemon.drops(reason)?;
    ensure!(
        now == before + more,
        "{} drops for {reason}, expected {more}",
        now - before
    );
    Ok(())
}

#[test]
fn networks_do_not_reach_each_other() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    for site in [&a, &b] {
        site.daemon.network("red", "10.51.0.0/24", RED)?;
    }
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    let a_red = a.member_of(&lab, "a-red", "red", red(11))?;
    let b_red = b.member_of(&lab, "b-red", "red", red(21))?;
    a1.must_reach(b1.ip(), 5)?;
    a_red.must_reach(b_red.ip(), 5)?;
    // Also not for one who believes that the other network is on its wire.
    a1.run("ip route add 10.51.0.0/24 dev eth0")?;
    for other in [&a_red, &b_red] {
        other.run("ip route add 10.50.0.0/24 dev eth0")?;
        a1.must_not_reach(other.ip(), 3)?;
        let mac = &other.endpoint.mac;
        a1.run(&format!(
            "ip neigh replace {} lladdr {mac} dev eth0",
            other.ip()
        ))?;
        a1.must_not_reach(other.ip(), 3)?;
    }
    Ok(())
}

#[test]
fn a_stranger_is_dropped_and_counted() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let a1 = a.member(&lab, "a1", 11)?;
    let stranger = RawVtep::new(&lab.host("stranger")?)?;
    let letter = Letter::to(&a1)?;
    let before = a.daemon.drops("unknown_vtep")?;
    for _ in 0..5 {
        stranger.send(a.ip(), &frame::vxlan(8, BLUE, &letter.frame))?;
    }
    counted(&a.daemon, "unknown_vtep", before, 5)?;
    ensure!(!letter.arrives(Duration::from_millis(200))?, "it arrived");
    // Once it is a peer, it is heard.
    a.daemon.peer(stranger.ip())?;
    stranger.send(a.ip(), &frame::vxlan(8, BLUE, &letter.frame))?;
    ensure!(letter.arrives(Duration::from_secs(5))?, "it did not arrive");
    // And when it no longer is, it is not.
    let ip = stranger.ip();
    a.daemon.api("DELETE", &format!("/v1/peers/{ip}"), None)?;
    stranger.send(a.ip(), &frame::vxlan(8, BLUE, &letter.frame))?;
    counted(&a.daemon, "unknown_vtep", before, 6)
}

#[test]
fn a_peer_is_let_into_its_networks_only() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    a.daemon.network("red", "10.51.0.0/24", RED)?;
    let a1 = a.member(&lab, "a1", 11)?;
    let peer = RawVtep::new(&lab.host("peer")?)?;
    let only_red = json!({ "ip": peer.ip().to_string(), "networks": ["red"] });
    a.daemon.api("POST", "/v1/peers", Some(&only_red))?;
    let letter = Letter::to(&a1)?;
    let before = a.daemon.drops("unknown_vtep")?;
    peer.send(a.ip(), &frame::vxlan(8, BLUE, &letter.frame))?;
    counted(&a.daemon, "unknown_vtep", before, 1)?;
    // The network it is in has nobody with that MAC address.
    let before = a.daemon.drops("unknown_mac")?;
    peer.send(a.ip(), &frame::vxlan(8, RED, &letter.frame))?;
    counted(&a.daemon, "unknown_mac", before, 1)?;
    ensure!(!letter.arrives(Duration::from_millis(200))?, "it arrived");
    Ok(())
}

/// What a peer may get wrong, and what becomes of it.
#[test]
fn a_peers_mistakes_are_counted_by_reason() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let a1 = a.member(&lab, "a1", 11)?;
    let peer = RawVtep::peer_of(&lab, &a)?;
    let letter = Letter::to(&a1)?;
    let good = frame::vxlan(8, BLUE, &letter.frame);
    let mut from_local = letter.frame.clone();
    from_local[6..12].copy_from_slice(&a1.mac()?);
    let mut to_nobody = letter.frame.clone();
    to_nobody[..6].copy_from_slice(&[2, 0, 0, 0, 0, 99]);
    for (reason, payload) in [
        ("vni_flag", frame::vxlan(0, BLUE, &letter.frame)),
        ("unknown_vni", frame::vxlan(8, 0x00ff_ff00, &letter.frame)),
        ("unknown_mac", frame::vxlan(8, BLUE, &to_nobody)),
        ("source_is_local", frame::vxlan(8, BLUE, &from_local)),
        ("malformed_frame", good[..8 + 14 + 10].to_vec()),
        ("malformed_outer", good[..8 + 10].to_vec()),
        ("malformed_outer", good[..7].to_vec()),
    ] {
        let before = a.daemon.drops(reason)?;
        peer.send(a.ip(), &payload)?;
        counted(&a.daemon, reason, before, 1)?;
    }
    ensure!(!letter.arrives(Duration::from_millis(200))?, "one arrived");
    // Nothing of it was held against the peer.
    peer.send(a.ip(), &good)?;
    ensure!(letter.arrives(Duration::from_secs(5))?, "it did not arrive");
    Ok(())
}

/// A peer that says it has an endpoint's address is not believed: neither by the
/// endpoint's neighbours nor by itself.
#[test]
fn a_peer_cannot_speak_for_an_endpoint_of_this_host() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let (a1, a2) = (a.member(&lab, "a1", 11)?, a.member(&lab, "a2", 12)?);
    let peer = RawVtep::peer_of(&lab, &a)?;
    let liar = [2, 0, 0, 0, 0, 99];
    // To a1: the address of a2, its own one, and a2's in an announcement to all.
    let datagram = |from| frame::ipv4(from, a1.ip(), UDP, &frame::udp(9, 9, b"?"));
    let pinger = a1.pinger(a2.ip())?;
    for lie in [
        frame::ethernet(a1.mac()?, liar, IPV4, &datagram(a2.ip())),
        frame::ethernet(a1.mac()?, liar, IPV4, &datagram(a1.ip())),
        frame::arp_request(liar, a2.ip(), a2.ip()),
    ] {
        let before = a.daemon.drops("source_ip_is_local")?;
        peer.send(a.ip(), &frame::vxlan(8, BLUE, &lie))?;
        counted(&a.daemon, "source_ip_is_local", before, 1)?;
    }
    let report = pinger.stop()?;
    ensure!(report.is_lossless(), "{report}");
    let neighbours = a1.run("ip neigh show")?;
    ensure!(!neighbours.contains("02:00:00:00:00:63"), "{neighbours}");
    Ok(())
}

/// RFC 7348: reserved bits are ignored on receipt.
#[test]
fn reserved_bits_are_ignored() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let a1 = a.member(&lab, "a1", 11)?;
    let peer = RawVtep::peer_of(&lab, &a)?;
    let letter = Letter::to(&a1)?;
    for at in [0, 1, 2, 3, 7] {
        let mut payload = frame::vxlan(8, BLUE, &letter.frame);
        payload[at] |= if at == 0 { 0xf7 } else { 0xff };
        peer.send(a.ip(), &payload)?;
        ensure!(
            letter.arrives(Duration::from_secs(5))?,
            "byte {at} made a difference"
        );
    }
    // Likewise where the kernel's device is on the way: what is not IP, broadcast.
    let asks = frame::arp_request([2, 0, 0, 0, 0, 200], blue(200), a1.ip());
    let mut payload = frame::vxlan(8, BLUE, &asks);
    for at in [1, 2, 3, 7] {
        payload[at] = 0xff;
    }
    payload[0] = 0xff;
    let inside = PacketSocket::open(a1.netns(), "eth0")?;
    peer.send(a.ip(), &payload)?;
    let seen = inside.receive(Duration::from_secs(5), |frame| frame == asks)?;
    ensure!(seen.is_some(), "the ARP request did not arrive");
    Ok(())
}

#[test]
fn a_spoofed_source_is_dropped_and_counted() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, a2) = (a.member(&lab, "a1", 11)?, a.member(&lab, "a2", 12)?);
    let b1 = b.member(&lab, "b1", 21)?;
    for other in [&a2, &b1] {
        a1.must_reach(other.ip(), 3)?;
        spoof_ip(&a, &a1, other)?;
        spoof_frames(&a, &a1, other)?;
        a1.must_reach(other.ip(), 3)?;
    }
    Ok(())
}

/// A container that sends packets from another address.
fn spoof_ip(site: &Site, member: &Member, to: &Member) -> Result<()> {
    let other = blue(99);
    let before = site.daemon.drops("source_ip")?;
    let ping = Ping::new(to.ip()).from(other).count(5);
    let report = member.ping(ping.patience(Duration::from_millis(300)))?;
    ensure!(report.received == 0, "answered from {other}: {report}");
    counted(&site.daemon, "source_ip", before, 5)
}

/// A container that writes its frames itself.
fn spoof_frames(site: &Site, member: &Member, to: &Member) -> Result<()> {
    let raw = PacketSocket::open(member.netns(), "eth0")?;
    let (mac, other_mac) = (member.mac()?, [2, 0, 0, 0, 0, 99]);
    let packet = |from| frame::ipv4(from, to.ip(), UDP, &frame::udp(9, 9, b"?"));
    let mut arp_of_other = frame::arp_request(mac, blue(99), to.ip());
    let mut arp_for_other = frame::arp_request(mac, member.ip(), to.ip());
    // The sender's hardware address inside the ARP message.
    arp_for_other[22..28].copy_from_slice(&other_mac);
    for (reason, bytes) in [
        (
            "source_mac",
            frame::ethernet(to.mac()?, other_mac, IPV4, &packet(member.ip())),
        ),
        (
            "source_mac",
            frame::ethernet(BROADCAST, to.mac()?, IPV4, &packet(member.ip())),
        ),
        (
            "source_ip",
            frame::ethernet(to.mac()?, mac, IPV4, &packet(blue(99))),
        ),
        (
            "source_ip",
            frame::ethernet(BROADCAST, mac, IPV4, &packet(to.ip())),
        ),
        ("source_ip", std::mem::take(&mut arp_of_other)),
        ("source_mac", std::mem::take(&mut arp_for_other)),
    ] {
        let before = site.daemon.drops(reason)?;
        raw.send(&bytes)?;
        counted(&site.daemon, reason, before, 1)?;
    }
    Ok(())
}

#[test]
fn a_tagged_frame_is_dropped_and_counted() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let (a1, a2) = (a.member(&lab, "a1", 11)?, a.member(&lab, "a2", 12)?);
    let raw = PacketSocket::open(a1.netns(), "eth0")?;
    let inside = [&[0, 5, 8, 0], [0; 50].as_slice()].concat();
    let before = a.daemon.drops("vlan_tag")?;
    raw.send(&frame::ethernet(a2.mac()?, a1.mac()?, VLAN, &inside))?;
    counted(&a.daemon, "vlan_tag", before, 1)
}
