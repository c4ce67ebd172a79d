//! The report: a table for people, JSON for programs.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::{
    machine::Machine,
    metric::Metric,
    results::{Judgement, Results, judge},
    site::Variant,
};

/// How it was measured, for those who want to repeat it or doubt it.
pub(crate) const METHOD: &str = "\
Hosts are network namespaces joined by a veth pair with its default offloads, MTU 1500 (overlay 1450).
Variants alternate within each round. Values are medians over rounds, ± the median distance from them;
ratios are medians of the ratios within each round.
Both sides run on the first CPU in real time, and with them the whole path; only the receiver of
datagrams has the second CPU, where it polls. Messages have 64 bytes. Reno everywhere, static neighbours,
IPv6 off; bridge netfilter on in `netfilter` only. CPU time is of the whole machine, whatever else runs on it included.";

/// A row a metric, a column a variant, and vxplane's ratios to the others.
pub(crate) fn table(results: &Results, variants: &[Variant]) -> String {
    let others: Vec<Variant> = variants
        .iter()
        .copied()
        .filter(|variant| *variant != Variant::Vxplane)
        .collect();
    let compared = others.len() < variants.len();
    let mut text = format!("{:<26}{:>7}", "median", "");
    for variant in variants {
        push(&mut text, format_args!("{:>18}", variant.name()));
    }
    for other in others.iter().filter(|_| compared) {
        push(
            &mut text,
            format_args!("{:>18}", format!("vxplane/{}", other.name())),
        );
    }
    text.push('\n');
    for metric in Metric::ALL {
        push(
            &mut text,
            format_args!("{:<26}{:>7}", metric.title(), metric.unit()),
        );
        for variant in variants {
            let cell = results
                .median(*variant, metric)
                .zip(results.spread(*variant, metric))
                .map_or_else(
                    || "–".to_owned(),
                    |(value, spread)| format!("{value:.3} ±{:>2.0} %", spread * 100.0),
                );
            push(&mut text, format_args!("{cell:>18}"));
        }
        for other in others.iter().filter(|_| compared) {
            let cell = results
                .ratio(metric, Variant::Vxplane, *other)
                .map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
            push(&mut text, format_args!("{cell:>18}"));
        }
        text.push('\n');
    }
    text
}

/// A line a bar: met or not.
pub(crate) fn bars(results: &Results) -> String {
    let mut text = String::new();
    for bar in judge(results) {
        let strictly = bar.strictly.map_or_else(String::new, |ratio| {
            format!(" ({ratio:.2} × {})", Variant::STRICT_BASELINE.name())
        });
        push(
            &mut text,
            format_args!(
                "{:<8} {}: {:.2} × {}{strictly}, required {} {}\n",
                if bar.met { "met" } else { "NOT MET" },
                bar.metric.title(),
                bar.reached,
                Variant::BASELINE.name(),
                if bar.metric.more_is_better() {
                    "≥"
                } else {
                    "≤"
                },
                bar.required,
            ),
        );
    }
    text
}

/// Writing to a string cannot fail.
fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
}

/// Everything a program may want to know about a run.
#[derive(Debug, Serialize)]
struct Document<'a> {
    machine: &'a Machine,
    method: &'a str,
    medians: Vec<Median>,
    bars: Vec<Judgement>,
    samples: &'a Results,
}

#[derive(Debug, Serialize)]
struct Median {
    metric: Metric,
    unit: &'static str,
    variant: Variant,
    value: f64,
    /// Median distance from the median, relative to it.
    spread: Option<f64>,
    ratio_to_kernel: Option<f64>,
    ratio_to_netfilter: Option<f64>,
    ratio_to_bare: Option<f64>,
}

/// The run as JSON.
pub(crate) fn json(machine: &Machine, results: &Results, variants: &[Variant]) -> Result<String> {
    let medians = Metric::ALL.iter().flat_map(|metric| {
        variants.iter().filter_map(|variant| {
            Some(Median {
                metric: *metric,
                unit: metric.unit(),
                variant: *variant,
                value: results.median(*variant, *metric)?,
                spread: results.spread(*variant, *metric),
                ratio_to_kernel: results.ratio(*metric, *variant, Variant::Kernel),
                ratio_to_netfilter: results.ratio(*metric, *variant, Variant::Netfilter),
                ratio_to_bare: results.ratio(*metric, *variant, Variant::Bare),
            })
        })
    });
    let document = Document {
        machine,
        method: METHOD,
        medians: medians.collect(),
        bars: judge(results),
        samples: results,
    };
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::{super::results::tests::results, *};

    const VARIANTS: [Variant; 2] = [Variant::Kernel, Variant::Vxplane];

    #[test]
    fn the_table_has_a_row_a_metric_and_ratios_last() {
        let table = table(&results(1.5), &VARIANTS);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 1 + Metric::ALL.len());
        assert!(lines[0].ends_with("vxplane/kernel"), "{}", lines[0]);
        let rate: Vec<&str> = lines[3].split_whitespace().collect();
        assert_eq!(
            rate,
            [
                "UDP", "64", "B", "received", "Mpps", "2.000", "±10", "%", "3.000", "±10", "%",
                "1.50"
            ]
        );
    }

    #[test]
    fn without_vxplane_there_are_no_ratios() {
        let table = table(&results(1.5), &[Variant::Kernel]);
        assert!(!table.contains('/') || !table.contains("vxplane/"));
    }

    #[test]
    fn bars_are_read_out() {
        let text = bars(&results(1.5));
        assert!(text.starts_with(
            "met      UDP 64 B received: 1.50 × netfilter (1.50 × kernel), required ≥ 1.5\n"
        ));
        assert!(text.contains(
            "NOT MET  TCP round trip p50: 1.50 × netfilter (1.50 × kernel), required ≤ 0.75\n"
        ));
    }

    #[test]
    fn json_holds_every_sample() -> Result<()> {
        let text = json(&Machine::unknown(), &results(1.5), &VARIANTS)?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        assert_eq!(
            value["samples"].as_array().map(Vec::len),
            Some(3 * 3 * Metric::ALL.len())
        );
        assert_eq!(value["samples"][0]["variant"], "kernel");
        assert_eq!(value["medians"][1]["ratio_to_kernel"].as_f64(), Some(1.5));
        assert_eq!(value["bars"][0]["met"], true);
        Ok(())
    }
}
