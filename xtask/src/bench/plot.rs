//! The plot: for every metric a group of bars, each variant relative to the
//! kernel's overlay. Plain SVG, readable on white and on dark pages alike.

use std::fmt::Write as _;

use super::{metric::Metric, results::Results, site::Variant};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 20.0;
/// Where bars begin: titles are left of it.
const LEFT: f64 = 230.0;
/// Room for a value right of the longest bar.
const RIGHT: f64 = 190.0;
const HEADER: f64 = 74.0;
const BAR: f64 = 15.0;
const GAP: f64 = 16.0;

/// The whole picture. `subtitle` says what was measured on.
pub(crate) fn svg(results: &Results, variants: &[Variant], subtitle: &str) -> String {
    let metrics: Vec<Metric> = Metric::ALL
        .into_iter()
        .filter(|metric| results.median(Variant::Kernel, *metric).is_some())
        .collect();
    let group = BAR * real(variants.len()) + GAP;
    let height = HEADER + group * real(metrics.len()) + MARGIN;
    let scale = (WIDTH - LEFT - RIGHT) / longest(results, &metrics, variants);
    let mut svg = header(height, subtitle, variants);
    let one = LEFT + scale;
    line(
        &mut svg,
        format_args!(
            "<line x1='{one:.1}' y1='{HEADER}' x2='{one:.1}' y2='{:.1}' stroke='#888' stroke-dasharray='3 3'/>",
            height - MARGIN
        ),
    );
    let mut top = HEADER;
    for metric in metrics {
        draw_group(&mut svg, results, metric, variants, top, scale);
        top += group;
    }
    svg + "</svg>\n"
}

fn header(height: f64, subtitle: &str, variants: &[Variant]) -> String {
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0}' \
         font-family='sans-serif' font-size='12'>\n\
         <rect width='100%' height='100%' fill='white'/>\n"
    );
    line(
        &mut svg,
        format_args!(
            "<text x='{MARGIN}' y='24' font-size='16' font-weight='bold'>\
             Relative to the kernel's bridge + vxlan without bridge netfilter (= 1)</text>"
        ),
    );
    line(
        &mut svg,
        format_args!(
            "<text x='{MARGIN}' y='42' fill='#555'>{}</text>",
            escape(subtitle)
        ),
    );
    let mut left = LEFT;
    for variant in variants {
        line(
            &mut svg,
            format_args!(
                "<rect x='{left}' y='52' width='12' height='12' fill='{}'/>\
                 <text x='{}' y='62'>{}</text>",
                colour(*variant),
                left + 17.0,
                variant.name()
            ),
        );
        left += 90.0;
    }
    svg
}

fn draw_group(
    svg: &mut String,
    results: &Results,
    metric: Metric,
    variants: &[Variant],
    top: f64,
    scale: f64,
) {
    let better = if metric.more_is_better() {
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
            escape(metric.title()),
            top + 28.0
        ),
    );
    for (row, variant) in variants.iter().enumerate() {
        let top = top + BAR * real(row);
        let measured = results
            .ratio(metric, *variant, Variant::Kernel)
            .zip(results.median(*variant, metric));
        let Some((ratio, median)) = measured else {
            continue;
        };
        line(
            svg,
            format_args!(
                "<rect x='{LEFT}' y='{top:.1}' width='{:.1}' height='{:.1}' fill='{}'/>\
                 <text x='{:.1}' y='{:.1}' font-size='11' stroke='white' stroke-width='3' \
                 paint-order='stroke'>{ratio:.2} ({median:.3} {})</text>",
                ratio * scale,
                BAR - 2.0,
                colour(*variant),
                LEFT + ratio * scale + 5.0,
                top + BAR - 4.0,
                metric.unit()
            ),
        );
    }
}

/// The largest ratio there is: what the width must hold. At least the kernel's.
fn longest(results: &Results, metrics: &[Metric], variants: &[Variant]) -> f64 {
    metrics
        .iter()
        .flat_map(|metric| {
            variants
                .iter()
                .filter_map(|variant| results.ratio(*metric, *variant, Variant::Kernel))
        })
        .fold(1.0, f64::max)
}

/// Distinguishable without red and green.
fn colour(variant: Variant) -> &'static str {
    match variant {
        Variant::Bare => "#bbbbbb",
        Variant::Kernel => "#e69f00",
        Variant::Netfilter => "#d55e00",
        Variant::Vxplane => "#0072b2",
        Variant::Before => "#56b4e9",
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
    fn the_longest_bar_fills_the_width_and_the_kernels_stands_at_one() {
        let svg = svg(&results(2.0), &[Variant::Kernel, Variant::Vxplane], "here");
        let width = WIDTH - LEFT - RIGHT;
        assert!(svg.contains(&format!("width='{width:.1}'")));
        assert!(svg.contains(&format!("width='{:.1}'", width / 2.0)));
        assert_eq!(
            svg.matches("2.00 (").count(),
            Metric::ALL.len(),
            "a bar of vxplane for every metric"
        );
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let svg = svg(&results(2.0), &[Variant::Bare, Variant::Kernel], "here");
        assert!(!svg.contains("2.00 ("));
        assert!(svg.contains("1.00 ("));
    }

    #[test]
    fn text_cannot_break_the_picture() {
        let svg = svg(&results(1.0), &[Variant::Kernel], "<b> & co");
        assert!(svg.contains("&lt;b&gt; &amp; co"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
