//! What is measured of a load, in which unit, and which way is better.

use serde::Serialize;

use super::agent::Outcome;

/// One kind of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Payload that arrives.
    Throughput,
    /// Processor time of the whole machine for a gigabyte that arrives.
    CpuPerGigabyte,
    /// Datagrams that arrive.
    PacketRate,
    /// Processor time of the whole machine for a million that arrive.
    CpuPerMillion,
    /// Exchanges, or connections made, used and closed.
    Rate,
    /// The median round trip.
    P50,
    /// What 99 in a hundred round trips do not exceed.
    P99,
    /// What 999 in a thousand do not exceed.
    P999,
}

impl Metric {
    /// What is added to a workload's title; nothing where that says it all.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Throughput | Self::PacketRate => "",
            Self::CpuPerGigabyte => ": CPU per GB",
            Self::CpuPerMillion => ": CPU per million",
            Self::Rate => ": rate",
            Self::P50 => ": p50",
            Self::P99 => ": p99",
            Self::P999 => ": p99.9",
        }
    }

    /// The unit of its values.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "Gbit/s",
            Self::PacketRate => "Mpps",
            Self::Rate => "k/s",
            Self::P50 | Self::P99 | Self::P999 => "µs",
            Self::CpuPerGigabyte | Self::CpuPerMillion => "s",
        }
    }

    /// Whether more is better: rates, but neither latencies nor costs.
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Self::Throughput | Self::PacketRate | Self::Rate)
    }

    /// Its value in one sample, `None` if nothing came
    /// through.
    pub(crate) fn value(self, observed: &Observed) -> Option<f64> {
        let seconds = observed.seconds;
        let received = real(observed.server.count);
        let times = observed.client.round_trip;
        let micros = |nanos: u64| real(nanos) / 1e3;
        let value = match self {
            Self::Throughput => received * 8.0 / 1e9 / seconds,
            Self::CpuPerGigabyte => observed.cpu_seconds / (received / 1e9),
            Self::PacketRate => received / 1e6 / seconds,
            Self::CpuPerMillion => observed.cpu_seconds / (received / 1e6),
            Self::Rate => real(observed.client.count) / 1e3 / seconds,
            Self::P50 => micros(times?.p50),
            Self::P99 => micros(times?.p99),
            Self::P999 => micros(times?.p999),
        };
        value.is_normal().then_some(value)
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

/// Counts and nanoseconds of one window are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "values are far below 2^52")]
fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::{
        super::{agent::RoundTrip, workload::Workload},
        *,
    };

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

    fn values(workload: Workload, observed: &Observed) -> Vec<Option<f64>> {
        let metrics = workload.metrics().iter();
        metrics.map(|it| it.value(observed)).collect()
    }

    #[test]
    fn a_stream_gives_throughput_and_cost() {
        let observed = observed(counted(0), counted(1_500_000_000));
        assert_eq!(values(Workload::Tcp1, &observed), [Some(6.0), Some(2.0)]);
    }

    #[test]
    fn datagrams_count_where_they_arrive() {
        let observed = observed(counted(9_000_000), counted(1_000_000));
        assert_eq!(values(Workload::Udp64, &observed), [Some(0.5), Some(3.0)]);
    }

    #[test]
    fn round_trips_are_in_microseconds() {
        let client = Outcome {
            count: 4000,
            round_trip: Some(RoundTrip {
                p50: 12_500,
                p99: 40_000,
                p999: 90_000,
            }),
        };
        let observed = observed(client, counted(0));
        assert_eq!(
            values(Workload::TcpExchange, &observed),
            [Some(2.0), Some(12.5), Some(40.0), Some(90.0)]
        );
        assert_eq!(values(Workload::Connect, &observed), [Some(2.0)]);
    }

    #[test]
    fn nothing_is_no_value() {
        let observed = observed(counted(0), counted(0));
        assert_eq!(values(Workload::Udp64, &observed), [None, None]);
        assert_eq!(values(Workload::FirstPacket, &observed), [None, None]);
    }
}
