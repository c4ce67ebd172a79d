//! Under traffic: two hosts with the programs attached and maps written by hand,
//! and a host with the kernel's own vxlan device.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use vxplane_common::{
    abi::{
        Config, Endpoint, FDB_REMOTE, FdbEntry, FloodKey, FloodTarget, LearnBudget, NeighbourKey,
        Network, OVERHEAD_IPV4, Outer, PEER_LEARN, Peer, map,
    },
    drop::{
        Direction::Egress,
        DropReason::{MalformedFrame, SourceIp, SourceMac, VlanTag},
    },
    types::{MacAddr, Vni},
};
use vxplane_harness::{
    Container, Host, Iperf, KernelVxlan, Lab, Netns, Ping, transfer, udp_socket,
};

use crate::{
    bed::{NET, PORT, key, local, neighbour, peer_key},
    packets::{ARP, IPV4, IPV6, Ip, Mac, arp, ethernet, udp, vxlan},
    programs::{Program, Programs},
    wire::{Wire, index},
};

const SLOT: u32 = 1;

/// A host with one endpoint.
struct Node {
    host: Host,
    container: Container,
    programs: Programs,
    ip: Ipv4Addr,
}

fn mac(ip: Ipv4Addr) -> Mac {
    MacAddr::from_ipv4(ip.octets()).0
}

impl Node {
    fn new(lab: &Lab, name: &str, ip: Ipv4Addr) -> Self {
        let host = lab.host(name).unwrap();
        let container = lab.container(&format!("{name}-c")).unwrap();
        let netns = host.netns();
        let mtu = lab.mtu() - OVERHEAD_IPV4;
        container.netns().join("eth0", netns, "h0", mtu).unwrap();
        let address = MacAddr(mac(ip));
        let inside = container.netns();
        inside
            .ip(&format!("link set eth0 address {address}"))
            .unwrap();
        inside.address("eth0", ip, 24).unwrap();
        netns
            .ip(&format!(
                "link add vxplane0 type vxlan external dstport {PORT}"
            ))
            .unwrap();
        netns.ip("link set vxplane0 up").unwrap();
        let programs = Programs::load(&Config {
            vtep: host.ip().octets(),
            port: PORT.to_be_bytes(),
            source_port_min: 32768,
            source_port_range: 28231,
            gbp: 0,
            fallback_ifindex: index(netns, "vxplane0"),
            underlay_mtu: lab.mtu(),
        });
        let node = Self {
            host,
            container,
            programs,
            ip,
        };
        node.write_own();
        for (program, device) in [
            (Program::FromContainer, "h0"),
            (Program::FromUnderlay, "eth0"),
            (Program::FromFallback, "vxplane0"),
        ] {
            node.programs.attach(program, node.host.netns(), device);
        }
        node
    }

    fn write_own(&self) {
        let ifindex = index(self.host.netns(), "h0");
        let endpoint = Endpoint {
            vni: NET,
            ipv4: self.ip.octets(),
            mac: MacAddr(mac(self.ip)),
            pad: [0; 2],
            slot: SLOT,
            identity: 0,
            egress: 0,
            ingress: 0,
        };
        self.programs.put(map::ENDPOINTS, ifindex, endpoint);
        let entry = local(ifindex, self.ip, SLOT);
        self.programs.put(map::FDB, key(NET, mac(self.ip)), entry);
        let own = FloodTarget {
            ifindex,
            vtep: [0; 4],
            slot: SLOT,
        };
        self.programs
            .put(map::FLOOD, FloodKey { vni: NET, slot: 0 }, own);
        self.programs
            .put(map::NETWORKS, NET, Network { flood_len: 1 });
        let budget = LearnBudget {
            remaining: 100,
            refused: 0,
        };
        self.programs.put(map::LEARN_BUDGET, NET, budget);
    }

    fn outer(&self, vtep: Ipv4Addr) -> Outer {
        Outer::new(self.host.ip(), vtep, PORT, Vni::new(NET).unwrap())
    }

    /// Accepts `vtep`, floods to it, and learns what is behind it.
    fn peer_with(&self, vtep: Ipv4Addr) {
        let ifindex = index(self.host.netns(), "eth0");
        // What is learned is sent to the VTEP itself, what is known to where
        // routes lead: the host tries both.
        let outer = self.outer(vtep).on_link();
        let peer = Peer::new(PEER_LEARN, ifindex, outer);
        self.programs.put(map::PEERS, peer_key(NET, vtep), peer);
        let target = FloodTarget {
            ifindex: 0,
            vtep: vtep.octets(),
            slot: 0,
        };
        let network: Network = self.programs.get(map::NETWORKS, &NET).unwrap();
        let slot = network.flood_len;
        self.programs
            .put(map::FLOOD, FloodKey { vni: NET, slot }, target);
        let flood_len = slot + 1;
        self.programs.put(map::NETWORKS, NET, Network { flood_len });
    }

    /// Knows that `ip` is behind `vtep`.
    fn knows(&self, ip: Ipv4Addr, vtep: Ipv4Addr) {
        let entry = FdbEntry {
            kind: FDB_REMOTE,
            ifindex: index(self.host.netns(), "eth0"),
            ipv4: vtep.octets(),
            slot: 0,
            outer: self.outer(vtep),
        };
        self.programs.put(map::FDB, key(NET, mac(ip)), entry);
        let asked = NeighbourKey {
            vni: NET,
            ipv4: ip.octets(),
        };
        self.programs
            .put(map::NEIGHBOURS, asked, neighbour(mac(ip)));
    }

    /// Frames that went by the kernel's device, in either direction.
    fn on_the_slow_path(&self) -> u64 {
        let shown = self
            .host
            .netns()
            .run("ip -j -s link show vxplane0")
            .unwrap();
        let links: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
        let stats = &links[0]["stats64"];
        stats["rx"]["packets"].as_u64().unwrap() + stats["tx"]["packets"].as_u64().unwrap()
    }

    /// Mean bytes of the frames the container was given since the last reset.
    fn mean_received(&self) -> u64 {
        let [_, _, packets, bytes] = self.programs.counters().traffic[&SLOT];
        bytes / packets
    }

    fn assert_nothing_dropped(&self, when: &str) {
        let drops = self.programs.counters().drops;
        assert!(drops.is_empty(), "{when}: {drops:?}");
    }
}

const IP_1: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const IP_2: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const IP_3: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

/// Two hosts of ours that know of each other.
fn pair(lab: &Lab) -> [Node; 2] {
    let nodes = [Node::new(lab, "one", IP_1), Node::new(lab, "two", IP_2)];
    for (node, other) in [(&nodes[0], &nodes[1]), (&nodes[1], &nodes[0])] {
        node.peer_with(other.host.ip());
        node.knows(other.ip, other.host.ip());
    }
    nodes
}

fn ping_all_sizes(from: &Container, to: Ipv4Addr) {
    // The largest unfragmented one, one byte more, and several fragments.
    for size in [0, 56, 1422, 1423, 8000, 20_000] {
        let report = from.ping(Ping::new(to).count(5).size(size)).unwrap();
        assert_eq!(
            (report.sent, report.received),
            (5, 5),
            "{size} bytes: {report:?}"
        );
        assert_eq!(report.duplicates, 0, "{size} bytes: {report:?}");
    }
}

/// What offloads the container's device and the underlay have.
const OFFLOADS: [(&str, &str); 5] = [
    (
        "all on",
        "tx on rx on tso on gso on gro on tx-udp_tnl-segmentation on",
    ),
    // Cut on the way out, put together on the way in.
    (
        "like a NIC",
        "tx on rx on tso on gso on gro on tx-udp_tnl-segmentation off",
    ),
    (
        "no segmentation",
        "tx on rx on tso off gso off gro off tx-udp_tnl-segmentation off",
    ),
    (
        "no checksums",
        "tx off rx off tso off gso off gro off tx-udp_tnl-segmentation off",
    ),
    (
        "GRO alone",
        "tx off rx on tso off gso off gro on tx-udp_tnl-segmentation off",
    ),
];

#[test]
fn between_two_hosts() {
    let lab = Lab::new().unwrap();
    let nodes = pair(&lab);
    let [one, two] = &nodes;
    ping_all_sizes(&one.container, IP_2);
    ping_all_sizes(&two.container, IP_1);
    for (what, settings) in OFFLOADS {
        for node in &nodes {
            node.container.netns().offloads("eth0", settings).unwrap();
            node.host.netns().offloads("eth0", settings).unwrap();
            node.programs.reset();
        }
        let (from, to) = (one.container.netns(), two.container.netns());
        transfer(from, to, IP_2, 20_000_000).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        transfer(to, from, IP_1, 20_000_000).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        let mean = two.mean_received();
        println!("{what}: {mean} bytes a packet");
        if what == "all on" {
            assert!(
                mean > 10_000,
                "super-packets were split: {mean} bytes a packet"
            );
        }
        for bytes in [64, 1400, 3000] {
            let report = Iperf::udp(1, bytes)
                .run(from, to, IP_2, lab.directory())
                .unwrap();
            assert!(report.datagrams > 1000, "{what}, {bytes} bytes: {report:?}");
        }
        for node in &nodes {
            node.assert_nothing_dropped(what);
            assert_eq!(node.on_the_slow_path(), 0, "{what}");
        }
    }
}

/// Packets that do not fit the underlay once they are wrapped: the kernel cuts
/// them, nothing is lost.
#[test]
fn containers_with_too_large_an_mtu() {
    let lab = Lab::new().unwrap();
    let nodes = pair(&lab);
    for node in &nodes {
        node.host.netns().ip("link set h0 mtu 1500").unwrap();
        node.container.netns().ip("link set eth0 mtu 1500").unwrap();
    }
    let [one, two] = &nodes;
    let ping = Ping::new(IP_2).count(5).size(1472);
    assert_eq!(one.container.ping(ping).unwrap().received, 5);
    transfer(
        one.container.netns(),
        two.container.netns(),
        IP_2,
        3_000_000,
    )
    .unwrap();
    for node in &nodes {
        node.assert_nothing_dropped("too large an MTU");
        assert!(node.on_the_slow_path() > 0);
    }
}

#[test]
fn with_the_kernels_vxlan() {
    let lab = Lab::new().unwrap();
    let node = Node::new(&lab, "one", IP_1);
    let foreign = lab.host("kernel").unwrap();
    let kernel = KernelVxlan::new(&lab, &foreign, NET, PORT, &[node.host.ip()]).unwrap();
    let container = kernel.container(&lab, "two", IP_2, 24).unwrap();
    node.peer_with(foreign.ip());
    ping_all_sizes(&node.container, IP_2);
    ping_all_sizes(&container, IP_1);
    assert_eq!(node.programs.counters().learned.len(), 1);
    for (what, settings) in OFFLOADS {
        for netns in [
            node.container.netns(),
            node.host.netns(),
            container.netns(),
            foreign.netns(),
        ] {
            netns.offloads("eth0", settings).unwrap();
        }
        let (from, to) = (node.container.netns(), container.netns());
        transfer(from, to, IP_2, 20_000_000).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        transfer(to, from, IP_1, 20_000_000).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        node.assert_nothing_dropped(what);
    }
}

/// Sockets in two namespaces, the first connected to the second.
fn datagrams(ends: [(&Netns, Ipv4Addr); 2]) -> [UdpSocket; 2] {
    let [sender, receiver] = ends.map(|(netns, address)| udp_socket(netns, address).unwrap());
    receiver
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    [sender, receiver]
}

/// Datagrams that the sender leaves to the kernel to cut (as QUIC does): an
/// aggregate that is stripped natively would arrive as nothing.
#[test]
fn udp_segmentation() {
    let lab = Lab::new().unwrap();
    let nodes = pair(&lab);
    let (from, to) = (nodes[0].container.netns(), nodes[1].container.netns());
    for (what, settings) in OFFLOADS {
        from.offloads("eth0", settings).unwrap();
        let [sender, receiver] = datagrams([(from, IP_1), (to, IP_2)]);
        setsockopt(&sender, UdpGsoSegment, &1000).unwrap();
        let mut buffer = [0; 2000];
        for round in 0..20 {
            assert_eq!(sender.send(&vec![round; 20_000]).unwrap(), 20_000);
            for _ in 0..20 {
                let len = receiver
                    .recv(&mut buffer)
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(
                    (len, buffer[0], buffer[999]),
                    (1000, round, round),
                    "{what}"
                );
            }
        }
        for node in &nodes {
            node.assert_nothing_dropped(what);
        }
    }
}

/// An endpoint that sends on what it gets (to a third one, in its own name):
/// what came out of a tunnel goes into a tunnel again, super-packets too.
#[test]
fn through_an_endpoint_that_translates() {
    let lab = Lab::new().unwrap();
    let nodes = pair(&lab);
    let [one, two] = &nodes;
    let three = Node::new(&lab, "three", IP_3);
    for (node, other) in [(two, &three), (&three, two)] {
        node.peer_with(other.host.ip());
        node.knows(other.ip, other.host.ip());
    }
    let middle = two.container.netns();
    middle.sysctl("net/ipv4/ip_forward", "1").unwrap();
    for rule in [
        format!("PREROUTING -p tcp -s {IP_1} -j DNAT --to-destination {IP_3}"),
        format!("POSTROUTING -p tcp -d {IP_3} -j SNAT --to-source {IP_2}"),
    ] {
        middle.run(&format!("iptables -t nat -A {rule}")).unwrap();
    }
    let to = three.container.netns();
    let listener = to
        .enter(|| TcpListener::bind(SocketAddrV4::new(IP_3, 0)).unwrap())
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = SocketAddrV4::new(IP_2, port).into();
    let limit = Duration::from_secs(5);
    let sender = one.container.netns();
    let mut stream = sender
        .enter(|| TcpStream::connect_timeout(&target, limit).unwrap())
        .unwrap();
    stream.set_write_timeout(Some(limit)).unwrap();
    let sent: Vec<u8> = (0..5_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let copy = sent.clone();
    let sending = std::thread::spawn(move || stream.write_all(&copy).unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    sending.join().unwrap();
    assert!(
        received == sent,
        "{} bytes arrived, not the ones sent",
        received.len()
    );
    for node in [one, two, &three] {
        node.assert_nothing_dropped("translating");
    }
}

/// Packets to what is behind an endpoint: not to its own address, so that it
/// will send them on.
#[test]
fn to_an_address_behind_an_endpoint() {
    let lab = Lab::new().unwrap();
    let [one, two] = pair(&lab);
    let behind = lab.container("behind").unwrap();
    let address = Ipv4Addr::new(10, 8, 0, 2);
    let router = two.container.netns();
    behind.netns().join("eth0", router, "in0", 1450).unwrap();
    behind.netns().address("eth0", address, 24).unwrap();
    router
        .address("in0", Ipv4Addr::new(10, 8, 0, 1), 24)
        .unwrap();
    router.sysctl("net/ipv4/ip_forward", "1").unwrap();
    behind.netns().ip("route add default via 10.8.0.1").unwrap();
    let from = one.container.netns();
    from.ip(&format!("route add 10.8.0.0/24 via {IP_2}"))
        .unwrap();
    let [sender, receiver] = datagrams([(from, IP_1), (behind.netns(), address)]);
    let mut buffer = [0; 10_000];
    for size in [1, 1000, 1422, 5000] {
        sender.send(&vec![7; size]).unwrap();
        assert_eq!(receiver.recv(&mut buffer).unwrap(), size);
    }
    one.assert_nothing_dropped("sending");
    // An answer would not be in the endpoint's own name.
    receiver
        .send_to(b"x", sender.local_addr().unwrap())
        .unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let drops = two.programs.counters().drops;
    let reasons: Vec<_> = drops.keys().map(|(_, reason, _)| *reason).collect();
    assert_eq!(reasons, [SourceIp]);
}

/// Frames that `BPF_PROG_TEST_RUN` cannot make: too short for it, or with the
/// VLAN tag beside the bytes.
#[test]
fn short_and_tagged_frames() {
    let lab = Lab::new().unwrap();
    let node = Node::new(&lab, "one", IP_1);
    let own = mac(IP_1);
    let to: Mac = [2; 6];
    let datagram = ethernet(to, own, IPV4, &Ip::udp(IP_1, IP_2).packet(&udp(1, 2, b"x")));
    let request = ethernet(to, own, ARP, &arp(2, (own, IP_1), (to, IP_2)));
    let ipv6 = ethernet(to, own, IPV6, &[0x60; 40]);
    let tagged = [&datagram[..12], &[0x81, 0, 0, 5], &datagram[12..]].concat();
    let spoofed = [&to[..], &[4; 6], &tagged[12..]].concat();
    let mut frames = vec![
        ("tagged".to_owned(), tagged, VlanTag),
        ("tagged, another's MAC".to_owned(), spoofed, VlanTag),
        (
            "IPv6 cut to 15".to_owned(),
            ipv6[..15].to_vec(),
            MalformedFrame,
        ),
        ("IPv6 cut to 16".to_owned(), ipv6[..16].to_vec(), SourceIp),
        (
            "another's MAC, no payload".to_owned(),
            ethernet(to, [4; 6], 0x88b5, b"x"),
            SourceMac,
        ),
    ];
    for (what, frame) in [("IPv4", &datagram), ("ARP", &request)] {
        frames.extend((15..frame.len()).map(|len| {
            (
                format!("{what} cut to {len}"),
                frame[..len].to_vec(),
                MalformedFrame,
            )
        }));
    }
    let wire = Wire::open(node.container.netns(), "eth0");
    for (what, frame, reason) in frames {
        node.programs.reset();
        wire.send(&frame);
        let drops = node.programs.counters().drops;
        let counts: Vec<_> = drops
            .iter()
            .map(|(key, (packets, _))| (*key, *packets))
            .collect();
        assert_eq!(counts, [((NET, reason, Egress), 1)], "{what}");
    }
}

/// Packets the kernel holds in pieces, no header in the first one.
#[test]
fn headers_out_of_reach() {
    let lab = Lab::with_mtu(9000).unwrap();
    let nodes = pair(&lab);
    let [one, two] = &nodes;
    let receiver = |node: &Node| {
        let bind = || UdpSocket::bind(SocketAddrV4::new(node.ip, 7777)).unwrap();
        let socket = node.container.netns().enter(bind).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        socket
    };
    let payload = |fill: u8| vec![fill; 6000];
    let mut buffer = [0; 10_000];

    let at_two = receiver(two);
    let ip = Ip::udp(IP_1, IP_2).packet(&udp(5, 7777, &payload(1)));
    let frame = ethernet(mac(IP_2), mac(IP_1), IPV4, &ip);
    let out_of_one = Wire::open(one.container.netns(), "eth0");
    out_of_one.send(&frame);
    assert_eq!(at_two.recv(&mut buffer).unwrap(), 6000, "on the way out");

    let at_one = receiver(one);
    let ip = Ip::udp(IP_2, IP_1).packet(&udp(5, 7777, &payload(2)));
    let inner = ethernet(mac(IP_1), mac(IP_2), IPV4, &ip);
    let datagram = udp(50_000, PORT, &vxlan(NET, &inner));
    let outer = Ip::udp(two.host.ip(), one.host.ip()).packet(&datagram);
    let [from, to] = [two, one].map(|node| address_of(node.host.netns(), "eth0"));
    Wire::open(two.host.netns(), "eth0").send(&ethernet(to, from, IPV4, &outer));
    assert_eq!(at_one.recv(&mut buffer).unwrap(), 6000, "on the way in");

    for node in &nodes {
        node.assert_nothing_dropped("in pieces");
        assert_eq!(node.on_the_slow_path(), 0);
    }
    // And what is wrong in the pieces is seen.
    let ip = Ip::udp(IP_3, IP_2).packet(&udp(5, 7777, &payload(1)));
    out_of_one.send(&ethernet(mac(IP_2), mac(IP_1), IPV4, &ip));
    let drops = one.programs.counters().drops;
    let reasons: Vec<_> = drops.keys().map(|(_, reason, _)| *reason).collect();
    assert_eq!(reasons, [SourceIp]);
}

fn address_of(netns: &Netns, device: &str) -> Mac {
    let shown = netns.run(&format!("ip -j link show {device}")).unwrap();
    let links: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let text = links[0]["address"].as_str().unwrap();
    let octets: Vec<u8> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap())
        .collect();
    octets.try_into().unwrap()
}
