//! Every sample of a run, and what is said about them: medians, ratios, bars.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{metric::Metric, site::Variant, stats};

/// One value of one metric.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) round: usize,
    pub(crate) variant: Variant,
    pub(crate) metric: Metric,
    pub(crate) value: f64,
}

/// All samples of a run.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Results {
    samples: Vec<Sample>,
}

impl Results {
    /// Adds one.
    pub(crate) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Values with the rounds they are from.
    fn rounds(&self, variant: Variant, metric: Metric) -> BTreeMap<usize, f64> {
        self.samples
            .iter()
            .filter(|sample| sample.variant == variant && sample.metric == metric)
            .map(|sample| (sample.round, sample.value))
            .collect()
    }

    fn values(&self, variant: Variant, metric: Metric) -> Vec<f64> {
        self.rounds(variant, metric).into_values().collect()
    }

    /// The median over all rounds, `None` if it was not measured.
    pub(crate) fn median(&self, variant: Variant, metric: Metric) -> Option<f64> {
        stats::median(&self.values(variant, metric))
    }

    /// How much samples of the same thing differ, relative to their median.
    pub(crate) fn spread(&self, variant: Variant, metric: Metric) -> Option<f64> {
        stats::spread(&self.values(variant, metric))
    }

    /// A variant relative to another: the median of the ratios within each round,
    /// since what disturbs one variant for a while disturbs the next one too.
    pub(crate) fn ratio(&self, metric: Metric, of: Variant, to: Variant) -> Option<f64> {
        let base = self.rounds(to, metric);
        let ratios: Vec<f64> = self
            .rounds(of, metric)
            .into_iter()
            .filter_map(|(round, value)| Some(value / base.get(&round)?))
            .collect();
        stats::median(&ratios)
    }
}

/// What vxplane must reach relative to [`Variant::BASELINE`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    metric: Metric,
    ratio: f64,
}

impl Bar {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [
        Self::new(Metric::UdpRate, 1.5),
        Self::new(Metric::TcpRoundTrip, 0.75),
        Self::new(Metric::UdpRoundTrip, 0.75),
    ];

    const fn new(metric: Metric, ratio: f64) -> Self {
        Self { metric, ratio }
    }

    /// How it went, `None` if one of the two was not measured.
    pub(crate) fn judge(self, results: &Results) -> Option<Judgement> {
        let ratio = |to| results.ratio(self.metric, Variant::Vxplane, to);
        let reached = ratio(Variant::BASELINE)?;
        let met = if self.metric.more_is_better() {
            reached >= self.ratio
        } else {
            reached <= self.ratio
        };
        Some(Judgement {
            metric: self.metric,
            required: self.ratio,
            reached,
            strictly: ratio(Variant::STRICT_BASELINE),
            met,
        })
    }
}

/// A bar and whether it was met.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Judgement {
    pub(crate) metric: Metric,
    pub(crate) required: f64,
    pub(crate) reached: f64,
    /// Relative to [`Variant::STRICT_BASELINE`], which decides nothing.
    pub(crate) strictly: Option<f64>,
    pub(crate) met: bool,
}

/// How all bars went that could be judged.
pub(crate) fn judge(results: &Results) -> Vec<Judgement> {
    Bar::ALL
        .into_iter()
        .filter_map(|bar| bar.judge(results))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// vxplane differs from the baseline by `factor` in everything, and the strict
    /// baseline equals it, in three rounds.
    pub(crate) fn results(factor: f64) -> Results {
        let mut results = Results::default();
        for (round, wobble) in [0.9, 1.0, 1.2].into_iter().enumerate() {
            for metric in Metric::ALL {
                for (variant, value) in [
                    (Variant::Kernel, 2.0),
                    (Variant::Netfilter, 2.0),
                    (Variant::Vxplane, 2.0 * factor),
                ] {
                    results.add(Sample {
                        round,
                        variant,
                        metric,
                        value: value * wobble,
                    });
                }
            }
        }
        results
    }

    #[test]
    fn medians_are_over_rounds() {
        let results = results(1.5);
        assert_eq!(results.median(Variant::Vxplane, Metric::UdpRate), Some(3.0));
        assert_eq!(results.median(Variant::Bare, Metric::UdpRate), None);
    }

    #[test]
    fn ratios_are_within_rounds() {
        let mut results = Results::default();
        // The machine was three times as fast in one round and lost another one.
        for (round, variant, value) in [
            (0, Variant::Kernel, 1.0),
            (0, Variant::Vxplane, 2.0),
            (1, Variant::Kernel, 3.0),
            (1, Variant::Vxplane, 6.0),
            (2, Variant::Kernel, 9.0),
        ] {
            results.add(Sample {
                round,
                variant,
                metric: Metric::UdpRate,
                value,
            });
        }
        let ratio = |to| results.ratio(Metric::UdpRate, Variant::Vxplane, to);
        assert_eq!(ratio(Variant::Kernel), Some(2.0));
        assert_eq!(ratio(Variant::Bare), None);
    }

    #[test]
    fn bars_know_which_way_is_better() {
        let met =
            |factor| -> Vec<bool> { judge(&results(factor)).iter().map(|bar| bar.met).collect() };
        assert_eq!(met(1.5), [true, false, false]);
        assert_eq!(met(1.4), [false, false, false]);
        assert_eq!(met(0.75), [false, true, true]);
    }

    #[test]
    fn the_strict_baseline_is_told_and_decides_nothing() {
        let mut results = Results::default();
        for (variant, value) in [
            (Variant::Kernel, 3.0),
            (Variant::Netfilter, 2.0),
            (Variant::Vxplane, 3.0),
        ] {
            results.add(Sample {
                round: 0,
                variant,
                metric: Metric::UdpRate,
                value,
            });
        }
        let judged: Vec<_> = judge(&results)
            .iter()
            .map(|bar| (bar.reached, bar.strictly, bar.met))
            .collect();
        assert_eq!(judged, [(1.5, Some(1.0), true)]);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(judge(&Results::default()), []);
    }
}
