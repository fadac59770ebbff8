//! Learning curves as SVG.

use super::curves::{CurvePoint, Curves, Series};
use super::text::{escape, short, value};
use std::fmt::Write as _;

const WIDTH: f64 = 352.0;
const HEIGHT: f64 = 216.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 36.0;

/// How values become places.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    /// Where lines and labels stand.
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// An axis over finite values with round ticks. `log` allows a logarithmic one, used where
    /// positive values span a factor of more than 300.
    pub(super) fn new(low: f64, high: f64, log: bool) -> Self {
        if log && low > 0.0 && high / low > 300.0 {
            let (from, to) = (low.log10().floor(), high.log10().ceil());
            let step = ((to - from) / 5.0).ceil().max(1.0);
            let ticks = (0..).map(|i| from + step * f64::from(i)).take_while(|t| *t <= to);
            let ticks = ticks.map(|t| 10f64.powf(t)).collect();
            return Self { low: from, high: to, log: true, ticks };
        }
        let span = if high > low { high - low } else { high.abs().max(1.0) * 0.1 };
        let (low, high) = if high > low { (low, high) } else { (low - span, high + span) };
        let raw = (high - low) / 5.0;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .map(|m| m * power)
            .find(|s| *s >= raw * 0.999)
            .unwrap_or(10.0 * power);
        // Outer limits on the next tick where that wastes little, else at the data.
        let (first, last) =
            ((low / step - 0.02).ceil() as i64, (high / step + 0.02).floor() as i64);
        let ticks = (first..=last).map(|i| i as f64 * step).collect();
        let pad = (high - low) * 0.04;
        Self { low: low - pad, high: high + pad, log: false, ticks }
    }

    /// Whole numbers only: epochs, steps.
    fn whole(low: f64, high: f64) -> Self {
        let mut axis = Self::new(low, high.max(low + 1.0), false);
        axis.ticks.retain(|t| t.fract().abs() < 1e-9 && *t >= low);
        if high <= low {
            axis.ticks = vec![low];
            (axis.low, axis.high) = (low - 1.0, low + 1.0);
        }
        axis
    }

    /// The place of a value, 0 to 1.
    pub(super) fn place(&self, v: f64) -> f64 {
        let v = if self.log { v.log10() } else { v };
        (v - self.low) / (self.high - self.low)
    }

    /// The label of a tick.
    pub(super) fn label(&self, tick: f64) -> String {
        if self.log {
            return format!("1e{:.0}", tick.log10());
        }
        if tick.abs() >= 10_000.0 {
            let sign = if tick < 0.0 { "\u{2212}" } else { "" };
            return sign.to_owned() + &super::text::count(Some(tick.abs())).replace(' ', "");
        }
        let step = self.ticks.windows(2).map(|w| w[1] - w[0]).fold(1.0, f64::min);
        let decimals = (0..8).find(|d| {
            let scaled = step * 10f64.powi(*d);
            (scaled - scaled.round()).abs() < 1e-6 * scaled.max(1e-12)
        });
        let decimals = decimals.unwrap_or(8) as usize;
        format!("{tick:.decimals$}").replace('-', "\u{2212}")
    }
}

/// The chart of one quantity: a figure with its legend, which gives each method's last value.
pub(super) fn chart(curves: &Curves) -> String {
    let all = || curves.series.iter().flat_map(|s| &s.points);
    let least = |f: fn(&CurvePoint) -> f64| all().map(f).fold(f64::INFINITY, f64::min);
    let most = |f: fn(&CurvePoint) -> f64| all().map(f).fold(f64::NEG_INFINITY, f64::max);
    let x_axis = Axis::whole(least(|p| p.x), most(|p| p.x));
    let y_axis = Axis::new(least(|p| p.min), most(|p| p.max), true);
    let x = |v: f64| LEFT + x_axis.place(v) * (WIDTH - LEFT - RIGHT);
    let y = |v: f64| HEIGHT - BOTTOM - y_axis.place(v) * (HEIGHT - TOP - BOTTOM);
    let name = escape(&curves.name);

    let mut out = format!("<figure class=\"chart\"><figcaption><code>{name}</code></figcaption>");
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{name} by {}, a line a method\" \
         data-axis=\"{}\" data-chart=\"{}\">",
        curves.axis,
        curves.axis,
        escape(&data(curves, &x, &y))
    );
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for tick in y_axis.ticks.iter().filter(|t| (0.0..=1.0).contains(&y_axis.place(**t))) {
        let at = y(*tick);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 3.6,
            y_axis.label(*tick)
        );
    }
    let _ = write!(out, "<path class=\"axis\" d=\"M{LEFT} {bottom}H{right}\"/>");
    for tick in x_axis.ticks.iter().filter(|t| (0.0..=1.0).contains(&x_axis.place(**t))) {
        let at = x(*tick);
        let _ = write!(
            out,
            "<path class=\"axis\" d=\"M{at:.1} {bottom}v4\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 15.0,
            x_axis.label(*tick)
        );
    }
    let _ = write!(
        out,
        "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        f64::midpoint(LEFT, right),
        HEIGHT - 5.0,
        curves.axis
    );
    for series in &curves.series {
        band(&mut out, series, &x, &y);
    }
    for series in &curves.series {
        line(&mut out, series, &x, &y);
    }
    out.push_str("</svg>");
    legend(&mut out, curves);
    out.push_str("</figure>\n");
    out
}

/// From the smallest to the largest seed.
fn band(out: &mut String, series: &Series, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) {
    if series.points.iter().all(|p| p.seeds < 2) {
        return;
    }
    let style = style(series.index);
    if let [p] = series.points.as_slice() {
        let _ = write!(
            out,
            "<path class=\"range {style}\" d=\"M{:.1} {:.1}V{:.1}\"/>",
            x(p.x),
            y(p.min),
            y(p.max)
        );
        return;
    }
    let above = series.points.iter().map(|p| (x(p.x), y(p.max)));
    let below = series.points.iter().rev().map(|p| (x(p.x), y(p.min)));
    let _ = write!(out, "<path class=\"band {style}\" d=\"{}Z\"/>", path(above.chain(below)));
}

/// The mean, with marks where there are few points.
fn line(out: &mut String, series: &Series, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) {
    let style = style(series.index);
    let points = series.points.iter().map(|p| (x(p.x), y(p.mean)));
    let _ = write!(out, "<path class=\"line {style}\" d=\"{}\"/>", path(points));
    if series.points.len() <= 12 {
        for p in &series.points {
            let _ = write!(
                out,
                "<circle class=\"dot {style}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\"/>",
                x(p.x),
                y(p.mean)
            );
        }
    }
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut out = String::new();
    for (i, (x, y)) in points.enumerate() {
        let _ = write!(out, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
    }
    out
}

/// The classes of a method: one of eight colours, one of four dashes for every eight.
pub(super) fn style(index: usize) -> String {
    format!("s{} d{}", index % 8, index / 8 % 4)
}

/// A short line in a method's style.
pub(super) fn swatch(index: usize) -> String {
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 22 8\" width=\"22\" height=\"8\" aria-hidden=\"true\">\
         <path class=\"line {}\" d=\"M1 4H21\"/></svg>",
        style(index)
    )
}

fn legend(out: &mut String, curves: &Curves) {
    out.push_str("<ul class=\"legend\">");
    for series in &curves.series {
        let last = series.points.last().map_or(f64::NAN, |p| p.mean);
        let _ = write!(
            out,
            "<li>{}<span>{}</span> <b>{}</b></li>",
            swatch(series.index),
            escape(&series.method),
            number(last)
        );
    }
    out.push_str("</ul>");
}

/// What the script needs for its tooltip: places and texts.
fn data(curves: &Curves, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) -> String {
    let series: Vec<_> = curves
        .series
        .iter()
        .map(|s| {
            let points: Vec<_> = s
                .points
                .iter()
                .map(|p| {
                    let range = if p.seeds > 1 {
                        format!("{} ({} to {})", number(p.mean), number(p.min), number(p.max))
                    } else {
                        number(p.mean)
                    };
                    let round = |v: f64| (v * 10.0).round() / 10.0;
                    serde_json::json!([round(x(p.x)), round(y(p.mean)), short(Some(p.x)), range])
                })
                .collect();
            serde_json::json!({"name": s.method, "style": style(s.index), "points": points})
        })
        .collect();
    serde_json::Value::Array(series).to_string()
}

/// A value with enough digits, whatever its size.
fn number(v: f64) -> String {
    if v == 0.0 {
        "0".into()
    } else if v.abs() < 1e-3 {
        format!("{v:.2e}")
    } else if v.fract() == 0.0 {
        short(Some(v))
    } else {
        value(v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let labels = |low, high| {
            let axis = Axis::new(low, high, true);
            axis.ticks.iter().map(|t| axis.label(*t)).collect::<Vec<_>>()
        };
        assert_eq!(labels(0.12, 0.94), ["0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(labels(0.0, 8.0), ["0", "2", "4", "6", "8"]);
        assert_eq!(labels(-1.0, 1.0), ["\u{2212}1.0", "\u{2212}0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(labels(0.001, 90.0), ["1e-3", "1e-2", "1e-1", "1e0", "1e1", "1e2"]);
        assert_eq!(labels(0.0, 40_000.0), ["0", "10.0k", "20.0k", "30.0k", "40.0k"]);
        let flat = Axis::new(3.0, 3.0, true);
        assert!((flat.place(3.0) - 0.5).abs() < 1e-12);
        assert_eq!(Axis::whole(1.0, 3.0).ticks, [1.0, 2.0, 3.0]);
        assert_eq!(Axis::whole(0.0, 0.0).ticks, [0.0]);
    }
}
