//! What vxplane is to reach, and whether it did.

use serde::Serialize;

use super::{
    metric::Metric::{self, CpuPerGigabyte, CpuPerMillion, P50, PacketRate, Rate, Throughput},
    results::{Cell, Results, Row},
    scene::Scene::{self, Nic, NicTwoProcessors, SameHost, TwoHosts},
    site::Variant::{self, Bare, Kernel, Netfilter, Routed},
    workload::Workload,
};

/// A ratio that is to be reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    of: Cell,
    to: Cell,
    ratio: f64,
}

/// A goal and whether it was met.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Judgement {
    /// What was measured.
    pub(crate) what: String,
    /// What it is relative to.
    pub(crate) against: String,
    /// The ratio that is required, at least or at most.
    pub(crate) required: f64,
    pub(crate) more_is_better: bool,
    pub(crate) reached: f64,
    pub(crate) met: bool,
}

impl Goal {
    /// How it went, `None` if one of the two was not measured.
    fn judge(self, results: &Results) -> Option<Judgement> {
        let reached = results.ratio(self.of, self.to)?;
        let more_is_better = self.of.row.metric.more_is_better();
        let against = if self.of.row == self.to.row {
            self.to.variant.name().to_owned()
        } else {
            self.to.row.title()
        };
        Some(Judgement {
            what: format!(
                "{}: {}, {}",
                self.of.row.scene.title(),
                self.of.row.title(),
                self.of.variant.name()
            ),
            against,
            required: self.ratio,
            more_is_better,
            reached,
            met: if more_is_better {
                reached >= self.ratio
            } else {
                reached <= self.ratio
            },
        })
    }
}

/// How all of them went that could be judged.
pub(crate) fn judge(goals: &[Goal], results: &Results) -> Vec<Judgement> {
    let judged = goals.iter().filter_map(|goal| goal.judge(results));
    judged.collect()
}

/// What must hold at the very least, on two hosts: relative to the kernel's
/// overlay as it is on a host where Docker has turned bridge netfilter on.
pub(crate) fn bars() -> Vec<Goal> {
    let of = Variant::Vxplane;
    let bars = [
        (Workload::Udp64, PacketRate, 1.5),
        (Workload::TcpExchange, P50, 0.75),
        (Workload::UdpExchange, P50, 0.75),
    ];
    let bars = bars.into_iter().map(|(workload, metric, ratio)| {
        let row = row(TwoHosts, workload, metric);
        compare(row, of, Netfilter, ratio)
    });
    bars.collect()
}

/// What is aimed at, with the rules of a policy in force where that was measured.
pub(crate) fn goals(results: &Results) -> Vec<Goal> {
    let subject = |scene| {
        let with_policy = results.variants(scene).contains(&Variant::VxplanePolicy);
        if with_policy {
            Variant::VxplanePolicy
        } else {
            Variant::Vxplane
        }
    };
    let mut goals = Vec::new();
    for (scene, workload, metric, against) in TABLE {
        for (to, ratio) in *against {
            let row = row(*scene, *workload, *metric);
            goals.push(compare(row, subject(*scene), *to, *ratio));
        }
    }
    goals.extend(better_than_overlays(results, subject(TwoHosts)));
    goals.extend(flat(subject(TwoHosts)));
    goals
}

type Entry = (Scene, Workload, Metric, &'static [(Variant, f64)]);

/// Row by row, the ratios to each variant.
const TABLE: &[Entry] = &[
    (
        TwoHosts,
        Workload::Tcp1,
        Throughput,
        &[
            (Netfilter, 1.35),
            (Kernel, 1.25),
            (Routed, 1.05),
            (Bare, 0.97),
        ],
    ),
    (
        TwoHosts,
        Workload::Tcp16,
        Throughput,
        &[(Netfilter, 1.15), (Kernel, 1.08), (Routed, 1.0)],
    ),
    (
        TwoHosts,
        Workload::Udp64,
        PacketRate,
        &[(Netfilter, 1.9), (Kernel, 1.65), (Routed, 1.12)],
    ),
    (
        TwoHosts,
        Workload::UdpExchange,
        P50,
        &[(Netfilter, 0.65), (Kernel, 0.72), (Routed, 0.96)],
    ),
    (
        TwoHosts,
        Workload::TcpExchange,
        P50,
        &[(Netfilter, 0.74), (Kernel, 0.82), (Routed, 0.96)],
    ),
    (
        TwoHosts,
        Workload::Connect,
        Rate,
        &[(Netfilter, 1.35), (Kernel, 1.25), (Routed, 1.15)],
    ),
    (
        TwoHosts,
        Workload::Udp64,
        CpuPerMillion,
        &[(Netfilter, 0.57), (Kernel, 0.63), (Bare, 1.2)],
    ),
    (
        TwoHosts,
        Workload::Tcp1,
        CpuPerGigabyte,
        &[(Netfilter, 0.77), (Kernel, 0.83), (Bare, 1.03)],
    ),
    (
        NicTwoProcessors,
        Workload::Tcp1,
        Throughput,
        &[(Kernel, 1.0), (Bare, 0.85)],
    ),
    (
        Nic,
        Workload::Tcp1,
        Throughput,
        &[(Kernel, 1.12), (Bare, 0.85)],
    ),
    (
        SameHost,
        Workload::Udp64,
        PacketRate,
        &[(Kernel, 1.2), (Bare, 0.94)],
    ),
    (
        SameHost,
        Workload::Tcp1,
        Throughput,
        &[(Kernel, 1.1), (Bare, 0.94)],
    ),
    (
        SameHost,
        Workload::Connect,
        Rate,
        &[(Kernel, 1.09), (Bare, 0.94)],
    ),
];

/// Other overlays in every row, except for the tails of latency, which are noise
/// of the machine.
fn better_than_overlays(results: &Results, of: Variant) -> Vec<Goal> {
    let rows = results.rows(TwoHosts).into_iter();
    let rows = rows.filter(|row| !matches!(row.metric, Metric::P99 | Metric::P999));
    rows.flat_map(|row| {
        Variant::OTHER_OVERLAYS
            .into_iter()
            .map(move |to| compare(row, of, to, 1.0))
    })
    .collect()
}

/// Many of something cost no more than 5 % against one of it.
fn flat(of: Variant) -> Vec<Goal> {
    const MORE: f64 = 0.95;
    const LESS: f64 = 1.0 / 0.95;
    let flows = [
        (Workload::Udp64Flows64, Workload::Udp64, PacketRate),
        (Workload::Udp512Flows64, Workload::Udp512, PacketRate),
        (Workload::Udp1400Flows64, Workload::Udp1400, PacketRate),
        (Workload::TcpExchange32, Workload::TcpExchange, Rate),
        (Workload::UdpExchange32, Workload::UdpExchange, Rate),
    ];
    let flows = flows.into_iter().map(|(many, one, metric)| Goal {
        of: cell(row(TwoHosts, many, metric), of),
        to: cell(row(TwoHosts, one, metric), of),
        ratio: MORE,
    });
    let sizes = [
        (Variant::Endpoints1000, Variant::Vxplane),
        (Variant::Entries10000, Variant::VxplanePolicy),
    ];
    let rows = Scene::Scale.workloads().iter().flat_map(|workload| {
        let metrics = workload.metrics().iter();
        metrics.map(|metric| row(Scene::Scale, *workload, *metric))
    });
    let rows: Vec<_> = rows
        .filter(|row| !matches!(row.metric, Metric::P99 | Metric::P999))
        .collect();
    let sizes = sizes.into_iter().flat_map(|(many, one)| {
        rows.iter().map(move |row| {
            let ratio = if row.metric.more_is_better() {
                MORE
            } else {
                LESS
            };
            compare(*row, many, one, ratio)
        })
    });
    flows.chain(sizes).collect()
}

fn row(scene: Scene, workload: Workload, metric: Metric) -> Row {
    Row {
        scene,
        workload,
        metric,
    }
}

fn cell(row: Row, variant: Variant) -> Cell {
    Cell { row, variant }
}

fn compare(row: Row, of: Variant, to: Variant, ratio: f64) -> Goal {
    Goal {
        of: cell(row, of),
        to: cell(row, to),
        ratio,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::results::tests::{rate, results},
        *,
    };

    #[test]
    fn bars_know_which_way_is_better() {
        let met = |factor| -> Vec<bool> {
            let judged = judge(&bars(), &results(factor));
            judged.iter().map(|bar| bar.met).collect()
        };
        assert_eq!(met(1.5), [true, false, false]);
        assert_eq!(met(1.4), [false, false, false]);
        assert_eq!(met(0.75), [false, true, true]);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(judge(&bars(), &Results::default()), []);
        let results = results(1.5);
        let judged = judge(&goals(&results), &results);
        assert!(judged.iter().all(|it| it.against != "bare"));
        assert!(!judged.is_empty());
    }

    #[test]
    fn many_flows_are_compared_with_one() {
        let mut results = results(1.0);
        let many = cell(
            row(TwoHosts, Workload::Udp64Flows64, PacketRate),
            Variant::Vxplane,
        );
        for round in 0..3 {
            results.add(many, round, 0.1);
        }
        let judged = judge(&goals(&results), &results);
        let missed: Vec<_> = judged
            .iter()
            .filter(|it| it.against == rate(Variant::Vxplane).row.title())
            .collect();
        assert_eq!(missed.len(), 1, "{judged:?}");
        assert!(!missed[0].met);
    }
}
