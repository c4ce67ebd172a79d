//! Who is where.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context, Result};
use vxplane::{
    control::endpoint_id,
    model::{EndpointRecord, Network, Node},
};
use vxplane_common::{
    abi::{FdbKey, NeighbourKey},
    types::{MacAddr, Vni},
};

/// How large a cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Nodes besides the real one.
    pub nodes: u32,
    /// Endpoints on each.
    pub endpoints_per_node: u32,
    /// Networks, over which the endpoints of each node are spread.
    pub networks: u32,
}

/// A cluster of some shape.
#[derive(Debug)]
pub(super) struct World {
    shape: Shape,
    networks: Vec<Network>,
}

impl World {
    pub(super) fn new(shape: Shape) -> Result<Self> {
        let networks = (0..shape.networks).map(network).collect::<Result<_>>()?;
        Ok(Self { shape, networks })
    }

    pub(super) fn networks(&self) -> &[Network] {
        &self.networks
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = Node> {
        (0..self.shape.nodes).map(node)
    }

    /// All endpoints, each on its own node.
    pub(super) fn records(&self) -> impl Iterator<Item = Result<EndpointRecord>> {
        let all = 0..self.shape.nodes * self.shape.endpoints_per_node;
        all.map(|number| self.record(number, self.home(number)))
    }

    fn home(&self, number: u32) -> u32 {
        number / self.shape.endpoints_per_node
    }

    /// The endpoint of that number, on some node.
    pub(super) fn record(&self, number: u32, on: u32) -> Result<EndpointRecord> {
        let networks = self.shape.networks;
        let network = usize::try_from(number % networks)?;
        let network = self.networks.get(network).context("no such network")?;
        // From the end, since real endpoints get the lowest addresses.
        let last = network.subnet.broadcast().to_bits() - 1;
        let ip = Ipv4Addr::from_bits(last - number / networks);
        let container_id = format!("container-{number}");
        Ok(EndpointRecord {
            id: endpoint_id(&container_id, "eth0").into(),
            container_id: container_id.into(),
            name: Some(format!("service-{}", number % 100).into()),
            ifname: "eth0".into(),
            network: network.name.as_str().into(),
            node: node(on).name.into(),
            ip,
            mac: MacAddr::from_ipv4(ip.octets()),
            namespace: "default".into(),
            labels: [("app", format!("app-{}", number % 100))]
                .into_iter()
                .collect(),
            identity: 0,
            limits: vxplane::model::Limits::default(),
        })
    }

    /// A change: an endpoint that has moved, another one for each `number`, and the
    /// VTEP it is behind now.
    pub(super) fn moved(&self, number: u32) -> Result<(EndpointRecord, Ipv4Addr)> {
        let all = self.shape.nodes * self.shape.endpoints_per_node;
        // Not the first node's: that one dies later. A step that shares no factor
        // with usual sizes comes by all others.
        let others = all - self.shape.endpoints_per_node;
        let chosen = self.shape.endpoints_per_node + (number.wrapping_mul(7919)) % others;
        let to = 1 + (self.home(chosen) + number) % (self.shape.nodes - 1);
        let to = if to == self.home(chosen) {
            1 + to % (self.shape.nodes - 1)
        } else {
            to
        };
        Ok((self.record(chosen, to)?, node(to).vtep))
    }

    /// A node that may die, and one of its endpoints.
    pub(super) fn victim(&self) -> Result<(Node, EndpointRecord)> {
        Ok((node(0), self.record(0, 0)?))
    }

    pub(super) fn fdb_key(&self, record: &EndpointRecord) -> Result<FdbKey> {
        let mut networks = self.networks.iter();
        let network = networks.find(|network| *network.name == *record.network);
        let network = network.context("no such network")?;
        Ok(FdbKey::new(network.vni.get(), record.mac))
    }

    /// The entry that is written last, as the largest.
    pub(super) fn last_neighbour(&self) -> Option<(NeighbourKey, MacAddr)> {
        let network = self.networks.last()?;
        let ipv4 = Ipv4Addr::from_bits(network.subnet.broadcast().to_bits() - 1).octets();
        let vni = network.vni.get();
        Some((NeighbourKey { vni, ipv4 }, MacAddr::from_ipv4(ipv4)))
    }
}

fn network(number: u32) -> Result<Network> {
    let second = 100 + u8::try_from(number)?;
    Ok(Network {
        name: format!("net{number:02}"),
        vni: Vni::new(1000 + number).context("a VNI")?,
        subnet: format!("10.{second}.0.0/16").parse()?,
        gateway: Ipv4Addr::new(10, second, 0, 1),
        mtu: None,
        internal: false,
    })
}

fn node(number: u32) -> Node {
    let first = Ipv4Addr::new(172, 30, 0, 1).to_bits();
    Node {
        name: format!("node{number:05}"),
        instance: format!("instance-{number}"),
        vtep: Ipv4Addr::from_bits(first + number),
        mtu: 1500,
        port: 4789,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: BTreeSet::new(),
    }
}
