//! The comparison as a table in a terminal.

use super::text::{bytes, count, mean_std, metric, seconds, skips};
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ContentArrangement, LineStyle, Table, TableStyle,
};
use std::io::IsTerminal as _;
use tetlo_engine::summary::{MethodSummary, Summary};

/// How the table looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// With colour and bold letters?
    pub colour: bool,
    /// Columns to fit into; `None`: as wide as it needs.
    pub width: Option<u16>,
}

impl Look {
    /// For pipes and files.
    pub const PLAIN: Self = Self { colour: false, width: None };

    /// For standard output as it is: the terminal's width, colour unless `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::PLAIN;
        }
        let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { colour, width: Table::new().width() }
    }
}

/// The comparison for standard output, see [`render`].
pub fn table(summary: &Summary) -> String {
    render(summary, Look::of_stdout())
}

/// A table for each task, without a final line end; with more than one task its name stands above.
pub fn render(summary: &Summary, look: Look) -> String {
    let tasks = summary.tasks();
    let tables = tasks.iter().map(|task| {
        let table = task_table(summary, task, look);
        if tasks.len() > 1 { format!("{task}\n{table}") } else { table }
    });
    tables.collect::<Vec<_>>().join("\n\n")
}

fn task_table(summary: &Summary, task: &str, look: Look) -> String {
    let methods = summary.of_task(task);
    let name = methods.iter().find_map(|m| m.metric.as_deref()).unwrap_or("metric");
    let header = [
        "method".to_owned(),
        metric(name),
        "n".into(),
        "params".into(),
        "MACs".into(),
        "skips".into(),
        "search s".into(),
        "retrain s".into(),
        "memory".into(),
    ];
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    table.force_no_tty();
    if look.colour {
        table.enforce_styling();
    }
    if let Some(width) = look.width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width);
    }
    table.set_header(
        header
            .into_iter()
            .enumerate()
            .map(|(i, text)| aligned(i, text).add_attribute(Attribute::Bold)),
    );
    let best = best(&methods);
    for (row, m) in methods.iter().enumerate() {
        let n =
            if m.failed > 0 { format!("{} ({} failed)", m.n, m.failed) } else { m.n.to_string() };
        let cells = [
            m.method.clone(),
            mean_std(m),
            n,
            count(m.params),
            count(m.macs),
            skips(m.skip_count),
            seconds(m.search_seconds),
            seconds(m.retrain_seconds),
            bytes(m.peak_memory_bytes),
        ];
        table.add_row(cells.into_iter().enumerate().map(|(column, text)| {
            let cell = aligned(column, text);
            match column {
                1 if best.contains(&row) => cell.add_attribute(Attribute::Bold).fg(Color::Green),
                2 if m.failed > 0 => cell.fg(Color::Red),
                _ => cell,
            }
        }));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Text to the left, numbers to the right.
fn aligned(column: usize, text: String) -> Cell {
    let alignment = if column == 0 { CellAlignment::Left } else { CellAlignment::Right };
    Cell::new(text).set_alignment(alignment)
}

/// The rows with the best mean (equal but for rounding), if more than one row has a mean.
pub(super) fn best(methods: &[&MethodSummary]) -> Vec<usize> {
    let means: Vec<(f64, usize)> = methods
        .iter()
        .enumerate()
        .filter_map(|(i, m)| {
            let sign = if m.higher_is_better { 1.0 } else { -1.0 };
            m.description.as_ref().map(|d| (sign * d.mean, i))
        })
        .collect();
    if means.len() < 2 {
        return vec![];
    }
    let largest = means.iter().map(|(mean, _)| *mean).fold(f64::NEG_INFINITY, f64::max);
    let close = |mean: f64| largest - mean <= 1e-9 * largest.abs().max(1.0);
    means.into_iter().filter(|(mean, _)| close(*mean)).map(|(_, i)| i).collect()
}
