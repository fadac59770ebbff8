//! A comparison's directory: its config, its plan, its trials, its summary.

use crate::plan::{PLUGINS, Trial, hex, kept_name, plan};
use crate::store::{self, DirectoryLock, TrialDirectory, json_bytes};
use crate::summary::{self, Outcome, Summary, TrialName, summarize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use tetlo_core::config::{self, CodeConfig, CompareConfig};
use tetlo_core::foreign::ended;
use tetlo_core::{Error, Result};

/// An output directory.
#[derive(Debug)]
pub struct Comparison {
    path: PathBuf,
    trials: Vec<Trial>,
    _lock: Option<DirectoryLock>,
}

impl Comparison {
    /// Makes the directory, or continues one of the same config.
    ///
    /// # Errors
    /// The directory belongs to another config (the message names the keys that differ) or to
    /// something else, or another process is writing to it.
    pub fn open(path: &Path, config: &CompareConfig, trials: &[Trial]) -> Result<Self> {
        let saved = path.join("compare.toml");
        let mut redrawn = false;
        if path.exists() && !path.is_dir() {
            return Err(Error::config_hint(
                format!("{} is a file, not a directory", path.display()),
                "choose another `--out`",
            ));
        }
        if saved.exists() {
            let old = read_config(path)?;
            let places = |c: &CompareConfig| -> Vec<_> {
                c.methods.iter().map(|m| m.heat_map.clone()).collect()
            };
            redrawn = places(&old) != places(config);
            let differing = config::difference(&comparable(&old)?, &comparable(config)?);
            if !differing.is_empty() {
                return Err(Error::config_hint(
                    format!(
                        "{} holds a comparison of another config: {} differ",
                        path.display(),
                        differing.join(", ")
                    ),
                    "choose another `--out`, or remove the directory",
                ));
            }
        } else if path.exists() {
            let foreign = std::fs::read_dir(path)
                .map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?
                .filter_map(std::result::Result::ok)
                .any(|e| e.file_name() != ".lock");
            if foreign {
                return Err(Error::config_hint(
                    format!("{} exists and is not a comparison", path.display()),
                    "choose another `--out`",
                ));
            }
        }
        let lock = DirectoryLock::take(path)?;
        keep_plugins(path, config)?;
        if !saved.exists() {
            let mut lines = Vec::new();
            for trial in trials {
                serde_json::to_writer(&mut lines, &trial.to_json())
                    .map_err(|e| Error::Invalid(e.to_string()))?;
                lines.push(b'\n');
            }
            store::write(&path.join("plan.jsonl"), &lines)?;
        }
        if redrawn || !saved.exists() {
            // Last, since its presence says what the directory is.
            let kept = |code: &CodeConfig| match kept_name(code) {
                Ok(name) => Path::new(PLUGINS).join(name),
                Err(_) => code.file.clone(),
            };
            let written = config.clone().with_libraries(kept);
            store::write(&saved, written.to_toml()?.as_bytes())?;
        }
        Ok(Self { path: path.to_path_buf(), trials: trials.to_vec(), _lock: Some(lock) })
    }

    /// Opens a planned comparison to run all of it: nobody else may write to it meanwhile.
    ///
    /// # Errors
    /// As [`Comparison::reopen`], or another process is writing to it.
    pub fn resume(path: &Path) -> Result<(Self, CompareConfig, Vec<Trial>)> {
        let lock = DirectoryLock::take(path)?;
        let (this, config, trials) = Self::reopen(path)?;
        Ok((Self { _lock: Some(lock), ..this }, config, trials))
    }

    /// Opens a planned comparison to run a trial of it; others may do the same.
    ///
    /// # Errors
    /// There is none, or its config no longer gives the plan that was written.
    pub fn reopen(path: &Path) -> Result<(Self, CompareConfig, Vec<Trial>)> {
        let config = read_config(path)?;
        let trials = plan(&config)?;
        let planned = store::read_text(&path.join("plan.jsonl"))?;
        let ids: Vec<String> = planned
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok())
            .filter_map(|l| Some(l.get("trial_id")?.as_str()?.to_owned()))
            .collect();
        if ids.iter().ne(trials.iter().map(|t| &t.id)) {
            return Err(Error::config_hint(
                format!("the plan in {} was made from other data or plugins", path.display()),
                "restore them, or plan again into another directory",
            ));
        }
        let this = Self { path: path.to_path_buf(), trials: trials.clone(), _lock: None };
        Ok((this, config, trials))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of a trial.
    pub fn trial(&self, id: &str) -> TrialDirectory {
        TrialDirectory::of(&self.path, id)
    }

    /// Number of planned trials.
    pub fn trials(&self) -> usize {
        self.trials.len()
    }

    /// Trials without a result.
    pub fn missing(&self) -> Result<usize> {
        let mut missing = 0;
        for trial in &self.trials {
            missing += usize::from(self.trial(&trial.id).result()?.is_none());
        }
        Ok(missing)
    }

    /// Writes a file of the comparison.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        store::write(&self.path.join(name), bytes)
    }

    /// Records that the process of a trial died.
    pub fn record_death(&self, trial: &Trial, status: ExitStatus) -> Result<()> {
        #[cfg(unix)]
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        #[cfg(not(unix))]
        let signal = None;
        let directory = self.trial(&trial.id);
        // A trial that could still speak has recorded its own failure.
        if signal.is_some() || directory.failure()?.is_none() {
            let plugins: Vec<String> = trial.loaded().map(|p| format!("`{}`", p.plugin)).collect();
            let suspects = match plugins.as_slice() {
                [] => String::new(),
                list => format!(" while it ran code that is not linked in ({})", list.join(", ")),
            };
            let error = Error::Foreign(format!("the trial's process: {}{suspects}", ended(status)));
            directory.fail(&trial.id, &error, signal)?;
        }
        Ok(())
    }

    /// Computes `summary.json` from the results that are there, and writes it.
    pub fn summarise(&self, config: &CompareConfig) -> Result<Summary> {
        let mut trials = Vec::with_capacity(self.trials.len());
        for trial in &self.trials {
            let directory = self.trial(&trial.id);
            let outcome = match (directory.result()?, directory.failure()?) {
                (Some(result), _) => Outcome::Finished(Box::new(result)),
                (None, Some(failure)) => Outcome::Failed(failure),
                (None, None) => Outcome::Missing,
            };
            let name = TrialName {
                trial_id: trial.id.clone(),
                method: trial.method.name.clone(),
                task: trial.task.name.clone(),
                seed: trial.seed,
            };
            trials.push(summary::Trial { name, outcome });
        }
        let summary = summarize(&config.name, &trials)?;
        self.write("summary.json", &json_bytes(&summary))?;
        Ok(summary)
    }
}

/// Copies the files of a config's plugins to where its trials load them from: what is replaced or
/// removed later is not what runs.
fn keep_plugins(path: &Path, config: &CompareConfig) -> Result<()> {
    let codes: Vec<&CodeConfig> = config.loaded().filter_map(|p| p.code.as_ref()).collect();
    if codes.is_empty() {
        return Ok(());
    }
    let folder = path.join(PLUGINS);
    store::make_directory(&folder)?;
    for code in codes {
        let copy = folder.join(kept_name(code)?);
        if copy.exists() {
            continue; // with the right content, or the trials that load it say so
        }
        let bytes = std::fs::read(&code.file)
            .map_err(|e| Error::io(format!("cannot read {}", code.file.display()), e))?;
        if hex(&Sha256::digest(&bytes)) != code.hash()? {
            return Err(Error::config_hint(
                format!("{} has changed since it was loaded", code.file.display()),
                "run the command again",
            ));
        }
        store::write_executable(&copy, &bytes)?;
    }
    Ok(())
}

fn read_config(path: &Path) -> Result<CompareConfig> {
    let file = path.join("compare.toml");
    let text = store::read_text(&file)?;
    let directory = std::path::absolute(path).map_err(|e| Error::io("cannot resolve a path", e))?;
    config::load(&file.display().to_string(), &text, &directory, &[])
}

/// Takes this key out of the tables of plugins.
fn without(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) => {
            if map.contains_key("library") {
                map.remove(key);
            }
            map.values_mut().for_each(|v| without(v, key));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| without(v, key)),
        _ => {}
    }
}

/// What must agree to continue a directory: everything but threads, the device's index, places in the
/// report's heat map, where plugins' files lie (their hashes must agree), and how long they may take.
fn comparable(config: &CompareConfig) -> Result<Value> {
    let config = config.clone().with_libraries(|_| PathBuf::new());
    let mut value = serde_json::to_value(&config).map_err(|e| Error::Invalid(e.to_string()))?;
    if let Some(object) = value.as_object_mut() {
        object.remove("threads");
        let device = config.device.split(':').next().unwrap_or_default();
        object.insert("device".into(), json!(device));
    }
    without(&mut value, "time-limit");
    for method in value["method"].as_array_mut().into_iter().flatten() {
        method.as_object_mut().and_then(|m| m.remove("heat-map"));
    }
    Ok(value)
}
