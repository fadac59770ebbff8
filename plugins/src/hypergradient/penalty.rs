//! `penalty`: the implicit derivative from two minimisations, by first derivatives only.

use super::products::{IMPLICIT_BOUND, check_step_size, step_size};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tetlo_core::kinds::Hypergradient;
use tetlo_core::multilevel::{ErrorBound, Limit, MixedProduct, StageOracle};
use tetlo_core::optim::{add_scaled, norm};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result, register_hypergradient};

/// Options of `penalty`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct PenaltyOptions {
    /// Weight σ of the inner loss beside the objective.
    pub sigma: f64,
    /// Gradient steps K of each minimisation.
    #[schemars(range(min = 1))]
    pub steps: usize,
    /// Their step size; without it the stage's inner learning rate.
    pub step_size: Option<f64>,
}

impl Default for PenaltyOptions {
    fn default() -> Self {
        Self { sigma: 100.0, steps: 5, step_size: None }
    }
}

/// σ·[∇_c L(z) − ∇_c L(y)], where z minimises L + ⟨a, θ⟩/σ and y minimises L, each by K gradient steps
/// from the trained weights: the value-function penalty of Kwon et al. (2023, F²SA) with the objective
/// linearised at the trained weights.
///
/// Needs no second derivatives at all. Suits stages that are trained to convergence; in f32 a large σ
/// drowns in rounding. Cost: 2·K + 2 passes. Bias: of order 1/σ, and as `neumann` for finite K.
#[derive(Debug)]
pub struct Penalty {
    sigma: f64,
    steps: usize,
    step_size: Option<f64>,
}

impl FromOptions for Penalty {
    type Options = PenaltyOptions;

    fn from_options(options: PenaltyOptions) -> Result<Self> {
        let PenaltyOptions { sigma, steps, step_size } = options;
        if !(sigma.is_finite() && sigma > 0.0) {
            return Err(Error::config(format!("`sigma` must be above 0, got {sigma}")));
        }
        if steps == 0 {
            return Err(Error::config("`steps` must be at least 1"));
        }
        check_step_size(step_size)?;
        Ok(Self { sigma, steps, step_size })
    }
}

impl Hypergradient for Penalty {
    /// −σ·[∇_c L(θ − v/σ) − ∇_c L(θ)]: the same difference along a given direction.
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        let moved = add_scaled(stage.weights(), -1.0 / self.sigma, v)?;
        stage.context_difference(&moved, stage.weights())?.scaled(-self.sigma)
    }

    fn pull_back(&self, stage: &StageOracle<'_>, adjoint: &Tensor) -> Result<MixedProduct> {
        let size = step_size(self.step_size, stage);
        let (mut y, mut z) = (stage.weights().clone(), stage.weights().clone());
        for _ in 0..self.steps {
            y = add_scaled(&y, -size, &stage.gradient(&y)?)?;
            let penalised = add_scaled(&stage.gradient(&z)?, 1.0 / self.sigma, adjoint)?;
            z = add_scaled(&z, -size, &penalised)?;
        }
        // Σ_{k<K} α·(I − α·H)ᵏ·a is at most α·K·‖a‖ long where the steps contract.
        let moved = self.sigma * norm(&add_scaled(&z, -1.0, &y)?)?;
        let most = 1e3 * size * self.steps as f64 * norm(adjoint)?;
        if moved > most || !moved.is_finite() {
            return Err(Error::config_hint(
                format!("the minimisations of `penalty` diverge at `step-size = {size}`"),
                "take a smaller `step-size`: it must be below 2 over the largest eigenvalue of the \
                 inner loss's Hessian",
            ));
        }
        stage.context_difference(&z, &y)?.scaled(self.sigma)
    }

    fn limit(&self) -> Limit {
        Limit::Solution
    }

    fn bound(&self) -> Option<ErrorBound> {
        Some(IMPLICIT_BOUND)
    }

    fn near_limit(&self) -> Option<Value> {
        Some(json!({"sigma": 1e6, "steps": 1000}))
    }
}

register_hypergradient!(
    "penalty",
    Penalty,
    "implicit derivative from two minimisations, first derivatives only"
);
