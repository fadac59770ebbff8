//! A comparison's directory: its config, its plan, its trials, its summary.

use crate::method::Method;
use crate::plan::{Trial, plan};
use crate::retrain::{augmentation, derived_network};
use crate::search;
use crate::store::{self, DirectoryLock, TrialDirectory, json_bytes};
use crate::summary::{self, Outcome, Summary, TrialName, summarize};
use crate::trial::space;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use tetlo_core::config::{self, CompareConfig, OptimizerKind};
use tetlo_core::data::Data;
use tetlo_core::kinds::{BlackBoxSearch, Evaluator, RetrainProtocol};
use tetlo_core::network::Network;
use tetlo_core::rng::{Key, Purpose};
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
        if path.exists() && !path.is_dir() {
            return Err(Error::config_hint(
                format!("{} is a file, not a directory", path.display()),
                "choose another `--out`",
            ));
        }
        if saved.exists() {
            let old = read_config(path)?;
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
        if !saved.exists() {
            let mut lines = Vec::new();
            for trial in trials {
                serde_json::to_writer(&mut lines, &trial.to_json())
                    .map_err(|e| Error::Invalid(e.to_string()))?;
                lines.push(b'\n');
            }
            store::write(&path.join("plan.jsonl"), &lines)?;
            // Last, since its presence says what the directory is.
            store::write(&saved, config.to_toml()?.as_bytes())?;
        }
        Ok(Self { path: path.to_path_buf(), trials: trials.to_vec(), _lock: Some(lock) })
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
            let error = Error::Invalid(format!("the trial's process ended with {status}"));
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

fn read_config(path: &Path) -> Result<CompareConfig> {
    let file = path.join("compare.toml");
    let text = store::read_text(&file)?;
    let directory = std::path::absolute(path).map_err(|e| Error::io("cannot resolve a path", e))?;
    config::load(&file.display().to_string(), &text, &directory, &[])
}

/// What must agree to continue a directory: everything but threads and the device's index.
fn comparable(config: &CompareConfig) -> Result<Value> {
    let mut value = serde_json::to_value(config).map_err(|e| Error::Invalid(e.to_string()))?;
    if let Some(object) = value.as_object_mut() {
        object.remove("threads");
        let device = config.device.split(':').next().unwrap_or_default();
        object.insert("device".into(), json!(device));
    }
    Ok(value)
}

/// What a trial will take, estimated.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Peak memory in bytes.
    pub memory_bytes: u64,
    /// Multiply-adds of all forward and backward passes.
    pub multiply_adds: f64,
}

/// A forward and a backward pass, in forward passes.
const PASS: f64 = 3.0;

/// Builds everything a trial needs without training, so that what does not fit together is found
/// before anything is written; estimates what the trial will take.
///
/// # Errors
/// The config's parts do not fit together.
pub fn check_trial(trial: &Trial, data: &Data) -> Result<Cost> {
    let space = space(trial)?;
    let settings = &trial.method.search;
    let (image, classes) = (data.train.shape, data.classes);
    let half = settings.train_portion * data.train.len() as f64;
    let mut cost = Cost::default();
    let mut need = |network: &dyn Network, activations: usize, copies: usize| {
        let weights = 4 * network.weights().len() * copies;
        cost.memory_bytes = cost.memory_bytes.max((activations + weights) as u64);
    };
    let mut draws = Key::new(trial.seed, Purpose::Sample).stream();
    let sample = space.sample(&mut draws)?;
    let mut work = 0.0;
    match trial.method.optimizer_kind {
        OptimizerKind::MultilevelOptimizer => {
            let method = Method::new(&trial.method, space.clone(), image, classes, trial.seed)?;
            search::check(&method, data)?;
            let mut activations = 0;
            for network in &method.networks {
                activations += network.activation_bytes(settings.batch_size);
            }
            need(method.networks[0].as_ref(), activations, 8);
            let steps = half / settings.batch_size as f64 * settings.epochs as f64;
            let passes = method.passes_a_step();
            let macs: u64 = method.networks.iter().map(|n| n.multiply_adds()).sum();
            work += steps * settings.batch_size as f64 * macs as f64 * passes * PASS;
        }
        OptimizerKind::BlackBoxSearch => {
            let plugin: Box<dyn BlackBoxSearch> = trial.method.optimizer.build()?;
            let protocol = RetrainProtocol::proxy(settings);
            augmentation(&protocol).check(image)?;
            let network = derived_network(&space, &sample, data, &protocol)?;
            need(&network, network.activation_bytes(settings.batch_size), 5);
            let epochs = plugin.evaluations().unwrap_or(settings.epochs) as f64;
            work += epochs * half * network.multiply_adds() as f64 * PASS;
        }
    }
    let evaluator: Box<dyn Evaluator> = trial.task.evaluate.build()?;
    if let Some(protocol) = evaluator.protocol() {
        augmentation(protocol).check(image)?;
        let network = derived_network(&space, &sample, data, protocol)?;
        need(&network, network.activation_bytes(protocol.batch_size), 5);
        let images = (protocol.epochs * data.train.len()) as f64;
        work += images * network.multiply_adds() as f64 * PASS;
    }
    // Images in memory, and the process itself.
    let pixels = (data.train.pixels.len() + data.test.pixels.len()) as u64;
    cost.memory_bytes += pixels + (16 << 20);
    cost.multiply_adds = work;
    Ok(cost)
}
