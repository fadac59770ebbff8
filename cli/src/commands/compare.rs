//! `compare`, `plan`, `run-trial`, `report`: a comparison as a whole and cut up.

use crate::args::{CompareArgs, Format, PlanArgs, ReportArgs, RunTrialArgs};
use crate::commands::code;
use crate::commands::setup::{self, Loaded, place};
use crate::console::{self, Progress};
use crate::exit::{Exit, Usage};
use crate::report::{self, Report};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tetlo_core::config::{CompareConfig, Outline};
use tetlo_core::data::Data;
use tetlo_core::foreign::ended;
use tetlo_engine::comparison::Comparison;
use tetlo_engine::estimate::Cost;
use tetlo_engine::plan::Trial;
use tetlo_engine::trial::{Place, load_data, run as run_one};

/// Runs a comparison.
pub(crate) fn compare(arguments: &CompareArgs, bars: bool) -> Result<Exit> {
    if arguments.prepare {
        setup::end_with_parent();
    }
    let began = Instant::now();
    let outline = setup::outline(&arguments.config)?;
    let out = arguments.out.clone().unwrap_or_else(|| Path::new("runs").join(&outline.name));
    if code::is_wanted(&outline) && !arguments.prepare {
        // Code that is not linked in never runs in this process, which keeps the comparison.
        let said = match prepare(arguments, &outline, &out)? {
            Prepared::Planned(said) => said,
            Prepared::Ended(exit) => return Ok(exit),
        };
        let unfinished = || not_prepared("it ended before its work was done", &outline);
        let (comparison, mut config, trials) = Comparison::resume(&out).with_context(unfinished)?;
        let expected = prepared(&trials).to_string();
        if said != expected {
            bail!(unfinished());
        }
        // The saved config may have another number, which decides no result.
        config.threads = outline.threads;
        let device = arguments.device.as_ref().unwrap_or(&config.device);
        let place = place(device, config.threads)?;
        return run_all(&comparison, &config, &trials, &place, (arguments, bars), began);
    }
    let mut loaded = setup::load(&arguments.config)?;
    let place = loaded.place(arguments.device.as_ref())?;
    let trials = loaded.plan()?;
    // Everything that can be wrong with the config is found before anything is written.
    check(&loaded, &trials)?;
    let comparison = Comparison::open(&out, &loaded.config, &trials)?;
    if arguments.prepare {
        console::out_json(&prepared(&trials))?;
        return Ok(Exit::Ok);
    }
    run_all(&comparison, &loaded.config, &trials, &place, (arguments, bars), began)
}

/// What a child says that has checked and planned these trials.
fn prepared(trials: &[Trial]) -> serde_json::Value {
    json!({ "prepared": trials.iter().map(|t| &t.id).collect::<Vec<_>>() })
}

/// What came of the child that checks and plans.
enum Prepared {
    /// What it said last.
    Planned(String),
    /// How the command ends.
    Ended(Exit),
}

fn not_prepared(how: &str, outline: &Outline) -> String {
    let mut files: Vec<PathBuf> = outline.files.iter().map(|f| f.file.clone()).collect();
    files.extend(outline.load.iter().cloned().chain(code::environment()));
    files.retain(|file| !file.as_os_str().is_empty());
    files.sort();
    files.dedup();
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    format!(
        "a plugin ended the process in which the comparison was checked: {how}; nothing was run. It \
         loads {}\nhint: `tetlo plugins check PATH` shows which",
        files.join(", ")
    )
}

/// Checks and plans in a child, which loads the code.
fn prepare(arguments: &CompareArgs, outline: &Outline, out: &Path) -> Result<Prepared> {
    let mut command = Command::new(std::env::current_exe()?);
    code::pass_policy(&mut command);
    command.args(["--no-progress", "compare", "--prepare", "--out"]).arg(out);
    if let Some(device) = &arguments.device {
        command.args(["--device", device]);
    }
    for set in &arguments.config.set {
        command.args(["--set", set]);
    }
    command.arg("--").arg(&arguments.config.config);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    // Open until the child has ended; where this process ends first, the child ends too.
    let input = child.stdin.take();
    let output = child.wait_with_output()?;
    drop(input);
    match output.status.code() {
        Some(0) => {
            let said = String::from_utf8_lossy(&output.stdout);
            Ok(Prepared::Planned(said.lines().next_back().unwrap_or_default().to_owned()))
        }
        Some(2) => Ok(Prepared::Ended(Exit::Usage)),
        Some(_) => Ok(Prepared::Ended(Exit::Failed)),
        None => bail!(not_prepared(&ended(output.status), outline)),
    }
}

/// Runs what is to be run, and writes the reports.
fn run_all(
    comparison: &Comparison,
    config: &CompareConfig,
    trials: &[Trial],
    place: &Place,
    (arguments, bars): (&CompareArgs, bool),
    began: Instant,
) -> Result<Exit> {
    if arguments.jobs > 1 {
        let all: Vec<&Trial> = trials.iter().collect();
        let jobs = arguments.jobs as usize;
        // Trials share the processors, unless the config says how many each may use.
        let each = if config.threads > 0 { place.threads } else { (place.threads / jobs).max(1) };
        run_children(comparison, &all, trials.len(), jobs, each)?;
    } else {
        run_here(comparison, trials, place, bars)?;
    }
    finish(comparison, config, began)
}

/// Builds every method on every task without training; what each trial will take.
pub(crate) fn check(config: &Loaded, trials: &[Trial]) -> Result<Vec<Cost>> {
    let mut data: Option<(String, Data)> = None;
    let mut known: Vec<((&str, &str), Cost)> = vec![];
    let mut costs = Vec::with_capacity(trials.len());
    for trial in trials {
        // Seeds make no difference.
        let names = (trial.task.name.as_str(), trial.method.name.as_str());
        let cost = if let Some((_, cost)) = known.iter().find(|(seen, _)| *seen == names) {
            *cost
        } else {
            let cost = config.check(trial, for_task(&mut data, trial, |t| config.data(t))?)?;
            known.push((names, cost));
            cost
        };
        costs.push(cost);
    }
    Ok(costs)
}

/// The data of a trial's task, loaded once.
fn for_task<'a, E: Into<anyhow::Error>>(
    cache: &'a mut Option<(String, Data)>,
    trial: &Trial,
    load: impl FnOnce(&Trial) -> Result<Data, E>,
) -> Result<&'a Data> {
    if cache.as_ref().is_none_or(|(name, _)| *name != trial.task.name) {
        *cache = Some((trial.task.name.clone(), load(trial).map_err(Into::into)?));
    }
    cache.as_ref().map(|(_, data)| data).ok_or_else(|| anyhow::anyhow!("no data"))
}

fn label(trial: &Trial, of: usize) -> String {
    let Trial { index, method, task, seed, .. } = trial;
    format!("[{}/{of}] {} on {}, seed {seed}:", index + 1, method.name, task.name)
}

fn run_here(comparison: &Comparison, trials: &[Trial], place: &Place, bars: bool) -> Result<()> {
    let mut data = None;
    for trial in trials {
        let directory = comparison.trial(&trial.id);
        if directory.result()?.is_some() {
            continue;
        }
        if code::runs_code(trial) {
            run_children(comparison, &[trial], trials.len(), 1, place.threads)?;
            continue;
        }
        let loaded = for_task(&mut data, trial, load_data)?;
        let mut progress = Progress::new(label(trial, trials.len()), bars);
        let outcome = run_one(trial, &directory, loaded, place, &mut progress);
        drop(progress);
        if let Err(error) = outcome {
            if error.is_usage() {
                return Err(error.into());
            }
            // The failure is on record; the comparison goes on and says so at the end.
            console::note(&format!("{} failed: {error}", label(trial, trials.len())));
        }
    }
    Ok(())
}

/// Runs trials in child processes, `jobs` at a time with so many threads each; `of` in the whole comparison.
fn run_children(
    comparison: &Comparison,
    trials: &[&Trial],
    of: usize,
    jobs: usize,
    threads: usize,
) -> Result<()> {
    let program = std::env::current_exe()?;
    let mut waiting: Vec<&Trial> = Vec::new();
    for trial in trials.iter().rev() {
        if comparison.trial(&trial.id).result()?.is_none() {
            waiting.push(trial);
        }
    }
    let mut running: Vec<(&Trial, Child)> = Vec::new();
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < jobs
            && let Some(trial) = waiting.pop()
        {
            let mut command = Command::new(&program);
            code::pass_policy(&mut command);
            let child = command
                .args(["--no-progress", "run-trial", "--child", "--index"])
                .arg(trial.index.to_string())
                .arg(comparison.path())
                .env("TETLO_THREADS", threads.to_string())
                .stdin(Stdio::piped()) // closes when this process ends: the child then ends too
                .stdout(Stdio::null())
                .spawn()?;
            running.push((trial, child));
        }
        let mut i = 0;
        while i < running.len() {
            match running[i].1.try_wait()? {
                None => i += 1,
                Some(status) => {
                    let (trial, _) = running.swap_remove(i);
                    // Only a result says that a trial is done, not the exit of its process.
                    if !status.success() || comparison.trial(&trial.id).result()?.is_none() {
                        console::note(&format!("{} failed: {}", label(trial, of), ended(status)));
                        comparison.record_death(trial, status)?;
                    }
                }
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(())
}

/// Summary, reports, table.
fn finish(comparison: &Comparison, config: &CompareConfig, began: Instant) -> Result<Exit> {
    let summary = comparison.summarise(config)?;
    let report = Report::load(comparison.path())?;
    comparison.write("report.html", report::html(&report).as_bytes())?;
    comparison.write("report.md", report::markdown(&report).as_bytes())?;
    comparison.write("results.csv", report::csv(&report).as_bytes())?;
    console::out(&report::table(&summary));
    let out = comparison.path().display();
    console::note(&format!(
        "{} in {:.0} s; report: {out}/report.html",
        config.name,
        began.elapsed().as_secs_f64()
    ));
    let missing = comparison.missing()?;
    if missing > 0 {
        console::note(&format!(
            "error: {missing} of {} trials have no result; run the same command again to retry them",
            comparison.trials()
        ));
        return Ok(Exit::Incomplete);
    }
    Ok(Exit::Ok)
}

/// Writes and prints the plan.
pub(crate) fn plan(arguments: &PlanArgs) -> Result<Exit> {
    let config = setup::load(&arguments.config)?;
    // Threads have memory of their own. The device need not be here, but where the trials will run.
    setup::set_threads(config.config.threads)?;
    let trials = config.plan()?;
    let costs = check(&config, &trials)?;
    if let Some(out) = &arguments.out {
        Comparison::open(out, &config.config, &trials)?;
    }
    match arguments.format.format {
        Format::Json => {
            let list: Vec<_> = trials
                .iter()
                .zip(&costs)
                .map(|(t, c)| {
                    let mut line = t.to_json();
                    line["memory_bytes"] = json!(c.memory_bytes);
                    line["search_memory_bytes"] = json!(c.search_bytes);
                    line["evaluation_memory_bytes"] = json!(c.evaluation_bytes);
                    line["passes"] = json!(c.passes);
                    line["multiply_adds"] = json!(c.multiply_adds);
                    line
                })
                .collect();
            console::out_json(&list)?;
        }
        Format::Text => {
            for (trial, cost) in trials.iter().zip(&costs) {
                console::out(&format!(
                    "{:>4}  {}  {} on {}, seed {}  about {} MiB, {} passes, {:.1e} multiply-adds",
                    trial.index,
                    trial.id,
                    trial.method.name,
                    trial.task.name,
                    trial.seed,
                    cost.memory_bytes >> 20,
                    cost.passes,
                    cost.multiply_adds,
                ));
            }
        }
    }
    Ok(Exit::Ok)
}

/// Runs one trial of a planned comparison.
pub(crate) fn run_trial(arguments: &RunTrialArgs, bars: bool) -> Result<Exit> {
    if arguments.child {
        setup::end_with_parent();
    }
    let directory = &arguments.directory;
    let (comparison, config, trials) = Comparison::reopen(directory)?;
    let Some(trial) = trials.get(arguments.index) else {
        bail!(Usage(format!(
            "{} has {} trials, there is no index {}",
            directory.display(),
            trials.len(),
            arguments.index
        )));
    };
    code::load_trial(trial)?;
    // A child's parent has said how many threads there are.
    let threads = if arguments.child { 0 } else { config.threads };
    let place = place(&config.device, threads)?;
    let data = load_data(trial)?;
    let mut progress = Progress::new(label(trial, trials.len()), bars);
    let result = run_one(trial, &comparison.trial(&trial.id), &data, &place, &mut progress)?;
    drop(progress);
    console::out_json(&result)?;
    Ok(Exit::Ok)
}

/// Writes reports.
pub(crate) fn report(arguments: &ReportArgs) -> Result<Exit> {
    let report = Report::load(&arguments.directory)?;
    let mut wrote = false;
    let mut put = |path: &Option<PathBuf>, text: &dyn Fn() -> Result<String>| -> Result<()> {
        if let Some(path) = path {
            setup::write(path, text()?.as_bytes())?;
            wrote = true;
        }
        Ok(())
    };
    put(&arguments.html, &|| Ok(report::html(&report)))?;
    put(&arguments.markdown, &|| Ok(report::markdown(&report)))?;
    put(&arguments.latex, &|| Ok(report::latex(&report)))?;
    put(&arguments.csv, &|| Ok(report::csv(&report)))?;
    put(&arguments.json, &|| Ok(serde_json::to_string_pretty(&report.summary)? + "\n"))?;
    if !wrote {
        console::out(&report::table(&report.summary));
    }
    Ok(Exit::Ok)
}
