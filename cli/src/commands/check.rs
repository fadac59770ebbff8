//! `check hypergrad`: every estimator at every level against an exact hypergradient.

use crate::args::{CheckCommand, Format};
use crate::commands::setup;
use crate::console;
use crate::exit::{Exit, Usage};
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use std::process::Command;
use tetlo_core::kinds::CheckProblem;
use tetlo_core::multilevel::double_backward_enabled;
use tetlo_core::registry;
use tetlo_engine::check::{self, Row, Skipped};
use tetlo_engine::npz;

/// candle's switch for second derivatives, read when a thread first differentiates.
const DOUBLE_BACKWARD: &str = "CANDLE_GRAD_DO_NOT_DETACH";

/// Runs a `check` command.
pub(crate) fn run(command: CheckCommand) -> Result<Exit> {
    if !double_backward_enabled() {
        return in_child();
    }
    let CheckCommand::Hypergrad { problem, input, output, options, seed, dump, format } = command;
    let names: Vec<&str> = match &problem {
        Some(name) => vec![registry::find::<dyn CheckProblem>(name)?.name],
        None => registry::entries::<dyn CheckProblem>().iter().map(|e| e.name).collect(),
    };
    if names.len() > 1 && (input.is_some() || output.is_some() || !options.is_empty()) {
        bail!(Usage("`--input`, `--output` and `--options` belong to one `--problem`".into()));
    }
    let arrays = input.as_deref().map(npz::read).transpose()?;
    let (mut rows, mut failures) = (vec![], vec![]);
    for name in names {
        let options = setup::options::<dyn CheckProblem>(name, &options)?;
        let report = check::run(name, &options, arrays.clone(), seed)
            .with_context(|| format!("in check problem `{name}`"))?;
        for (path, arrays) in [(&output, &report.outputs), (&dump, &report.arrays)] {
            if let Some(path) = path {
                let list: Vec<(String, Tensor)> =
                    arrays.iter().map(|(name, t)| (name.clone(), t.clone())).collect();
                setup::write(path, &npz::to_bytes(&list)?)?;
            }
        }
        for skipped in &report.skipped {
            let Skipped { level, estimator, reason } = skipped;
            console::note(&format!("{name}, {level} levels: `{estimator}` did not run: {reason}"));
        }
        failures.extend(report.failures());
        rows.extend(report.rows);
    }
    match format.format {
        Format::Json => console::out_json(&rows)?,
        Format::Text => print(&rows),
    }
    for failure in &failures {
        console::note(&format!("error: {failure}"));
    }
    Ok(if failures.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// Runs this command again in a process in which second derivatives are right.
fn in_child() -> Result<Exit> {
    let status = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(DOUBLE_BACKWARD, "1")
        .env("RAYON_NUM_THREADS", "1") // the problems are tiny: threads only wait for each other
        .status()
        .context("cannot start a process with second derivatives switched on")?;
    Ok(match status.code() {
        Some(0) => Exit::Ok,
        Some(2) => Exit::Usage,
        _ => Exit::Failed,
    })
}

fn print(rows: &[Row]) {
    console::out(&format!(
        "{:<10} {:>5} {:<16} {:<20} {:>10} {:>10} {:>8} {:>6} {:>6}  {}",
        "problem",
        "level",
        "term",
        "estimator",
        "cosine",
        "rel error",
        "norm",
        "passes",
        "direct",
        "pass"
    ));
    let number = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.6}"));
    for r in rows {
        let pass = match r.pass {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "no claim",
        };
        console::out(&format!(
            "{:<10} {:>5} {:<16} {:<20} {:>10} {:>10} {:>8} {:>6} {:>6}  {pass}",
            r.problem,
            r.level,
            r.term,
            r.estimator,
            number(r.cosine),
            r.rel_error.map_or_else(|| "inf".to_owned(), |e| format!("{e:.2e}")),
            r.norm_ratio.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}")),
            r.passes,
            r.direct_share.map_or_else(|| "-".to_owned(), |v| format!("{:.0}%", 100.0 * v)),
        ));
    }
}
