//! A method, built: its levels, networks and plugins (METHODS.md §1.3).

mod check;
mod state;
mod step;

pub(crate) use check::Checked;
pub use state::SearchState;
pub use step::{StepOutcome, Training};

use crate::accuracy::accuracy;
use crate::loader::Loader;
use candle_core::{DType, Device, Tensor};
use std::cell::Cell;
use std::sync::Arc;
use tetlo_core::config::{MethodConfig, PluginConfig, SearchConfig};
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{
    Auxiliary, AuxiliarySite, Hypergradient, MultilevelOptimizer, Progress, Regularizer,
    Relaxation, Seen, Selection, StopRule, SupernetTransform,
};
use tetlo_core::layout::Layout;
use tetlo_core::multilevel::combine::adjoints;
use tetlo_core::multilevel::reverse::{HyperGradient, hypergradient};
use tetlo_core::multilevel::{
    Batches, CrossEntropy, Level, LossParameters, ModelRole, Problem, StageGraph, TransferLosses,
};
use tetlo_core::network::{ImageShape, Network, Output, Pass};
use tetlo_core::optim::{Adam, CosineSchedule, Inner, InnerRule, InnerState, Sgd};
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
    estimators: Vec<Box<dyn Hypergradient>>,
    transfers: TransferLosses,
    /// Parameters of the transfer losses of each stage, and their layouts in the same order.
    parameters: Vec<(Vec<LossParameters>, Vec<Layout>)>,
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

/// First role of the keys that draw a transfer loss's parameters.
const LOSS_PARAMETERS: u32 = 1000;

/// What a network says of two black images: the shapes of its outputs.
fn example(network: &dyn Network, image: ImageShape) -> Result<Output> {
    let key = Key::new(0, Purpose::Weights);
    let (weights, _, architecture) = initial_values(network, key)?;
    let shape = (2, image.channels, image.height, image.width);
    let images = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
    network.forward(&weights, architecture.as_ref(), &images, &Pass::train(key))
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
        Self::with_auxiliaries_of(usize::MAX, config, space, image, classes, seed)
    }

    /// The same with auxiliary models of at most so many channels in their first layers.
    pub(crate) fn with_auxiliaries_of(
        most_channels: usize,
        config: &MethodConfig,
        space: SpaceSpec,
        image: ImageShape,
        classes: usize,
        seed: u64,
    ) -> Result<Self> {
        let optimizer: Box<dyn MultilevelOptimizer> = config.optimizer.build()?;
        let graph = optimizer.graph()?.validated()?;
        let estimators =
            (0..graph.stages.len()).map(|i| graph.estimator(i).build()).collect::<Result<_>>()?;
        let space = transformed(config, space)?;
        let relaxation: Box<dyn Relaxation> =
            needed(config, "relaxation", config.relaxation.as_ref())?;
        let transfers = TransferLosses::build(&graph, || {
            needed(config, "transfer-loss", config.transfer_loss.as_ref())
        })?;
        graph.check_transfer(&transfers)?;
        let mut method = Self {
            networks: vec![],
            groups: vec![],
            estimators,
            transfers,
            parameters: vec![],
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
        let maps = method.needs_maps()?;
        let supernet = method.space.supernet(image, classes, Arc::from(relaxation))?;
        let supernet: Arc<dyn Network> =
            Arc::new(if maps { supernet.with_maps()? } else { supernet });
        let site = AuxiliarySite::new(image, classes, &method.space)
            .with_maps(maps)
            .with_most_channels(most_channels);
        let mut groups = 0;
        for stage in &method.graph.stages {
            let network = match stage.model {
                ModelRole::Main | ModelRole::Twin => supernet.clone(),
                ModelRole::Auxiliary => {
                    let auxiliary: Box<dyn Auxiliary> =
                        needed(config, "auxiliary", config.auxiliary.as_ref())?;
                    auxiliary.network(&site)?
                }
            };
            let group = match stage.model {
                ModelRole::Twin => Some(0),
                _ => (!network.architecture().is_empty()).then_some(groups),
            };
            groups += usize::from(group == Some(groups));
            method.groups.push(group);
            method.networks.push(network);
        }
        method.parameters = method.loss_parameters(image)?;
        // A rule that does not fit the space says so before the search, not after it.
        let architecture = method.networks[0].architecture();
        let zeros = Tensor::zeros(architecture.len(), DType::F32, &Device::Cpu)?;
        let zeros = ArchValues::from_flat(architecture, &zeros)?;
        let name = config.selection.as_ref().map_or("", |s| &s.plugin);
        method.selection.select(&method.space, &zeros).map_err(|e| e.in_plugin(name))?;
        Ok(method)
    }

    /// Does a transfer loss look at feature maps?
    fn needs_maps(&self) -> Result<bool> {
        let mut needs = false;
        for (stage, term, ..) in self.graph.transfers() {
            needs |= self.transfers.get(stage, term)?.needs().maps;
        }
        Ok(needs)
    }

    /// Where the parameters of each stage's transfer losses stand: behind its network's weights.
    fn loss_parameters(
        &self,
        image: ImageShape,
    ) -> Result<Vec<(Vec<LossParameters>, Vec<Layout>)>> {
        let mut list = vec![(vec![], vec![]); self.networks.len()];
        for (stage, term, from, _) in self.graph.transfers() {
            let loss = self.transfers.get(stage, term)?;
            let needs = loss.needs();
            if !needs.parameters {
                continue;
            }
            let seen = |stage: usize| -> Result<Seen> {
                Ok(Seen::of(&example(self.networks[stage].as_ref(), image)?, needs))
            };
            let layout = loss.parameters(&seen(from)?, &seen(stage)?)?;
            let (places, layouts): &mut (Vec<LossParameters>, Vec<Layout>) = &mut list[stage];
            let end = places.last().map(|p| p.start + p.len);
            let start = end.unwrap_or_else(|| self.networks[stage].weights().len());
            places.push(LossParameters { term, start, len: layout.len() });
            layouts.push(layout);
        }
        Ok(list)
    }

    /// Pulls adjoints back by another estimator than the optimizer's own, in every stage (to compare
    /// them).
    ///
    /// # Errors
    /// Unknown, or options that do not fit.
    pub fn use_estimator(&mut self, name: &str, options: &serde_json::Value) -> Result<()> {
        for estimator in &mut self.estimators {
            *estimator = registry::build::<dyn Hypergradient>(name, options)?;
        }
        Ok(())
    }

    /// Refuses estimators that need second derivatives of networks that have none.
    pub(crate) fn check_second_derivatives(&self) -> Result<()> {
        for (stage, estimator) in self.estimators.iter().enumerate() {
            if estimator.second_derivatives() && !self.networks[stage].twice_differentiable() {
                return Err(Error::config_hint(
                    format!(
                        "the estimator `{}` of stage `{}` needs exact second derivatives, which the \
                         compiled networks of a search do not have",
                        self.graph.estimator(stage).plugin,
                        self.graph.stages[stage].name
                    ),
                    "search with `central-difference`; `tetlo check hypergrad CONFIG` sets it beside \
                     `exact` on this method's networks, small and in f64",
                ));
            }
        }
        Ok(())
    }

    fn key(&self, purpose: Purpose) -> Key {
        Key::new(self.seed, purpose)
    }

    /// The inner optimiser of a stage in an epoch: what `[search]` says for its model, but for what the
    /// stage has of its own.
    pub(crate) fn inner(&self, stage: usize, epoch: usize) -> Inner {
        let s = &self.settings;
        let stage = &self.graph.stages[stage];
        let (start, min, momentum, weight_decay) = match stage.model {
            ModelRole::Main | ModelRole::Twin => {
                (s.learning_rate, s.learning_rate_min, s.momentum, s.weight_decay)
            }
            ModelRole::Auxiliary => (
                s.auxiliary_learning_rate,
                s.auxiliary_learning_rate_min,
                s.auxiliary_momentum,
                s.auxiliary_weight_decay,
            ),
        };
        let own = &stage.inner;
        let start = own.learning_rate.unwrap_or(start);
        let min = own.learning_rate_min.unwrap_or(min.min(start));
        let learning_rate = CosineSchedule { start, min, epochs: s.epochs }.rate(epoch);
        let weight_decay = own.weight_decay.unwrap_or(weight_decay);
        match own.optimizer {
            InnerRule::Sgd => Inner::Sgd(Sgd {
                learning_rate,
                momentum: own.momentum.unwrap_or(momentum),
                weight_decay,
            }),
            InnerRule::Adam => Inner::Adam(Adam {
                learning_rate,
                beta1: own.beta1.unwrap_or(0.9),
                beta2: own.beta2.unwrap_or(0.999),
                weight_decay,
            }),
        }
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
            let (mut weights, buffers, architecture) = initial_values(network.as_ref(), key)?;
            let (places, layouts) = &self.parameters[stage];
            for (place, layout) in places.iter().zip(layouts) {
                let mut stream = key.role(LOSS_PARAMETERS + place.term as u32).stream();
                let own = layout.initialise_tensor(&mut stream)?;
                weights = Tensor::cat(&[&weights, &own], 0)?;
            }
            state.point.weights.push(weights);
            state.buffers.push(buffers);
            state.inner.push(InnerState::default());
            // A twin has the main model's.
            if self.groups[stage] == Some(state.point.architecture.len()) {
                state.point.architecture.extend(architecture);
            }
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
                criterion: &CrossEntropy,
                architecture: self.groups[stage],
                parameters: &self.parameters[stage].0,
                inner: self.inner(stage, at.epoch),
                memory: &state.inner[stage],
            })
            .collect();
        Problem {
            graph: &self.graph,
            levels,
            transfers: &self.transfers,
            batches,
            draw: self.key(Purpose::Relaxation).step(at.step),
            weight_step,
            warm: &state.warm,
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
        self.estimators.iter().any(|e| e.unrolls())
    }

    /// Gradients computed in an average step, of all networks together (an estimate for plans).
    pub fn passes_a_step(&self) -> f64 {
        let stages = self.networks.len() as f64;
        // One for each inner step, one for each term of the objective, two for each mixed product.
        let terms = self.graph.objective.iter().filter(|o| o.weight > 0.0).count() as f64;
        let looked_through = self.graph.stages.iter().zip(&self.estimators);
        let steps = looked_through.filter(|(_, e)| e.unrolls()).map(|(s, _)| s.unroll_steps);
        let hyper = if self.unrolls() { 3.0 * steps.sum::<usize>() as f64 + terms } else { 1.0 };
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
        let estimators: Vec<_> = self.estimators.iter().map(AsRef::as_ref).collect();
        hypergradient(&problem, &state.point, &estimators, adjoints(&self.graph))
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
}
