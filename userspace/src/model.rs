//! What the user asked for: networks, endpoints and peers. These are what the
//! store keeps, what the reconcile loop makes true, and what the API shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
};

use imbl::OrdMap;
use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};
use vxplane_common::types::{MacAddr, Vni};

pub use self::{
    limits::Limits,
    words::{Labels, Word, Words},
};
use crate::policy::document::{NetworkPolicy, Protocol};

pub mod limits;
mod words;

/// An L2 segment, isolated from every other network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Unique; 1 to 63 of `[a-zA-Z0-9_.-]`, starting with a letter or digit.
    pub name: String,
    /// Unique on this host.
    #[serde(with = "vni_number")]
    pub vni: Vni,
    /// Its addresses; host bits are 0.
    pub subnet: Ipv4Network,
    /// Inside the subnet; never given to an endpoint.
    pub gateway: Ipv4Addr,
    /// Bytes of an inner IP packet if the user fixed it; otherwise it follows
    /// the underlay (its MTU − 50).
    pub mtu: Option<u32>,
    /// Never to be connected to anything outside.
    pub internal: bool,
}

#[cfg(test)]
impl Network {
    /// One as users have them.
    #[expect(clippy::missing_panics_doc, reason = "what it is made of is right")]
    pub fn sample() -> Self {
        Self {
            name: "blue".to_owned(),
            vni: Vni::new(7).unwrap(),
            subnet: "10.50.0.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 50, 0, 1),
            mtu: None,
            internal: false,
        }
    }
}

/// One interface of one container in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// 12 hex digits derived from container ID and interface name.
    pub id: String,
    /// The container, or `netns-<inode>` where the caller named none.
    pub container_id: String,
    /// The container's name, for people.
    pub name: Option<String>,
    /// The interface inside the container.
    pub ifname: String,
    /// The network's name.
    pub network: String,
    /// Where its network namespace is.
    pub netns: NetnsRef,
    /// Its address; the prefix length is the network's.
    pub ip: Ipv4Addr,
    /// Its MAC address.
    #[serde(with = "mac_text")]
    pub mac: MacAddr,
    /// Tenant or application.
    pub namespace: String,
    /// Labels, for policy and for people.
    pub labels: Labels,
    /// Its slot in the traffic counters: unique on this host, below
    /// [`vxplane_common::abi::MAX_ENDPOINTS`].
    pub slot: u32,
    /// The number of its [`Identity`]; 0 where an earlier version stored it.
    #[serde(default)]
    pub identity: u32,
    /// How much it may do.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

/// What everybody may know of an endpoint: all but what only its own host can
/// make use of. What later versions say besides is none of this one's business.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// As [`Endpoint::id`].
    pub id: Word,
    /// As [`Endpoint::container_id`].
    pub container_id: Word,
    /// As [`Endpoint::name`].
    pub name: Option<Word>,
    /// As [`Endpoint::ifname`].
    pub ifname: Word,
    /// The network's name.
    pub network: Word,
    /// The name of the node it is on.
    pub node: Word,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its MAC address.
    #[serde(with = "mac_text")]
    pub mac: MacAddr,
    /// Tenant or application.
    pub namespace: Word,
    /// Labels.
    pub labels: Labels,
    /// As [`Endpoint::identity`].
    #[serde(default)]
    pub identity: u32,
    /// As [`Endpoint::limits`].
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

impl Endpoint {
    /// What others may know of this endpoint of the node of that name.
    pub fn record(&self, node: &str) -> EndpointRecord {
        EndpointRecord {
            id: self.id.as_str().into(),
            container_id: self.container_id.as_str().into(),
            name: self.name.as_deref().map(Into::into),
            ifname: self.ifname.as_str().into(),
            network: self.network.as_str().into(),
            node: node.into(),
            ip: self.ip,
            mac: self.mac,
            namespace: self.namespace.as_str().into(),
            labels: self.labels.clone(),
            identity: self.identity,
            limits: self.limits,
        }
    }
}

impl EndpointRecord {
    /// Where it is in [`Cluster::endpoints`].
    pub fn key(&self) -> (Word, Word) {
        (Word::clone(&self.network), Word::clone(&self.id))
    }

    /// The endpoint on its own host, with what only that one can make use of.
    pub fn endpoint(&self, netns: NetnsRef, slot: u32) -> Endpoint {
        Endpoint {
            id: self.id.to_string(),
            container_id: self.container_id.to_string(),
            name: self.name.as_deref().map(str::to_owned),
            ifname: self.ifname.to_string(),
            network: self.network.to_string(),
            netns,
            ip: self.ip,
            mac: self.mac,
            namespace: self.namespace.to_string(),
            labels: self.labels.clone(),
            slot,
            identity: self.identity,
            limits: self.limits,
        }
    }
}

/// A host that runs vxplane, as it makes itself known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Unique in the cluster.
    pub name: String,
    /// Tells this installation from another one that took the same name.
    pub instance: String,
    /// Its VTEP address.
    pub vtep: Ipv4Addr,
    /// Bytes: the MTU of its underlay.
    pub mtu: u32,
    /// Its VXLAN UDP port.
    pub port: u16,
    /// The version of vxplane it runs.
    pub version: String,
    /// What it can do that others may not be able to.
    pub capabilities: BTreeSet<String>,
}

/// A Linux network namespace by path, and which one that was.
///
/// A path below `/proc` means a process: if another namespace is found there
/// later, the process is gone and its number was reused. Any other path (a bind
/// mount) is the truth itself: whatever namespace is there now is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsRef {
    /// The path.
    pub path: PathBuf,
    /// The nsfs inode that was there when it was attached last.
    pub inode: u64,
}

/// Which networks a peer may send into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerNetworks {
    /// Every network of this host, also those made later.
    All,
    /// These, by name.
    Only(BTreeSet<String>),
}

impl PeerNetworks {
    /// Whether the network with this name is among them.
    pub fn contains(&self, network: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(network),
        }
    }
}

/// Another VTEP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its underlay address.
    pub ip: Ipv4Addr,
    /// The networks it takes part in.
    pub networks: PeerNetworks,
}

/// A tenant or application, as policies see it. Those that only endpoints or
/// policies name need no entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Unique in the cluster.
    pub name: String,
    /// What users say of it. [`NAMESPACE_NAME_LABEL`] is not among them: every
    /// namespace has that.
    pub labels: BTreeMap<String, String>,
}

/// The label of each namespace that has its name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// All that policies can tell endpoints apart by. It has a number, which the
/// programs know: endpoints that no policy can tell apart share one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Tenant or application.
    pub namespace: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What the ports that it exposes are called.
    pub ports: BTreeSet<NamedPort>,
}

/// A name for a port of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPort {
    /// What policies call it.
    pub name: String,
    /// The transport protocol.
    pub protocol: Protocol,
    /// Its number, never 0.
    pub port: u16,
}

/// Everything that should be true on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// By name.
    pub networks: BTreeMap<String, Network>,
    /// Those of this host, by ID.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// VTEPs that are no nodes of the cluster, by address.
    pub peers: BTreeMap<Ipv4Addr, Peer>,
    /// The other hosts, if this one is in a cluster.
    pub cluster: Option<Cluster>,
    /// By namespace and name.
    pub policies: OrdMap<(String, String), Arc<NetworkPolicy>>,
    /// Those that have labels, by name.
    pub namespaces: OrdMap<String, Arc<Namespace>>,
    /// By number, never 0.
    pub identities: OrdMap<u32, Arc<Identity>>,
}

impl Desired {
    /// The endpoints of the other nodes, alive or not.
    pub fn others(&self) -> impl Iterator<Item = &Arc<EndpointRecord>> {
        let cluster = self.cluster.iter();
        cluster.flat_map(|cluster| cluster.endpoints.values())
    }
}

/// The other hosts and what is on them. Snapshots of it share what is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// This node's name.
    pub own: Word,
    /// The nodes that are alive, by name; this one may be among them.
    pub nodes: OrdMap<Word, Arc<Node>>,
    /// The endpoints of the other nodes, alive or not, by network and ID; and those
    /// that are this node's but whose containers it does not know.
    pub endpoints: OrdMap<(Word, Word), Arc<EndpointRecord>>,
}

impl Cluster {
    /// The other nodes' endpoints in that network, by ID, their nodes alive or not.
    pub fn in_network(&self, network: &str) -> impl Iterator<Item = &Arc<EndpointRecord>> {
        let first = (Word::from(network), Word::from(""));
        self.endpoints
            .range(first..)
            .take_while(move |((name, _), _)| **name == *network)
            .map(|(_, record)| record)
    }

    /// Whether that node is alive.
    pub fn is_alive(&self, node: &str) -> bool {
        self.nodes.contains_key(node)
    }
}

/// A MAC address from six hex octets separated by `:` or `-`; `None` for
/// anything else.
pub fn parse_mac(text: &str) -> Option<MacAddr> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut octets = [0; 6];
    let mut parts = text.split(separator);
    for octet in &mut octets {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(MacAddr(octets))
}

/// A [`Vni`] as a number in stored JSON.
mod vni_number {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use vxplane_common::types::Vni;

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes fields by reference"
    )]
    pub(super) fn serialize<S: Serializer>(vni: &Vni, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(vni.get())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vni, D::Error> {
        let number = u32::deserialize(deserializer)?;
        Vni::new(number).ok_or_else(|| D::Error::custom(format!("{number} is no VNI")))
    }
}

/// A [`MacAddr`] as text in stored JSON.
mod mac_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use vxplane_common::types::MacAddr;

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes fields by reference"
    )]
    pub(super) fn serialize<S: Serializer>(
        mac: &MacAddr,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(mac)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<MacAddr, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_mac(&text)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is no MAC address")))
    }
}
