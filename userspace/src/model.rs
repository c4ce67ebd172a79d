//! What the user asked for: networks, endpoints and peers. These are what the
//! store keeps, what the reconcile loop makes true, and what the API shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
};

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};
use vxplane_common::types::{MacAddr, Vni};

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
    pub labels: BTreeMap<String, String>,
    /// Its slot in the traffic counters: unique on this host, below
    /// [`vxplane_common::abi::MAX_ENDPOINTS`].
    pub slot: u32,
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

/// Everything that should be true on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// By name.
    pub networks: BTreeMap<String, Network>,
    /// By ID.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// By address.
    pub peers: BTreeMap<Ipv4Addr, Peer>,
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
