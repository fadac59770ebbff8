//! A fixed network in training: its state, and one step of it.

use crate::accuracy::correct;
use candle_core::{Tensor, Var};
use tetlo_core::kinds::RetrainProtocol;
use tetlo_core::multilevel::{Batch, cross_entropy};
use tetlo_core::network::{Network, Pass, update_running_statistics};
use tetlo_core::optim::{Inner, InnerState};
use tetlo_core::rng::Key;
use tetlo_core::space::initial_values;
use tetlo_core::{Error, Result};

/// Everything that changes while a network is trained.
#[derive(Debug)]
pub struct Trainee {
    /// The weights.
    pub weights: Tensor,
    /// Running statistics.
    pub buffers: Option<Tensor>,
    inner: InnerState,
}

/// What a training step found.
#[derive(Debug, Clone, Copy)]
pub struct TrainingStep {
    /// The loss before the step, with that of the auxiliary head.
    pub loss: f64,
    /// Correctly classified images.
    pub correct: usize,
    /// Length of the gradient.
    pub gradient_norm: f64,
}

impl Trainee {
    /// Fresh weights.
    pub fn new(network: &dyn Network, key: Key) -> Result<Self> {
        let (weights, buffers, _) = initial_values(network, key)?;
        Ok(Self { weights, buffers, inner: InnerState::default() })
    }

    /// Forward, backward, clipped SGD, running statistics. `protocol` gives clipping and the weight of
    /// the auxiliary head.
    ///
    /// # Errors
    /// The loss gives the weights no gradient.
    pub fn step(
        &mut self,
        network: &dyn Network,
        batch: &Batch,
        pass: &Pass<'_>,
        inner: Inner,
        protocol: &RetrainProtocol,
    ) -> Result<TrainingStep> {
        let var = Var::from_tensor(&self.weights.detach())?;
        let output = network.forward(var.as_tensor(), None, &batch.images, pass)?;
        let mut loss = cross_entropy(&output.logits, &batch.labels)?;
        if let Some(auxiliary) = &output.auxiliary_logits {
            let deep = cross_entropy(auxiliary, &batch.labels)?;
            loss = (loss + (deep * protocol.auxiliary_weight)?)?;
        }
        let value = f64::from(loss.to_scalar::<f32>()?);
        let gradients = tetlo_kernels::backward(&loss)?;
        let gradient = gradients
            .get(&var)
            .ok_or_else(|| Error::NoGradient("the weights of the derived network".into()))?
            .detach();
        let (next, gradient_norm) =
            self.inner.step(inner, protocol.gradient_clip, &self.weights, &gradient)?;
        self.weights = next;
        if let Some(old) = &self.buffers {
            self.buffers = Some(update_running_statistics(old, output.statistics.as_ref())?);
        }
        let correct = correct(&output.logits, &batch.labels)?;
        Ok(TrainingStep { loss: value, correct, gradient_norm })
    }
}
