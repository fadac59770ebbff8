//! One trial: search, derive, evaluate, record.

use crate::black_box::black_box;
use crate::memory;
use crate::method::Method;
use crate::plan::Trial;
use crate::provenance::provenance;
use crate::record::{Observer, event};
use crate::retrain::{TrainingRun, derived_network, train};
use crate::search::{AlphaHistory, SearchResult, search};
use crate::store::{Recorder, TrialDirectory};
use crate::summary::{RESULT_SCHEMA, RetrainRecord, SearchRecord, TrialResult};
use std::time::Instant;
use tetlo_core::config::OptimizerKind;
use tetlo_core::data::Data;
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{
    BlackBoxSearch, Dataset, Evaluation, EvaluationHost, Evaluator, RetrainProtocol, SearchSpace,
};
use tetlo_core::space::SpaceSpec;
use tetlo_core::{Error, Result};

/// Where a trial runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Threads in use.
    pub threads: usize,
}

/// Loads the data of a task.
///
/// # Errors
/// The data cannot be read, or the task names none.
pub fn load_data(trial: &Trial) -> Result<Data> {
    let reference = trial.task.dataset.as_ref().ok_or_else(|| {
        Error::config(format!(
            "task `{}` has no `dataset`, but its search needs one",
            trial.task.name
        ))
    })?;
    let dataset: Box<dyn Dataset> = reference.build()?;
    dataset.load().and_then(Data::validated).map_err(|e| e.in_plugin(&reference.plugin))
}

/// The space of a task.
pub fn space(trial: &Trial) -> Result<SpaceSpec> {
    let space: Box<dyn SearchSpace> = trial.task.search_space.build()?;
    space.spec().validated()
}

/// What a search of either kind gives to the evaluation.
struct Found {
    genotype: Genotype,
    epochs: usize,
    best_val_accuracy: f64,
    history: AlphaHistory,
}

impl From<SearchResult> for Found {
    fn from(r: SearchResult) -> Self {
        Self {
            genotype: r.genotype,
            epochs: r.epochs,
            best_val_accuracy: r.best_val_accuracy,
            history: r.history,
        }
    }
}

fn find(
    trial: &Trial,
    space: &SpaceSpec,
    data: &Data,
    observer: &mut dyn Observer,
) -> Result<Found> {
    let method = &trial.method;
    match method.optimizer_kind {
        OptimizerKind::MultilevelOptimizer => {
            let (image, classes) = (data.train.shape, data.classes);
            let built = Method::new(method, space.clone(), image, classes, trial.seed)?;
            Ok(search(&built, data, observer)?.into())
        }
        OptimizerKind::BlackBoxSearch => {
            let plugin: Box<dyn BlackBoxSearch> = method.optimizer.build()?;
            let r = black_box(&*plugin, space, &method.search, data, trial.seed, observer)?;
            Ok(Found {
                genotype: r.genotype,
                epochs: r.history.len(),
                best_val_accuracy: r.best_val_accuracy,
                history: vec![],
            })
        }
    }
}

/// Runs only the search of a trial: the genotype, and the architecture parameters a epoch.
pub fn search_only(
    trial: &Trial,
    data: &Data,
    observer: &mut dyn Observer,
) -> Result<(Genotype, AlphaHistory, SearchRecord)> {
    let space = space(trial)?;
    let began = Instant::now();
    let found = find(trial, &space, data, observer)?;
    let record = SearchRecord {
        seconds: began.elapsed().as_secs_f64(),
        epochs: found.epochs,
        best_val_accuracy: Some(found.best_val_accuracy),
    };
    Ok((found.genotype, found.history, record))
}

/// Runs a whole trial into its directory. A finished trial is left alone.
///
/// # Errors
/// Whatever stops the trial; it is also recorded in `failure-N.json`.
pub fn run(
    trial: &Trial,
    directory: &TrialDirectory,
    data: &Data,
    place: &Place,
    observer: &mut dyn Observer,
) -> Result<TrialResult> {
    if let Some(done) = directory.result()? {
        return Ok(done);
    }
    let run_toml = trial.to_toml(&place.device)?;
    directory.begin(&run_toml, &provenance(trial, data, &place.device, place.threads))?;
    let mut recorder = Recorder::start(directory, observer)?;
    let outcome = attempt(trial, directory, data, &mut recorder);
    let recorded = recorder.finish();
    match outcome.and_then(|result| recorded.map(|()| result)) {
        Ok(result) => {
            directory.finish(&result)?;
            // Another process may have been first; its result is the one that counts.
            directory.result()?.ok_or_else(|| Error::Invalid("the result vanished".into()))
        }
        Err(error) => {
            directory.fail(&trial.id, &error, None)?;
            Err(error)
        }
    }
}

fn attempt(
    trial: &Trial,
    directory: &TrialDirectory,
    data: &Data,
    observer: &mut dyn Observer,
) -> Result<TrialResult> {
    memory::reset_peak();
    let space = space(trial)?;
    let evaluator: Box<dyn Evaluator> = trial.task.evaluate.build()?;
    let (genotype, history, search) = search_only(trial, data, observer)?;
    directory.write_genotype(&genotype)?;
    directory.write_alphas(&history)?;
    let began = Instant::now();
    let mut host = Host { space: &space, data, seed: trial.seed, observer };
    let evaluation = evaluator.evaluate(&genotype, &mut host)?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(TrialResult {
        schema: RESULT_SCHEMA.into(),
        trial_id: trial.id.clone(),
        method: trial.method.name.clone(),
        task: trial.task.name.clone(),
        seed: trial.seed,
        metric: evaluator.metric(),
        genotype: genotype.to_json(),
        search,
        retrain: evaluator.protocol().map(|_| RetrainRecord {
            val_accuracy: evaluation.val_accuracy,
            test_accuracy: evaluation.test_accuracy,
            seconds,
        }),
        value: evaluation.value,
        params: evaluation.params,
        macs: evaluation.macs,
        skip_count: genotype.skip_count(),
        peak_memory_bytes: memory::peak_bytes(),
    })
}

/// What the engine does for evaluators.
struct Host<'a> {
    space: &'a SpaceSpec,
    data: &'a Data,
    seed: u64,
    observer: &'a mut dyn Observer,
}

impl EvaluationHost for Host<'_> {
    fn retrain(&mut self, genotype: &Genotype, protocol: &RetrainProtocol) -> Result<Evaluation> {
        retrain(self.space, genotype, self.data, protocol, self.seed, self.observer)
    }
}

/// Trains the derived network on all training images and tests it once.
///
/// # Errors
/// The genotype is not of this space, or a loss is not finite.
pub fn retrain(
    space: &SpaceSpec,
    genotype: &Genotype,
    data: &Data,
    protocol: &RetrainProtocol,
    seed: u64,
    observer: &mut dyn Observer,
) -> Result<Evaluation> {
    use tetlo_core::network::Network;
    let network = derived_network(space, genotype, data, protocol)?;
    // The auxiliary head is discarded after training; the field's counts leave it out.
    let bare = RetrainProtocol { auxiliary_weight: 0.0, ..protocol.clone() };
    let counted = derived_network(space, genotype, data, &bare)?;
    let (params, macs) = (counted.weights().len() as u64, counted.multiply_adds());
    let all: Vec<usize> = (0..data.train.len()).collect();
    let run = TrainingRun { data, indices: &all, protocol, seed, role: 0, phase: "retrain" };
    let trained = train(network, run, observer)?;
    let accuracy = trained.test(data, protocol.batch_size)?;
    let last = protocol.epochs;
    observer.event(event(
        last,
        last.saturating_sub(1),
        "retrain",
        "retrain/test/accuracy",
        accuracy,
    ));
    observer.line(&format!("retrain: test accuracy {accuracy:.3}"));
    Ok(Evaluation {
        value: accuracy,
        val_accuracy: None,
        test_accuracy: Some(accuracy),
        params,
        macs,
    })
}
