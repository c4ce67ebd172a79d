//! What a trace found, as it is told.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A transport protocol that can be traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A connection, by its SYN.
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request.
    Icmp,
}

impl Protocol {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A container gets it.
    Delivered,
    /// It leaves this host. What becomes of it there is not known.
    Sent,
    /// It is dropped.
    Dropped,
}

/// One step on a packet's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceStep {
    /// The node on which it happened.
    pub node: String,
    /// What part of the dataplane it was: `arp`, `source`, `flow`, `policy`, `fdb`, `encap`, `flood`,
    /// `peer`, `learn`, `deliver`, `kernel`, `drop` or, where nothing was run, `note`.
    pub stage: String,
    /// What was found or decided, for people.
    pub text: String,
}

/// What would become of a packet, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// The packet, for people.
    pub packet: String,
    /// What becomes of it in the end.
    pub verdict: Verdict,
    /// In the order in which they happen.
    pub steps: Vec<TraceStep>,
    /// Why it is dropped, in a word for programs: the reason that `/metrics` has, or
    /// `no_route`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What would mend that, or where to ask on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// Which packet to trace from an endpoint. Hosts ask each other with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceSpec {
    /// The endpoint: its ID, the beginning of it, or its container's name.
    pub from: String,
    /// Where to.
    pub to: Ipv4Addr,
    /// To which port.
    pub port: Option<u16>,
    /// TCP if there is a port, ICMP otherwise.
    pub protocol: Option<Protocol>,
}

impl TraceSpec {
    /// The command that asks for it where the endpoint is.
    pub(super) fn command(&self) -> String {
        let Self { from, to, .. } = self;
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let protocol = self.protocol.map(Protocol::name);
        let protocol = protocol.map(|name| format!(" --protocol {name}"));
        let protocol = protocol.unwrap_or_default();
        format!("vxplane trace --from {from} --to {to}{port}{protocol}")
    }
}

/// Which packet to trace on its arrival from another VTEP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrivalSpec {
    /// The VTEP that sends it.
    pub vtep: Ipv4Addr,
    /// The network's name.
    pub network: String,
    /// Who sends it, within the network.
    pub source: Ipv4Addr,
    /// Whom it is for.
    pub to: Ipv4Addr,
    /// To which port.
    pub port: Option<u16>,
    /// TCP if there is a port, ICMP otherwise.
    pub protocol: Option<Protocol>,
}
