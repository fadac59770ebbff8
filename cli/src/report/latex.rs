//! The main table as LaTeX, for the package booktabs.

use super::load::Report;
use super::text::{count, metric, seconds, skips, value};
use std::fmt::Write as _;
use tetlo_engine::summary::MethodSummary;

/// A table for each task. The caption says what the numbers are, so that it can be trusted alone.
pub fn latex(report: &Report) -> String {
    let summary = &report.summary;
    let mut out = String::from("% needs \\usepackage{booktabs}\n");
    for task in summary.tasks() {
        let methods = summary.of_task(task);
        let name = methods.iter().find_map(|m| m.metric.as_deref()).unwrap_or("metric");
        let split = summary.split(task, name).unwrap_or("unknown");
        let failed: usize = methods.iter().map(|m| m.failed).sum();
        let failed = match failed {
            0 => String::new(),
            1 => " 1 trial failed and is not included.".into(),
            n => format!(" {n} trials failed and are not included."),
        };
        let _ = write!(
            out,
            "\\begin{{table}}\n  \\centering\n  \\caption{{{}, {}: {} on the {} split, mean $\\pm$ \
             standard deviation over $n$ seeds; the other columns are means.{failed}}}\n  \
             \\begin{{tabular}}{{lrrrrrrr}}\n    \\toprule\n    \
             Method & {} & $n$ & Params & MACs & Skips & Search (s) & Retrain (s) \\\\\n    \\midrule\n",
            escape(&summary.name),
            escape(task),
            escape(&metric(name)),
            escape(split),
            escape(&metric(name))
        );
        for m in methods {
            let _ = writeln!(
                out,
                "    {} & {} & {} & {} & {} & {} & {} & {} \\\\",
                escape(&m.method),
                mean_std(m),
                m.n,
                dash(&count(m.params)),
                dash(&count(m.macs)),
                dash(&skips(m.skip_count)),
                dash(&seconds(m.search_seconds)),
                dash(&seconds(m.retrain_seconds))
            );
        }
        out.push_str("    \\bottomrule\n  \\end{tabular}\n\\end{table}\n");
    }
    out
}

fn mean_std(m: &MethodSummary) -> String {
    match &m.description {
        None => "--".into(),
        Some(d) if m.n == 1 => format!("${}$", value(d.mean)),
        Some(d) => format!("${} \\pm {}$", value(d.mean), value(d.std)),
    }
}

/// A number with its unit kept on the same line; a missing one as a dash.
fn dash(text: &str) -> String {
    text.replace('–', "--").replace(' ', "\\,")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
