//! The comparison as a heat map: methods in the rows and columns that the config names.

use super::load::Report;
use super::text::{capital, escape, list, metric, plural, value};
use std::fmt::Write as _;
use tetlo_core::config::HeatMapCell;
use tetlo_engine::summary::MethodSummary;

/// Steps of the colour scale; the style sheet has a colour and a text colour for each.
pub(super) const STEPS: usize = 7;

/// The heat map of a task.
#[derive(Debug)]
pub(super) struct HeatMap<'r> {
    rows: Vec<String>,
    columns: Vec<String>,
    cells: Vec<Cell<'r>>,
    metric: String,
    split: &'r str,
    higher_is_better: bool,
    /// The smallest and the largest mean, where a cell has one.
    range: Option<(f64, f64)>,
}

/// A method and its place.
#[derive(Debug)]
struct Cell<'r> {
    place: HeatMapCell,
    method: &'r MethodSummary,
    /// Trials in the plan.
    planned: usize,
}

/// The heat map of a task; `None` where the config gives no method a place.
pub(super) fn heat_map<'r>(report: &'r Report, task: &str) -> Option<HeatMap<'r>> {
    let mut cells: Vec<Cell<'_>> = vec![];
    let (mut rows, mut columns): (Vec<String>, Vec<String>) = (vec![], vec![]);
    let add = |labels: &mut Vec<String>, label: &str| {
        if !labels.iter().any(|l| l == label) {
            labels.push(label.to_owned());
        }
    };
    for method in report.summary.of_task(task) {
        let Some(place) = place(report, &method.method) else { continue };
        if !place.every_row() {
            add(&mut rows, &place.row);
        }
        add(&mut columns, &place.column);
        let planned =
            report.trials_of(task).filter(|t| t.trial.name.method == method.method).count();
        cells.push(Cell { place, method, planned });
    }
    if rows.is_empty() {
        return None;
    }
    let first = cells.iter().find_map(|c| Some((c.method, c.method.metric.as_deref()?)));
    let means = || cells.iter().filter_map(|c| c.method.description.as_ref()).map(|d| d.mean);
    let range = means().reduce(f64::min).zip(means().reduce(f64::max));
    Some(HeatMap {
        metric: first.map_or("metric".into(), |(_, name)| metric(name)),
        split: first.and_then(|(_, name)| report.summary.split(task, name)).unwrap_or("unknown"),
        higher_is_better: first.is_none_or(|(m, _)| m.higher_is_better),
        rows,
        columns,
        range,
        cells,
    })
}

/// Where the config puts a method.
fn place(report: &Report, method: &str) -> Option<HeatMapCell> {
    let methods = report.config.get("method")?.as_array()?;
    let own =
        methods.iter().find(|m| m.get("name").and_then(toml::Value::as_str) == Some(method))?;
    let text = |key: &str| Some(own.get("heat-map")?.get(key)?.as_str()?.to_owned());
    Some(HeatMapCell { row: text("row")?, column: text("column")? })
}

impl Cell<'_> {
    /// Finished of planned seeds.
    fn seeds(&self) -> String {
        match self.method.n {
            n if n == self.planned => plural(n, "seed"),
            n => format!("{n} of {}", plural(self.planned, "seed")),
        }
    }

    /// Mean, and spread where there is one; what became of the trials where there is no mean.
    fn numbers(&self) -> (String, String) {
        match &self.method.description {
            Some(d) if self.method.n > 1 => (value(d.mean), format!("± {}", value(d.std))),
            Some(d) => (value(d.mean), "no spread".into()),
            None if self.method.failed > 0 => {
                ("–".into(), format!("{} failed", self.method.failed))
            }
            None => ("–".into(), "not finished".into()),
        }
    }
}

impl HeatMap<'_> {
    fn cell(&self, row: &str, column: &str) -> Option<&Cell<'_>> {
        let meets =
            |c: &&Cell<'_>| c.place.column == column && (c.place.every_row() || c.place.row == row);
        self.cells.iter().find(meets)
    }

    /// The method that counts for every row of a column.
    fn every_row(&self, column: &str) -> Option<&Cell<'_>> {
        self.cells.iter().find(|c| c.place.column == column && c.place.every_row())
    }

    /// The step of the colour scale for a mean: the last one is the best.
    fn step(&self, mean: f64) -> usize {
        let Some((low, high)) = self.range.filter(|(low, high)| high > low) else {
            return STEPS / 2;
        };
        let part = (mean - low) / (high - low);
        let good = if self.higher_is_better { part } else { 1.0 - part };
        ((good * STEPS as f64) as usize).min(STEPS - 1)
    }

    /// What the colours are, in words.
    fn reading(&self) -> String {
        let better = if self.higher_is_better { "higher" } else { "lower" };
        format!(
            "{} on the {} split ({better} is better): mean over the finished seeds, ± standard \
             deviation over them (n − 1), number of seeds.",
            capital(&self.metric),
            self.split
        )
    }

    /// What the map cannot show, in sentences.
    fn limits(&self) -> Vec<String> {
        let mut limits = vec![];
        for column in &self.columns {
            if let Some(cell) = self.every_row(column)
                && self.rows.len() > 1
            {
                limits.push(format!(
                    "{column}: one method ({}), trained once; it counts for every row, so its luck \
                     is the same in all of them.",
                    cell.method.method
                ));
            }
        }
        for (i, a) in self.columns.iter().enumerate() {
            for b in &self.columns[i + 1..] {
                limits.extend(self.within_spread(a, b));
            }
        }
        if let Some(most) = self.cells.iter().map(|c| c.method.n).max()
            && most < 5
        {
            limits.push(format!(
                "Seeds: with {} a cell no single difference between two cells is evidence by itself, \
                 whatever its colour; the paired tests are below.",
                plural(most, "seed")
            ));
        }
        let compared = self.cells.iter().filter(|c| c.method.n > 0).count();
        if compared > 2 {
            limits.push(format!(
                "Many comparisons: the best of {compared} means is partly the luckiest, so it is \
                 too high as an estimate and names no winner; that takes new seeds of the few in \
                 question."
            ));
        }
        if self.range.is_some_and(|(low, high)| high > low) {
            limits.push(
                "Colours run from the worst mean of this map to the best: they make small \
                 differences look large."
                    .into(),
            );
        }
        limits
    }

    /// In how many rows two columns differ by no more than the spread over seeds.
    fn within_spread(&self, a: &str, b: &str) -> Option<String> {
        let differences: Vec<(f64, f64)> = self
            .rows
            .iter()
            .filter_map(|row| {
                let spread = |column: &str| {
                    let method = self.cell(row, column)?.method;
                    method.description.as_ref().filter(|_| method.n > 1)
                };
                let (a, b) = (spread(a)?, spread(b)?);
                Some(((a.mean - b.mean).abs(), a.std.max(b.std)))
            })
            .collect();
        if differences.is_empty() {
            return None;
        }
        let within = differences.iter().filter(|(gap, std)| gap <= std).count();
        let end = if within > 0 {
            "; there nothing can be said about which is better"
        } else {
            ", which is no test"
        };
        Some(format!(
            "{a} and {b}: the means differ by no more than the larger of the two standard \
             deviations in {within} of {}{end}.",
            plural(differences.len(), "row")
        ))
    }

    /// Rows and columns without a method, and what that means.
    fn absent(&self) -> Option<String> {
        let absent: Vec<String> = self
            .rows
            .iter()
            .flat_map(|row| self.columns.iter().map(move |column| (row, column)))
            .filter(|(row, column)| self.cell(row, column).is_none())
            .map(|(row, column)| format!("{row} × {column}"))
            .collect();
        let which = match absent.len() {
            0 => return None,
            1..=4 => list(&absent),
            n => format!("{n} cells"),
        };
        Some(format!("Hatched, without a number: the config has no method there ({which})."))
    }

    /// A section of the page.
    pub(super) fn html(&self) -> String {
        let mut out = format!(
            "<h2>Heat map</h2>\n<p class=\"small\">{}</p>\n\
             <div class=\"scroll\" tabindex=\"0\"><table class=\"heat\">\n<thead><tr><td></td>",
            escape(&self.reading())
        );
        for column in &self.columns {
            let _ = write!(out, "<th scope=\"col\">{}</th>", escape(column));
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for (i, row) in self.rows.iter().enumerate() {
            let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(row));
            for column in &self.columns {
                match self.every_row(column) {
                    // One cell over all rows shows that it is one method.
                    Some(cell) if i == 0 => self.html_cell(&mut out, Some(cell), self.rows.len()),
                    Some(_) => {}
                    None => self.html_cell(&mut out, self.cell(row, column), 1),
                }
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
        if let Some((low, high)) = self.range {
            let (worst, best) = if self.higher_is_better { (low, high) } else { (high, low) };
            let _ = write!(out, "<p class=\"heat-scale\"><span>{}</span>", value(worst));
            for step in 0..STEPS {
                let _ = write!(out, "<i class=\"h{step}\"></i>");
            }
            let _ = writeln!(out, "<span>{}</span></p>", value(best));
        }
        out.push_str("<ul class=\"small\">\n");
        for text in self.absent().into_iter().chain(self.limits()) {
            let _ = writeln!(out, "<li>{}</li>", escape(&text));
        }
        out.push_str("</ul>\n");
        out
    }

    fn html_cell(&self, out: &mut String, cell: Option<&Cell<'_>>, rows: usize) {
        let span = if rows > 1 { format!(" rowspan=\"{rows}\"") } else { String::new() };
        let Some(cell) = cell else {
            let _ = write!(out, "<td class=\"none\" title=\"no method\">–</td>");
            return;
        };
        let (number, beside) = cell.numbers();
        let class = match &cell.method.description {
            Some(d) => format!("h{}", self.step(d.mean)),
            None => "none".into(),
        };
        let _ = write!(
            out,
            "<td class=\"{class}\"{span} title=\"{}\">{number}<small>{beside} · {}</small></td>",
            escape(&cell.method.method),
            cell.seeds()
        );
    }

    /// A table and its sentences, with the escaping of Markdown.
    pub(super) fn markdown(&self, escape: impl Fn(&str) -> String) -> String {
        let mut out = format!("\n### Heat map\n\n{}\n\n| |", escape(&self.reading()));
        for column in &self.columns {
            let _ = write!(out, " {} |", escape(column));
        }
        out += "\n|:--|";
        out += &"--:|".repeat(self.columns.len());
        out.push('\n');
        for row in &self.rows {
            let _ = write!(out, "| {} |", escape(row));
            for column in &self.columns {
                let _ = match self.cell(row, column) {
                    Some(cell) => {
                        let (number, beside) = cell.numbers();
                        write!(out, " {number} {beside}, {} |", cell.seeds())
                    }
                    None => write!(out, " – |"),
                };
            }
            out.push('\n');
        }
        out.push('\n');
        let absent = self.absent().map(|text| text.replacen("Hatched, without a number", "–", 1));
        for text in absent.into_iter().chain(self.limits()) {
            let _ = writeln!(out, "- {}", escape(&text));
        }
        out
    }
}
