//! `exact`: the mixed product by double backward.

use candle_core::Tensor;
use tetlo_core::kinds::Hypergradient;
use tetlo_core::multilevel::{ErrorBound, MixedProduct, StageOracle};
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::{Result, register_hypergradient};

/// ∇_c ⟨∇_θ L, v⟩ by differentiating the gradient: the exact hypergradient of the steps.
///
/// Only in a process started with `CANDLE_GRAD_DO_NOT_DETACH=1`, and only through networks that have
/// second derivatives; elsewhere it refuses. Cost: a forward pass and two backward passes an inner
/// step, no bias.
#[derive(Debug)]
pub struct Exact;

impl FromOptions for Exact {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Hypergradient for Exact {
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        stage.exact_product(v)
    }

    fn second_derivatives(&self) -> bool {
        true
    }

    fn bound(&self) -> Option<ErrorBound> {
        Some(ErrorBound { total: 1e-9, term: 1e-9 })
    }
}

register_hypergradient!(
    "exact",
    Exact,
    "unrolled steps, exact second derivatives (networks that have them)"
);
