//! What policies let through, packet by packet: ports and ranges of each protocol,
//! address blocks of foreign hosts, broadcasts, and what is not IPv4.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vxplane_tests::harness::{
    Container, Daemon, Endpoint, Host, KernelVxlan, Lab, PacketSocket,
    frame::{self, IPV4, parse_mac},
};

use crate::site::{BLUE, Site, blue, eventually, lab, sites};

const PORT: u16 = 4789;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// No socket of it here: this kernel may be built without.
const SCTP: u8 = 132;
const IPV6: u16 = 0x86dd;
const CLIENT_PORT: u16 = 40_000;
/// How long the last of some packets may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A container, and as whom packets are sent to and from it.
struct Station {
    container: Container,
    ip: Ipv4Addr,
    mac: [u8; 6],
    socket: PacketSocket,
}

impl Station {
    fn new(container: Container, ip: Ipv4Addr, mac: &str) -> Result<Self> {
        let mac = parse_mac(mac).context("no MAC address")?;
        let socket = PacketSocket::open(container.netns(), "eth0")?;
        Ok(Self {
            container,
            ip,
            mac,
            socket,
        })
    }

    /// An endpoint with the label `app`.
    fn attach(lab: &Lab, daemon: &Daemon, app: &str, last: u8) -> Result<Self> {
        let container = lab.container(app)?;
        let request = json!({ "ip": blue(last).to_string(), "labels": { "app": app } });
        let Endpoint { ip, mac, .. } = daemon.attach_with(&container, "blue", request)?;
        Self::new(container, ip, &mac)
    }

    /// A container of a foreign host.
    fn foreign(lab: &Lab, network: &KernelVxlan<'_>, last: u8) -> Result<Self> {
        let container = network.container(lab, "foreign", blue(last), 24)?;
        let mac = container.run("cat /sys/class/net/eth0/address")?;
        Self::new(container, blue(last), mac.trim())
    }

    /// Sends IPv4 packets of a protocol from one port to these, one after the other.
    fn send(&self, to: ([u8; 6], Ipv4Addr), protocol: u8, ports: &[u16]) -> Result<()> {
        for &port in ports {
            let packet = frame::ipv4(self.ip, to.1, protocol, &segment(protocol, port));
            self.socket
                .send(&frame::ethernet(to.0, self.mac, IPV4, &packet))?;
        }
        Ok(())
    }

    /// The ports that such packets arrive for until `last` does, which is in order.
    fn hear(&self, from: Ipv4Addr, protocol: u8, last: u16) -> Result<Vec<u16>> {
        let mut heard = Vec::new();
        while heard.last() != Some(&last) {
            let wanted = |frame: &[u8]| port_of(frame, from, protocol).is_some();
            let frame = self.socket.receive(PATIENCE, wanted)?;
            let frame = frame.with_context(|| format!("heard {heard:?}, and nothing of {last}"))?;
            heard.extend(port_of(&frame, from, protocol));
        }
        Ok(heard)
    }
}

/// What begins something at `port`.
fn segment(protocol: u8, port: u16) -> Vec<u8> {
    let ports = [CLIENT_PORT, port].map(u16::to_be_bytes).concat();
    match protocol {
        // Header of 20 bytes, SYN.
        TCP => [&ports[..], &[0; 8], &[0x50, 2, 0xff, 0xff, 0, 0, 0, 0]].concat(),
        // Verification tag and checksum, and an INIT chunk's beginning.
        SCTP => [&ports[..], &[0; 8], &[1, 0, 0, 20], &[0; 16]].concat(),
        _ => frame::udp(CLIENT_PORT, port, b"x"),
    }
}

/// The destination port, if it is such a packet.
fn port_of(frame: &[u8], from: Ipv4Addr, protocol: u8) -> Option<u16> {
    let is_one = frame.get(12..14)? == [8, 0]
        && frame.get(23) == Some(&protocol)
        && frame.get(26..30)? == from.octets();
    let port = frame.get(36..38)?.try_into().ok()?;
    is_one.then_some(u16::from_be_bytes(port))
}

/// Has the daemon enforce this `spec` for what has the label `app`.
fn restrict(daemon: &Daemon, app: &str, spec: Value) -> Result<()> {
    let mut policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": app },
    });
    policy["spec"] = spec;
    policy["spec"]["podSelector"] = json!({ "matchLabels": { "app": app } });
    daemon.api("POST", "/v1/policies", Some(&policy))?;
    Ok(())
}

/// An error unless exactly `allowed` of these ports get through, the last of which
/// has to be one.
fn must_hear(
    from: &Station,
    to: &Station,
    protocol: u8,
    ports: &[u16],
    allowed: &[u16],
) -> Result<()> {
    let last = *allowed.last().context("the last is allowed")?;
    from.send((to.mac, to.ip), protocol, ports)?;
    let heard = to.hear(from.ip, protocol, last)?;
    ensure!(
        heard == allowed,
        "protocol {protocol} from {}: {heard:?}, not {allowed:?}",
        from.ip
    );
    Ok(())
}

#[test]
fn ports_and_ranges_of_each_protocol() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let web = Station::attach(&lab, &b.daemon, "web", 11)?;
    let remote = Station::attach(&lab, &a.daemon, "remote", 12)?;
    let local = Station::attach(&lab, &b.daemon, "local", 13)?;
    let all = |ports: Value| json!({ "ingress": [{ "ports": ports }] });
    restrict(
        &b.daemon,
        "web",
        all(json!([
            { "protocol": "UDP", "port": 53 },
            { "protocol": "UDP", "port": 8001, "endPort": 8010 },
            { "protocol": "SCTP", "port": 3868 },
            { "protocol": "SCTP", "port": 9000, "endPort": 9003 },
            { "port": 443, "endPort": 445 },
            { "port": 65535 },
        ])),
    )?;
    // They get to know each other's hosts.
    web.container.must_reach(remote.ip, 2)?;
    for from in [&remote, &local] {
        let ports = [52, 54, 8000, 8011, 443, 3868, 53, 8001, 8005, 8010];
        must_hear(from, &web, UDP, &ports, &[53, 8001, 8005, 8010])?;
        let ports = [53, 8999, 9004, 443, 3868, 9000, 9003];
        must_hear(from, &web, SCTP, &ports, &[3868, 9000, 9003])?;
        let ports = [442, 446, 53, 65534, 443, 444, 445, 65535];
        must_hear(from, &web, TCP, &ports, &[443, 444, 445, 65535])?;
    }
    // What it answers passes, what it begins is not restricted.
    let answer = frame::ipv4(web.ip, remote.ip, UDP, &frame::udp(53, CLIENT_PORT, b"x"));
    web.socket
        .send(&frame::ethernet(remote.mac, web.mac, IPV4, &answer))?;
    ensure!(remote.hear(web.ip, UDP, CLIENT_PORT)? == [CLIENT_PORT]);
    // The same for what is sent, decided by the sender's host.
    let port = json!([{ "protocol": "SCTP", "port": 5000, "endPort": 5001 }]);
    restrict(
        &a.daemon,
        "remote",
        json!({ "policyTypes": ["Egress"], "egress": [{ "ports": port }] }),
    )?;
    must_hear(
        &remote,
        &local,
        SCTP,
        &[4999, 5002, 5000, 5001],
        &[5000, 5001],
    )?;
    ensure!(a.daemon.drops("policy_egress")? == 2);
    Ok(())
}

/// The network of a foreign host, which is a peer of the site.
fn foreign_network<'a>(lab: &Lab, site: &Site, linux: &'a Host) -> Result<KernelVxlan<'a>> {
    let network = KernelVxlan::new(lab, linux, BLUE, PORT, &[site.ip()])?;
    site.daemon.peer(linux.ip())?;
    Ok(network)
}

#[test]
fn containers_of_a_foreign_host_by_address_block() -> Result<()> {
    let lab = lab()?;
    let (site, linux) = (Site::new(&lab, "a", "")?, lab.host("linux")?);
    let network = foreign_network(&lab, &site, &linux)?;
    let web = Station::attach(&lab, &site.daemon, "web", 11)?;
    let block = json!([{ "ipBlock": { "cidr": "10.50.0.96/29", "except": ["10.50.0.98/31"] } }]);
    let spec = json!({
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "from": block, "ports": [{ "protocol": "UDP", "port": 53 }] }],
        "egress": [{ "to": block, "ports": [{ "protocol": "UDP", "port": 123 }] }],
    });
    restrict(&site.daemon, "web", spec)?;
    let foreign = |last| Station::foreign(&lab, &network, last);
    let inside = [foreign(97)?, foreign(100)?, foreign(103)?];
    let outside = [foreign(98)?, foreign(99)?, foreign(95)?, foreign(104)?];
    for station in &inside {
        must_hear(station, &web, UDP, &[123, 54, 53], &[53])?;
        must_hear(&web, station, UDP, &[53, 124, 123], &[123])?;
    }
    let before = site.daemon.drops("policy_ingress")?;
    for station in &outside {
        station.send((web.mac, web.ip), UDP, &[53])?;
        web.send((station.mac, station.ip), UDP, &[123])?;
    }
    let egress = u64::try_from(outside.len() + 2 * inside.len())?;
    eventually("all are counted", || {
        let ingress = site.daemon.drops("policy_ingress")? - before;
        Ok(ingress == 4 && site.daemon.drops("policy_egress")? == egress)
    })
}

#[test]
fn broadcasts_reach_whom_they_may() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let sender = Station::attach(&lab, &a.daemon, "sender", 11)?;
    let web = Station::attach(&lab, &b.daemon, "web", 12)?;
    let open = Station::attach(&lab, &b.daemon, "open", 13)?;
    let everyone = (frame::BROADCAST, Ipv4Addr::BROADCAST);
    let rule = json!([{ "ports": [{ "protocol": "UDP", "port": 67 }] }]);
    restrict(&b.daemon, "web", json!({ "ingress": rule }))?;
    sender.send(everyone, UDP, &[68, 66, 67])?;
    ensure!(open.hear(sender.ip, UDP, 67)? == [68, 66, 67]);
    ensure!(web.hear(sender.ip, UDP, 67)? == [67]);
    // Among its own host's endpoints likewise.
    open.send(everyone, UDP, &[68, 67])?;
    ensure!(web.hear(open.ip, UDP, 67)? == [67]);
    ensure!(sender.hear(open.ip, UDP, 67)? == [68, 67]);
    let spec = json!({ "policyTypes": ["Egress"], "egress": rule });
    restrict(&a.daemon, "sender", spec)?;
    sender.send(everyone, UDP, &[68, 67])?;
    ensure!(
        open.hear(sender.ip, UDP, 67)? == [67],
        "decided once, where it is sent"
    );
    Ok(())
}

/// ARP always passes, or nobody could be sent anything; IPv6, which no rule can name,
/// only by rules for everyone and everything.
#[test]
fn what_is_not_ipv4_passes_by_rules_for_everything() -> Result<()> {
    let lab = lab()?;
    let (site, linux) = (Site::new(&lab, "a", "")?, lab.host("linux")?);
    let network = foreign_network(&lab, &site, &linux)?;
    let web = Station::attach(&lab, &site.daemon, "web", 11)?;
    let foreign = Station::foreign(&lab, &network, 101)?;
    let arrives = |patience| {
        let packet = [&[0x60, 0, 0, 0, 0, 0, 59, 64][..], &[0xfe; 32]].concat();
        let frame = frame::ethernet(web.mac, foreign.mac, IPV6, &packet);
        foreign.socket.send(&frame)?;
        let got = web.socket.receive(patience, |got| got == &frame[..])?;
        Ok::<_, anyhow::Error>(got.is_some())
    };
    ensure!(arrives(PATIENCE)?, "before any policy");
    restrict(
        &site.daemon,
        "web",
        json!({ "ingress": [{ "ports": [{ "protocol": "UDP" }] }] }),
    )?;
    ensure!(!arrives(Duration::from_millis(300))?);
    ensure!(site.daemon.drops("policy_ingress")? == 1);
    let asks = frame::arp_request(foreign.mac, foreign.ip, web.ip);
    foreign.socket.send(&asks)?;
    let is_answer = |got: &[u8]| got.get(12..14) == Some(&[8, 6]) && got[..6] == foreign.mac;
    let answer = foreign.socket.receive(PATIENCE, is_answer)?;
    ensure!(answer.is_some(), "no answer to ARP");
    restrict(&site.daemon, "web", json!({ "ingress": [{}] }))?;
    ensure!(arrives(PATIENCE)?, "by a rule for everything");
    Ok(())
}
