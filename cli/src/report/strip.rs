//! Each seed as a dot: what lies behind mean ± std.

use super::chart::{Axis, style};
use super::text::{escape, metric, value};
use std::fmt::Write as _;
use tetlo_engine::summary::MethodSummary;

const WIDTH: f64 = 760.0;
const ROW: f64 = 30.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 40.0;
/// Width of a character of a label, with room to spare.
const CHARACTER: f64 = 7.3;
/// Labels are cut beyond this.
const LONGEST: usize = 30;

/// The methods of a task, a row each: dots for seeds, a line for the bootstrap interval of the
/// mean, a bar for the mean. `None` where nothing has finished.
pub(super) fn strip(methods: &[&MethodSummary]) -> Option<String> {
    let described: Vec<_> = methods.iter().filter_map(|m| m.description.as_ref()).collect();
    let low = described.iter().map(|d| d.min).reduce(f64::min)?;
    let high = described.iter().map(|d| d.max).reduce(f64::max)?;
    let axis = Axis::new(low, high, false);
    let longest = methods.iter().map(|m| m.method.chars().count()).max()?.min(LONGEST);
    let left = longest as f64 * CHARACTER + 20.0;
    let right = WIDTH - 16.0;
    let x = |v: f64| left + axis.place(v) * (right - left);
    let bottom = TOP + ROW * methods.len() as f64;
    let name = methods.iter().find_map(|m| m.metric.as_deref()).unwrap_or("metric");
    let name = escape(&metric(name));
    let mut out = format!(
        "<figure class=\"strip\"><svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{name}: a dot a seed\">",
        bottom + BOTTOM
    );
    for tick in axis.ticks.iter().filter(|t| (0.0..=1.0).contains(&axis.place(**t))) {
        let at = x(*tick);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 15.0,
            axis.label(*tick)
        );
    }
    let _ = write!(
        out,
        "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
        f64::midpoint(left, right),
        bottom + 34.0
    );
    for (i, method) in methods.iter().enumerate() {
        let y = TOP + ROW * (i as f64 + 0.5);
        let style = style(i);
        let _ = write!(
            out,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 14.0,
            y + 4.2,
            escape(&cut(&method.method))
        );
        let Some(d) = &method.description else {
            let _ = write!(
                out,
                "<text class=\"tick\" x=\"{left:.1}\" y=\"{:.1}\">no finished trial</text>",
                y + 4.2
            );
            continue;
        };
        if method.n > 1 {
            let _ = write!(
                out,
                "<path class=\"range {style}\" d=\"M{:.1} {y:.1}H{:.1}\"/>",
                x(d.ci95[0]),
                x(d.ci95[1])
            );
        }
        let _ =
            write!(out, "<path class=\"mean {style}\" d=\"M{:.1} {:.1}v18\"/>", x(d.mean), y - 9.0);
        for (seed, v) in method.seeds.iter().zip(&d.values) {
            let _ = write!(
                out,
                "<circle class=\"dot {style}\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4.2\"><title>seed {seed}: {}</title></circle>",
                x(*v),
                value(*v)
            );
        }
    }
    out.push_str("</svg><figcaption>A dot a seed; the upright bar is the mean, the thick line its 95 % bootstrap interval.</figcaption></figure>\n");
    Some(out)
}

fn cut(name: &str) -> String {
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    name.chars().take(LONGEST - 1).chain(['…']).collect()
}
