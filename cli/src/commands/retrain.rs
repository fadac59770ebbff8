//! `retrain` and `evaluate`.

use crate::args::{ConfigArgs, EvaluateArgs, Format, PickArgs, RetrainArgs};
use crate::commands::setup::{genotype, pick_without_code};
use crate::console::{self, Progress};
use crate::exit::{Exit, Usage};
use crate::report::{self, Report};
use anyhow::{Result, bail};
use serde_json::json;
use std::path::Path;
use tetlo_core::kinds::Evaluator;
use tetlo_engine::store::TrialDirectory;
use tetlo_engine::trial::{retrain as train, space};

/// Trains a genotype's network from scratch and tests it once.
pub(crate) fn retrain(arguments: &RetrainArgs, bars: bool) -> Result<Exit> {
    let genotype = genotype(&arguments.genotype)?;
    let own = Path::new(&arguments.genotype).join("run.toml");
    let config = match &arguments.config {
        Some(config) => config.clone(),
        None if own.is_file() => own,
        None => bail!(Usage("`--config` is missing: it says data, space and protocol".into())),
    };
    let (loaded, trial, _) = pick_without_code(&PickArgs {
        config: ConfigArgs { config, set: arguments.set.clone() },
        task: arguments.task.clone(),
        method: None,
        seed: arguments.seed,
        device: None,
    })?;
    let evaluator: Box<dyn Evaluator> = trial.task.evaluate.build()?;
    let Some(protocol) = evaluator.protocol() else {
        bail!(Usage(format!("the evaluator `{}` does not retrain", trial.task.evaluate.plugin)));
    };
    let data = loaded.data(&trial)?;
    let mut progress = Progress::new("retrain:", bars);
    let e = train(&space(&trial)?, &genotype, &data, protocol, trial.seed, &mut progress)?;
    drop(progress);
    match arguments.format.format {
        Format::Json => console::out_json(&json!({
            "schema": "tetlo.retrain/1",
            "task": trial.task.name,
            "seed": trial.seed,
            "genotype": genotype.to_json(),
            "test_accuracy": e.test_accuracy,
            "params": e.params,
            "macs": e.macs,
        }))?,
        Format::Text => console::out(&format!(
            "test accuracy {:.4} ({} images), {} parameters, {} multiply-adds",
            e.value,
            data.test.len(),
            e.params,
            e.macs
        )),
    }
    Ok(Exit::Ok)
}

/// Prints what a finished directory holds.
pub(crate) fn evaluate(arguments: &EvaluateArgs) -> Result<Exit> {
    let run = &arguments.run;
    if run.join("summary.json").exists() {
        let report = Report::load(run)?;
        match arguments.format.format {
            Format::Json => console::out_json(&report.summary)?,
            Format::Text => console::out(&report::table(&report.summary)),
        }
        return Ok(Exit::Ok);
    }
    let Some(result) = TrialDirectory::at(run).result()? else {
        bail!(Usage(format!(
            "{} has neither a summary.json nor a result.json: is the run finished?",
            run.display()
        )));
    };
    match arguments.format.format {
        Format::Json => console::out_json(&result)?,
        Format::Text => console::out(&format!(
            "{} on {}, seed {}: {} {:.4} ({} split), {} parameters, {} skips",
            result.method,
            result.task,
            result.seed,
            result.metric.name,
            result.value,
            result.metric.split,
            result.params,
            result.skip_count
        )),
    }
    Ok(Exit::Ok)
}
