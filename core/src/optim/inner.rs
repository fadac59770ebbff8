//! Inner optimisers: the step that a stage really makes, the same step unrolled, and its transpose.

use super::flat::{self, add_scaled, norm};
use super::{Adam, AdamState};
use crate::{Error, Result};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// SGD with momentum and L2, as `torch.optim.SGD`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sgd {
    /// Learning rate η.
    pub learning_rate: f64,
    /// Momentum μ.
    pub momentum: f64,
    /// Weight decay (added to the gradient).
    pub weight_decay: f64,
}

/// Which rule an inner optimiser follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InnerRule {
    /// SGD with momentum.
    #[default]
    Sgd,
    /// Adam with L2.
    Adam,
}

/// The inner optimiser of a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Inner {
    /// SGD with momentum and L2.
    Sgd(Sgd),
    /// Adam with L2.
    Adam(Adam),
}

/// Its memory: a value.
#[derive(Debug, Clone, Default)]
pub struct InnerState {
    /// SGD's momentum buffer or Adam's first moment; `None` before the first step.
    pub first: Option<Tensor>,
    /// Adam's second moment.
    pub second: Option<Tensor>,
    /// Steps made.
    pub steps: u32,
}

/// ∂J in what a step leaves behind, for [`Inner::transpose`].
///
/// The memory's parts are in units of −η, since memory acts on the weights through −η alone.
#[derive(Debug, Clone)]
pub struct StepAdjoint {
    /// In the weights after the step.
    pub weights: Tensor,
    /// In the first part of the memory after it.
    pub first: Option<Tensor>,
    /// In the second.
    pub second: Option<Tensor>,
}

impl Inner {
    /// SGD without momentum and weight decay.
    pub fn plain(learning_rate: f64) -> Self {
        Self::Sgd(Sgd { learning_rate, momentum: 0.0, weight_decay: 0.0 })
    }

    /// Learning rate η.
    pub fn learning_rate(self) -> f64 {
        match self {
            Self::Sgd(sgd) => sgd.learning_rate,
            Self::Adam(adam) => adam.learning_rate,
        }
    }

    /// Weight decay.
    pub fn weight_decay(self) -> f64 {
        match self {
            Self::Sgd(sgd) => sgd.weight_decay,
            Self::Adam(adam) => adam.weight_decay,
        }
    }

    /// Does the gradient itself stand in the derivative of a step in it? Not so for SGD.
    pub fn is_adaptive(self) -> bool {
        matches!(self, Self::Adam(_))
    }

    /// The weights after one step; nothing is stored.
    ///
    /// SGD: θ − η·(g + wd·θ + μ·buffer). Adam: as [`Adam::step`].
    ///
    /// # Errors
    /// Shapes differ.
    pub fn unrolled(
        self,
        weights: &Tensor,
        gradient: &Tensor,
        state: &InnerState,
    ) -> Result<Tensor> {
        match self {
            Self::Sgd(sgd) => {
                let eta = sgd.learning_rate;
                let mut parts = vec![(1.0 - eta * sgd.weight_decay, weights), (-eta, gradient)];
                if let Some(buffer) = &state.first
                    && sgd.momentum != 0.0
                {
                    parts.push((-eta * sgd.momentum, buffer));
                }
                flat::linear_combination(&parts)
            }
            Self::Adam(_) => Ok(self.advanced(weights, gradient, state)?.0),
        }
    }

    /// The weights and the memory after one step.
    ///
    /// # Errors
    /// Shapes differ.
    pub fn advanced(
        self,
        weights: &Tensor,
        gradient: &Tensor,
        state: &InnerState,
    ) -> Result<(Tensor, InnerState)> {
        let mut next = state.clone();
        let (weights, _) = next.step(self, 0.0, weights, gradient)?;
        Ok((weights, next))
    }

    /// The transpose of one step: the direction v with ∂J/∂(gradient g) = −η·v, and the adjoint of
    /// weights and memory before the step, without the part that goes through g(θ).
    ///
    /// SGD: v = ā + b̄, then ā ← ā − η·wd·v, b̄ ← μ·v, with ā of the weights, b̄ of the buffer.
    /// Adam: with m̂, v̂ the corrected moments and s = √v̂ + 1e-8,
    /// m̄ ← m̄ + ā/(c₁·s), v̄ ← v̄ − ā·m̂/(2·c₂·s²·√v̂), v = (1 − β₁)·m̄ + 2·(1 − β₂)·g̃·v̄.
    ///
    /// # Errors
    /// Shapes differ.
    pub fn transpose(
        self,
        weights: &Tensor,
        gradient: &Tensor,
        before: &InnerState,
        after: StepAdjoint,
    ) -> Result<(Tensor, StepAdjoint)> {
        let StepAdjoint { weights: adjoint, first, second } = after;
        let (direction, first, second) = match self {
            Self::Sgd(sgd) => {
                let direction = match first {
                    Some(buffer) => add_scaled(&adjoint, 1.0, &buffer)?,
                    None => adjoint.clone(),
                };
                let first =
                    if sgd.momentum == 0.0 { None } else { Some((&direction * sgd.momentum)?) };
                (direction, first, None)
            }
            Self::Adam(adam) => {
                let gradient = add_scaled(gradient, adam.weight_decay, weights)?;
                let mut state = AdamState::from(before);
                adam.direction(&mut state, &gradient)?;
                let Some((m, v)) = state.moments else {
                    return Err(Error::Invalid("Adam without moments after a step".into()));
                };
                let t = f64::from(state.steps);
                let (c1, c2) = (1.0 - adam.beta1.powf(t), 1.0 - adam.beta2.powf(t));
                let (m_hat, root) = ((m / c1)?, (v / c2)?.sqrt()?);
                let s = (&root + Adam::EPSILON)?;
                let mut of_m = (&adjoint / (&s * c1)?)?;
                if let Some(first) = first {
                    of_m = (of_m + first)?;
                }
                // Where v̂ = 0 the gradient and m̂ are 0 too, and the term's limit is 0. Quotients one
                // after another: their product would overflow in f32 where √v̂ is tiny.
                let zero = root.eq(0.0)?.to_dtype(root.dtype())?;
                let safe = (&root + &zero)?;
                let mut of_v = (((m_hat / &s)? * (&adjoint / &s)?)? / safe)?;
                of_v = (of_v * (1.0 - zero)?)?;
                of_v = (of_v * (-0.5 / c2))?;
                if let Some(second) = second {
                    of_v = (of_v + second)?;
                }
                let direction = ((&of_m * (1.0 - adam.beta1))?
                    + ((gradient * &of_v)? * (2.0 * (1.0 - adam.beta2)))?)?;
                (direction, Some((of_m * adam.beta1)?), Some((of_v * adam.beta2)?))
            }
        };
        let decay = self.learning_rate() * self.weight_decay();
        let weights =
            if decay == 0.0 { adjoint } else { add_scaled(&adjoint, -decay, &direction)? };
        Ok((direction, StepAdjoint { weights, first, second }))
    }
}

impl From<&InnerState> for AdamState {
    fn from(state: &InnerState) -> Self {
        let moments = state.first.clone().zip(state.second.clone());
        Self { moments, steps: state.steps }
    }
}

impl InnerState {
    /// SGD's memory with this momentum buffer.
    pub fn with_momentum(momentum: Option<Tensor>) -> Self {
        let steps = u32::from(momentum.is_some());
        Self { first: momentum, second: None, steps }
    }

    /// One step with the gradient scaled to at most `clip` in norm (0: not clipped). Returns the new
    /// weights and the gradient's norm before clipping.
    ///
    /// SGD: d = clip(g) + wd·θ; b ← μ·b + d (b = d at the first step); θ ← θ − η·b.
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
        match inner {
            Inner::Sgd(sgd) => {
                let mut parts = vec![(scale, gradient), (sgd.weight_decay, weights)];
                if let Some(buffer) = &self.first {
                    parts.push((sgd.momentum, buffer));
                }
                let buffer = flat::linear_combination(&parts)?;
                let next = add_scaled(weights, -sgd.learning_rate, &buffer)?;
                self.first = Some(buffer);
                self.steps += 1;
                Ok((next, length))
            }
            Inner::Adam(adam) => {
                let gradient =
                    flat::linear_combination(&[(scale, gradient), (adam.weight_decay, weights)])?;
                let mut state = AdamState::from(&*self);
                let direction = adam.direction(&mut state, &gradient)?;
                (self.first, self.second) = state.moments.unzip();
                self.steps = state.steps;
                Ok((add_scaled(weights, -adam.learning_rate, &direction)?, length))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    const ADAM: Inner =
        Inner::Adam(Adam { learning_rate: 0.1, beta1: 0.9, beta2: 0.999, weight_decay: 0.0 });

    /// The direction that Adam's step, without memory, gives an adjoint of ones.
    fn direction(gradient: &[f64], dtype: DType) -> Vec<f64> {
        let tensor = |v: &[f64]| {
            Tensor::from_slice(v, v.len(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        let ones = tensor(&vec![1.0; gradient.len()]);
        let after = StepAdjoint { weights: ones.clone(), first: None, second: None };
        let state = InnerState::default();
        let (v, before) = ADAM.transpose(&ones, &tensor(gradient), &state, after).unwrap();
        for part in
            [&before.weights, before.first.as_ref().unwrap(), before.second.as_ref().unwrap()]
        {
            let values: Vec<f64> = part.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
            assert!(values.iter().all(|v| v.is_finite()), "{values:?}");
        }
        v.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    /// Weights that no image reaches have gradient 0, and products of tiny ones underflow in f32.
    #[test]
    fn adam_is_transposed_at_gradients_of_zero() {
        for dtype in [DType::F32, DType::F64] {
            let found = direction(&[0.0, 1e-30, 0.5], dtype);
            assert!(found.iter().all(|v| v.is_finite()), "{dtype:?}: {found:?}");
            // Without memory the step is g/(|g| + 1e-8): at 0 its derivative is that of the division by
            // 1e-8 alone; at 0.5 it is 1e-8/(0.5 + 1e-8)².
            assert!((found[0] / 1e8 - 1.0).abs() < 1e-4, "{dtype:?}: {found:?}");
            assert!(found[2].abs() < 1e-6, "{dtype:?}: {found:?}");
        }
    }
}
