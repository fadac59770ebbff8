//! Networks, losses and transfer of the quadratic problem.

use candle_core::Tensor;
use tetlo_core::kinds::{TransferBatch, TransferLoss};
use tetlo_core::layout::{Init, Layout};
use tetlo_core::multilevel::{Batch, Criterion};
use tetlo_core::network::{Network, Output, Pass};
use tetlo_core::{Error, Result};

/// y = x·(F·θ − B·α), one number an image: affine in everything that is optimised.
#[derive(Debug)]
pub(super) struct Affine {
    features: Tensor,
    shift: Option<Tensor>,
    weights: Layout,
    architecture: Layout,
    buffers: Layout,
}

impl Affine {
    /// F is inputs × weights; B, of the main model, inputs × architecture parameters.
    pub(super) fn new(features: Tensor, shift: Option<Tensor>) -> Result<Self> {
        let (mut weights, mut architecture) = (Layout::new(), Layout::new());
        weights.push("theta", &[features.dims2()?.1], Init::Constant(0.0));
        if let Some(shift) = &shift {
            architecture.push("A", &[shift.dims2()?.1], Init::Constant(0.0));
        }
        Ok(Self { features, shift, weights, architecture, buffers: Layout::new() })
    }
}

impl Network for Affine {
    fn weights(&self) -> &Layout {
        &self.weights
    }

    fn buffers(&self) -> &Layout {
        &self.buffers
    }

    fn architecture(&self) -> &Layout {
        &self.architecture
    }

    fn multiply_adds(&self) -> u64 {
        (self.features.elem_count() + self.architecture.len()) as u64
    }

    fn twice_differentiable(&self) -> bool {
        true
    }

    fn forward(
        &self,
        weights: &Tensor,
        architecture: Option<&Tensor>,
        images: &Tensor,
        _pass: &Pass<'_>,
    ) -> Result<Output> {
        let mut point = self.features.matmul(&weights.unsqueeze(1)?)?;
        if let Some(shift) = &self.shift {
            let missing = || Error::Invalid("the main model needs architecture parameters".into());
            let architecture = architecture.ok_or_else(missing)?;
            point = (point - shift.matmul(&architecture.unsqueeze(1)?)?)?;
        }
        let y = images.matmul(&point)?;
        Ok(Output::new(y.clone(), y))
    }
}

/// Σ (y − t)²/(2n), with targets of the training and of the validation batch.
#[derive(Debug)]
pub(super) struct Squares {
    /// n × 1.
    pub(super) train: Tensor,
    /// n × 1.
    pub(super) valid: Tensor,
}

impl Criterion for Squares {
    fn loss(&self, output: &Output, _batch: &Batch, training: bool) -> Result<Tensor> {
        let target = if training { &self.train } else { &self.valid };
        half_mean_square(&(&output.logits - target)?)
    }
}

/// Σ (student − teacher)²/(2n) of the embeddings.
#[derive(Debug)]
pub(super) struct Imitation;

impl TransferLoss for Imitation {
    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        let (main, aux) = batch.embeddings()?;
        half_mean_square(&(aux - main)?)
    }
}

fn half_mean_square(difference: &Tensor) -> Result<Tensor> {
    Ok((difference.sqr()?.mean_all()? * 0.5)?)
}
