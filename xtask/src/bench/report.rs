//! The report for people: tables in Markdown.

use std::fmt::Write as _;

use super::{
    goals::{self, Judgement},
    machine::Machine,
    results::{Cell, Results, Row},
    scene::Scene,
    site::Variant,
};

/// How it was measured, for those who want to repeat it or doubt it.
pub(crate) const METHOD: &str = "\
Hosts are network namespaces joined by a veth pair. Variants alternate within each round. \
Values are medians over rounds, ± the median distance from them; ratios are medians of the \
ratios within each round. Unless a scene says otherwise, one processor carries the whole \
path, both sides included, which run in real time; only the receiver of datagrams has the \
second processor, where it polls. Streams are written 1 MiB at a time, requests and replies \
have 64 bytes. Reno everywhere, static neighbours, IPv6 off; bridge netfilter on in \
`netfilter` only, and where Docker turns it on. Processor time is of the whole machine, \
whatever else runs on it included.";

/// The whole page.
pub(crate) fn markdown(machine: &Machine, results: &Results) -> String {
    let mut text = format!("# Results\n\n{machine}.\n\n{METHOD}\n");
    text += &judgements("The bars", &goals::judge(&goals::bars(), results));
    for scene in Scene::ALL {
        let rows = results.rows(scene);
        if rows.is_empty() {
            continue;
        }
        let name = scene.name();
        push(
            &mut text,
            format_args!(
                "\n## {}\n\n![{name}]({name}.svg)\n\n{}",
                scene.title(),
                medians(results, &rows, scene)
            ),
        );
        text += &ratios(results, &rows, scene);
    }
    let goals = goals::judge(&goals::goals(results), results);
    text += &judgements("The goals", &goals);
    text
}

/// A row a metric, a column a variant.
fn medians(results: &Results, rows: &[Row], scene: Scene) -> String {
    let variants = results.variants(scene);
    let mut text = head("median", variants.iter().map(|it| it.name()));
    for row in rows {
        push(
            &mut text,
            format_args!("| {}, {} |", row.title(), row.metric.unit()),
        );
        for variant in &variants {
            let cell = Cell {
                row: *row,
                variant: *variant,
            };
            let value = results.median(cell).zip(results.spread(cell));
            let shown = value.map_or_else(
                || "–".to_owned(),
                |(value, spread)| format!("{} ±{:.0} %", rounded(value), spread * 100.0),
            );
            push(&mut text, format_args!(" {shown} |"));
        }
        text.push('\n');
    }
    text
}

/// The variants that the others are compared with, relative to each.
fn ratios(results: &Results, rows: &[Row], scene: Scene) -> String {
    let variants = results.variants(scene);
    let subjects = [Variant::Vxplane, Variant::VxplanePolicy];
    let mut text = String::new();
    for subject in subjects.into_iter().filter(|it| variants.contains(it)) {
        let others: Vec<_> = variants.iter().filter(|it| **it != subject).collect();
        if others.is_empty() {
            continue;
        }
        let title = format!("{} relative to", subject.name());
        text.push('\n');
        text += &head(&title, others.iter().map(|it| it.name()));
        for row in rows {
            push(&mut text, format_args!("| {} |", row.title()));
            for other in &others {
                let of = |variant| Cell { row: *row, variant };
                let ratio = results.ratio(of(subject), of(**other));
                let shown = ratio.map_or_else(|| "–".to_owned(), |it| format!("{it:.2}"));
                push(&mut text, format_args!(" {shown} |"));
            }
            text.push('\n');
        }
    }
    text
}

fn head(first: &str, columns: impl Iterator<Item = &'static str>) -> String {
    let mut head = format!("| {first} |");
    let mut rule = "|---|".to_owned();
    for column in columns {
        push(&mut head, format_args!(" {column} |"));
        rule += "--:|";
    }
    format!("{head}\n{rule}\n")
}

/// A line for each: met or not.
pub(crate) fn judgements(title: &str, judged: &[Judgement]) -> String {
    if judged.is_empty() {
        return String::new();
    }
    let met = judged.iter().filter(|it| it.met).count();
    let mut text = format!(
        "\n## {title}\n\n{met} of {} met.\n\n| what | relative to | required | reached | |\n\
         |---|---|--:|--:|---|\n",
        judged.len()
    );
    for it in judged {
        push(
            &mut text,
            format_args!(
                "| {} | {} | {} {:.2} | {:.2} | {} |\n",
                it.what,
                it.against,
                if it.more_is_better { "≥" } else { "≤" },
                it.required,
                it.reached,
                if it.met { "met" } else { "**missed**" },
            ),
        );
    }
    text
}

/// Three figures that say something, whatever the unit.
fn rounded(value: f64) -> String {
    let digits = match value {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Writing to a string cannot fail.
fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::{super::results::tests::results, *};

    #[test]
    fn the_page_has_a_row_a_metric_and_ratios_after_them() {
        let page = markdown(&Machine::unknown(), &results(1.5));
        assert!(page.contains("| median | kernel | netfilter | vxplane |\n"));
        assert!(
            page.contains("| UDP 64 B, 1 flow, Mpps | 2.00 ±10 % | 2.00 ±10 % | 3.00 ±10 % |\n")
        );
        assert!(page.contains("| UDP 64 B, 1 flow | 1.50 | 1.50 |\n"));
        assert!(!page.contains(Scene::Nic.title()), "not measured");
    }

    #[test]
    fn bars_and_goals_are_read_out() {
        let page = markdown(&Machine::unknown(), &results(1.5));
        assert!(page.contains("1 of 3 met."));
        assert!(page.contains(
            "| Two hosts: UDP 64 B, 1 flow, vxplane | netfilter | ≥ 1.50 | 1.50 | met |\n"
        ));
        assert!(page.contains(
            "| Two hosts: TCP request-response: p50, vxplane | netfilter | ≤ 0.75 | 1.50 | \
             **missed** |\n"
        ));
    }

    #[test]
    fn figures_have_three_digits() {
        let shown = [123.4, 12.34, 1.234, 0.1234].map(rounded);
        assert_eq!(shown, ["123", "12.3", "1.23", "0.123"]);
    }
}
