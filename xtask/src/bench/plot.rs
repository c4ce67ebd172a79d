//! The plot of a scene: for every metric a group of bars, each variant relative to
//! one of them. Plain SVG, readable on white and on dark pages alike.

use std::fmt::Write as _;

use super::{
    metric::Metric,
    results::{Cell, Results, Row},
    scene::Scene,
    site::Variant,
};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 20.0;
/// Where bars begin: titles are left of it.
const LEFT: f64 = 290.0;
/// Room for a value right of the longest bar.
const RIGHT: f64 = 150.0;
/// Down to the legend.
const HEADER: f64 = 52.0;
/// Of the legend: a line, and how many variants are in it.
const LEGEND_LINE: f64 = 20.0;
const LEGEND_COLUMNS: usize = 4;
const LEGEND_WIDTH: f64 = 135.0;
const BAR: f64 = 15.0;
const GAP: f64 = 16.0;

/// What a plot is of.
struct Plot<'a> {
    results: &'a Results,
    rows: Vec<Row>,
    variants: Vec<Variant>,
    /// What the others are relative to.
    base: Variant,
}

/// The whole picture, `None` if the scene was not measured. `subtitle` says what
/// was measured on.
pub(crate) fn svg(results: &Results, scene: Scene, subtitle: &str) -> Option<String> {
    let variants = results.variants(scene);
    let base = if variants.contains(&Variant::Kernel) {
        Variant::Kernel
    } else {
        *variants.first()?
    };
    let plot = Plot {
        results,
        rows: rows(results, scene),
        variants,
        base,
    };
    Some(plot.draw(scene, subtitle))
}

/// All but the far tails of latency, which are noise, and what other bars say.
fn rows(results: &Results, scene: Scene) -> Vec<Row> {
    let mut rows = results.rows(scene);
    rows.retain(|row| {
        let said = row.metric == Metric::Rate && row.workload.metrics().contains(&Metric::P50);
        row.metric != Metric::P999 && !said
    });
    rows
}

impl Plot<'_> {
    fn draw(&self, scene: Scene, subtitle: &str) -> String {
        let legend = real(self.variants.len().div_ceil(LEGEND_COLUMNS)) * LEGEND_LINE;
        let mut top = HEADER + legend + 8.0;
        let group = BAR * real(self.variants.len()) + GAP;
        let height = top + group * real(self.rows.len()) + MARGIN;
        let scale = (WIDTH - LEFT - RIGHT) / self.longest();
        let mut svg = self.header(scene, subtitle, height);
        let one = LEFT + scale;
        line(
            &mut svg,
            format_args!(
                "<line x1='{one:.1}' y1='{top}' x2='{one:.1}' y2='{:.1}' stroke='#888' stroke-dasharray='3 3'/>",
                height - MARGIN
            ),
        );
        for row in &self.rows {
            self.group(&mut svg, *row, top, scale);
            top += group;
        }
        svg + "</svg>\n"
    }

    fn header(&self, scene: Scene, subtitle: &str, height: f64) -> String {
        let mut svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0}' \
             font-family='sans-serif' font-size='12'>\n\
             <rect width='100%' height='100%' fill='white'/>\n"
        );
        line(
            &mut svg,
            format_args!(
                "<text x='{MARGIN}' y='24' font-size='16' font-weight='bold'>\
                 {}, relative to {} (= 1)</text>",
                escape(scene.title()),
                self.base.name()
            ),
        );
        line(
            &mut svg,
            format_args!(
                "<text x='{MARGIN}' y='42' fill='#555'>{}</text>",
                escape(subtitle)
            ),
        );
        for (number, variant) in self.variants.iter().enumerate() {
            let left = LEFT + real(number % LEGEND_COLUMNS) * LEGEND_WIDTH;
            let top = HEADER + real(number / LEGEND_COLUMNS) * LEGEND_LINE;
            line(
                &mut svg,
                format_args!(
                    "<rect x='{left}' y='{top}' width='12' height='12' fill='{}'/>\
                     <text x='{}' y='{}'>{}</text>",
                    colour(*variant),
                    left + 17.0,
                    top + 10.0,
                    variant.name()
                ),
            );
        }
        svg
    }

    fn group(&self, svg: &mut String, row: Row, top: f64, scale: f64) {
        let better = if row.metric.more_is_better() {
            "more is better"
        } else {
            "less is better"
        };
        line(
            svg,
            format_args!(
                "<text x='{MARGIN}' y='{:.1}' font-weight='bold'>{}</text>\
                 <text x='{MARGIN}' y='{:.1}' fill='#777' font-size='11'>{better}</text>",
                top + 14.0,
                escape(&row.title()),
                top + 28.0
            ),
        );
        for (number, variant) in self.variants.iter().enumerate() {
            let top = top + BAR * real(number);
            let cell = Cell {
                row,
                variant: *variant,
            };
            let Some((ratio, median)) = self.ratio(cell).zip(self.results.median(cell)) else {
                continue;
            };
            line(
                svg,
                format_args!(
                    "<rect x='{LEFT}' y='{top:.1}' width='{:.1}' height='{:.1}' fill='{}'/>\
                     <text x='{:.1}' y='{:.1}' font-size='11' stroke='white' stroke-width='3' \
                     paint-order='stroke'>{ratio:.2} ({median:.3} {})</text>",
                    ratio.min(LONGEST) * scale,
                    BAR - 2.0,
                    colour(*variant),
                    LEFT + ratio.min(LONGEST) * scale + 5.0,
                    top + BAR - 4.0,
                    row.metric.unit()
                ),
            );
        }
    }

    fn ratio(&self, cell: Cell) -> Option<f64> {
        let to = Cell {
            variant: self.base,
            ..cell
        };
        self.results.ratio(cell, to)
    }

    /// The largest ratio there is: what the width must hold. At least the base's.
    fn longest(&self) -> f64 {
        let cells = self.rows.iter().flat_map(|row| {
            let row = *row;
            self.variants
                .iter()
                .map(move |it| Cell { row, variant: *it })
        });
        let ratios = cells.filter_map(|cell| self.ratio(cell));
        ratios.fold(1.0, f64::max).min(LONGEST)
    }
}

/// A bar that would be longer ends here, or the others could not be told apart.
const LONGEST: f64 = 4.0;

/// Distinguishable without red and green.
fn colour(variant: Variant) -> &'static str {
    match variant {
        Variant::Bare => "#bbbbbb",
        Variant::Routed => "#777777",
        Variant::Kernel => "#e69f00",
        Variant::Netfilter => "#d55e00",
        Variant::Docker => "#cc79a7",
        Variant::Ovs => "#f0e442",
        Variant::CollectMd => "#009e73",
        Variant::Vxplane => "#0072b2",
        Variant::VxplanePolicy | Variant::Entries100 | Variant::Entries10000 => "#004c7a",
        Variant::Before | Variant::Endpoints100 | Variant::Endpoints1000 => "#56b4e9",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Writing to a string cannot fail.
fn line(svg: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = svg.write_fmt(arguments);
    svg.push('\n');
}

/// There are a handful of variants and metrics.
#[expect(clippy::cast_precision_loss, reason = "values are far below 2^52")]
fn real(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::{super::results::tests::results, *};

    #[test]
    fn the_longest_bar_fills_the_width_and_the_bases_stands_at_one() {
        let results = results(2.0);
        let svg = svg(&results, Scene::TwoHosts, "here").unwrap_or_default();
        let width = WIDTH - LEFT - RIGHT;
        assert!(svg.contains(&format!("width='{width:.1}'")));
        assert!(svg.contains(&format!("width='{:.1}'", width / 2.0)));
        assert!(svg.contains("relative to kernel (= 1)"));
        assert_eq!(
            svg.matches("2.00 (").count(),
            rows(&results, Scene::TwoHosts).len(),
            "a bar of vxplane for every metric"
        );
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        assert!(svg(&results(2.0), Scene::Nic, "here").is_none());
    }

    #[test]
    fn a_bar_that_is_out_of_all_proportion_is_cut() {
        let svg = svg(&results(100.0), Scene::TwoHosts, "here").unwrap_or_default();
        let width = WIDTH - LEFT - RIGHT;
        assert!(svg.contains(&format!("width='{width:.1}'")));
        assert!(svg.contains("100.00 ("));
    }

    #[test]
    fn text_cannot_break_the_picture() {
        let svg = svg(&results(1.0), Scene::TwoHosts, "<b> & co").unwrap_or_default();
        assert!(svg.contains("&lt;b&gt; &amp; co"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
