//! The packet that is traced.

use std::{fmt, net::Ipv4Addr};

use serde::{Deserialize, Serialize};
use vxplane_common::{
    types::{MacAddr, Vni},
    wire::protocol,
};

use super::report::Protocol;
use crate::{
    control::error::Invalid,
    datapath::frames::{self, Station, Transport},
};

/// The source port of what is traced: the first of those that nobody is given for
/// good (RFC 6335).
const SOURCE_PORT: u16 = 49152;

/// The MAC address of everybody.
pub(super) const BROADCAST: [u8; 6] = [0xff; 6];

/// The first packet of a flow. Hosts tell each other of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Packet {
    pub(super) vni: u32,
    pub(super) source: Ipv4Addr,
    pub(super) source_mac: [u8; 6],
    pub(super) destination: Ipv4Addr,
    pub(super) destination_mac: [u8; 6],
    pub(super) protocol: Protocol,
    /// 0 for a protocol without.
    pub(super) port: u16,
}

impl Packet {
    /// Whether it is for everybody in its network.
    pub(super) fn is_broadcast(&self) -> bool {
        self.destination_mac == BROADCAST
    }

    pub(super) fn source(&self) -> Station {
        Station {
            ip: self.source,
            mac: MacAddr(self.source_mac),
        }
    }

    pub(super) fn destination(&self) -> Station {
        Station {
            ip: self.destination,
            mac: MacAddr(self.destination_mac),
        }
    }

    /// What rules know of it besides its ends: protocol number and port.
    pub(super) fn service(&self) -> (u8, u16) {
        match self.protocol {
            Protocol::Tcp => (protocol::TCP, self.port),
            Protocol::Udp => (protocol::UDP, self.port),
            Protocol::Icmp => (protocol::ICMP, 0),
        }
    }

    /// In its Ethernet frame.
    pub(super) fn frame(&self) -> Vec<u8> {
        let (from, to) = (SOURCE_PORT, self.port);
        let transport = match self.protocol {
            Protocol::Tcp => Transport::Tcp { from, to },
            Protocol::Udp => Transport::Udp { from, to },
            Protocol::Icmp => Transport::Echo,
        };
        frames::frame(self.source(), self.destination(), transport)
    }

    /// As it comes by the wire.
    pub(super) fn in_tunnel(&self, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Option<Vec<u8>> {
        let vni = Vni::new(self.vni)?;
        Some(frames::in_tunnel(&self.frame(), from, to, port, vni))
    }

    /// Its destination as people write it.
    pub(super) fn target(&self) -> String {
        match self.protocol {
            Protocol::Icmp => self.destination.to_string(),
            _ => format!("{}:{}", self.destination, self.port),
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, target) = (self.source, self.target());
        match self.protocol {
            Protocol::Icmp => write!(f, "icmp echo {source} → {target}"),
            other => write!(f, "{} {source}:{SOURCE_PORT} → {target}", other.name()),
        }
    }
}

/// Protocol and port as asked for, or as they go together.
pub(super) fn transport(
    protocol: Option<Protocol>,
    port: Option<u16>,
) -> Result<(Protocol, u16), Invalid> {
    match (protocol, port) {
        (None | Some(Protocol::Icmp), None) => Ok((Protocol::Icmp, 0)),
        (None, Some(port)) if port > 0 => Ok((Protocol::Tcp, port)),
        (Some(protocol @ (Protocol::Tcp | Protocol::Udp)), Some(port)) if port > 0 => {
            Ok((protocol, port))
        }
        _ => Err(Invalid::TracePort),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_goes_with_tcp_and_udp() {
        use Protocol::{Icmp, Tcp, Udp};
        assert_eq!(transport(None, None), Ok((Icmp, 0)));
        assert_eq!(transport(None, Some(80)), Ok((Tcp, 80)));
        assert_eq!(transport(Some(Udp), Some(53)), Ok((Udp, 53)));
        for wrong in [
            (Some(Icmp), Some(1)),
            (Some(Tcp), None),
            (Some(Udp), None),
            (None, Some(0)),
        ] {
            assert_eq!(transport(wrong.0, wrong.1), Err(Invalid::TracePort));
        }
    }
}
