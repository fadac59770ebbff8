//! Optimisers on flat vectors (candle-nn has neither SGD with momentum nor Adam with L2), learning
//! rate schedules, gradient clipping.

mod flat;
mod inner;
mod schedule;

pub use flat::{add_scaled, cosine, norm};
pub use inner::{Inner, InnerRule, InnerState, Sgd, StepAdjoint};
pub use schedule::CosineSchedule;

use crate::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

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
    /// Added to √v̂.
    pub const EPSILON: f64 = 1e-8;

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
        Ok((m_hat / (v_hat.sqrt()? + Self::EPSILON)?)?)
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
