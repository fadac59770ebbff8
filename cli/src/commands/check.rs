//! `check hypergrad`: every estimator at every level against an exact hypergradient.

use crate::args::{CheckCommand, Format};
use crate::commands::setup;
use crate::console;
use crate::exit::Exit;
use anyhow::{Context, Result};
use std::process::Command;
use tetlo_core::kinds::CheckProblem;
use tetlo_core::multilevel::double_backward_enabled;
use tetlo_core::registry;
use tetlo_engine::check::{self, CheckRow};
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
    let arrays = input.as_deref().map(npz::read).transpose()?;
    let mut rows = Vec::new();
    for name in names {
        let options = setup::options::<dyn CheckProblem>(name, &options)?;
        let report = check::run(name, &options, arrays.as_ref(), seed)
            .with_context(|| format!("in check problem `{name}`"))?;
        if let Some(path) = &output {
            setup::write(path, &npz::to_bytes(&report.outputs)?)?;
        }
        if let Some(path) = &dump {
            setup::write(path, &npz::to_bytes(&report.arrays)?)?;
        }
        rows.extend(report.rows);
    }
    match format.format {
        Format::Json => console::out_json(&rows)?,
        Format::Text => print(&rows),
    }
    let failed = rows.iter().filter(|r| r.pass == Some(false)).count();
    if failed > 0 {
        console::note(&format!("error: {failed} of {} rows miss their bound", rows.len()));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Ok)
}

/// Runs this command again in a process in which second derivatives are right.
fn in_child() -> Result<Exit> {
    let status = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(DOUBLE_BACKWARD, "1")
        .status()
        .context("cannot start a process with second derivatives switched on")?;
    Ok(match status.code() {
        Some(0) => Exit::Ok,
        Some(2) => Exit::Usage,
        _ => Exit::Failed,
    })
}

fn print(rows: &[CheckRow]) {
    console::out(&format!(
        "{:<10} {:>5} {:<16} {:<20} {:>10} {:>10} {:>8} {:>6} {:>6}  {}",
        "problem", "level", "term", "estimator", "cosine", "rel error", "norm", "passes", "direct", "pass"
    ));
    let number = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.6}"));
    for r in rows {
        let pass = match r.pass {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "no claim",
        };
        console::out(&format!(
            "{:<10} {:>5} {:<16} {:<20} {:>10} {:>10.2e} {:>8} {:>6} {:>6}  {pass}",
            r.problem,
            r.level,
            r.term,
            r.estimator,
            number(r.cosine),
            r.rel_error,
            r.norm_ratio.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}")),
            r.passes,
            r.direct_share.map_or_else(|| "-".to_owned(), |v| format!("{:.0}%", 100.0 * v)),
        ));
    }
}
