//! Links, addresses, sizes and next hops of the underlay change; what containers
//! have open stays open.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use vxplane_tests::harness::{Container, Lab, Netns, Ping, udp_socket};

use crate::site::{Member, Site, eventually, lab, sites};

/// How long a connection may be without progress. Its kernel sends again at
/// growing intervals, so it notices later than a ping that the way is back.
const STALL: Duration = Duration::from_secs(20);

/// A TCP connection between two containers.
struct Connection {
    near: TcpStream,
    far: TcpStream,
}

impl Connection {
    fn open(from: &Container, to: &Member) -> Result<Self> {
        let address = SocketAddrV4::new(to.ip(), 0);
        let listener = to.netns().enter(|| TcpListener::bind(address))??;
        let target = listener.local_addr()?;
        let near = from.netns().enter(|| TcpStream::connect(target))??;
        let (far, _) = listener.accept()?;
        for end in [&near, &far] {
            end.set_read_timeout(Some(STALL))?;
            end.set_write_timeout(Some(STALL))?;
        }
        Ok(Self { near, far })
    }

    /// An error unless two megabytes cross it in each direction.
    fn carries(&mut self) -> Result<()> {
        let sent: Vec<u8> = (0..2_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
        let Self { near, far } = self;
        for (from, to) in [(&*near, &*far), (&*far, &*near)] {
            let (mut from, mut to) = (from, to);
            let mut received = vec![0; sent.len()];
            thread::scope(|scope| -> Result<()> {
                let sending = scope.spawn(|| from.write_all(&sent));
                to.read_exact(&mut received)?;
                sending
                    .join()
                    .map_err(|_| anyhow!("the sender panicked"))??;
                Ok(())
            })?;
            ensure!(received == sent, "not what was sent");
        }
        Ok(())
    }
}

/// An error unless pings are answered again within this time, and stay so.
fn recovers(from: &Container, to: Ipv4Addr, limit: Duration) -> Result<()> {
    let begun = Instant::now();
    let one = Ping::new(to).count(1).patience(Duration::from_millis(100));
    while !from.ping(one)?.is_lossless() {
        ensure!(begun.elapsed() < limit, "no answer after {limit:?}");
    }
    from.must_reach(to, 20)
}

const SOON: Duration = Duration::from_secs(4);

#[test]
fn a_connection_outlives_what_happens_to_the_underlay() -> Result<()> {
    let lab = Lab::with_mtu(4000)?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    let mut connection = Connection::open(&a1, &b1)?;
    connection.carries()?;
    // The cable: the first host is in the first port.
    for _ in 0..3 {
        lab.switch().ip("link set port0 down")?;
        thread::sleep(Duration::from_millis(300));
        lab.switch().ip("link set port0 up")?;
        thread::sleep(Duration::from_millis(300));
    }
    recovers(&a1, b1.ip(), SOON)?;
    connection.carries()?;
    // The administrator, who takes the default route away with it.
    a.host.run("ip link set eth0 down")?;
    thread::sleep(Duration::from_millis(300));
    a.host.run("ip link set eth0 up")?;
    a.host.run("ip route add default via 10.99.0.1")?;
    recovers(&a1, b1.ip(), SOON)?;
    connection.carries()?;
    // Smaller, and larger than ever.
    for mtu in [1400, 9000] {
        for site in [&a, &b] {
            site.host.run(&format!("ip link set eth0 mtu {mtu}"))?;
        }
        lab.switch().ip(&format!("link set port0 mtu {mtu}"))?;
        lab.switch().ip(&format!("link set port1 mtu {mtu}"))?;
        let overlay = format!(" mtu {} ", mtu - 50);
        eventually("the containers follow", || {
            Ok(a1.run("ip -o link show eth0")?.contains(&overlay)
                && b1.run("ip -o link show eth0")?.contains(&overlay))
        })?;
        connection.carries()?;
    }
    another_address(&a, &b)?;
    recovers(&a1, b1.ip(), SOON)?;
    connection.carries()
}

/// The VTEP moves, and the other host is told where to.
fn another_address(a: &Site, b: &Site) -> Result<()> {
    let new = Ipv4Addr::new(10, 99, 0, 111);
    b.daemon.peer(new)?;
    a.host.run(&format!("ip addr add {new}/24 dev eth0"))?;
    a.host.run(&format!("ip addr del {}/24 dev eth0", a.ip()))?;
    a.host.run(&format!("ip addr replace {new}/24 dev eth0"))?;
    a.host.run("ip route replace default via 10.99.0.1")?;
    eventually("the new address is seen", || {
        Ok(a.daemon.status()?["underlay"]["vtep"] == new.to_string())
    })
}

/// How long a silent neighbour with a new MAC address may be lost after
/// [`hurry_neighbours`]: reachable for 1.5 s at most, 1 s of patience, three probes;
/// then it is asked for anew.
const NEIGHBOUR_TIMEOUT: Duration = Duration::from_secs(8);

/// Makes the kernel's neighbour timeouts, which are minutes, seconds. For neighbours
/// that it has not met yet.
fn hurry_neighbours(netns: &Netns, device: &str) -> Result<()> {
    for (key, value) in [
        ("base_reachable_time_ms", "1000"),
        ("delay_first_probe_time", "1"),
        ("retrans_time_ms", "200"),
    ] {
        netns.sysctl(&format!("net/ipv4/neigh/{device}/{key}"), value)?;
    }
    Ok(())
}

/// Next hops are looked up in the kernel's neighbour table for each packet, so
/// whatever corrects that table corrects the overlay.
#[test]
fn a_next_hop_that_gets_another_mac_address() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    for site in [&a, &b] {
        hurry_neighbours(site.host.netns(), "eth0")?;
    }
    hurry_neighbours(lab.switch(), "underlay")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    recovers(&a1, b1.ip(), SOON)?;
    b.host.run("ip link set eth0 address 02:00:00:00:aa:01")?;
    recovers(&a1, b1.ip(), NEIGHBOUR_TIMEOUT)?;
    // Now a gateway is between them.
    lab.switch().sysctl("net/ipv4/ip_forward", "1")?;
    for key in ["all", "underlay"] {
        let key = format!("net/ipv4/conf/{key}/send_redirects");
        lab.switch().sysctl(&key, "0")?;
    }
    for (here, there) in [(&a, &b), (&b, &a)] {
        let route = format!("ip route add {}/32 via 10.99.0.1", there.ip());
        here.host.run(&route)?;
    }
    let link = lab.switch().run("ip -br link show underlay")?.stdout;
    let mac = link.split_whitespace().nth(2).context("no MAC address")?;
    eventually("it goes by the gateway", || {
        let filter = format!("ether dst {mac} and udp port 4789");
        let to_gateway = a.host.capture("eth0", &filter)?;
        a1.ping(Ping::new(b1.ip()).count(3))?;
        Ok(!to_gateway.stop()?.is_empty())
    })?;
    lab.switch()
        .ip("link set underlay address 02:00:00:00:aa:02")?;
    recovers(&a1, b1.ip(), NEIGHBOUR_TIMEOUT)
}

/// One way only: the other host has no reason to say anything by itself.
fn one_way(arp_notify: &str, limit: Duration) -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    hurry_neighbours(a.host.netns(), "eth0")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    a1.must_reach(b1.ip(), 3)?;
    // Not the containers' own business.
    for (from, to) in [(&a1, &b1), (&b1, &a1)] {
        let (ip, mac) = (to.ip(), &to.endpoint.mac);
        from.run(&format!(
            "ip neigh replace {ip} lladdr {mac} nud permanent dev eth0"
        ))?;
    }
    b.host
        .netns()
        .sysctl("net/ipv4/conf/eth0/arp_notify", arp_notify)?;
    let receiver = udp_socket(b1.netns(), b1.ip())?;
    receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
    let sender = udp_socket(a1.netns(), a1.ip())?;
    sender.connect(receiver.local_addr()?)?;
    // What is known of a neighbour is not replaced in the second after it was
    // learned.
    thread::sleep(Duration::from_millis(1100));
    b.host.run("ip link set eth0 address 02:00:00:00:aa:01")?;
    let begun = Instant::now();
    let mut buffer = [0; 8];
    loop {
        sender.send(b"?")?;
        if receiver.recv(&mut buffer).is_ok() {
            return Ok(());
        }
        let elapsed = begun.elapsed();
        ensure!(elapsed < limit, "nothing arrives after {elapsed:?}");
    }
}

#[test]
fn a_gratuitous_arp_is_heard_at_once() -> Result<()> {
    one_way("1", Duration::from_secs(1))
}

#[test]
fn a_silent_next_hop_is_found_again_within_the_neighbour_timeout() -> Result<()> {
    one_way("0", NEIGHBOUR_TIMEOUT)
}

#[test]
fn a_route_that_moves_to_another_device() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    let mut connection = Connection::open(&a1, &b1)?;
    connection.carries()?;
    let (here, there) = (a.host.netns(), b.host.netns());
    here.join("eth1", there, "eth1", lab.mtu())?;
    for (netns, last) in [(here, 1), (there, 2)] {
        netns.address("eth1", Ipv4Addr::new(10, 98, 0, last), 24)?;
        for device in ["all", "eth0", "eth1"] {
            // What comes by another device than it would go is no spoofing here.
            netns.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0")?;
        }
    }
    for _ in 0..2 {
        here.ip(&format!("route add {}/32 via 10.98.0.2", b.ip()))?;
        there.ip(&format!("route add {}/32 via 10.98.0.1", a.ip()))?;
        recovers(&a1, b1.ip(), SOON)?;
        carried_by(&a, "eth1", &a1, &b1)?;
        connection.carries()?;
        here.ip(&format!("route del {}/32", b.ip()))?;
        there.ip(&format!("route del {}/32", a.ip()))?;
        recovers(&a1, b1.ip(), SOON)?;
        carried_by(&a, "eth0", &a1, &b1)?;
        connection.carries()?;
    }
    Ok(())
}

/// An error unless the underlay's packets come to go by this device only.
fn carried_by(site: &Site, device: &str, from: &Container, to: &Member) -> Result<()> {
    let other = if device == "eth0" { "eth1" } else { "eth0" };
    eventually(&format!("it goes by {device}"), || {
        let [right, wrong] = [device, other].map(|it| site.host.capture(it, "udp port 4789"));
        let (right, wrong) = (right?, wrong?);
        from.must_reach(to.ip(), 10)?;
        Ok(right.stop()?.len() >= 20 && wrong.stop()?.is_empty())
    })
}
