//! Packets that are not like the others, and containers that send on what they
//! get. Each of these broke some overlay once.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use vxplane_tests::harness::{
    Container, KernelVxlan, Netns, PacketSocket,
    frame::{self, BROADCAST},
    internet_checksum, transfer_by_way_of, udp_socket,
};

use crate::{
    raw::{Letter, RawVtep},
    reach::PINGS,
    site::{BLUE, Member, Site, blue, eventually, lab, must_reach_with, red, sites},
};

/// EtherType for experiments (IEEE 802 local experimental 1).
const EXPERIMENTAL: u16 = 0x88b5;

/// Sends many datagrams in one write, which cross as one packet where they can;
/// an error unless all arrive, each by itself.
fn send_segments(from: &Netns, to: &Netns, address: Ipv4Addr) -> Result<()> {
    const SIZE: usize = 1400;
    const AT_ONCE: usize = 20;
    const WRITES: usize = 50;
    let receiver = udp_socket(to, address)?;
    setsockopt(&receiver, sockopt::RcvBufForce, &(16 << 20))?;
    receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
    let sender = udp_socket(from, Ipv4Addr::UNSPECIFIED)?;
    sender.connect(receiver.local_addr()?)?;
    setsockopt(&sender, sockopt::UdpGsoSegment, &i32::try_from(SIZE)?)?;
    let counting = thread::spawn(move || count_datagrams(&receiver, SIZE));
    let text: Vec<u8> = (0..AT_ONCE)
        .flat_map(|part| vec![part.to_le_bytes()[0]; SIZE])
        .collect();
    for _ in 0..WRITES {
        sender.send(&text).context("sending segments")?;
        // The receiver's host has other things to do too.
        thread::sleep(Duration::from_millis(2));
    }
    let arrived = counting
        .join()
        .map_err(|_| anyhow!("the receiver panicked"))??;
    let sent = AT_ONCE * WRITES;
    ensure!(arrived == sent, "{arrived} of {sent} datagrams arrived");
    Ok(())
}

fn count_datagrams(receiver: &UdpSocket, size: usize) -> Result<usize> {
    let mut buffer = vec![0; 65_536];
    let mut count = 0;
    while let Ok(length) = receiver.recv(&mut buffer) {
        let datagram = &buffer[..length];
        ensure!(length == size, "a datagram of {length} bytes");
        ensure!(
            datagram.iter().all(|byte| *byte == datagram[0]),
            "a mixture"
        );
        count += 1;
    }
    Ok(count)
}

#[test]
fn segmented_datagrams_arrive_one_by_one() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let linux = lab.host("linux")?;
    let network = KernelVxlan::new(&lab, &linux, BLUE, 4789, &[a.ip(), b.ip()])?;
    a.daemon.peer(linux.ip())?;
    let (a1, a2) = (a.member(&lab, "a1", 11)?, a.member(&lab, "a2", 12)?);
    let b1 = b.member(&lab, "b1", 21)?;
    let foreign = network.container(&lab, "foreign", blue(101), 24)?;
    let way = |from: &Container, to: &Container, ip| -> Result<()> {
        send_segments(from.netns(), to.netns(), ip)
            .with_context(|| format!("from {} to {}", from.name(), to.name()))
    };
    for complete in [false, true] {
        if complete {
            for host in [&a.host, &b.host, &linux] {
                lab.complete_packets_only(host)?;
            }
        }
        way(&a1, &a2, a2.ip())?;
        way(&a1, &b1, b1.ip())?;
        way(&a1, &foreign, blue(101))?;
        way(&foreign, &a1, a1.ip())?;
    }
    Ok(())
}

/// Writes that fill segments exactly, nearly, and a little more than that, each
/// waited for before the next.
#[test]
fn writes_around_the_segment_size() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    let address = SocketAddrV4::new(b1.ip(), 0);
    let listener = b1.netns().enter(|| TcpListener::bind(address))??;
    let target = listener.local_addr()?;
    let mut near = a1.netns().enter(|| TcpStream::connect(target))??;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_read_timeout(Some(Duration::from_secs(5)))?;
    // 1450 bytes without IPv4 and TCP headers and the timestamp option.
    let segment: usize = 1450 - 20 - 32;
    for segments in [1, 2, 3, 10, 45] {
        for size in (segments * segment - 3)..=(segments * segment + 3) {
            let sent: Vec<u8> = (0..size).map(|at| (at ^ size).to_le_bytes()[0]).collect();
            near.write_all(&sent)?;
            let mut received = vec![0; size];
            far.read_exact(&mut received)
                .with_context(|| format!("{size} bytes"))?;
            ensure!(sent == received, "{size} bytes were changed");
        }
    }
    Ok(())
}

/// `proxy` leads what comes from blue for it to `server` in red, in its own name,
/// and the answers back: anything else would be spoofing.
fn make_proxy(site: &Site, proxy: &Member, server: &Member) -> Result<()> {
    let second = serde_json::json!({ "ifname": "eth1", "ip": red(11).to_string() });
    site.daemon.attach_with(proxy, "red", second)?;
    proxy.netns().sysctl("net/ipv4/ip_forward", "1")?;
    let nat = "iptables -w -t nat -A";
    let server = server.ip();
    proxy.run(&format!(
        "{nat} PREROUTING -i eth0 -j DNAT --to-destination {server}"
    ))?;
    proxy.run(&format!("{nat} POSTROUTING -o eth1 -j MASQUERADE"))?;
    Ok(())
}

/// What a container leads on was taken out of a tunnel and is put into one again,
/// in both directions.
#[test]
fn a_container_that_leads_connections_on() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    for site in [&a, &b] {
        site.daemon.network("red", "10.51.0.0/24", 8)?;
    }
    let client = b.member(&lab, "client", 21)?;
    let server = b.member_of(&lab, "server", "red", red(21))?;
    let proxy = a.member(&lab, "proxy", 11)?;
    make_proxy(&a, &proxy, &server)?;
    for complete in [false, true] {
        if complete {
            for site in [&a, &b] {
                lab.complete_packets_only(&site.host)?;
                site.host.netns().offloads("eth0", "gro on")?;
            }
        }
        must_reach_with(&client, proxy.ip(), &PINGS)?;
        let (from, to) = (client.netns(), server.netns());
        transfer_by_way_of(from, to, server.ip(), proxy.ip(), 20_000_000)
            .with_context(|| format!("complete packets only: {complete}"))?;
    }
    ensure!(a.daemon.drops("source_ip")? == 0);
    Ok(())
}

#[test]
fn frames_that_are_not_ip() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, a2) = (a.member(&lab, "a1", 11)?, a.member(&lab, "a2", 12)?);
    let b1 = b.member(&lab, "b1", 21)?;
    // The hosts know each other's containers only once these have spoken.
    b1.must_reach(a1.ip(), 1)?;
    let sender = PacketSocket::open(a1.netns(), "eth0")?;
    for (number, receiver) in [(1_u8, &a2), (2, &b1)] {
        let socket = PacketSocket::open(receiver.netns(), "eth0")?;
        for to in [receiver.mac()?, BROADCAST] {
            let frame = frame::ethernet(to, a1.mac()?, EXPERIMENTAL, &[number; 60]);
            sender.send(&frame)?;
            let arrived = socket.receive(Duration::from_secs(5), |seen| seen == frame)?;
            ensure!(arrived.is_some(), "{} got nothing", receiver.name());
        }
    }
    Ok(())
}

/// RFC 6040: congestion that the underlay marked is the packet's.
#[test]
fn congestion_on_the_underlay_is_passed_on() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let a1 = a.member(&lab, "a1", 11)?;
    let peer = RawVtep::peer_of(&lab, &a)?;
    let inside = PacketSocket::open(a1.netns(), "eth0")?;
    peer.set_tos(3)?;
    let letter = Letter::to(&a1)?;
    let before = a.daemon.drops("ecn_invalid")?;
    peer.send(a.ip(), &frame::vxlan(8, BLUE, &letter.frame))?;
    eventually("it is counted", || {
        Ok(a.daemon.drops("ecn_invalid")? == before + 1)
    })?;
    let mut capable = letter.frame.clone();
    capable[15] = 2;
    capable[24..26].fill(0);
    let checksum = internet_checksum(&capable[14..34]);
    capable[24..26].copy_from_slice(&checksum.to_be_bytes());
    peer.send(a.ip(), &frame::vxlan(8, BLUE, &capable))?;
    let marked = inside.receive(Duration::from_secs(5), |seen| seen[15] == 3)?;
    ensure!(marked.is_some(), "the mark is lost");
    ensure!(
        letter.arrives(Duration::from_secs(5))?,
        "its checksum is wrong"
    );
    Ok(())
}
