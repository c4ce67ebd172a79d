//! What happens, as it is told.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime as _, SystemTime},
};
use utoipa::ToSchema;

/// What sort of thing happened. Programs go by these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// From now on what happens is told.
    Listening,
    /// An endpoint was attached, here or on another node.
    EndpointAttached,
    /// An endpoint of this host works.
    EndpointReady,
    /// An endpoint of this host does not work.
    EndpointFailed,
    /// The network namespace of an endpoint of this host is gone.
    EndpointNamespaceGone,
    /// An endpoint was detached, here or on another node.
    EndpointDetached,
    /// A network was created.
    NetworkCreated,
    /// A network was removed.
    NetworkRemoved,
    /// A VTEP that is no node was let into networks, or into other ones.
    PeerAdded,
    /// A VTEP that is no node was shut out.
    PeerRemoved,
    /// A node of the cluster is alive.
    NodeUp,
    /// A node of the cluster is not alive any more.
    NodeDown,
    /// A policy was applied, anew or for the first time.
    PolicyApplied,
    /// A policy was removed.
    PolicyRemoved,
    /// A namespace has other labels.
    NamespaceChanged,
    /// A MAC address was learned from a packet.
    MacLearned,
    /// A MAC address that was learned moved to another VTEP.
    MacMoved,
    /// A MAC address was not learned, for there is no room.
    MacRefused,
    /// Something is not as it should be.
    Problem,
    /// Something is as it should be again.
    Solved,
    /// A packet was dropped.
    Drop,
    /// A flow began.
    Flow,
    /// Packets were not told of, to keep within bounds.
    Shed,
    /// Who listens was too slow for what happened.
    Missed,
    /// The daemon stops.
    End,
}

/// Something that happened. What does not apply is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// What sort of thing.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// When it was told, by this host's clock: RFC 3339, UTC.
    #[serde(default)]
    #[schema(example = "2026-05-31T12:00:00.000000Z")]
    pub time: String,
    /// The same for people, without the endpoint's name.
    pub text: String,
    /// The endpoint that it is about. Of a packet: the one of this host that sent
    /// it, or that it was for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointRef>,
    /// The network's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The network's VNI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// The node's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The VTEP: the peer, the node's, or where a packet or an address came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub vtep: Option<Ipv4Addr>,
    /// The MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The policy, as namespace/name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Of a drop by policy: the policies that select the endpoint, of which none allows
    /// the packet; no more than 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Why, in a word for programs: of a drop the reason that `/metrics` has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which way the packet went, as its container sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// The packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<PacketRef>,
    /// Of what was shed or missed, how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Event {
    /// An event with nothing but its sentence.
    pub fn new(kind: EventType, text: impl Into<String>) -> Self {
        Self {
            kind,
            time: now(),
            text: text.into(),
            endpoint: None,
            network: None,
            vni: None,
            node: None,
            vtep: None,
            mac: None,
            policy: None,
            policies: Vec::new(),
            reason: None,
            direction: None,
            packet: None,
            count: None,
        }
    }

    /// Whether it is about the endpoint of that ID.
    pub fn is_about(&self, id: &str) -> bool {
        let is = |endpoint: &Option<EndpointRef>| endpoint.as_ref().is_some_and(|it| it.id == id);
        let packet = self.packet.as_ref();
        is(&self.endpoint)
            || packet.is_some_and(|it| is(&it.source.endpoint) || is(&it.destination.endpoint))
    }
}

/// Now, for whoever compares with other records. Nothing goes by it: the clock may
/// jump.
fn now() -> String {
    let mut text = String::new();
    // Strings take whatever is written.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// An endpoint, as far as people and programs need it to find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointRef {
    /// Its ID.
    pub id: String,
    /// Its container's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its address.
    #[schema(value_type = String)]
    pub ip: Ipv4Addr,
    /// Its node's name.
    pub node: String,
}

impl EndpointRef {
    /// What people call it.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }
}

/// A packet, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PacketRef {
    /// `tcp`, `udp`, `icmp`, `sctp`, `ip-N`, `arp`, `ipv6` or `ethertype-0xN`.
    pub protocol: String,
    /// Who sent it.
    pub source: Party,
    /// Who it is for.
    pub destination: Party,
    /// Its length as the programs met it; not of a flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u32>,
}

/// One end of a packet's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Party {
    /// Its MAC address; not of a flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ip: Option<Ipv4Addr>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Who has that address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointRef>,
}
