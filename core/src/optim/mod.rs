//! Optimisers on flat vectors (candle-nn has neither SGD with momentum nor Adam with L2), learning
//! rate schedules, gradient clipping.

mod flat;
mod schedule;

pub use flat::{add_scaled, cosine, norm};
pub use schedule::CosineSchedule;

use crate::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// The inner optimiser of a stage: SGD with momentum and L2, as `torch.optim.SGD`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Inner {
    /// Learning rate η.
    pub learning_rate: f64,
    /// Momentum.
    pub momentum: f64,
    /// Weight decay (added to the gradient).
    pub weight_decay: f64,
}

impl Inner {
    /// The same without momentum and weight decay.
    #[must_use]
    pub fn without_memory(self) -> Self {
        Self { momentum: 0.0, weight_decay: 0.0, ..self }
    }

    /// θ − η·(g + wd·θ + momentum·buffer): one step, nothing stored.
    pub fn unrolled(
        self,
        weights: &Tensor,
        gradient: &Tensor,
        buffer: Option<&Tensor>,
    ) -> Result<Tensor> {
        let eta = self.learning_rate;
        let mut parts = vec![(1.0 - eta * self.weight_decay, weights), (-eta, gradient)];
        if let Some(buffer) = buffer
            && self.momentum != 0.0
        {
            parts.push((-eta * self.momentum, buffer));
        }
        flat::linear_combination(&parts)
    }
}

/// SGD's memory.
#[derive(Debug, Clone, Default)]
pub struct SgdState {
    /// The momentum buffer; `None` before the first step.
    pub momentum: Option<Tensor>,
}

impl SgdState {
    /// One step with the gradient scaled to at most `clip` in norm (0: not clipped). Returns the new
    /// weights and the gradient's norm before clipping.
    ///
    /// d = clip(g) + wd·θ; b ← momentum·b + d (b = d at the first step); θ ← θ − η·b.
    ///
    /// # Errors
    /// Shapes differ.
    pub fn step(
        &mut self,
        inner: Inner,
        clip: f64,
        weights: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Tensor, f64)> {
        let length = norm(gradient)?;
        // torch.nn.utils.clip_grad_norm_: the factor is clip / (norm + 1e-6), at most 1.
        let scale = if clip > 0.0 { (clip / (length + 1e-6)).min(1.0) } else { 1.0 };
        let mut parts = vec![(scale, gradient), (inner.weight_decay, weights)];
        if let Some(buffer) = &self.momentum {
            parts.push((inner.momentum, buffer));
        }
        let buffer = flat::linear_combination(&parts)?;
        let next = add_scaled(weights, -inner.learning_rate, &buffer)?;
        self.momentum = Some(buffer);
        Ok((next, length))
    }
}

/// Adam with L2 (weight decay is part of the gradient), as `torch.optim.Adam`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Adam {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// Adam's memory.
#[derive(Debug, Clone, Default)]
pub struct AdamState {
    /// First and second moment; `None` before the first step.
    pub moments: Option<(Tensor, Tensor)>,
    /// Steps made.
    pub steps: u32,
}

impl Adam {
    /// The direction m̂/(√v̂ + 1e-8) for `gradient` (weight decay already in it); updates `state`.
    ///
    /// # Errors
    /// Shapes differ.
    pub fn direction(self, state: &mut AdamState, gradient: &Tensor) -> Result<Tensor> {
        let (m, v) = match state.moments.take() {
            Some(moments) => moments,
            None => (gradient.zeros_like()?, gradient.zeros_like()?),
        };
        state.steps += 1;
        let t = f64::from(state.steps);
        let m = ((m * self.beta1)? + (gradient * (1.0 - self.beta1))?)?;
        let v = ((v * self.beta2)? + (gradient.sqr()? * (1.0 - self.beta2))?)?;
        let m_hat = (&m / (1.0 - self.beta1.powf(t)))?;
        let v_hat = (&v / (1.0 - self.beta2.powf(t)))?;
        state.moments = Some((m, v));
        Ok((m_hat / (v_hat.sqrt()? + 1e-8)?)?)
    }

    /// One step: α ← α − lr·direction(g + wd·α).
    pub fn step(self, state: &mut AdamState, value: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let gradient = add_scaled(gradient, self.weight_decay, value)?;
        let direction = self.direction(state, &gradient)?;
        add_scaled(value, -self.learning_rate, &direction)
    }
}

/// Checks that a number of the user is at least `low`.
pub fn at_least(key: &str, value: f64, low: f64) -> Result<()> {
    if value.is_finite() && value >= low {
        Ok(())
    } else {
        Err(Error::config(format!("`{key}` must be at least {low}, got {value}")))
    }
}
