//! The scenes: how hosts are joined, where the two sides run, and what is
//! measured there.

use clap::ValueEnum;
use serde::Serialize;

use super::{site::Variant, workload::Workload};

/// What all variants of a scene have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    /// Of the underlay, in bytes.
    pub(crate) mtu: u32,
    /// Whether packets cross the underlay as large as on a cable: cut by the
    /// sender's stack, merged by the receiver's (GRO).
    pub(crate) nic_like: bool,
    /// Whether each host has a processor of its own. Otherwise one carries the
    /// whole path.
    pub(crate) two_processors: bool,
    /// Whether both containers are on one host.
    pub(crate) same_host: bool,
}

/// The path as it is best measured: super-packets cross a veth pair unsplit, and
/// one processor carries everything.
const PLAIN: Setting = Setting {
    mtu: 1500,
    nic_like: false,
    two_processors: false,
    same_host: false,
};

/// One set of sites that alternate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scene {
    /// Two hosts, MTU 1500, the whole path on one processor.
    TwoHosts,
    /// The same with an MTU of 9000.
    Jumbo,
    /// Two hosts with a processor each.
    TwoProcessors,
    /// Two hosts, packets cross at their size on a cable, on one processor.
    Nic,
    /// The same with a processor for each host.
    NicTwoProcessors,
    /// Two containers of one host.
    SameHost,
    /// Two hosts with many endpoints, and with many entries of policies.
    Scale,
}

impl Scene {
    /// What is run unless told otherwise.
    pub(crate) const ALL: [Self; 7] = [
        Self::TwoHosts,
        Self::Jumbo,
        Self::TwoProcessors,
        Self::Nic,
        Self::NicTwoProcessors,
        Self::SameHost,
        Self::Scale,
    ];

    /// What `--quick` runs unless told otherwise.
    pub(crate) const QUICK: [Self; 2] = [Self::TwoHosts, Self::SameHost];

    /// How its hosts are joined.
    pub(crate) fn setting(self) -> Setting {
        match self {
            Self::TwoHosts | Self::Scale => PLAIN,
            Self::Jumbo => Setting { mtu: 9000, ..PLAIN },
            Self::TwoProcessors => Setting {
                two_processors: true,
                ..PLAIN
            },
            Self::Nic => Setting {
                nic_like: true,
                ..PLAIN
            },
            Self::NicTwoProcessors => Setting {
                nic_like: true,
                two_processors: true,
                ..PLAIN
            },
            Self::SameHost => Setting {
                same_host: true,
                ..PLAIN
            },
        }
    }

    /// What is measured in it.
    pub(crate) fn workloads(self) -> &'static [Workload] {
        use Workload::{
            Connect, FirstPacket, Tcp1, Tcp4, Tcp16, TcpExchange, Udp64, Udp1400, UdpExchange,
        };
        match self {
            Self::TwoHosts => Workload::value_variants(),
            Self::Jumbo => &[Tcp1, Tcp16, Udp1400, TcpExchange, Connect],
            Self::TwoProcessors | Self::Nic => &[Tcp1, Tcp16, Udp64],
            Self::NicTwoProcessors => &[Tcp1, Tcp16],
            Self::SameHost => &[Tcp1, Tcp4, Udp64, TcpExchange, UdpExchange, Connect],
            Self::Scale => &[Tcp1, Udp64, UdpExchange, Connect, FirstPacket],
        }
    }

    /// What is compared in it.
    pub(crate) fn variants(self) -> &'static [Variant] {
        match self {
            Self::SameHost => &Variant::SAME_HOST,
            Self::Scale => &Variant::SCALE,
            _ => &Variant::TWO_HOSTS,
        }
    }

    /// As people choose it, as JSON has it, and as files are named.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What people read.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::TwoHosts => "Two hosts",
            Self::Jumbo => "Two hosts, MTU 9000",
            Self::TwoProcessors => "Two hosts with a processor each",
            Self::Nic => "Packets at their size on a cable",
            Self::NicTwoProcessors => "Packets at their size on a cable, a processor for each host",
            Self::SameHost => "Two containers of one host",
            Self::Scale => "Many endpoints, many entries of policies",
        }
    }
}
