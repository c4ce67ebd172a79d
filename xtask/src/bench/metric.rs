//! What is measured, in which unit, and which way is better.

use clap::ValueEnum as _;
use serde::Serialize;

use super::agent::{Load, Outcome};

/// One row of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Payload of one TCP connection.
    TcpOneFlow,
    /// Payload of four TCP connections together.
    TcpFourFlows,
    /// Datagrams of 64 bytes of payload that arrive.
    UdpRate,
    /// Median round trip on a TCP connection.
    TcpRoundTrip,
    /// 99th percentile of it.
    TcpRoundTripTail,
    /// Median round trip over UDP.
    UdpRoundTrip,
    /// 99th percentile of it.
    UdpRoundTripTail,
    /// Connections made, used for a request and a reply, and closed.
    Connects,
    /// Processor time of the whole machine for a gigabyte over TCP.
    CpuPerGigabyte,
    /// Processor time of the whole machine for a million datagrams.
    CpuPerMillion,
}

impl Metric {
    /// All of them in the order of the report.
    pub(crate) const ALL: [Self; 10] = [
        Self::TcpOneFlow,
        Self::TcpFourFlows,
        Self::UdpRate,
        Self::Connects,
        Self::TcpRoundTrip,
        Self::UdpRoundTrip,
        Self::TcpRoundTripTail,
        Self::UdpRoundTripTail,
        Self::CpuPerGigabyte,
        Self::CpuPerMillion,
    ];

    /// What people read.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::TcpOneFlow => "TCP, 1 flow",
            Self::TcpFourFlows => "TCP, 4 flows",
            Self::UdpRate => "UDP 64 B received",
            Self::TcpRoundTrip => "TCP round trip p50",
            Self::TcpRoundTripTail => "TCP round trip p99",
            Self::UdpRoundTrip => "UDP round trip p50",
            Self::UdpRoundTripTail => "UDP round trip p99",
            Self::Connects => "connect-request-close",
            Self::CpuPerGigabyte => "CPU per GB (TCP, 1 flow)",
            Self::CpuPerMillion => "CPU per million (UDP)",
        }
    }

    /// The unit of its values.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::TcpOneFlow | Self::TcpFourFlows => "Gbit/s",
            Self::UdpRate => "Mpps",
            Self::Connects => "k/s",
            Self::TcpRoundTrip
            | Self::TcpRoundTripTail
            | Self::UdpRoundTrip
            | Self::UdpRoundTripTail => "µs",
            Self::CpuPerGigabyte | Self::CpuPerMillion => "s",
        }
    }

    /// Whether more is better: rates, but neither latencies nor costs.
    pub(crate) fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::TcpOneFlow | Self::TcpFourFlows | Self::UdpRate | Self::Connects
        )
    }
}

/// One kind of load and how its two sides are placed. One processor carries the
/// whole path in each, and where the sides take turns or one waits for the other
/// it runs both: wake-ups across processors cost several times what is to be
/// measured, and vary. Only a sender of datagrams never waits; its receiver is
/// apart, or it would lose what it has no turn to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) load: Load,
    pub(crate) flows: usize,
    pub(crate) server_apart: bool,
}

impl Probe {
    /// All that are run in a round.
    pub(crate) const ALL: [Self; 6] = [
        Self::new(Load::Stream, 1, false),
        Self::new(Load::Stream, 4, false),
        Self::new(Load::Datagrams, 1, true),
        Self::new(Load::TcpExchange, 1, false),
        Self::new(Load::UdpExchange, 1, false),
        Self::new(Load::Connects, 1, false),
    ];

    const fn new(load: Load, flows: usize, server_apart: bool) -> Self {
        Self {
            load,
            flows,
            server_apart,
        }
    }

    /// As in progress lines.
    pub(crate) fn name(self) -> String {
        let load = self
            .load
            .to_possible_value()
            .map(|value| value.get_name().to_owned());
        format!("{} × {}", load.unwrap_or_default(), self.flows)
    }

    /// The values that one sample of it gives.
    pub(crate) fn values(self, observed: &Observed) -> Vec<(Metric, f64)> {
        let seconds = observed.seconds;
        let received = real(observed.server.count);
        let gigabytes = received / 1e9;
        let millions = received / 1e6;
        match (self.load, self.flows) {
            (Load::Stream, 1) => vec![
                (Metric::TcpOneFlow, gigabytes * 8.0 / seconds),
                (Metric::CpuPerGigabyte, observed.cpu_seconds / gigabytes),
            ],
            (Load::Stream, _) => vec![(Metric::TcpFourFlows, gigabytes * 8.0 / seconds)],
            (Load::Datagrams, _) => vec![
                (Metric::UdpRate, millions / seconds),
                (Metric::CpuPerMillion, observed.cpu_seconds / millions),
            ],
            (Load::TcpExchange, _) => {
                round_trips(observed, Metric::TcpRoundTrip, Metric::TcpRoundTripTail)
            }
            (Load::UdpExchange, _) => {
                round_trips(observed, Metric::UdpRoundTrip, Metric::UdpRoundTripTail)
            }
            (Load::Connects, _) => vec![(
                Metric::Connects,
                real(observed.client.count) / 1e3 / seconds,
            )],
        }
    }
}

/// What both sides and the machine tell about one window.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) client: Outcome,
    pub(crate) server: Outcome,
    pub(crate) cpu_seconds: f64,
    pub(crate) seconds: f64,
}

fn round_trips(observed: &Observed, middle: Metric, tail: Metric) -> Vec<(Metric, f64)> {
    observed
        .client
        .round_trip
        .map(|(p50, p99)| vec![(middle, real(p50) / 1e3), (tail, real(p99) / 1e3)])
        .unwrap_or_default()
}

/// Counts and nanoseconds of one window are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "values are far below 2^52")]
fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(client: Outcome, server: Outcome) -> Observed {
        Observed {
            client,
            server,
            cpu_seconds: 3.0,
            seconds: 2.0,
        }
    }

    fn counted(count: u64) -> Outcome {
        Outcome {
            count,
            round_trip: None,
        }
    }

    #[test]
    fn a_stream_gives_throughput_and_cost() {
        let observed = observed(counted(0), counted(1_500_000_000));
        assert_eq!(
            Probe::ALL[0].values(&observed),
            [(Metric::TcpOneFlow, 6.0), (Metric::CpuPerGigabyte, 2.0)]
        );
        assert_eq!(
            Probe::ALL[1].values(&observed),
            [(Metric::TcpFourFlows, 6.0)]
        );
    }

    #[test]
    fn datagrams_count_where_they_arrive() {
        let observed = observed(counted(9_000_000), counted(1_000_000));
        assert_eq!(
            Probe::ALL[2].values(&observed),
            [(Metric::UdpRate, 0.5), (Metric::CpuPerMillion, 3.0)]
        );
    }

    #[test]
    fn round_trips_are_in_microseconds() {
        let client = Outcome {
            count: 4000,
            round_trip: Some((12_500, 40_000)),
        };
        let observed = observed(client, counted(0));
        assert_eq!(
            Probe::ALL[3].values(&observed),
            [
                (Metric::TcpRoundTrip, 12.5),
                (Metric::TcpRoundTripTail, 40.0)
            ]
        );
        assert_eq!(Probe::ALL[5].values(&observed), [(Metric::Connects, 2.0)]);
    }
}
