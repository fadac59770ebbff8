//! The two networks of the smooth problem.

use candle_core::{D, Tensor};
use candle_nn::ops::softmax;
use tetlo_core::Result;
use tetlo_core::layout::{Init, Layout};
use tetlo_core::network::{Network, Output, Pass};
use tetlo_core::rng::Purpose;

/// One hidden layer: p = x·M1 + b1, embedding h = activation(p), logits h·M2 + b2.
#[derive(Debug)]
pub(super) struct SmoothNetwork {
    names: [&'static str; 4],
    searched: bool,
    noise: f64,
    weights: Layout,
    architecture: Layout,
    buffers: Layout,
    multiply_adds: u64,
}

impl SmoothNetwork {
    /// The main model: h = s₀⊙tanh p + s₁⊙σ(p) + s₂⊙p + s₃⊙sin p with s = softmax(A) by rows
    /// (A: units × 4).
    pub(super) fn main(inputs: usize, units: usize, classes: usize) -> Self {
        let mut network = Self::new(["W1", "b1", "W2", "b2"], inputs, units, classes);
        network.searched = true;
        network.architecture.push("A", &[units, 4], Init::Normal { std: 1.0 });
        network
    }

    /// The auxiliary model: h = tanh p.
    pub(super) fn auxiliary(inputs: usize, units: usize, classes: usize) -> Self {
        Self::new(["V1", "c1", "V2", "c2"], inputs, units, classes)
    }

    /// The same with embeddings h ⊙ (1 + noise·z), z normal numbers of the pass's draw: a stochastic
    /// part that all passes on a batch must share.
    pub(super) fn with_noise(self, noise: f64) -> Self {
        Self { noise, ..self }
    }

    fn new(names: [&'static str; 4], inputs: usize, units: usize, classes: usize) -> Self {
        let mut weights = Layout::new();
        let init = Init::Normal { std: 0.5 };
        weights.push(names[0], &[inputs, units], init);
        weights.push(names[1], &[units], init);
        weights.push(names[2], &[units, classes], init);
        weights.push(names[3], &[classes], init);
        Self {
            names,
            searched: false,
            noise: 0.0,
            weights,
            architecture: Layout::new(),
            buffers: Layout::new(),
            multiply_adds: (inputs * units + units * classes) as u64,
        }
    }

    fn embedding(&self, p: &Tensor, architecture: Option<&Tensor>) -> Result<Tensor> {
        let Some(architecture) = architecture.filter(|_| self.searched) else {
            return Ok(p.tanh()?);
        };
        let s = softmax(&self.architecture.view(architecture, "A")?, D::Minus1)?;
        // σ(p) = (1 + tanh(p/2))/2: plain tensor operations, differentiable as often as one likes.
        let sigmoid = (((p / 2.0)?.tanh()? + 1.0)? / 2.0)?;
        let weight = |i: usize| s.narrow(1, i, 1)?.flatten_all();
        let mixed = p.tanh()?.broadcast_mul(&weight(0)?)?;
        let mixed = (mixed + sigmoid.broadcast_mul(&weight(1)?)?)?;
        let mixed = (mixed + p.broadcast_mul(&weight(2)?)?)?;
        Ok((mixed + p.sin()?.broadcast_mul(&weight(3)?)?)?)
    }
}

impl Network for SmoothNetwork {
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
        self.multiply_adds
    }

    fn twice_differentiable(&self) -> bool {
        true
    }

    fn forward(
        &self,
        weights: &Tensor,
        architecture: Option<&Tensor>,
        images: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<Output> {
        let part = |i: usize| self.weights.view(weights, self.names[i]);
        let p = images.matmul(&part(0)?)?.broadcast_add(&part(1)?)?;
        let mut embedding = self.embedding(&p, architecture)?;
        if self.noise > 0.0 {
            let mut stream = pass.draw.purpose(Purpose::Relaxation).stream();
            let factors: Vec<f64> =
                (0..p.elem_count()).map(|_| 1.0 + self.noise * stream.normal()).collect();
            embedding = (embedding * Tensor::from_vec(factors, p.shape(), p.device())?)?;
        }
        let logits = embedding.matmul(&part(2)?)?.broadcast_add(&part(3)?)?;
        Ok(Output::new(logits, embedding))
    }
}
