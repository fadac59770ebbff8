//! What the two hyper-cleaning problems share: a linear model, and a weight for each training example.

use super::arrays::{dims2, shaped, vector};
use super::linear::Matrix;
use candle_core::{Device, Tensor};
use tetlo_core::layout::{Init, Layout};
use tetlo_core::multilevel::Batch;
use tetlo_core::multilevel::check::Arrays;
use tetlo_core::network::{Network, Output, Pass};
use tetlo_core::{Error, Result};

/// σ(a).
pub(super) fn sigmoid(a: f64) -> f64 {
    1.0 / (1.0 + (-a).exp())
}

/// A linear model, logits x·W, beside σ(A_i) of each example as its embedding.
///
/// An image is a row (e, x): e the unit vector of the training example, which picks its A_i, or 0.
#[derive(Debug)]
pub(super) struct Weighted {
    examples: usize,
    inputs: usize,
    outputs: usize,
    weights: Layout,
    architecture: Layout,
    buffers: Layout,
}

impl Weighted {
    pub(super) fn new(examples: usize, inputs: usize, outputs: usize) -> Self {
        let (mut weights, mut architecture) = (Layout::new(), Layout::new());
        weights.push("W", &[inputs, outputs], Init::Constant(0.0));
        architecture.push("A", &[examples], Init::Constant(0.0));
        Self { examples, inputs, outputs, weights, architecture, buffers: Layout::new() }
    }
}

impl Network for Weighted {
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
        (self.inputs * self.outputs + self.examples) as u64
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
        let missing = || Error::Invalid("the main model needs architecture parameters".into());
        let architecture = architecture.ok_or_else(missing)?;
        let picked = images.narrow(1, 0, self.examples)?.contiguous()?;
        let picked = picked.matmul(&architecture.unsqueeze(1)?)?;
        // σ(a) = (1 + tanh(a/2))/2: plain tensor operations, differentiable as often as one likes.
        let importance = (((picked / 2.0)?.tanh()? + 1.0)? / 2.0)?;
        let x = images.narrow(1, self.examples, self.inputs)?.contiguous()?;
        let logits = x.matmul(&weights.reshape((self.inputs, self.outputs))?)?;
        Ok(Output::new(logits, importance))
    }
}

/// The rows of both batches and the weights of the training examples.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) train: Matrix,
    pub(super) valid: Matrix,
    /// A.
    pub(super) log_weights: Vec<f64>,
}

impl Rows {
    pub(super) fn read(arrays: &Arrays) -> Result<Self> {
        let (examples, inputs) = dims2(arrays, "batch/train/x")?;
        let rows = |split: &str| -> Result<Matrix> {
            let name = format!("batch/{split}/x");
            let n = dims2(arrays, &name)?.0;
            Matrix::of(&shaped(arrays, &name, &[n, inputs])?)
        };
        let (train, valid) = (rows("train")?, rows("valid")?);
        Ok(Self { train, valid, log_weights: vector(arrays, "A", examples)? })
    }

    /// σ(A).
    pub(super) fn importance(&self) -> Vec<f64> {
        self.log_weights.iter().map(|a| sigmoid(*a)).collect()
    }

    fn batch(&self, x: &Matrix, labels: Vec<u32>, picks: bool) -> Result<Batch> {
        let examples = self.log_weights.len();
        let rows = Matrix::new(x.rows, examples + x.columns, |i, j| {
            if j < examples { f64::from(u8::from(picks && i == j)) } else { x.at(i, j - examples) }
        });
        let images = Tensor::from_slice(rows.values(), (rows.rows, rows.columns), &Device::Cpu)?;
        Ok(Batch { images, labels })
    }

    /// Training and validation batch with these labels.
    pub(super) fn batches(&self, train: Vec<u32>, valid: Vec<u32>) -> Result<(Batch, Batch)> {
        Ok((self.batch(&self.train, train, true)?, self.batch(&self.valid, valid, false)?))
    }
}

/// An error unless `levels` is 2.
pub(super) fn two_levels(levels: usize) -> Result<()> {
    if levels == 2 {
        return Ok(());
    }
    Err(Error::config(format!("this problem has 2 levels, not {levels}")))
}
