//! The heat map of the report.

use super::super::heat_map::STEPS;
use super::super::{html, markdown};
use super::{Example, HOSTILE, well_formed};

/// The text between two marks.
fn between<'t>(text: &'t str, from: &str, to: &str) -> &'t str {
    let start = text.find(from).unwrap_or_else(|| panic!("{from} is not in\n{text}"));
    let rest = &text[start + from.len()..];
    &rest[..rest.find(to).unwrap_or(rest.len())]
}

/// The rows of the page's heat map.
fn rows(page: &str) -> Vec<&str> {
    let body =
        between(between(page, "<table class=\"heat\">", "</table>"), "<tbody>\n", "</tbody>");
    body.lines().collect()
}

fn example(methods: &[&'static str], places: &[(&'static str, &'static str)]) -> Example {
    Example { methods: methods.to_vec(), places: places.to_vec(), ..Example::plain() }
}

/// Two losses, one without a placebo, and a method that counts for both.
fn matrix() -> Example {
    let places = [("kd", "with"), ("kd", "placebo"), ("hint", "with"), ("*", "none")];
    example(&["kd", "kd-p", "hint", "plain"], &places)
}

#[test]
fn cells_hold_mean_spread_and_seeds() {
    let report = matrix().load();
    let page = html(&report);
    well_formed(&page);
    let expected = [
        "<tr><th scope=\"row\">kd</th>\
         <td class=\"h0\" title=\"kd\">0.8367<small>± 0.0083 · 3 seeds</small></td>\
         <td class=\"h2\" title=\"kd-p\">0.8497<small>± 0.0093 · 3 seeds</small></td>\
         <td class=\"h6\" rowspan=\"2\" title=\"plain\">0.8757<small>± 0.0112 · 3 seeds</small></td></tr>",
        "<tr><th scope=\"row\">hint</th>\
         <td class=\"h4\" title=\"hint\">0.8627<small>± 0.0103 · 3 seeds</small></td>\
         <td class=\"none\" title=\"no method\">–</td></tr>",
    ];
    assert_eq!(rows(&page), expected);
    assert!(page.contains("<span>0.8367</span><i class=\"h0\">"), "the scale's ends");
    let text = markdown(&report);
    for line in [
        "| | with | placebo | none |",
        "| kd | 0.8367 ± 0.0083, 3 seeds | 0.8497 ± 0.0093, 3 seeds | 0.8757 ± 0.0112, 3 seeds |",
        "| hint | 0.8627 ± 0.0103, 3 seeds | – | 0.8757 ± 0.0112, 3 seeds |",
        "- –: the config has no method there (hint × placebo).",
        "- none: one method (plain), trained once; it counts for every row, so its luck is the same in all of them.",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    // No place, no heat map.
    let without = Example::plain().load();
    assert!(!html(&without).contains("<h2>Heat map") && !markdown(&without).contains("Heat map"));
}

#[test]
fn what_cannot_be_concluded_is_said() {
    let text = markdown(&matrix().load());
    for line in [
        // |0.8367 − 0.8497| is more than 0.0093; 0.8627 and 0.8757 are further apart than 0.0112 too.
        "- with and placebo: the means differ by no more than the larger of the two standard deviations in 0 of 1 row, which is no test.",
        "- with and none: the means differ by no more than the larger of the two standard deviations in 0 of 2 rows, which is no test.",
        "- Seeds: with 3 seeds a cell no single difference",
        "- Many comparisons: the best of 4 means is partly the luckiest",
        "- Colours run from the worst mean",
    ] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line} is not in\n{text}");
    }
    // Six seeds: 0.0179 is the spread of both, and more than the gap of 0.0145.
    let pair = Example { seeds: 6, ..example(&["a", "b"], &[("r", "x"), ("r", "y")]) };
    let text = markdown(&pair.load());
    let within = "- x and y: the means differ by no more than the larger of the two standard \
                  deviations in 1 of 1 row; there nothing can be said about which is better.";
    assert!(text.lines().any(|l| l == within), "{text}");
    assert!(!text.contains("- Seeds:") && !text.contains("- Many"), "{text}");
}

#[test]
fn missing_and_failed_trials_show() {
    let report = Example { broken: Some("kd-p"), ..matrix() }.load();
    let page = html(&report);
    assert!(rows(&page)[0].contains("0.8420<small>no spread · 1 of 3 seeds</small>"));
    // Seed 0 missing, seed 1 failed: no number, and no part in the colours.
    let report = Example { broken: Some("plain"), seeds: 2, ..matrix() }.load();
    let page = html(&report);
    well_formed(&page);
    let gone = "<td class=\"none\" rowspan=\"2\" title=\"plain\">–<small>1 failed · 0 of 2 seeds</small></td>";
    assert!(rows(&page)[0].contains(gone), "{}", rows(&page)[0]);
    assert!(rows(&page)[1].contains("<td class=\"h6\" title=\"hint\">"), "{}", rows(&page)[1]);
    assert!(markdown(&report).contains("| – 1 failed, 0 of 2 seeds |"));
}

#[test]
fn a_single_column_and_a_single_cell() {
    let page = html(&example(&["a", "b"], &[("r", "x"), ("s", "x")]).load());
    well_formed(&page);
    let classes: Vec<&str> = rows(&page).iter().map(|r| between(r, "<td class=\"", "\"")).collect();
    assert_eq!(classes, ["h0", "h6"]);
    assert!(!page.contains("the config has no method there"));
    let lone = example(&["a", "b"], &[("r", "x")]);
    let page = html(&lone.load());
    well_formed(&page);
    assert!(rows(&page)[0].contains("<td class=\"h3\""), "the middle of a scale without ends");
    assert!(!page.contains("Colours run") && !page.contains("Many comparisons"));
}

#[test]
fn hostile_labels_stay_text() {
    let report = example(&["a", "b"], &[(HOSTILE, "x|*y*"), ("s", "<i>")]).load();
    let page = html(&report);
    well_formed(&page);
    assert!(page.contains("<th scope=\"col\">&lt;i&gt;</th>") && !page.contains("<b>a</b>"));
    assert!(markdown(&report).contains("| | x\\|\\*y\\* | &lt;i&gt; |"));
}

/// Relative luminance of `#rrggbb` (WCAG 2.2).
fn luminance(colour: &str) -> f64 {
    let part = |i: usize| {
        let v = f64::from(u8::from_str_radix(&colour[i..i + 2], 16).unwrap()) / 255.0;
        if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
}

#[test]
fn colours_are_ordered_by_lightness_and_text_on_them_is_readable() {
    let style = include_str!("../assets/report.css");
    let (light, dark) = style.split_once("prefers-color-scheme: dark").unwrap();
    for (mode, rising) in [(light, false), (dark, true)] {
        let colour = |name: String| between(mode, &format!("--{name}: "), ";").to_owned();
        let fills: Vec<f64> = (0..STEPS).map(|i| luminance(&colour(format!("h{i}")))).collect();
        // Away from the paper as values get better.
        assert!(fills.is_sorted_by(|a, b| (a < b) == rising), "{fills:?}");
        for (i, fill) in fills.iter().enumerate() {
            let text = luminance(&colour(format!("t{i}")));
            let contrast = (fill.max(text) + 0.05) / (fill.min(text) + 0.05);
            assert!(contrast >= 4.5, "step {i}: {contrast:.2}");
        }
    }
}
