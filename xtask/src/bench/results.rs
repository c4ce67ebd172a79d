//! Every sample of a run, and what is said about them: medians, spreads, ratios.

use std::collections::BTreeMap;

use super::{metric::Metric, scene::Scene, site::Variant, stats, workload::Workload};

/// What a value is of: a row of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) scene: Scene,
    pub(crate) workload: Workload,
    pub(crate) metric: Metric,
}

impl Row {
    /// What people read.
    pub(crate) fn title(self) -> String {
        self.workload.title().to_owned() + self.metric.suffix()
    }
}

/// A row, and whose value it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) row: Row,
    pub(crate) variant: Variant,
}

/// All samples of a run, by the round they are from.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: BTreeMap<Cell, BTreeMap<usize, f64>>,
}

impl Results {
    /// Adds one.
    pub(crate) fn add(&mut self, cell: Cell, round: usize, value: f64) {
        self.samples.entry(cell).or_default().insert(round, value);
    }

    /// The rows of a scene of which there are samples, in the order of the report.
    pub(crate) fn rows(&self, scene: Scene) -> Vec<Row> {
        let mut rows: Vec<_> = self.samples.keys().map(|cell| cell.row).collect();
        rows.retain(|row| row.scene == scene);
        rows.dedup();
        rows
    }

    /// The variants of a scene of which there are samples, in the order of the
    /// report.
    pub(crate) fn variants(&self, scene: Scene) -> Vec<Variant> {
        let cells = self.samples.keys().filter(|cell| cell.row.scene == scene);
        let mut variants: Vec<_> = cells.map(|cell| cell.variant).collect();
        variants.sort_unstable();
        variants.dedup();
        variants
    }

    /// Everything, cell by cell.
    pub(crate) fn cells(&self) -> impl Iterator<Item = (Cell, &BTreeMap<usize, f64>)> {
        self.samples.iter().map(|(cell, samples)| (*cell, samples))
    }

    fn values(&self, cell: Cell) -> Vec<f64> {
        let samples = self.samples.get(&cell);
        samples.map_or_else(Vec::new, |it| it.values().copied().collect())
    }

    /// The median over all rounds, `None` if it was not measured.
    pub(crate) fn median(&self, cell: Cell) -> Option<f64> {
        stats::median(&self.values(cell))
    }

    /// How much samples of the same thing differ, relative to their median.
    pub(crate) fn spread(&self, cell: Cell) -> Option<f64> {
        stats::spread(&self.values(cell))
    }

    /// One cell relative to another: the median of the ratios within each round,
    /// since what disturbs one sample for a while disturbs the next one too.
    pub(crate) fn ratio(&self, of: Cell, to: Cell) -> Option<f64> {
        let base = self.samples.get(&to)?;
        let ratios = self.samples.get(&of)?.iter();
        let ratios: Vec<f64> = ratios
            .filter_map(|(round, value)| Some(value / base.get(round)?))
            .collect();
        stats::median(&ratios)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn cell(variant: Variant, workload: Workload, metric: Metric) -> Cell {
        let row = Row {
            scene: Scene::TwoHosts,
            workload,
            metric,
        };
        Cell { row, variant }
    }

    pub(crate) fn rate(variant: Variant) -> Cell {
        cell(variant, Workload::Udp64, Metric::PacketRate)
    }

    /// vxplane differs from the kernel's overlay by `factor` in everything, in three
    /// rounds, on two hosts.
    pub(crate) fn results(factor: f64) -> Results {
        let mut results = Results::default();
        for (round, wobble) in [0.9, 1.0, 1.2].into_iter().enumerate() {
            for workload in Scene::TwoHosts.workloads() {
                for metric in workload.metrics() {
                    for (variant, value) in [
                        (Variant::Kernel, 2.0),
                        (Variant::Netfilter, 2.0),
                        (Variant::Vxplane, 2.0 * factor),
                    ] {
                        let cell = cell(variant, *workload, *metric);
                        results.add(cell, round, value * wobble);
                    }
                }
            }
        }
        results
    }

    #[test]
    fn medians_are_over_rounds() {
        let results = results(1.5);
        assert_eq!(results.median(rate(Variant::Vxplane)), Some(3.0));
        assert_eq!(results.median(rate(Variant::Bare)), None);
        assert_eq!(results.rows(Scene::Nic), []);
        assert_eq!(
            results.variants(Scene::TwoHosts),
            [Variant::Kernel, Variant::Netfilter, Variant::Vxplane]
        );
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
            results.add(rate(variant), round, value);
        }
        let ratio = |to| results.ratio(rate(Variant::Vxplane), rate(to));
        assert_eq!(ratio(Variant::Kernel), Some(2.0));
        assert_eq!(ratio(Variant::Bare), None);
    }
}
