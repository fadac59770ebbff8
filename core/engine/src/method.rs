//! A method, built: one complete search step, and the state it changes (METHODS.md §1.3).

use crate::accuracy::{accuracy, correct};
use crate::loader::Loader;
use crate::record::{Observer, event};
use candle_core::{DType, Device, Tensor};
use std::cell::Cell;
use std::sync::Arc;
use tetlo_core::config::{MethodConfig, PluginConfig, SearchConfig};
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{
    Auxiliary, AuxiliarySite, Hypergradient, MultilevelOptimizer, Progress, Regularizer,
    Relaxation, Selection, StopRule, SupernetTransform, TransferLoss,
};
use tetlo_core::multilevel::combine::{ArchState, adjoints, architecture_step};
use tetlo_core::multilevel::reverse::{HyperGradient, hypergradient};
use tetlo_core::multilevel::{Batches, Level, LossTerm, ModelRole, Point, Problem, StageGraph};
use tetlo_core::network::{ImageShape, Network, update_running_statistics};
use tetlo_core::optim::{Adam, CosineSchedule, Inner, SgdState, norm};
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::{ArchValues, SpaceSpec, initial_values};
use tetlo_core::{Error, Result, registry};

/// A method, built: everything about a search that does not change while it runs.
#[derive(Debug)]
pub struct Method {
    /// The levels.
    pub graph: StageGraph,
    /// The space the supernet is built from (after transforms).
    pub space: SpaceSpec,
    /// A network a stage; stage 0 is the supernet.
    pub networks: Vec<Arc<dyn Network>>,
    /// Group of architecture parameters a stage.
    pub groups: Vec<Option<usize>>,
    estimator: Box<dyn Hypergradient>,
    transfer: Option<Box<dyn TransferLoss>>,
    regularizers: Vec<Box<dyn Regularizer>>,
    selection: Box<dyn Selection>,
    pub(crate) stop_rule: Option<Box<dyn StopRule>>,
    /// The search protocol.
    pub settings: SearchConfig,
    /// The trial's seed.
    pub seed: u64,
}

fn missing(config: &MethodConfig, key: &str) -> Error {
    Error::config_hint(
        format!("method `{}` needs the key `{key}`", config.name),
        format!("`tetlo plugins list --kind {key}` shows what can stand there"),
    )
}

/// Builds a plugin that the method's optimizer cannot do without.
fn needed<T: registry::Kind + ?Sized>(
    config: &MethodConfig,
    key: &str,
    reference: Option<&PluginConfig>,
) -> Result<Box<T>> {
    reference.ok_or_else(|| missing(config, key))?.build()
}

/// The space as the supernet of a method sees it.
///
/// # Errors
/// A transform does not fit the space.
pub fn transformed(config: &MethodConfig, mut space: SpaceSpec) -> Result<SpaceSpec> {
    for transform in &config.transforms {
        let transform: Box<dyn SupernetTransform> = transform.build()?;
        space = transform.transform(space)?.validated()?;
    }
    Ok(space)
}

impl Method {
    /// Builds all plugins of a method for a space and images of a shape.
    ///
    /// # Errors
    /// Plugins that do not fit together; the message says which.
    pub fn new(
        config: &MethodConfig,
        space: SpaceSpec,
        image: ImageShape,
        classes: usize,
        seed: u64,
    ) -> Result<Self> {
        let optimizer: Box<dyn MultilevelOptimizer> = config.optimizer.build()?;
        let graph = optimizer.graph()?.validated()?;
        let estimator =
            registry::build::<dyn Hypergradient>(&graph.estimator, &graph.estimator_options)?;
        let space = transformed(config, space)?;
        let relaxation: Box<dyn Relaxation> =
            needed(config, "relaxation", config.relaxation.as_ref())?;
        let transfer: Option<Box<dyn TransferLoss>> =
            config.transfer_loss.as_ref().map(PluginConfig::build).transpose()?;
        if graph.uses_transfer() {
            let loss = transfer.as_deref().ok_or_else(|| missing(config, "transfer-loss"))?;
            graph.check_transfer(loss.needs(), loss.reaches_main())?;
        }
        let mut method = Self {
            networks: vec![],
            groups: vec![],
            estimator,
            transfer,
            regularizers: config
                .regularizers
                .iter()
                .map(PluginConfig::build)
                .collect::<Result<_>>()?,
            selection: needed(config, "selection", config.selection.as_ref())?,
            stop_rule: config.stop_rule.as_ref().map(PluginConfig::build).transpose()?,
            settings: config.search.clone(),
            seed,
            graph,
            space,
        };
        let supernet: Arc<dyn Network> =
            Arc::new(method.space.supernet(image, classes, Arc::from(relaxation))?);
        let site = AuxiliarySite::new(image, classes, &method.space);
        let mut groups = 0;
        for stage in &method.graph.stages {
            let network = match stage.model {
                ModelRole::Main => supernet.clone(),
                ModelRole::Auxiliary => {
                    let auxiliary: Box<dyn Auxiliary> =
                        needed(config, "auxiliary", config.auxiliary.as_ref())?;
                    auxiliary.network(&site)?
                }
            };
            let group = (!network.architecture().is_empty()).then_some(groups);
            groups += usize::from(group.is_some());
            method.groups.push(group);
            method.networks.push(network);
        }
        // A rule that does not fit the space says so before the search, not after it.
        let architecture = method.networks[0].architecture();
        let zeros = Tensor::zeros(architecture.len(), DType::F32, &Device::Cpu)?;
        let zeros = ArchValues::from_flat(architecture, &zeros)?;
        let name = config.selection.as_ref().map_or("", |s| &s.plugin);
        method.selection.select(&method.space, &zeros).map_err(|e| e.in_plugin(name))?;
        Ok(method)
    }

    /// Estimates mixed derivatives by another estimator than the optimizer's own (to compare them).
    ///
    /// # Errors
    /// Unknown, or options that do not fit.
    pub fn use_estimator(&mut self, name: &str, options: &serde_json::Value) -> Result<()> {
        self.estimator = registry::build::<dyn Hypergradient>(name, options)?;
        Ok(())
    }

    fn key(&self, purpose: Purpose) -> Key {
        Key::new(self.seed, purpose)
    }

    /// Learning rate, momentum and weight decay of a stage in an epoch.
    pub(crate) fn inner(&self, stage: usize, epoch: usize) -> Inner {
        let s = &self.settings;
        let (start, min, momentum, weight_decay) = match self.graph.stages[stage].model {
            ModelRole::Main => (s.learning_rate, s.learning_rate_min, s.momentum, s.weight_decay),
            ModelRole::Auxiliary => (
                s.auxiliary_learning_rate,
                s.auxiliary_learning_rate_min,
                s.auxiliary_momentum,
                s.auxiliary_weight_decay,
            ),
        };
        let schedule = CosineSchedule { start, min, epochs: s.epochs };
        Inner { learning_rate: schedule.rate(epoch), momentum, weight_decay }
    }

    fn adam(&self) -> Adam {
        let s = &self.settings;
        Adam {
            learning_rate: s.arch_learning_rate,
            beta1: s.arch_beta1,
            beta2: s.arch_beta2,
            weight_decay: s.arch_weight_decay,
        }
    }

    /// Fresh parameters.
    pub fn initial_state(&self) -> Result<SearchState> {
        let mut state = SearchState::default();
        for (stage, network) in self.networks.iter().enumerate() {
            let key = self.key(Purpose::Weights).level(stage);
            let (weights, buffers, architecture) = initial_values(network.as_ref(), key)?;
            state.point.weights.push(weights);
            state.buffers.push(buffers);
            state.sgd.push(SgdState::default());
            state.point.architecture.extend(architecture);
        }
        Ok(state)
    }

    fn problem<'a>(
        &'a self,
        state: &'a SearchState,
        batches: &'a Batches,
        at: Progress,
        weight_step: bool,
    ) -> Problem<'a> {
        let levels = (0..self.networks.len())
            .map(|stage| Level {
                network: self.networks[stage].as_ref(),
                architecture: self.groups[stage],
                inner: self.inner(stage, at.epoch),
                momentum: state.sgd[stage].momentum.as_ref(),
            })
            .collect();
        Problem {
            graph: &self.graph,
            levels,
            transfer: self.transfer.as_deref(),
            batches,
            draw: self.key(Purpose::Relaxation).step(at.step),
            weight_step,
            passes: Cell::new(0),
        }
    }

    /// A sentence where the search ends before its architecture is trained at all.
    pub fn untrained(&self) -> Option<String> {
        self.graph.untrained(self.settings.epochs)
    }

    /// Is the architecture updated at this step?
    pub fn updates_architecture(&self, at: Progress) -> bool {
        at.epoch >= self.graph.warmup_epochs && at.step.is_multiple_of(self.graph.every)
    }

    /// Does the hypergradient look through the inner updates?
    pub fn unrolls(&self) -> bool {
        self.estimator.unrolls()
    }

    /// Gradients computed in an average step, of all networks together (an estimate for plans).
    pub fn passes_a_step(&self) -> f64 {
        let stages = self.networks.len() as f64;
        // One for each stage's update, one for each term of the objective, two for each mixed product.
        let terms = self.graph.objective.iter().filter(|o| o.weight > 0.0).count() as f64;
        let hyper = if self.unrolls() { 3.0 * stages + terms } else { 1.0 };
        hyper / self.graph.every as f64 + stages
    }

    /// The hypergradient at the present state.
    pub fn hypergradient(
        &self,
        state: &SearchState,
        batches: &Batches,
        at: Progress,
    ) -> Result<HyperGradient> {
        let problem = self.problem(state, batches, at, false);
        hypergradient(&problem, &state.point, self.estimator.as_ref(), adjoints(&self.graph))
    }

    /// One complete search step: the architecture first, then the weights of each stage.
    ///
    /// # Errors
    /// A loss or gradient is not finite; the message names step and level.
    pub fn step(
        &self,
        state: &mut SearchState,
        batches: &Batches,
        at: Progress,
        observer: &mut dyn Observer,
    ) -> Result<StepOutcome> {
        let (mut gradient, mut combined) = (None, None);
        if self.updates_architecture(at) {
            let found = self.hypergradient(state, batches, at)?;
            combined = self.update_architecture(state, &found, at, observer)?;
            gradient = Some(found);
        }
        let mut training = Vec::with_capacity(self.networks.len());
        for stage in 0..self.networks.len() {
            training.push(self.weight_step(state, stage, batches, at)?);
        }
        Ok(StepOutcome { gradient, combined, training })
    }

    fn update_architecture(
        &self,
        state: &mut SearchState,
        gradient: &HyperGradient,
        at: Progress,
        observer: &mut dyn Observer,
    ) -> Result<Option<Tensor>> {
        let penalty = self.penalty_gradient(state, at)?;
        let (next, figures) = architecture_step(
            &self.graph,
            self.adam(),
            &mut state.arch,
            &state.point.architecture,
            gradient,
            penalty.as_ref(),
        )?;
        let mut tell = |name: String, value: f64| {
            observer.event(event(at.step, at.epoch, "search", name, value));
        };
        for c in &gradient.contributions {
            let length = norm(&c.gradient)?;
            if !length.is_finite() {
                return Err(Error::NotFinite {
                    what: format!("hypergradient term {}", c.name()),
                    level: "architecture".into(),
                    step: at.step,
                });
            }
            tell(format!("hypergrad/{}/norm", c.name()), length);
        }
        tell("hypergrad/passes".into(), gradient.passes as f64);
        tell("hypergrad/objective".into(), gradient.objective);
        if !self.graph.objective.iter().any(|o| o.stage > 0) {
            state.point.architecture = next;
            return Ok(figures.combined); // no transferred part to set against the main one
        }
        let optional = [
            ("hypergrad/main/norm", figures.main_norm),
            ("hypergrad/transferred/norm", figures.transferred_norm),
            ("hypergrad/cosine", figures.cosine),
            ("hypergrad/direct_share", gradient.direct_share()?),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                tell(name.into(), value);
            }
        }
        if figures.main_norm.is_some() {
            tell("hypergrad/factor".into(), figures.factor);
        }
        state.point.architecture = next;
        Ok(figures.combined)
    }

    fn penalty_gradient(&self, state: &SearchState, at: Progress) -> Result<Option<Tensor>> {
        if self.regularizers.is_empty() {
            return Ok(None);
        }
        let flat = candle_core::Var::from_tensor(&state.point.architecture[0].detach())?;
        let layout = self.networks[0].architecture();
        let cells = self.space.cells.iter();
        let alphas: Vec<Tensor> =
            cells.map(|c| layout.view(flat.as_tensor(), &c.alphas())).collect::<Result<_>>()?;
        let mut total: Option<Tensor> = None;
        for regularizer in &self.regularizers {
            let penalty = regularizer.penalty(&alphas, at)?;
            total = Some(match total {
                Some(sum) => (sum + penalty)?,
                None => penalty,
            });
        }
        let Some(total) = total else { return Ok(None) };
        Ok(total.backward()?.get(&flat).map(Tensor::detach))
    }

    /// One step of a stage's weights.
    pub fn weight_step(
        &self,
        state: &mut SearchState,
        stage: usize,
        batches: &Batches,
        at: Progress,
    ) -> Result<Training> {
        let (loss, gradient, output) = {
            let problem = self.problem(state, batches, at, true);
            let inner = problem.inner_gradient(stage, &state.point)?;
            (inner.loss, inner.gradient, inner.output)
        };
        let name = || self.graph.stages[stage].name.clone();
        let not_finite =
            |what: &str| Error::NotFinite { what: what.to_owned(), level: name(), step: at.step };
        if !loss.is_finite() {
            return Err(not_finite("training loss"));
        }
        let inner = self.inner(stage, at.epoch);
        let clip = self.settings.gradient_clip;
        let weights = &state.point.weights[stage];
        let (next, length) = state.sgd[stage].step(inner, clip, weights, &gradient)?;
        if !length.is_finite() {
            return Err(not_finite("weight gradient"));
        }
        state.point.weights[stage] = next;
        let mut accuracy = None;
        if let Some(output) = output {
            accuracy = Some(correct(&output.logits, &batches.train.labels)?);
            if let Some(buffers) = &state.buffers[stage] {
                let updated = update_running_statistics(buffers, output.statistics.as_ref())?;
                state.buffers[stage] = Some(updated);
            }
        }
        Ok(Training { loss, correct: accuracy, images: batches.train.labels.len() })
    }

    /// The genotype that the present architecture parameters give.
    pub fn genotype(&self, state: &SearchState) -> Result<Genotype> {
        let layout = self.networks[0].architecture();
        let values = ArchValues::from_flat(layout, &state.point.architecture[0])?;
        self.selection.select(&self.space, &values)
    }

    /// Accuracy of the supernet with running statistics on a split.
    pub fn validate(&self, state: &SearchState, loader: &Loader<'_>) -> Result<f64> {
        accuracy(
            self.networks[0].as_ref(),
            &state.point.weights[0],
            state.buffers[0].as_ref(),
            Some(&state.point.architecture[0]),
            loader,
        )
    }

    /// The transfer loss's own figures, once an epoch.
    pub(crate) fn record_transfer(
        &self,
        state: &SearchState,
        batches: &Batches,
        at: Progress,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        for (stage, description) in self.graph.stages.iter().enumerate() {
            for term in &description.loss {
                let LossTerm::Transfer { from, weight } = term else { continue };
                if *weight <= 0.0 {
                    continue;
                }
                let problem = self.problem(state, batches, at, false);
                for (name, value) in problem.transfer_diagnostics(stage, *from, &state.point)? {
                    let name = format!("transfer/{}/{name}", description.name);
                    observer.event(event(at.step, at.epoch, "search", name, value));
                }
            }
        }
        Ok(())
    }
}

/// Everything that changes during a search: a value.
#[derive(Debug, Clone)]
pub struct SearchState {
    /// Weights a stage, architecture parameters a group.
    pub point: Point,
    /// Running statistics a stage.
    pub buffers: Vec<Option<Tensor>>,
    /// Memory of the inner optimiser a stage.
    pub sgd: Vec<SgdState>,
    /// Memory of the architecture's optimiser.
    pub arch: ArchState,
}

impl Default for SearchState {
    fn default() -> Self {
        Self {
            point: Point { weights: vec![], architecture: vec![] },
            buffers: vec![],
            sgd: vec![],
            arch: ArchState::default(),
        }
    }
}

/// A stage's weight step, for the record.
#[derive(Debug, Clone, Copy)]
pub struct Training {
    /// Loss before the step.
    pub loss: f64,
    /// Correctly classified training images, if the model's cross entropy is trained.
    pub correct: Option<usize>,
    /// Images in the batch.
    pub images: usize,
}

/// What a search step did.
#[derive(Debug)]
pub struct StepOutcome {
    /// The hypergradient, if the architecture was updated.
    pub gradient: Option<HyperGradient>,
    /// The combined gradient of the main architecture that its Adam took, before penalty and weight
    /// decay; `None` with `separate-states`.
    pub combined: Option<Tensor>,
    /// The weight step of each stage.
    pub training: Vec<Training>,
}
