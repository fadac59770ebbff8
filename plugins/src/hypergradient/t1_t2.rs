//! `t1-t2`: the implicit derivative with the identity for the inverse Hessian.

use super::products::{Product, ProductOptions, Products};
use candle_core::Tensor;
use tetlo_core::kinds::Hypergradient;
use tetlo_core::multilevel::{ErrorBound, Limit, MixedProduct, StageOracle};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Result, register_hypergradient};

/// −∇_c ⟨∇_θ L, a⟩ at the trained weights: the inverse Hessian replaced by the identity, no learning
/// rate in it (Luketina et al. 2016).
///
/// As cheap as one unrolled step, and the transferred part does not shrink with the learning rates.
/// Biased by the whole curvature: right only where the Hessian is the identity. Cost: two passes.
#[derive(Debug)]
pub struct T1T2 {
    product: Product,
}

impl FromOptions for T1T2 {
    type Options = ProductOptions;

    fn from_options(options: ProductOptions) -> Result<Self> {
        Ok(Self { product: Product::new(options.products, options.epsilon)? })
    }
}

impl Hypergradient for T1T2 {
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        self.product.of(stage, v)
    }

    fn pull_back(&self, stage: &StageOracle<'_>, adjoint: &Tensor) -> Result<MixedProduct> {
        stage.through_solution(adjoint, |stage, v| self.mixed_product(stage, v))
    }

    fn limit(&self) -> Limit {
        Limit::Solution
    }

    fn second_derivatives(&self) -> bool {
        self.product.by == Products::Exact
    }

    fn bound(&self) -> Option<ErrorBound> {
        None
    }
}

register_hypergradient!("t1-t2", T1T2, "implicit derivative with the identity as inverse Hessian");
