//! `neumann`: the implicit derivative by a truncated Neumann series.

use super::products::{IMPLICIT_BOUND, Product, Products, check_step_size, step_size};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tetlo_core::kinds::Hypergradient;
use tetlo_core::multilevel::{ErrorBound, Limit, MixedProduct, StageOracle};
use tetlo_core::optim::{add_scaled, norm};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result, register_hypergradient};

/// Options of `neumann`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NeumannOptions {
    /// Terms K of the series beyond the first.
    pub terms: usize,
    /// Step size α; without it the stage's inner learning rate. The series converges where α is below
    /// 2 over the largest eigenvalue of the Hessian.
    pub step_size: Option<f64>,
    /// How second derivatives are taken.
    pub products: Products,
    /// Length of the perturbation of the weights (`products = "central-difference"`).
    pub epsilon: f64,
}

impl Default for NeumannOptions {
    fn default() -> Self {
        Self { terms: 5, step_size: None, products: Products::default(), epsilon: 0.01 }
    }
}

/// −∇_c ⟨∇_θ L, v⟩ with v = α·Σ_{k≤K} (I − α·H)ᵏ·a ≈ H⁻¹·a, H = ∇²_θ L + wd (Lorraine, Vicol and
/// Duvenaud 2020).
///
/// Suits stages that are trained to convergence between architecture steps. Cost: 2·(K + 1) passes.
/// Bias: (1 − α·μ)^(K+1) along an eigenvector of curvature μ, and the distance from the solution.
#[derive(Debug)]
pub struct Neumann {
    terms: usize,
    step_size: Option<f64>,
    product: Product,
}

impl FromOptions for Neumann {
    type Options = NeumannOptions;

    fn from_options(options: NeumannOptions) -> Result<Self> {
        let NeumannOptions { terms, step_size, products, epsilon } = options;
        check_step_size(step_size)?;
        Ok(Self { terms, step_size, product: Product::new(products, epsilon)? })
    }
}

impl Hypergradient for Neumann {
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        self.product.of(stage, v)
    }

    fn pull_back(&self, stage: &StageOracle<'_>, adjoint: &Tensor) -> Result<MixedProduct> {
        let size = step_size(self.step_size, stage);
        let (mut power, mut sum) = (adjoint.clone(), adjoint.clone());
        let start = norm(adjoint)?;
        for _ in 0..self.terms {
            let product = stage.hessian(&power, |stage, v| self.mixed_product(stage, v))?;
            power = add_scaled(&power, -size, &product)?;
            sum = add_scaled(&sum, 1.0, &power)?;
            let length = norm(&power)?;
            if length <= 1e3 * start {
                continue;
            }
            // Longer, or not a number.
            return Err(Error::config_hint(
                format!("the Neumann series diverges at `step-size = {size}`"),
                "take a smaller `step-size`: it must be below 2 over the largest eigenvalue of the \
                 inner loss's Hessian",
            ));
        }
        stage.through_solution(&(sum * size)?, |stage, v| self.mixed_product(stage, v))
    }

    fn limit(&self) -> Limit {
        Limit::Solution
    }

    fn second_derivatives(&self) -> bool {
        self.product.by == Products::Exact
    }

    fn bound(&self) -> Option<ErrorBound> {
        Some(IMPLICIT_BOUND)
    }

    fn near_limit(&self) -> Option<Value> {
        Some(json!({"terms": 1000}))
    }
}

register_hypergradient!(
    "neumann",
    Neumann,
    "implicit derivative: inverse Hessian by a truncated Neumann series"
);
