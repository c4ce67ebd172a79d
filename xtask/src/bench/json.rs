//! The report for programs.

use anyhow::Result;
use serde::Serialize;

use super::{
    goals::{self, Judgement},
    machine::Machine,
    metric::Metric,
    report::METHOD,
    results::Results,
    scene::{Scene, Setting},
    site::Variant,
    workload::Workload,
};

/// Everything a program may want to know about a run.
#[derive(Debug, Serialize)]
struct Document<'a> {
    machine: &'a Machine,
    method: &'a str,
    bars: Vec<Judgement>,
    goals: Vec<Judgement>,
    results: Vec<Measured>,
}

/// What was measured of one thing.
#[derive(Debug, Serialize)]
struct Measured {
    scene: Scene,
    setting: Setting,
    workload: Workload,
    metric: Metric,
    unit: &'static str,
    variant: Variant,
    median: Option<f64>,
    /// Median distance from the median, relative to it.
    spread: Option<f64>,
    /// One a round.
    samples: Vec<f64>,
}

/// The run as JSON.
pub(crate) fn document(machine: &Machine, results: &Results) -> Result<String> {
    let cells = results.cells().map(|(cell, samples)| Measured {
        scene: cell.row.scene,
        setting: cell.row.scene.setting(),
        workload: cell.row.workload,
        metric: cell.row.metric,
        unit: cell.row.metric.unit(),
        variant: cell.variant,
        median: results.median(cell),
        spread: results.spread(cell),
        samples: samples.values().copied().collect(),
    });
    let document = Document {
        machine,
        method: METHOD,
        bars: goals::judge(&goals::bars(), results),
        goals: goals::judge(&goals::goals(results), results),
        results: cells.collect(),
    };
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::{super::results::tests::results, *};

    #[test]
    fn it_holds_every_sample() -> Result<()> {
        let text = document(&Machine::unknown(), &results(1.5))?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        let all = value["results"].as_array().map_or(&[][..], Vec::as_slice);
        let samples: usize = all
            .iter()
            .filter_map(|it| it["samples"].as_array())
            .map(Vec::len)
            .sum();
        let metrics = Scene::TwoHosts.workloads().iter();
        let metrics: usize = metrics.map(|it| it.metrics().len()).sum();
        assert_eq!(samples, 3 * 3 * metrics);
        assert_eq!(all[0]["variant"], "kernel");
        assert_eq!(all[0]["setting"]["mtu"], 1500);
        assert_eq!(value["bars"][0]["met"], true);
        Ok(())
    }
}
