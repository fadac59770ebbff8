//! Reading a comparison's directory.

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tetlo_core::genotype::Genotype;
use tetlo_engine::summary::{
    Event, Failure, Outcome, RESULT_SCHEMA, SUMMARY_SCHEMA, Summary, Trial, TrialName, summarize,
};

/// A comparison, read from its directory.
#[derive(Debug, Clone)]
pub struct Report {
    /// The resolved config as it stands in `compare.toml`.
    pub config_text: String,
    /// The same, parsed.
    pub config: toml::Table,
    /// The numbers.
    pub summary: Summary,
    /// The trials, in the plan's order.
    pub trials: Vec<TrialRecord>,
}

/// A trial and what it left behind.
#[derive(Debug, Clone)]
pub struct TrialRecord {
    /// Which trial, and what became of it.
    pub trial: Trial,
    /// Its events, in the order written.
    pub events: Vec<Event>,
    /// The derived architecture, where the search got that far and it has the form of cells.
    pub genotype: Option<Genotype>,
    /// Where the data come from (`provenance.json`, key `dataset`).
    pub dataset: Option<DatasetNote>,
}

/// What `provenance.json` says about a trial's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetNote {
    /// Name of the data set.
    pub name: String,
    /// Licence and origin.
    pub notice: String,
    /// Made by a program.
    pub synthetic: bool,
}

impl Report {
    /// Reads a comparison's directory: `compare.toml`, `plan.jsonl`, `summary.json` (made from the
    /// trials where it is missing) and what stands in `trials/`. A comparison that is not finished
    /// can be read too.
    ///
    /// # Errors
    /// A file is missing or is not what its name says; the message names it, and the line.
    pub fn load(dir: &Path) -> Result<Self> {
        ensure!(
            dir.is_dir(),
            "`{}` is not a directory: expected that of a comparison",
            dir.display()
        );
        let config_path = dir.join("compare.toml");
        let config_text = read(&config_path)?;
        let config: toml::Table = toml::from_str(&config_text)
            .with_context(|| format!("`{}` is not TOML", config_path.display()))?;
        let names: Vec<TrialName> = lines(&dir.join("plan.jsonl"), false)?;
        let trials = names
            .into_iter()
            .map(|name| {
                let folder = dir.join("trials").join(&name.trial_id);
                TrialRecord::load(name, &folder)
            })
            .collect::<Result<Vec<_>>>()?;
        let summary_path = dir.join("summary.json");
        let summary = if summary_path.exists() {
            let summary: Summary = json(&summary_path)?;
            check_schema(&summary_path, &summary.schema, SUMMARY_SCHEMA)?;
            summary
        } else {
            let name = config.get("name").and_then(toml::Value::as_str).unwrap_or("comparison");
            let trials: Vec<Trial> = trials.iter().map(|t| t.trial.clone()).collect();
            summarize(name, &trials)?
        };
        Ok(Self { config_text, config, summary, trials })
    }

    /// The plugins of a task's data set and search space, as the config names them.
    pub fn task_plugins(&self, task: &str) -> [Option<&str>; 2] {
        let tasks = self.config.get("task").and_then(toml::Value::as_array);
        let own = tasks
            .into_iter()
            .flatten()
            .find(|t| t.get("name").and_then(toml::Value::as_str) == Some(task));
        ["dataset", "search-space"].map(|key| own?.get(key)?.get("plugin")?.as_str())
    }

    /// The trials of a task, in the plan's order.
    pub fn trials_of(&self, task: &str) -> impl Iterator<Item = &TrialRecord> {
        self.trials.iter().filter(move |t| t.trial.name.task == task)
    }
}

impl TrialRecord {
    fn load(name: TrialName, folder: &Path) -> Result<Self> {
        let result_path = folder.join("result.json");
        let outcome = if result_path.exists() {
            let result: Box<tetlo_engine::summary::TrialResult> = json(&result_path)?;
            check_schema(&result_path, &result.schema, RESULT_SCHEMA)?;
            Outcome::Finished(result)
        } else {
            match last_failure(folder)? {
                Some(path) => Outcome::Failed(json::<Failure>(&path)?),
                None => Outcome::Missing,
            }
        };
        let events_path = folder.join("events.jsonl");
        let events = if events_path.exists() { lines(&events_path, true)? } else { vec![] };
        let genotype_path = folder.join("genotype.json");
        let genotype: Option<Value> = match &outcome {
            Outcome::Finished(result) => Some(result.genotype.clone()),
            _ if genotype_path.exists() => Some(json(&genotype_path)?),
            _ => None,
        };
        let provenance_path = folder.join("provenance.json");
        let dataset =
            if provenance_path.exists() { dataset_note(&json(&provenance_path)?) } else { None };
        Ok(Self {
            trial: Trial { name, outcome },
            events,
            // Spaces whose genotypes are not cells have none to draw.
            genotype: genotype.and_then(|g| Genotype::from_json(&g).ok()),
            dataset,
        })
    }
}

fn dataset_note(provenance: &Value) -> Option<DatasetNote> {
    let dataset = provenance.get("dataset")?;
    Some(DatasetNote {
        name: dataset.get("name")?.as_str()?.to_owned(),
        notice: dataset.get("notice").and_then(Value::as_str).unwrap_or_default().to_owned(),
        synthetic: dataset.get("synthetic").and_then(Value::as_bool).unwrap_or(false),
    })
}

/// The `failure-N.json` with the largest N.
fn last_failure(folder: &Path) -> Result<Option<PathBuf>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let mut last = None;
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("failed to list `{}`", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("failed to list `{}`", folder.display()))?.path();
        let number: Option<u64> = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_prefix("failure-")?.strip_suffix(".json")?.parse().ok());
        if let Some(number) = number {
            last = last.max(Some((number, path)));
        }
    }
    Ok(last.map(|(_, path)| path))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&read(path)?)
        .with_context(|| format!("`{}` is not what its name says", path.display()))
}

fn check_schema(path: &Path, found: &str, expected: &str) -> Result<()> {
    ensure!(found == expected, "`{}` has schema `{found}`, expected `{expected}`", path.display());
    Ok(())
}

/// A JSON value a line. A process that was killed leaves an unfinished last line: `cut` drops it.
fn lines<T: DeserializeOwned>(path: &Path, cut: bool) -> Result<Vec<T>> {
    let text = read(path)?;
    let whole = if cut && !text.ends_with('\n') {
        &text[..text.rfind('\n').map_or(0, |i| i + 1)]
    } else {
        &text
    };
    let mut out = vec![];
    for (i, line) in whole.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(value) => out.push(value),
            Err(error) => bail!("`{}`, line {}: {error}", path.display(), i + 1),
        }
    }
    Ok(out)
}
