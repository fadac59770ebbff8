//! The report as Markdown (GitHub's tables).

use super::heat_map::heat_map;
use super::load::Report;
use super::notes::notes;
use super::text::{bytes, count, mean_std, metric, p_value, seconds, short, signed, skips, value};
use std::fmt::Write as _;
use tetlo_engine::summary::TestSummary;

/// Title, notes, and a table and the paired tests for each task.
pub fn markdown(report: &Report) -> String {
    let summary = &report.summary;
    let mut out = format!("# {}\n\n", escape(&summary.name));
    for note in notes(report) {
        let _ = writeln!(out, "- **{}.** {}", note.title, escape(&note.text));
    }
    let tasks = summary.tasks();
    for task in &tasks {
        let _ = writeln!(out, "\n## {}\n", escape(task));
        let methods = summary.of_task(task);
        let name = methods.iter().find_map(|m| m.metric.as_deref()).unwrap_or("metric");
        let split = summary.split(task, name).unwrap_or("unknown");
        let _ = write!(
            out,
            "| Method | {} ({} split) | 95 % interval | n | failed | Parameters | Multiply-adds | \
             Skips | Search s | Retrain s | Peak memory |\n\
             |:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
            escape(&metric(name)),
            escape(split)
        );
        for m in &methods {
            let interval =
                m.description.as_ref().filter(|_| m.n > 1).map_or("–".into(), |d| {
                    format!("{} – {}", value(d.ci95[0]), value(d.ci95[1]))
                });
            let _ = writeln!(
                out,
                "| {} | {} | {interval} | {} | {} | {} | {} | {} | {} | {} | {} |",
                escape(&m.method),
                mean_std(m),
                m.n,
                m.failed,
                count(m.params),
                count(m.macs),
                skips(m.skip_count),
                seconds(m.search_seconds),
                seconds(m.retrain_seconds),
                bytes(m.peak_memory_bytes)
            );
        }
        out.extend(heat_map(report, task).map(|map| map.markdown(escape)));
        let tests: Vec<&TestSummary> = summary.tests.iter().filter(|t| t.task == *task).collect();
        if tests.is_empty() {
            continue;
        }
        out.push_str(
            "\nPaired tests, two-sided, Holm over the pairs of the task; differences are a − b.\n\n\
             | a | b | n | Mean difference | Test | Statistic | p | p Holm | Effect | Note |\n\
             |:--|:--|--:|--:|:--|--:|--:|--:|--:|:--|\n",
        );
        for t in tests {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} ({}) | {} |",
                escape(&t.a),
                escape(&t.b),
                t.n,
                signed(t.mean_difference),
                t.test,
                short(t.statistic),
                escape(&p_value(t.p)),
                escape(&p_value(t.p_holm)),
                short(t.effect),
                t.effect_size,
                escape(t.note.as_deref().unwrap_or(""))
            );
        }
    }
    out
}

/// Escapes what Markdown or HTML inside it would take for markup.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '|' | '[' | ']' | '#' | '~' => {
                out.push('\\');
                out.push(c);
            }
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
