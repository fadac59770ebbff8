//! The gradient oracle: losses of stages at given points, and their gradients.

use super::graph::{Control, LossTerm, StageGraph, TermSplit};
use crate::kinds::{Seen, TransferBatch, TransferLoss};
use crate::network::{Network, Output, Pass};
use crate::optim::{Inner, InnerState};
use crate::rng::{Key, Purpose};
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// Images and labels of one batch.
#[derive(Debug, Clone)]
pub struct Batch {
    /// N × C × H × W.
    pub images: Tensor,
    /// N classes.
    pub labels: Vec<u32>,
}

/// One batch of each split a search sees.
#[derive(Debug, Clone)]
pub struct Batches {
    /// For the inner losses.
    pub train: Batch,
    /// For the objective.
    pub valid: Batch,
    /// For the terms on the transfer split; `None` where the graph has none.
    pub transfer: Option<Batch>,
}

/// What a stage's own loss is, of the outputs of its network.
pub trait Criterion: Debug + Send + Sync {
    /// The loss of a batch; `training`: of a stage, not of the objective.
    fn loss(&self, output: &Output, batch: &Batch, training: bool) -> Result<Tensor>;

    /// Does the architecture stand in the validation loss itself? (A gradient that is missing is then
    /// an error.)
    fn validates_architecture(&self) -> bool {
        true
    }
}

/// Mean cross entropy of the logits against the labels.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy;

impl Criterion for CrossEntropy {
    fn loss(&self, output: &Output, batch: &Batch, _training: bool) -> Result<Tensor> {
        cross_entropy(&output.logits, &batch.labels)
    }
}

/// The transfer losses of a graph, by stage and index of the term.
#[derive(Debug, Default)]
pub struct TransferLosses(BTreeMap<(usize, usize), Box<dyn TransferLoss>>);

impl TransferLosses {
    /// Builds those that count; terms that name none take `default`.
    ///
    /// # Errors
    /// A loss cannot be built, or there is no default and a term needs one.
    pub fn build(
        graph: &StageGraph,
        default: impl Fn() -> Result<Box<dyn TransferLoss>>,
    ) -> Result<Self> {
        let mut losses = BTreeMap::new();
        for (stage, term, _, own) in graph.transfers() {
            let loss = own.map_or_else(&default, super::TransferRef::build)?;
            losses.insert((stage, term), loss);
        }
        Ok(Self(losses))
    }

    /// The loss of a term.
    ///
    /// # Errors
    /// The term has none: it does not count.
    pub fn get(&self, stage: usize, term: usize) -> Result<&dyn TransferLoss> {
        let missing = || Error::Invalid("the stage graph needs a transfer loss".into());
        self.0.get(&(stage, term)).map(|loss| &**loss).ok_or_else(missing)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &dyn TransferLoss> {
        self.0.values().map(|loss| &**loss)
    }

    /// The same term's loss in place of the present one (for tests and checks).
    pub fn replace(&mut self, stage: usize, term: usize, loss: Box<dyn TransferLoss>) {
        self.0.insert((stage, term), loss);
    }
}

/// Where the parameters of a stage's transfer loss stand, behind its network's weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LossParameters {
    /// Index of the term.
    pub term: usize,
    /// The first of them in the stage's flat weights.
    pub start: usize,
    /// Their number.
    pub len: usize,
}

/// What belongs to a stage beside its weights.
#[derive(Debug)]
pub struct Level<'a> {
    /// The network.
    pub network: &'a dyn Network,
    /// Its own loss.
    pub criterion: &'a dyn Criterion,
    /// Index of its architecture parameters in [`Point::architecture`], if it has any.
    pub architecture: Option<usize>,
    /// Parameters of its transfer losses.
    pub parameters: &'a [LossParameters],
    /// The inner optimiser whose update is unrolled.
    pub inner: Inner,
    /// Its memory.
    pub memory: &'a InnerState,
}

/// Values of everything that is optimised.
#[derive(Debug, Clone)]
pub struct Point {
    /// Flat weights, one a stage: the network's, then those of its transfer losses.
    pub weights: Vec<Tensor>,
    /// Flat architecture parameters: 0 the main model's, then those of searched auxiliary models.
    pub architecture: Vec<Tensor>,
}

/// Solutions of linear systems, by stage and place, for estimators that start from the last one.
pub type WarmStarts = BTreeMap<(usize, super::reverse::Source), Tensor>;

/// A stage graph with everything it is about: what the reverse pass runs on.
#[derive(Debug)]
pub struct Problem<'a> {
    /// The graph.
    pub graph: &'a StageGraph,
    /// One level a stage.
    pub levels: Vec<Level<'a>>,
    /// The transfer losses.
    pub transfers: &'a TransferLosses,
    /// This step's batches.
    pub batches: &'a Batches,
    /// Key of this step's draws: all passes on a batch share them (common random numbers).
    pub draw: Key,
    /// Is this a weight step? The transfer loss then draws apart from the architecture step.
    pub weight_step: bool,
    /// What estimators kept at the last architecture step.
    pub warm: &'a WarmStarts,
    /// Gradients computed so far, each one forward and backward pass.
    pub passes: Cell<usize>,
}

/// A stage's training loss and its gradient.
#[derive(Debug, Clone)]
pub struct InnerGradient {
    /// The loss.
    pub loss: f64,
    /// Its gradient in the stage's weights.
    pub gradient: Tensor,
    /// What the stage's model said of the training batch, if its cross entropy is part of the loss.
    pub output: Option<Output>,
}

/// Batch roles, for the keys of random draws.
const TRAIN: u32 = 0;
const VALID: u32 = 1;
const TRANSFER: u32 = 2;
const TRANSFER_OF_WEIGHT_STEP: u32 = 3;

impl<'a> Problem<'a> {
    pub(super) fn count(&self) {
        self.passes.set(self.passes.get() + 1);
    }

    fn run(
        &self,
        stage: usize,
        weights: &Tensor,
        architecture: &[Tensor],
        batch: &Batch,
        role: u32,
    ) -> Result<Output> {
        let level = &self.levels[stage];
        let architecture = level.architecture.map(|a| &architecture[a]);
        let pass = Pass::train(self.draw.level(stage).role(role));
        if level.parameters.is_empty() {
            return level.network.forward(weights, architecture, &batch.images, &pass);
        }
        let own = weights.narrow(0, 0, level.network.weights().len())?;
        level.network.forward(&own, architecture, &batch.images, &pass)
    }

    /// The output of a stage's network on the batch of a term.
    pub(super) fn said(
        &self,
        stage: usize,
        weights: &Tensor,
        architecture: &[Tensor],
        split: TermSplit,
    ) -> Result<Output> {
        let role = if split == TermSplit::Train { TRAIN } else { TRANSFER };
        self.run(stage, weights, architecture, self.batch(split)?, role)
    }

    fn batch(&self, split: TermSplit) -> Result<&'a Batch> {
        let missing = || Error::Invalid("the stage graph needs a batch for the transfer".into());
        match split {
            TermSplit::Train => Ok(&self.batches.train),
            TermSplit::Transfer => self.batches.transfer.as_ref().ok_or_else(missing),
        }
    }

    /// The unweighted loss of a stage's own criterion, and what its network said.
    pub(super) fn supervised(
        &self,
        stage: usize,
        weights: &Tensor,
        architecture: &[Tensor],
        split: TermSplit,
    ) -> Result<(Tensor, Output)> {
        let output = self.said(stage, weights, architecture, split)?;
        let loss = self.levels[stage].criterion.loss(&output, self.batch(split)?, true)?;
        Ok((loss, output))
    }

    fn validation(
        &self,
        stage: usize,
        weights: &Tensor,
        architecture: &[Tensor],
    ) -> Result<Tensor> {
        let batch = &self.batches.valid;
        let output = self.run(stage, weights, architecture, batch, VALID)?;
        self.levels[stage].criterion.loss(&output, batch, false)
    }

    /// The inner optimiser as its update is unrolled.
    pub(super) fn unrolled_inner(&self, stage: usize) -> Inner {
        let inner = self.levels[stage].inner;
        if self.graph.unroll_as_run { inner } else { Inner::plain(inner.learning_rate()) }
    }

    /// The batch as the transfer loss of a stage's term sees it: `teacher` said by the main model's
    /// side (whose rows the placebo permutes), `student` by the stage's own.
    fn transfer_batch(
        &self,
        (stage, term): (usize, usize),
        teacher: Seen,
        student: Seen,
        own: &Tensor,
    ) -> Result<TransferBatch<'a>> {
        let needs = self.transfers.get(stage, term)?.needs();
        let split = self.graph.stages[stage].loss[term].split();
        let labels = needs.labels.then_some(self.batch(split)?.labels.as_slice());
        let role = if self.weight_step { TRANSFER_OF_WEIGHT_STEP } else { TRANSFER };
        // The first term's draws are named as those of graphs that have no more.
        let term_key = self.draw.level(stage + (term.max(1) - 1) * self.graph.stages.len());
        let key = term_key.role(role).purpose(Purpose::Transfer);
        let mut place = self.levels[stage].parameters.iter();
        let parameters = match place.find(|p| p.term == term) {
            Some(LossParameters { start, len, .. }) => Some(own.narrow(0, *start, *len)?),
            None => None,
        };
        let batch = TransferBatch::new(teacher, student, key.stream())?
            .with_labels(labels)
            .with_parameters(parameters);
        batch.check(needs)?;
        Ok(batch)
    }

    /// What the loss of a term sees of its teacher.
    pub(super) fn teacher(&self, output: &Output, stage: usize, term: usize) -> Result<Seen> {
        let features = Seen::of(output, self.transfers.get(stage, term)?.needs());
        match self.graph.control {
            Control::None => Ok(features),
            Control::Shuffled => {
                let n = output.logits.dims()[0];
                let key = self.draw.level(stage).purpose(Purpose::Placebo);
                let order: Vec<u32> =
                    key.stream().permutation(n).into_iter().map(|i| i as u32).collect();
                let order = Tensor::from_vec(order, n, output.logits.device())?;
                features.map(|t| Ok(t.index_select(&order, 0)?))
            }
        }
    }

    /// The unweighted transfer loss of a stage's term at its `own` weights.
    pub(super) fn transfer(
        &self,
        (stage, term): (usize, usize),
        teacher: Seen,
        own: &Tensor,
        architecture: &[Tensor],
    ) -> Result<Tensor> {
        let loss = self.transfers.get(stage, term)?;
        let split = self.graph.stages[stage].loss[term].split();
        let output = self.said(stage, own, architecture, split)?;
        let student = Seen::of(&output, loss.needs());
        loss.loss(&self.transfer_batch((stage, term), teacher, student, own)?)
    }

    /// The transfer losses' own figures at `point`, by stage, for the records.
    pub fn transfer_diagnostics(&self, point: &Point) -> Result<Vec<(usize, &'static str, f64)>> {
        let point = point.detached();
        let mut figures = vec![];
        for (stage, term, from, _) in self.graph.transfers() {
            let split = self.graph.stages[stage].loss[term].split();
            let at = |s: usize| self.said(s, &point.weights[s], &point.architecture, split);
            let loss = self.transfers.get(stage, term)?;
            let teacher = self.teacher(&at(from)?, stage, term)?;
            let student = Seen::of(&at(stage)?, loss.needs());
            let own = &point.weights[stage];
            let batch = self.transfer_batch((stage, term), teacher, student, own)?;
            figures.extend(loss.diagnostics(&batch)?.into_iter().map(|(n, v)| (stage, n, v)));
        }
        Ok(figures)
    }

    /// The loss of a stage at `own` weights, with earlier stages and architecture from `context`;
    /// also what the stage's model said of the training batch.
    pub(super) fn stage_loss(
        &self,
        stage: usize,
        own: &Tensor,
        context: &Point,
    ) -> Result<(Tensor, Option<Output>)> {
        let mut total: Option<Tensor> = None;
        let mut said = None;
        let architecture = &context.architecture;
        for (i, term) in self.graph.stages[stage].loss.iter().enumerate() {
            if term.weight() <= 0.0 {
                continue;
            }
            let value = match term {
                LossTerm::Supervised { split, .. } => {
                    let (value, output) = self.supervised(stage, own, architecture, *split)?;
                    if *split == TermSplit::Train {
                        said = Some(output);
                    }
                    value
                }
                LossTerm::Transfer { from, split, .. } => {
                    let teacher =
                        self.said(*from, &context.weights[*from], architecture, *split)?;
                    let teacher = self.teacher(&teacher, stage, i)?;
                    self.transfer((stage, i), teacher, own, architecture)?
                }
            };
            let value = (value * term.weight())?;
            total = Some(match total {
                Some(sum) => (sum + value)?,
                None => value,
            });
        }
        let total = match total {
            Some(total) => total,
            None => Tensor::zeros((), own.dtype(), own.device())?,
        };
        Ok((total, said))
    }

    /// Gradient of a stage's loss in its own weights at `point`, and the loss.
    ///
    /// A stage whose terms all have weight 0 has gradient 0.
    pub fn inner_gradient(&self, stage: usize, point: &Point) -> Result<InnerGradient> {
        self.count();
        let own = Var::from_tensor(&point.weights[stage].detach())?;
        let context = point.detached();
        let (loss, said) = self.stage_loss(stage, own.as_tensor(), &context)?;
        let value = scalar(&loss)?;
        let gradient = if loss.track_op() {
            let what = || format!("the weights of stage `{}`", self.graph.stages[stage].name);
            take(&tetlo_kernels::backward(&loss)?, &own).ok_or_else(|| Error::NoGradient(what()))?
        } else {
            own.zeros_like()?
        };
        let output = said.map(|output| output.detached());
        Ok(InnerGradient { loss: value, gradient, output })
    }

    /// One term of the objective at `point`, unweighted.
    pub fn objective_term(&self, stage: usize, point: &Point) -> Result<f64> {
        let point = point.detached();
        scalar(&self.validation(stage, &point.weights[stage], &point.architecture)?)
    }

    /// One term of the objective at `point`: value, gradient in the stage's weights, gradient in its
    /// architecture parameters.
    pub fn objective_gradient(
        &self,
        stage: usize,
        point: &Point,
    ) -> Result<(f64, Tensor, Option<Tensor>)> {
        self.count();
        let own = Var::from_tensor(&point.weights[stage].detach())?;
        let mut architecture = point.detached().architecture;
        let level = &self.levels[stage];
        let searched = level.architecture.filter(|_| level.criterion.validates_architecture());
        let arch = searched.map(|a| variable(&mut architecture[a])).transpose()?;
        let loss = self.validation(stage, own.as_tensor(), &architecture)?;
        let value = scalar(&loss)?;
        let gradients = tetlo_kernels::backward(&loss)?;
        let name = &self.graph.stages[stage].name;
        let weights = take(&gradients, &own)
            .ok_or_else(|| Error::NoGradient(format!("the weights of stage `{name}`")))?;
        let arch = match arch {
            Some(var) => Some(take(&gradients, &var).ok_or_else(|| {
                Error::NoGradient(format!("the architecture parameters of stage `{name}`"))
            })?),
            None => None,
        };
        Ok((value, weights, arch))
    }

    /// Gradient of the objective's terms in the architecture alone, at the present weights.
    pub fn direct_gradient(&self, stage: usize, point: &Point) -> Result<(f64, Option<Tensor>)> {
        let level = &self.levels[stage];
        let searched = level.architecture.filter(|_| level.criterion.validates_architecture());
        let Some(a) = searched else { return Ok((0.0, None)) };
        self.count();
        let mut context = point.detached();
        let var = variable(&mut context.architecture[a])?;
        let loss = self.validation(stage, &context.weights[stage], &context.architecture)?;
        let value = scalar(&loss)?;
        let gradient = take(&tetlo_kernels::backward(&loss)?, &var).ok_or_else(|| {
            let name = &self.graph.stages[stage].name;
            Error::NoGradient(format!("the architecture parameters of stage `{name}`"))
        })?;
        Ok((value, Some(gradient)))
    }
}

/// Puts a variable of the same value in the place of a tensor.
pub(super) fn variable(place: &mut Tensor) -> Result<Var> {
    let var = Var::from_tensor(&place.detach())?;
    *place = var.as_tensor().clone();
    Ok(var)
}

impl Point {
    /// The same values, cut from any graph.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self {
            weights: self.weights.iter().map(Tensor::detach).collect(),
            architecture: self.architecture.iter().map(Tensor::detach).collect(),
        }
    }
}

/// Mean cross entropy of logits (N × classes) against labels.
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let labels = Tensor::new(labels, logits.device())?;
    Ok(candle_nn::loss::cross_entropy(logits, &labels)?)
}

/// A gradient, cut from its graph (candle keeps it otherwise).
pub(super) fn take(gradients: &GradStore, var: &Var) -> Option<Tensor> {
    gradients.get(var).map(Tensor::detach)
}

fn scalar(loss: &Tensor) -> Result<f64> {
    Ok(loss.detach().to_dtype(DType::F64)?.to_scalar::<f64>()?)
}
