//! The gradient oracle: losses of stages at given points, and their gradients.

use super::graph::{Control, LossTerm, StageGraph};
use crate::kinds::{Features, TransferBatch, TransferLoss};
use crate::network::{Network, Output, Pass};
use crate::optim::Inner;
use crate::rng::{Key, Purpose};
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use std::cell::Cell;

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
    /// For the transfer losses; `None` where the graph has none.
    pub transfer: Option<Batch>,
}

/// What belongs to a stage beside its weights.
#[derive(Debug)]
pub struct Level<'a> {
    /// The network.
    pub network: &'a dyn Network,
    /// Index of its architecture parameters in [`Point::architecture`], if it has any.
    pub architecture: Option<usize>,
    /// The inner optimiser whose update is unrolled.
    pub inner: Inner,
    /// Its momentum buffer; `None` before the first step.
    pub momentum: Option<&'a Tensor>,
}

/// Values of everything that is optimised.
#[derive(Debug, Clone)]
pub struct Point {
    /// Flat weights, one a stage.
    pub weights: Vec<Tensor>,
    /// Flat architecture parameters: 0 the main model's, then those of searched auxiliary models.
    pub architecture: Vec<Tensor>,
}

/// A stage graph with everything it is about: what the reverse pass runs on.
#[derive(Debug)]
pub struct Problem<'a> {
    /// The graph.
    pub graph: &'a StageGraph,
    /// One level a stage.
    pub levels: Vec<Level<'a>>,
    /// The transfer loss, if the graph has one.
    pub transfer: Option<&'a dyn TransferLoss>,
    /// This step's batches.
    pub batches: &'a Batches,
    /// Key of this step's draws: all passes on a batch share them (common random numbers).
    pub draw: Key,
    /// Is this a weight step? The transfer loss then draws apart from the architecture step.
    pub weight_step: bool,
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
pub(super) const TRAIN: u32 = 0;
const VALID: u32 = 1;
pub(super) const TRANSFER: u32 = 2;
const TRANSFER_OF_WEIGHT_STEP: u32 = 3;

impl<'a> Problem<'a> {
    pub(super) fn count(&self) {
        self.passes.set(self.passes.get() + 1);
    }

    pub(super) fn run(
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
        level.network.forward(weights, architecture, &batch.images, &pass)
    }

    pub(super) fn supervised(
        &self,
        stage: usize,
        weights: &Tensor,
        architecture: &[Tensor],
        batch: &Batch,
        role: u32,
    ) -> Result<Tensor> {
        let output = self.run(stage, weights, architecture, batch, role)?;
        cross_entropy(&output.logits, &batch.labels)
    }

    pub(super) fn transfer_batch(&self) -> Result<&'a Batch> {
        self.batches
            .transfer
            .as_ref()
            .ok_or_else(|| Error::Invalid("the stage graph needs a batch for the transfer".into()))
    }

    pub(super) fn transfer_loss(&self) -> Result<&'a dyn TransferLoss> {
        self.transfer.ok_or_else(|| Error::Invalid("the stage graph needs a transfer loss".into()))
    }

    /// The teacher's features as the transfer loss sees them (the placebo permutes their rows).
    pub(super) fn teacher(&self, output: &Output, stage: usize) -> Result<Tensor> {
        let features = self.features(output)?;
        match self.graph.control {
            Control::None => Ok(features),
            Control::Shuffled => {
                let n = features.dims()[0];
                let key = self.draw.level(stage).purpose(Purpose::Placebo);
                let order: Vec<u32> =
                    key.stream().permutation(n).into_iter().map(|i| i as u32).collect();
                let order = Tensor::from_vec(order, n, features.device())?;
                Ok(features.index_select(&order, 0)?)
            }
        }
    }

    pub(super) fn features(&self, output: &Output) -> Result<Tensor> {
        Ok(match self.transfer_loss()?.needs().features {
            Features::Embedding => output.embedding.clone(),
            Features::Logits => output.logits.clone(),
        })
    }

    /// The batch as the transfer loss of `stage` sees it.
    pub(super) fn seen<'b>(
        &'b self,
        stage: usize,
        main: &'b Tensor,
        aux: &'b Tensor,
    ) -> Result<TransferBatch<'b>> {
        let needs = self.transfer_loss()?.needs();
        let labels = needs.labels.then_some(self.transfer_batch()?.labels.as_slice());
        let role = if self.weight_step { TRANSFER_OF_WEIGHT_STEP } else { TRANSFER };
        let key = self.draw.level(stage).role(role).purpose(Purpose::Transfer);
        let batch = TransferBatch::new(main, aux, key.stream())?.with_labels(labels);
        batch.check(needs)?;
        Ok(batch)
    }

    /// The transfer loss of `stage` on features of teacher and student.
    pub(super) fn transfer_value(
        &self,
        stage: usize,
        main: &Tensor,
        aux: &Tensor,
    ) -> Result<Tensor> {
        self.transfer_loss()?.loss(&self.seen(stage, main, aux)?)
    }

    /// The transfer loss's own figures at `point`, for the records.
    pub fn transfer_diagnostics(
        &self,
        stage: usize,
        from: usize,
        point: &Point,
    ) -> Result<Vec<(&'static str, f64)>> {
        let batch = self.transfer_batch()?;
        let at = |s: usize| -> Result<Output> {
            let weights = point.weights[s].detach();
            let architecture: Vec<Tensor> = point.architecture.iter().map(Tensor::detach).collect();
            self.run(s, &weights, &architecture, batch, TRANSFER)
        };
        let main = self.teacher(&at(from)?, stage)?;
        let aux = self.features(&at(stage)?)?;
        self.transfer_loss()?.diagnostics(&self.seen(stage, &main, &aux)?)
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
        for term in &self.graph.stages[stage].loss {
            let (weight, value) = match term {
                LossTerm::Supervised { weight } if *weight > 0.0 => {
                    let batch = &self.batches.train;
                    let output = self.run(stage, own, &context.architecture, batch, TRAIN)?;
                    let value = cross_entropy(&output.logits, &batch.labels)?;
                    said = Some(output);
                    (*weight, value)
                }
                LossTerm::Transfer { from, weight } if *weight > 0.0 => {
                    let batch = self.transfer_batch()?;
                    let teacher = &context.weights[*from];
                    let main = self.run(*from, teacher, &context.architecture, batch, TRANSFER)?;
                    let main = self.teacher(&main, stage)?;
                    let aux = self.run(stage, own, &context.architecture, batch, TRANSFER)?;
                    (*weight, self.transfer_value(stage, &main, &self.features(&aux)?)?)
                }
                _ => continue,
            };
            let value = (value * weight)?;
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

    /// The stage's weights after one step of its inner optimiser, and the loss before it.
    pub fn unrolled(&self, stage: usize, point: &Point) -> Result<(f64, Tensor)> {
        let InnerGradient { loss, gradient, .. } = self.inner_gradient(stage, point)?;
        let level = &self.levels[stage];
        let inner =
            if self.graph.unroll_as_run { level.inner } else { level.inner.without_memory() };
        let weights = &point.weights[stage];
        Ok((loss, inner.unrolled(weights, &gradient, level.momentum)?))
    }

    /// One term of the objective at `point`, unweighted.
    pub fn objective_term(&self, stage: usize, point: &Point) -> Result<f64> {
        let point = point.detached();
        let (weights, batch) = (&point.weights[stage], &self.batches.valid);
        scalar(&self.supervised(stage, weights, &point.architecture, batch, VALID)?)
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
        let arch = match self.levels[stage].architecture {
            Some(a) => {
                let var = Var::from_tensor(&architecture[a])?;
                architecture[a] = var.as_tensor().clone();
                Some(var)
            }
            None => None,
        };
        let batch = &self.batches.valid;
        let loss = self.supervised(stage, own.as_tensor(), &architecture, batch, VALID)?;
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
        let Some(a) = self.levels[stage].architecture else { return Ok((0.0, None)) };
        self.count();
        let mut context = point.detached();
        let var = Var::from_tensor(&context.architecture[a])?;
        context.architecture[a] = var.as_tensor().clone();
        let (weights, batch) = (&context.weights[stage], &self.batches.valid);
        let loss = self.supervised(stage, weights, &context.architecture, batch, VALID)?;
        let value = scalar(&loss)?;
        let gradient = take(&tetlo_kernels::backward(&loss)?, &var).ok_or_else(|| {
            let name = &self.graph.stages[stage].name;
            Error::NoGradient(format!("the architecture parameters of stage `{name}`"))
        })?;
        Ok((value, Some(gradient)))
    }
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
