//! The loads that are put on a path, and the values that a sample of one gives.

use clap::ValueEnum;
use serde::Serialize;

use super::{agent::Load, metric::Metric};

/// One load: its kind, how many flows of it in parallel, and how large its
/// datagrams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// One TCP connection in one direction, as much as it takes.
    Tcp1,
    /// Four of them.
    Tcp4,
    /// Sixteen of them.
    Tcp16,
    /// Datagrams of 64 bytes of payload, as fast as one socket sends them.
    Udp64,
    /// Of 512 bytes.
    Udp512,
    /// Of 1400 bytes.
    Udp1400,
    /// Of 64 bytes, from 64 sockets in turn.
    Udp64Flows64,
    /// Of 512 bytes, from 64 sockets in turn.
    Udp512Flows64,
    /// Of 1400 bytes, from 64 sockets in turn.
    Udp1400Flows64,
    /// A request and a reply after the other on a TCP connection.
    TcpExchange,
    /// On 32 TCP connections at once.
    TcpExchange32,
    /// A request and a reply after the other over UDP.
    UdpExchange,
    /// Between 32 pairs of sockets at once.
    UdpExchange32,
    /// A TCP connection for every request.
    Connect,
    /// A flow for every request: the first packets of each, over UDP.
    FirstPacket,
}

impl Workload {
    /// What `--quick` measures unless told otherwise.
    pub(crate) const QUICK: [Self; 9] = [
        Self::Tcp1,
        Self::Tcp16,
        Self::Udp64,
        Self::Udp64Flows64,
        Self::TcpExchange,
        Self::UdpExchange,
        Self::UdpExchange32,
        Self::Connect,
        Self::FirstPacket,
    ];

    /// What goes over the path.
    pub(crate) fn load(self) -> Load {
        match self {
            Self::Tcp1 | Self::Tcp4 | Self::Tcp16 => Load::Stream,
            Self::Udp64
            | Self::Udp512
            | Self::Udp1400
            | Self::Udp64Flows64
            | Self::Udp512Flows64
            | Self::Udp1400Flows64 => Load::Datagrams,
            Self::TcpExchange | Self::TcpExchange32 => Load::TcpExchange,
            Self::UdpExchange | Self::UdpExchange32 => Load::UdpExchange,
            Self::Connect => Load::Connects,
            Self::FirstPacket => Load::FirstPackets,
        }
    }

    /// How many in parallel.
    pub(crate) fn flows(self) -> usize {
        match self {
            Self::Tcp4 => 4,
            Self::Tcp16 => 16,
            Self::TcpExchange32 | Self::UdpExchange32 => 32,
            Self::Udp64Flows64 | Self::Udp512Flows64 | Self::Udp1400Flows64 => 64,
            _ => 1,
        }
    }

    /// Payload bytes of a message.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Udp512 | Self::Udp512Flows64 => 512,
            Self::Udp1400 | Self::Udp1400Flows64 => 1400,
            _ => 64,
        }
    }

    /// Whether the receiver has a processor of its own even where one carries the
    /// path. Where the sides take turns, or one waits for the other, it does not:
    /// wake-ups across processors cost several times what is to be measured, and
    /// vary. But a sender of datagrams never waits, and its receiver would lose
    /// what it has no turn to read.
    pub(crate) fn receiver_is_apart(self) -> bool {
        self.load() == Load::Datagrams
    }

    /// As people choose it, and as JSON has it.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What people read.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Tcp1 => "TCP, 1 flow",
            Self::Tcp4 => "TCP, 4 flows",
            Self::Tcp16 => "TCP, 16 flows",
            Self::Udp64 => "UDP 64 B, 1 flow",
            Self::Udp512 => "UDP 512 B, 1 flow",
            Self::Udp1400 => "UDP 1400 B, 1 flow",
            Self::Udp64Flows64 => "UDP 64 B, 64 flows",
            Self::Udp512Flows64 => "UDP 512 B, 64 flows",
            Self::Udp1400Flows64 => "UDP 1400 B, 64 flows",
            Self::TcpExchange => "TCP request-response",
            Self::TcpExchange32 => "TCP request-response, 32 pairs",
            Self::UdpExchange => "UDP request-response",
            Self::UdpExchange32 => "UDP request-response, 32 pairs",
            Self::Connect => "connect-request-close",
            Self::FirstPacket => "first packets of a UDP flow",
        }
    }

    /// What a sample of it gives, in the order of the report.
    pub(crate) fn metrics(self) -> &'static [Metric] {
        match self.load() {
            Load::Stream => &[Metric::Throughput, Metric::CpuPerGigabyte],
            Load::Datagrams => &[Metric::PacketRate, Metric::CpuPerMillion],
            Load::TcpExchange | Load::UdpExchange => {
                &[Metric::Rate, Metric::P50, Metric::P99, Metric::P999]
            }
            Load::Connects => &[Metric::Rate],
            Load::FirstPackets => &[Metric::P50, Metric::P99],
        }
    }
}
