//! `check hypergrad`: every estimator at every level against an exact hypergradient.

use crate::args::{CheckCommand, ConfigArgs, Format, HypergradCheckArgs, PickArgs};
use crate::commands::setup;
use crate::console;
use crate::exit::{Exit, Usage};
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use std::path::Path;
use std::process::Command;
use tetlo_core::config::{MethodConfig, OptimizerKind};
use tetlo_core::kinds::CheckProblem;
use tetlo_core::multilevel::double_backward_enabled;
use tetlo_core::registry;
use tetlo_engine::check::{self, Axes, CheckReport, Row, Skipped};
use tetlo_engine::npz;
use tetlo_engine::trial::space;

/// candle's switch for second derivatives, read when a thread first differentiates.
const DOUBLE_BACKWARD: &str = "CANDLE_GRAD_DO_NOT_DETACH";

/// Runs a `check` command.
pub(crate) fn run(command: CheckCommand) -> Result<Exit> {
    if !double_backward_enabled() {
        return in_child();
    }
    let CheckCommand::Hypergrad(arguments) = command;
    let report = match &arguments.config {
        Some(config) => of_config(config, &arguments)?,
        None => of_problems(&arguments)?,
    };
    match arguments.format.format {
        Format::Json => console::out_json(&report.rows)?,
        Format::Text => print(&report.rows),
    }
    let failures = report.failures();
    for failure in &failures {
        console::note(&format!("error: {failure}"));
    }
    Ok(if failures.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// The built-in problems.
fn of_problems(arguments: &HypergradCheckArgs) -> Result<CheckReport> {
    let HypergradCheckArgs { problem, input, output, options, dump, .. } = arguments;
    let names: Vec<&str> = match problem {
        Some(name) => vec![registry::find::<dyn CheckProblem>(name)?.name],
        None => registry::entries::<dyn CheckProblem>().iter().map(|e| e.name).collect(),
    };
    if names.len() > 1
        && (input.is_some() || output.is_some() || dump.is_some() || !options.is_empty())
    {
        bail!(Usage(
            "`--input`, `--output`, `--dump` and `--options` belong to one `--problem`".into()
        ));
    }
    let arrays = input.as_deref().map(npz::read).transpose()?;
    let mut all = CheckReport::default();
    for name in names {
        let options = setup::options::<dyn CheckProblem>(name, options)?;
        let report = check::run(name, &options, arrays.clone(), arguments.seed.unwrap_or(0))
            .with_context(|| format!("in check problem `{name}`"))?;
        for (path, arrays) in [(output, &report.outputs), (dump, &report.arrays)] {
            if let Some(path) = path {
                let list: Vec<(String, Tensor)> =
                    arrays.iter().map(|(name, t)| (name.clone(), t.clone())).collect();
                setup::write(path, &npz::to_bytes(&list)?)?;
            }
        }
        tell_skipped(name, &report);
        all.rows.extend(report.rows);
        all.reference.extend(report.reference);
    }
    Ok(all)
}

fn tell_skipped(name: &str, report: &CheckReport) {
    for Skipped { level, estimator, reason } in &report.skipped {
        console::note(&format!("{name}, {level} levels: `{estimator}` did not run: {reason}"));
    }
}

/// A method of a config.
fn of_config(config: &Path, arguments: &HypergradCheckArgs) -> Result<CheckReport> {
    let source = ConfigArgs { config: config.to_owned(), set: arguments.set.clone() };
    let mut method = arguments.method.clone();
    if method.is_none() {
        let loaded = setup::load(&source)?;
        let staged = |m: &&MethodConfig| m.optimizer_kind == OptimizerKind::MultilevelOptimizer;
        method = loaded.config.methods.iter().find(staged).map(|m| m.name.clone());
    }
    let (loaded, trial, _) = setup::pick(&PickArgs {
        config: source,
        task: arguments.task.clone(),
        method,
        seed: arguments.seed,
        device: None,
    })?;
    let name = &trial.method.name;
    if trial.method.optimizer_kind != OptimizerKind::MultilevelOptimizer {
        bail!(Usage(format!("method `{name}` is a black-box search: it has no hypergradient")));
    }
    let data = loaded.data(&trial)?;
    let axes = Axes {
        batch_sizes: arguments.batch_size.iter().map(|n| *n as usize).collect(),
        epsilons: arguments.epsilon.clone(),
        estimators: arguments.estimator.clone(),
    };
    let report = check::composition(&trial.method, &space(&trial)?, &data, trial.seed, &axes, &[])
        .map_err(|e| loaded.at(&["method", name], e))?;
    tell_skipped(name, &report);
    for note in &report.notes {
        console::note(note);
    }
    Ok(report)
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
    let varied = rows.iter().any(|r| r.batch.is_some());
    let wide = rows.iter().map(|r| r.problem.len()).max().unwrap_or(0).max(10);
    let axes = |batch: &str, epsilon: &str| {
        if varied { format!(" {batch:>5} {epsilon:>7}") } else { String::new() }
    };
    let number = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.6}"));
    let line = |r: [&str; 9], axes: String, pass: &str| {
        let [problem, level, term, estimator, cosine, error, norm, passes, direct] = r;
        console::out(&format!(
            "{problem:<wide$} {level:>5} {term:<16} {estimator:<24}{axes} {cosine:>10} {error:>10} \
             {norm:>8} {passes:>6} {direct:>6}  {pass}"
        ));
    };
    let head = ["problem", "level", "term", "estimator", "cosine", "rel error", "norm", "passes"];
    let [a, b, c, d, e, f, g, h] = head;
    line([a, b, c, d, e, f, g, h, "direct"], axes("batch", "epsilon"), "pass");
    for r in rows {
        let pass = match r.pass {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "no claim",
        };
        let written = |v: Option<String>| v.unwrap_or_else(|| "-".to_owned());
        let batch = written(r.batch.map(|b| b.to_string()));
        let epsilon = written(r.epsilon.map(|e| e.to_string()));
        let cells = [
            r.problem.clone(),
            r.level.to_string(),
            r.term.clone(),
            r.estimator.clone(),
            number(r.cosine),
            r.rel_error.map_or_else(|| "inf".to_owned(), |e| format!("{e:.2e}")),
            written(r.norm_ratio.map(|v| format!("{v:.3}"))),
            r.passes.to_string(),
            written(r.direct_share.map(|v| format!("{:.0}%", 100.0 * v))),
        ];
        line(cells.each_ref().map(String::as_str), axes(&batch, &epsilon), pass);
    }
}
