//! Second-derivative products, as estimators of the implicit derivative take them.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::multilevel::{MixedProduct, StageOracle};
use tetlo_core::optim::{add_scaled, norm};
use tetlo_core::{Error, Result};

/// How second derivatives are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Products {
    /// By differences of gradients.
    #[default]
    CentralDifference,
    /// By double backward, for networks that have second derivatives.
    Exact,
}

/// Options of estimators that take second-derivative products and nothing else.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct ProductOptions {
    /// How second derivatives are taken.
    pub products: Products,
    /// Length of the perturbation of the weights (`products = "central-difference"`).
    pub epsilon: f64,
}

impl Default for ProductOptions {
    fn default() -> Self {
        Self { products: Products::default(), epsilon: 0.01 }
    }
}

/// [`Products`] with the length of the perturbation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) by: Products,
    pub(super) epsilon: f64,
}

impl Product {
    /// Checks `epsilon`.
    pub(super) fn new(by: Products, epsilon: f64) -> Result<Self> {
        if epsilon.is_finite() && epsilon > 0.0 {
            Ok(Self { by, epsilon })
        } else {
            Err(Error::config(format!("`epsilon` must be above 0, got {epsilon}")))
        }
    }

    /// ∇ ⟨∇_θ L, v⟩ at the stage's weights.
    pub(super) fn of(self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        match self.by {
            Products::CentralDifference => difference(stage, v, self.epsilon),
            Products::Exact => stage.exact_product(v),
        }
    }
}

/// [∇ L(θ + h·v) − ∇ L(θ − h·v)] / (2h) with h = `epsilon`/‖v‖. θ ± h·v are copies; the weights
/// themselves are never moved.
pub(super) fn difference(
    stage: &StageOracle<'_>,
    v: &Tensor,
    epsilon: f64,
) -> Result<MixedProduct> {
    let length = norm(v)?;
    if length == 0.0 {
        return Ok(stage.no_product());
    }
    let step = epsilon / length;
    let plus = add_scaled(stage.weights(), step, v)?;
    let minus = add_scaled(stage.weights(), -step, v)?;
    stage.context_difference(&plus, &minus)?.scaled(1.0 / (2.0 * step))
}

/// The step size of an iteration: as given, or the stage's inner learning rate.
pub(super) fn step_size(given: Option<f64>, stage: &StageOracle<'_>) -> f64 {
    given.unwrap_or_else(|| stage.learning_rate())
}

/// Checks a step size of the user.
pub(super) fn check_step_size(given: Option<f64>) -> Result<()> {
    match given {
        Some(size) if !(size.is_finite() && size > 0.0) => {
            Err(Error::config(format!("`step-size` must be above 0, got {size}")))
        }
        _ => Ok(()),
    }
}

/// What estimators of the solution's derivative claim near their limit.
pub(super) const IMPLICIT_BOUND: tetlo_core::multilevel::ErrorBound =
    tetlo_core::multilevel::ErrorBound { total: 2e-4, term: 1e-3 };
