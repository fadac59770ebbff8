//! `first-order`: no look through the inner updates.

use candle_core::Tensor;
use tetlo_core::kinds::Hypergradient;
use tetlo_core::multilevel::{ErrorBound, Limit, MixedProduct, StageOracle};
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::{Result, register_hypergradient};

/// The objective's own gradient at the present weights, γ·∇_A CE(W, A; valid): the first-order
/// approximation of `DARTS` (Liu et al. 2019, ξ = 0). It claims nothing about its error.
#[derive(Debug)]
pub struct FirstOrder;

impl FromOptions for FirstOrder {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Hypergradient for FirstOrder {
    fn unrolls(&self) -> bool {
        false
    }

    fn mixed_product(&self, stage: &StageOracle<'_>, _v: &Tensor) -> Result<MixedProduct> {
        Ok(stage.no_product())
    }

    fn limit(&self) -> Limit {
        Limit::Neither
    }

    fn bound(&self) -> Option<ErrorBound> {
        None
    }
}

register_hypergradient!("first-order", FirstOrder, "the objective's own gradient, no unrolling");
