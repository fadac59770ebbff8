//! `central-difference`: the mixed product by two gradients at perturbed weights.

use super::products::{Product, Products};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::Hypergradient;
use tetlo_core::multilevel::{ErrorBound, MixedProduct, StageOracle};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Result, register_hypergradient};

/// Options of `central-difference`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct CentralDifferenceOptions {
    /// Length of the perturbation of the weights: the step is `epsilon` / ‖v‖.
    pub epsilon: f64,
}

impl Default for CentralDifferenceOptions {
    fn default() -> Self {
        Self { epsilon: 0.01 }
    }
}

/// ∇_c ⟨∇_θ L, v⟩ ≈ [∇_c L(θ + h·v, c) − ∇_c L(θ − h·v, c)] / (2h) with h = ε/‖v‖ (Liu et al. 2019,
/// eq. 8): an error of order (ε/‖v‖)²·‖v‖³ on smooth networks.
///
/// θ ± h·v are copies; the weights themselves are never moved. The bound is claimed for smooth
/// networks only: where gradients jump (`ReLU`, max-pooling) the difference is far from the
/// derivative at any ε. Cost: two passes an inner step.
#[derive(Debug)]
pub struct CentralDifference {
    product: Product,
}

impl FromOptions for CentralDifference {
    type Options = CentralDifferenceOptions;

    fn from_options(options: CentralDifferenceOptions) -> Result<Self> {
        Ok(Self { product: Product::new(Products::CentralDifference, options.epsilon)? })
    }
}

impl Hypergradient for CentralDifference {
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        self.product.of(stage, v)
    }

    fn bound(&self) -> Option<ErrorBound> {
        Some(ErrorBound { total: 2e-4, term: 1e-3 })
    }
}

register_hypergradient!(
    "central-difference",
    CentralDifference,
    "unrolled steps, mixed derivatives by central differences"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epsilon_must_be_positive() {
        for epsilon in [0.0, -0.01, f64::NAN, f64::INFINITY] {
            let error =
                CentralDifference::from_options(CentralDifferenceOptions { epsilon }).unwrap_err();
            assert!(error.to_string().starts_with("`epsilon` must be above 0"), "{error}");
        }
    }
}
