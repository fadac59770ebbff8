//! The report as one HTML file that needs no network.

use super::chart::{chart, swatch};
use super::curves::{Curves, curves};
use super::heat_map::heat_map;
use super::load::{Report, TrialRecord};
use super::notes::notes;
use super::strip::strip;
use super::table::best;
use super::text::{
    bytes, capital, count, escape, list, mean_std, metric, p_value, plural, seconds, short, signed,
    skips, value,
};
use crate::draw::{cell_svg, title};
use std::fmt::Write as _;
use tetlo_engine::summary::{Outcome, TestSummary};

const STYLE: &str = include_str!("assets/report.css");
const SCRIPT: &str = include_str!("assets/report.js");

/// The whole report. The same comparison gives the same bytes.
pub fn html(report: &Report) -> String {
    let name = escape(&report.summary.name);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>{name} · comparison</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    header(&mut out, report);
    notes_section(&mut out, report);
    let tasks = report.summary.tasks();
    for (i, task) in tasks.iter().enumerate() {
        let several = tasks.len() > 1;
        let _ = writeln!(out, "<section class=\"task\" id=\"task-{i}\">");
        if several {
            let _ = writeln!(out, "<h2 class=\"task-name\">{}</h2>", task_title(report, task));
        }
        out.extend(heat_map(report, task).map(|map| map.html()));
        results(&mut out, report, task);
        tests(&mut out, report, task);
        curves_section(&mut out, report, task);
        cells(&mut out, report, task);
        trials(&mut out, report, task);
        out.push_str("</section>\n");
    }
    config(&mut out, report);
    let _ = write!(
        out,
        "<footer>Made by tetlo {} from the records of the trials. Accuracies are fractions.</footer>\n\
         </main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    out
}

fn header(out: &mut String, report: &Report) {
    let summary = &report.summary;
    let tasks = summary.tasks();
    let mut methods: Vec<&str> = summary.methods.iter().map(|m| m.method.as_str()).collect();
    methods.sort_unstable();
    methods.dedup();
    let mut seeds: Vec<u64> = report.trials.iter().map(|t| t.trial.name.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let finished: usize = summary.methods.iter().map(|m| m.n).sum();
    let _ = write!(
        out,
        "<header>\n<p class=\"kind\">Comparison of architecture searches</p>\n<h1>{}</h1>\n\
         <p class=\"facts\">{} · {} · {} · {finished} of {} finished</p>\n",
        escape(&summary.name),
        plural(tasks.len(), "task"),
        plural(methods.len(), "method"),
        plural(seeds.len(), "seed"),
        plural(report.trials.len(), "trial")
    );
    if let [task] = tasks.as_slice() {
        let _ = writeln!(out, "<p class=\"facts\">{}</p>", task_title(report, task));
    }
    let mut notices: Vec<String> = report
        .trials
        .iter()
        .filter_map(|t| t.dataset.as_ref())
        .map(|d| {
            let synthetic = if d.synthetic { " <strong>(synthetic)</strong>" } else { "" };
            format!("{}{synthetic}: {}", escape(&d.name), escape(&d.notice))
        })
        .collect();
    notices.sort();
    notices.dedup();
    for notice in notices {
        let _ = writeln!(out, "<p class=\"notice\">{notice}</p>");
    }
    out.push_str("</header>\n");
}

/// A task's name with its data set and space.
fn task_title(report: &Report, task: &str) -> String {
    let mut title = escape(task);
    let [dataset, space] = report.task_plugins(task);
    if let Some(dataset) = dataset {
        let _ = write!(title, " <span class=\"of\">data {}</span>", escape(dataset));
    }
    if let Some(space) = space {
        let _ = write!(title, " <span class=\"of\">space {}</span>", escape(space));
    }
    title
}

fn notes_section(out: &mut String, report: &Report) {
    out.push_str("<section class=\"notes\">\n<h2>Read this first</h2>\n<dl>\n");
    for note in notes(report) {
        let class = if note.warning { " class=\"warning\"" } else { "" };
        let _ = writeln!(
            out,
            "<div{class}><dt>{}</dt><dd>{}</dd></div>",
            note.title,
            escape(&note.text)
        );
    }
    out.push_str("</dl>\n</section>\n");
}

fn results(out: &mut String, report: &Report, task: &str) {
    let methods = report.summary.of_task(task);
    let first = methods.iter().find(|m| m.metric.is_some());
    let (name, split, arrow) = match first.and_then(|m| Some((m, m.metric.as_deref()?))) {
        Some((m, name)) => (
            metric(name),
            report.summary.split(task, name).unwrap_or("unknown"),
            if m.higher_is_better { "higher is better" } else { "lower is better" },
        ),
        None => ("metric".into(), "unknown", ""),
    };
    let _ = write!(
        out,
        "<h2>Results</h2>\n<div class=\"scroll\" tabindex=\"0\"><table class=\"main\">\n<thead><tr>\
         <th scope=\"col\">Method</th>\
         <th scope=\"col\" class=\"num\">{}<small>mean ± std, {} split</small><small>{arrow}</small></th>\
         <th scope=\"col\" class=\"num\">95 % interval<small>bootstrap, mean</small></th>\
         <th scope=\"col\" class=\"num\">n<small>seeds</small></th>\
         <th scope=\"col\" class=\"num\">Parameters</th>\
         <th scope=\"col\" class=\"num\">Multiply-adds<small>an image</small></th>\
         <th scope=\"col\" class=\"num\">Skips<small>normal or only cell</small></th>\
         <th scope=\"col\" class=\"num\">Search<small>seconds</small></th>\
         <th scope=\"col\" class=\"num\">Retrain<small>seconds</small></th>\
         <th scope=\"col\" class=\"num\">Memory<small>peak</small></th></tr></thead>\n<tbody>\n",
        escape(&capital(&name)),
        escape(split)
    );
    let best = best(&methods);
    for (i, m) in methods.iter().enumerate() {
        let interval = m
            .description
            .as_ref()
            .filter(|_| m.n > 1)
            .map_or("–".into(), |d| format!("{} – {}", value(d.ci95[0]), value(d.ci95[1])));
        let failed = if m.failed > 0 {
            format!("<small class=\"failed\">{} failed</small>", m.failed)
        } else {
            String::new()
        };
        let class = if best.contains(&i) { "num best" } else { "num" };
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}{}</th><td class=\"{class}\">{}</td><td class=\"num\">{interval}</td>\
             <td class=\"num\">{}{failed}</td><td class=\"num\">{}</td><td class=\"num\">{}</td>\
             <td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td>\
             <td class=\"num\">{}</td></tr>",
            swatch(i),
            escape(&m.method),
            mean_std(m),
            m.n,
            count(m.params),
            count(m.macs),
            skips(m.skip_count),
            seconds(m.search_seconds),
            seconds(m.retrain_seconds),
            bytes(m.peak_memory_bytes)
        );
    }
    out.push_str("</tbody></table></div>\n");
    if !best.is_empty() {
        out.push_str(
            "<p class=\"small\">Bold marks the best mean, which is no claim of significance. \
             Columns after n are means over the finished seeds.</p>\n",
        );
    }
    out.push_str(&strip(&methods).unwrap_or_default());
}

/// One row a pair, both tests in it.
/// More pairs than these, and cells of more methods, are folded.
const MOST_PAIRS_OPEN: usize = 30;
const MOST_METHODS_OPEN: usize = 8;

fn tests(out: &mut String, report: &Report, task: &str) {
    let all = || report.summary.tests.iter().filter(|t| t.task == task);
    if all().next().is_none() {
        return;
    }
    let all_pairs = all().filter(|t| t.test == "wilcoxon").count();
    let folded = all_pairs > MOST_PAIRS_OPEN;
    out.push_str("<h2>Paired tests</h2>\n");
    if folded {
        let _ = writeln!(out, "<details><summary>{all_pairs} pairs</summary>");
    }
    out.push_str(
        "<div class=\"scroll\" tabindex=\"0\"><table class=\"tests\">\n<thead>\
         <tr><th colspan=\"3\"></th><th colspan=\"4\" scope=\"colgroup\" class=\"group\">Wilcoxon signed-rank</th>\
         <th colspan=\"4\" scope=\"colgroup\" class=\"group\">Paired t</th></tr>\n\
         <tr><th scope=\"col\">Pair</th><th scope=\"col\" class=\"num\">Mean difference</th>\
         <th scope=\"col\" class=\"num\">n</th>\
         <th scope=\"col\" class=\"num first\">W</th><th scope=\"col\" class=\"num\">p</th>\
         <th scope=\"col\" class=\"num\">p Holm</th><th scope=\"col\" class=\"num\">rank-biserial</th>\
         <th scope=\"col\" class=\"num first\">t</th><th scope=\"col\" class=\"num\">p</th>\
         <th scope=\"col\" class=\"num\">p Holm</th><th scope=\"col\" class=\"num\">d<sub>z</sub></th></tr></thead>\n<tbody>\n",
    );
    let mut remarks: Vec<(&str, &str, Vec<String>)> = vec![];
    for test in all().filter(|t| t.test == "wilcoxon") {
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{} <span class=\"minus\">\u{2212}</span> {}</th>\
             <td class=\"num\">{}</td><td class=\"num\">{}</td>",
            escape(&test.a),
            escape(&test.b),
            signed(test.mean_difference),
            test.n
        );
        let same = |t: &&TestSummary| t.test == "paired-t" && t.a == test.a && t.b == test.b;
        for test in [Some(test), all().find(same)].into_iter().flatten() {
            let significant = test.p_holm.is_some_and(|p| p <= tetlo_engine::statistics::LEVEL);
            let _ = write!(
                out,
                "<td class=\"num first\">{}</td><td class=\"num\">{}</td><td class=\"num{}\">{}</td>\
                 <td class=\"num\">{}</td>",
                short(test.statistic),
                escape(&p_value(test.p)),
                if significant { " best" } else { "" },
                escape(&p_value(test.p_holm)),
                short(test.effect)
            );
            if let Some(note) = &test.note {
                let pair = format!("{} against {}", test.a, test.b);
                match remarks.iter_mut().find(|(t, n, _)| *t == test.test && n == note) {
                    Some((_, _, pairs)) => pairs.push(pair),
                    None => remarks.push((&test.test, note, vec![pair])),
                }
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    if folded {
        out.push_str("</details>\n");
    }
    out.push_str("<ul class=\"small\">\n");
    out.push_str(
        "<li>All p two-sided; Holm over the pairs of the task, each test for itself. A positive \
         difference or effect means that the first method has the larger value.</li>\n",
    );
    for (test, note, pairs) in remarks {
        let name = if test == "wilcoxon" { "Wilcoxon" } else { "Paired t" };
        let place = match pairs.len() {
            n if n == all_pairs => String::new(),
            1..=3 => format!(", {}", list(&pairs)),
            n => format!(", {n} pairs"),
        };
        let _ = writeln!(out, "<li>{name}{}: {}.</li>", escape(&place), escape(note));
    }
    out.push_str("</ul>\n");
}

fn curves_section(out: &mut String, report: &Report, task: &str) {
    let curves = curves(report, task);
    if curves.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Learning curves</h2>\n<p class=\"small\">A line a method: the mean over seeds, with \
         the range from the smallest to the largest seed. The number is the last mean.</p>\n",
    );
    let phase = |c: &Curves| c.name.split('/').next().unwrap_or_default().to_owned();
    for group in curves.chunk_by(|a, b| phase(a) == phase(b)) {
        let _ = writeln!(
            out,
            "<h3>{}</h3>\n<div class=\"charts\">",
            escape(&capital(&phase(&group[0])))
        );
        for curves in group {
            out.push_str(&chart(curves));
        }
        out.push_str("</div>\n");
    }
}

fn cells(out: &mut String, report: &Report, task: &str) {
    if report.trials_of(task).all(|t| t.genotype.is_none()) {
        return;
    }
    out.push_str(
        "<h2>Derived cells</h2>\n<p class=\"small\">Data flow from left to right: the outputs of \
         the two cells before, operations in boxes, nodes that add them up, and dashed the \
         concatenation that leaves the cell.</p>\n",
    );
    let methods = report.summary.of_task(task);
    let open = if methods.len() > MOST_METHODS_OPEN { "" } else { " open" };
    for (i, method) in methods.iter().enumerate() {
        let drawn: Vec<&TrialRecord> = report
            .trials_of(task)
            .filter(|t| t.trial.name.method == method.method && t.genotype.is_some())
            .collect();
        if drawn.is_empty() {
            continue;
        }
        let _ = writeln!(
            out,
            "<details class=\"cells\"{open}><summary>{}{} <span>{}</span></summary>",
            swatch(i),
            escape(&method.method),
            plural(drawn.len(), "architecture")
        );
        for record in drawn {
            architecture(out, record);
        }
        out.push_str("</details>\n");
    }
}

fn architecture(out: &mut String, record: &TrialRecord) {
    let Some(genotype) = &record.genotype else { return };
    let name = &record.trial.name;
    let found = match &record.trial.outcome {
        Outcome::Finished(r) => format!(
            "{} {} · {} parameters · {}",
            escape(&metric(&r.metric.name)),
            value(r.value),
            count(Some(r.params as f64)),
            plural(r.skip_count, "skip")
        ),
        Outcome::Failed(_) => "failed after the search".into(),
        Outcome::Missing => "not finished".into(),
    };
    let _ = write!(
        out,
        "<figure class=\"architecture\"><figcaption><b>seed {}</b> {found}</figcaption><div class=\"pair\">",
        name.seed
    );
    for (cell_name, cell) in genotype.cells() {
        let label = format!("{}, seed {}: {}", name.method, name.seed, title(cell_name));
        let _ = write!(
            out,
            "<div class=\"one\"><div class=\"cell-name\">{}</div><div class=\"scroll\">{}</div></div>",
            escape(cell_name),
            cell_svg(&label, cell)
        );
    }
    let _ = writeln!(
        out,
        "</div><details class=\"source\"><summary>as text</summary><pre>{}</pre></details></figure>",
        escape(&genotype.to_python())
    );
}

/// A row a trial.
fn trials(out: &mut String, report: &Report, task: &str) {
    out.push_str(
        "<h2>Trials</h2>\n<div class=\"scroll\" tabindex=\"0\"><table class=\"trials\">\n<thead><tr>\
         <th scope=\"col\">Method</th><th scope=\"col\" class=\"num\">Seed</th>\
         <th scope=\"col\" class=\"num\">Value</th>\
         <th scope=\"col\" class=\"num\">Search<small>best validation accuracy</small></th>\
         <th scope=\"col\" class=\"num\">Parameters</th><th scope=\"col\" class=\"num\">Multiply-adds</th>\
         <th scope=\"col\" class=\"num\">Skips</th><th scope=\"col\" class=\"num\">Search<small>seconds</small></th>\
         <th scope=\"col\" class=\"num\">Retrain<small>seconds</small></th><th scope=\"col\">Trial</th></tr></thead>\n<tbody>\n",
    );
    for record in report.trials_of(task) {
        let name = &record.trial.name;
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"num\">{}</td>",
            escape(&name.method),
            name.seed
        );
        match &record.trial.outcome {
            Outcome::Finished(r) => {
                let _ = write!(
                    out,
                    "<td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td>\
                     <td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td>\
                     <td class=\"num\">{}</td>",
                    value(r.value),
                    r.search.best_val_accuracy.map_or("–".into(), value),
                    count(Some(r.params as f64)),
                    count(Some(r.macs as f64)),
                    r.skip_count,
                    seconds(Some(r.search.seconds)),
                    seconds(r.retrain.as_ref().map(|t| t.seconds))
                );
            }
            Outcome::Failed(failure) => {
                let mut place = vec![];
                place.extend(failure.step.map(|s| format!("step {s}")));
                place.extend(failure.level.as_ref().map(|l| format!("level {l}")));
                place.extend(failure.signal.map(|s| format!("signal {s}")));
                let place =
                    if place.is_empty() { String::new() } else { format!(" ({})", list(&place)) };
                let _ = write!(
                    out,
                    "<td colspan=\"7\" class=\"failed\">failed: {}{}</td>",
                    escape(&failure.error),
                    escape(&place)
                );
            }
            Outcome::Missing => {
                out.push_str("<td colspan=\"7\" class=\"failed\">not finished</td>");
            }
        }
        let _ = writeln!(out, "<td><code>{}</code></td></tr>", escape(&name.trial_id));
    }
    out.push_str("</tbody></table></div>\n");
}

fn config(out: &mut String, report: &Report) {
    let _ = write!(
        out,
        "<section>\n<details class=\"config\"><summary>Resolved configuration</summary>\n<pre>{}</pre></details>\n</section>\n",
        escape(&report.config_text)
    );
}
