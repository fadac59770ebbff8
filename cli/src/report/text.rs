//! Escaping and the look of numbers, shared by all forms of the report.

use tetlo_engine::summary::MethodSummary;

/// Escapes text for HTML and XML, in elements and quoted attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Not allowed in XML at all.
            c if c.is_control() && !matches!(c, '\n' | '\t' | '\r') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A metric's value: four decimals where it is a fraction, else five digits.
pub fn value(v: f64) -> String {
    let size = v.abs();
    if size < 10.0 {
        format!("{v:.4}")
    } else if size < 100.0 {
        format!("{v:.3}")
    } else if size < 1000.0 {
        format!("{v:.2}")
    } else {
        format!("{v:.1}")
    }
}

/// Mean ± standard deviation; one value has no spread to show.
pub fn mean_std(method: &MethodSummary) -> String {
    match &method.description {
        None => "–".into(),
        Some(d) if method.n == 1 => value(d.mean),
        Some(d) => format!("{} ± {}", value(d.mean), value(d.std)),
    }
}

/// A count with three digits and a prefix: 51.2 k, 1.93 M.
pub fn count(v: Option<f64>) -> String {
    let Some(v) = v else { return "–".into() };
    let (scaled, unit) = match v {
        v if v < 999.5 => return format!("{v:.0}"),
        v if v < 999.5e3 => (v / 1e3, "k"),
        v if v < 999.5e6 => (v / 1e6, "M"),
        v => (v / 1e9, "G"),
    };
    let decimals = match scaled {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$} {unit}")
}

/// Skips: a mean of small whole numbers.
pub fn skips(v: Option<f64>) -> String {
    match v {
        None => "–".into(),
        Some(v) if v.fract().abs() < 1e-9 => format!("{v:.0}"),
        Some(v) => format!("{v:.1}"),
    }
}

/// Seconds, without the unit.
pub fn seconds(v: Option<f64>) -> String {
    match v {
        None => "–".into(),
        Some(v) if v < 9.995 => format!("{v:.2}"),
        Some(v) if v < 999.5 => format!("{v:.1}"),
        Some(v) => format!("{v:.0}"),
    }
}

/// Memory.
pub fn bytes(v: Option<f64>) -> String {
    const MI: f64 = 1024.0 * 1024.0;
    match v {
        None => "–".into(),
        Some(v) if v < MI => format!("{:.0} KiB", v / 1024.0),
        Some(v) if v < 999.5 * MI => format!("{:.0} MiB", v / MI),
        Some(v) => format!("{:.2} GiB", v / MI / 1024.0),
    }
}

/// A p-value.
pub fn p_value(p: Option<f64>) -> String {
    match p {
        None => "–".into(),
        Some(p) if p < 0.001 => "< 0.001".into(),
        Some(p) => format!("{p:.3}"),
    }
}

/// A signed number with a true minus.
pub fn signed(v: Option<f64>) -> String {
    let Some(v) = v else { return "–".into() };
    let text = value(v.abs());
    let zero = text.chars().all(|c| c == '0' || c == '.');
    let sign = match v {
        _ if zero => "",
        v if v < 0.0 => "\u{2212}",
        _ => "+",
    };
    format!("{sign}{text}")
}

/// A statistic or an effect size.
pub fn short(v: Option<f64>) -> String {
    let Some(v) = v else { return "–".into() };
    let sign = if v < 0.0 { "\u{2212}" } else { "" };
    let v = v.abs();
    match v {
        v if v.fract() == 0.0 && v < 1e6 => format!("{sign}{v:.0}"),
        v if v < 1000.0 => format!("{sign}{v:.2}"),
        v => format!("{sign}{v:.1e}"),
    }
}

/// `1 seed`, `2 seeds`.
pub fn plural(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A metric's name for people: `test_accuracy` is `test accuracy`.
pub fn metric(name: &str) -> String {
    name.replace('_', " ")
}

/// The text with a capital first letter.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().collect::<String>() + chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let counts = [0.0, 999.0, 51_234.0, 999_600.0, 1_930_000.0, 3.3e9].map(|v| count(Some(v)));
        assert_eq!(counts, ["0", "999", "51.2 k", "1.00 M", "1.93 M", "3.30 G"]);
        assert_eq!(bytes(Some(350.0 * 1024.0 * 1024.0)), "350 MiB");
        assert_eq!(bytes(Some(3.0 * 1024.0 * 1024.0 * 1024.0)), "3.00 GiB");
        assert_eq!([0.5, 0.03125, 0.0001].map(|p| p_value(Some(p))), ["0.500", "0.031", "< 0.001"]);
        assert_eq!(signed(Some(-0.0125)), "\u{2212}0.0125");
        assert_eq!([0.012, 0.0, -1e-9].map(|v| signed(Some(v))), ["+0.0120", "0.0000", "0.0000"]);
        assert_eq!([2.0, 2.5].map(|v| skips(Some(v))), ["2", "2.5"]);
        assert_eq!([1.5, 93.47, 1234.5].map(|v| seconds(Some(v))), ["1.50", "93.5", "1234"]);
        assert_eq!([0.84321, 97.1234, 153.456].map(value), ["0.8432", "97.123", "153.46"]);
        assert_eq!(short(Some(-1.0)), "\u{2212}1");
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }

    #[test]
    fn markup_is_harmless() {
        assert_eq!(
            escape("<a href=\"x\">&'\u{1}"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\u{fffd}"
        );
    }
}
