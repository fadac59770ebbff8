//! `sama`: the implicit derivative for adaptive inner optimisers.

use super::products::{Product, ProductOptions, Products};
use candle_core::Tensor;
use tetlo_core::kinds::Hypergradient;
use tetlo_core::multilevel::{ErrorBound, Limit, MixedProduct, StageOracle};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Result, register_hypergradient};

/// −∇_c ⟨∇_θ L, ∂u/∂g·a⟩ at the trained weights, u(g) the step of the inner optimiser with its learning
/// rate (SAMA: Choe et al. 2023): the identity for the inverse Hessian, preconditioned as the inner
/// optimiser preconditions its gradients.
///
/// Suits stages trained by Adam; with SGD it is `t1-t2` times the learning rate. Biased by the
/// curvature. Cost: two passes.
#[derive(Debug)]
pub struct Sama {
    product: Product,
}

impl FromOptions for Sama {
    type Options = ProductOptions;

    fn from_options(options: ProductOptions) -> Result<Self> {
        Ok(Self { product: Product::new(options.products, options.epsilon)? })
    }
}

impl Hypergradient for Sama {
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        self.product.of(stage, v)
    }

    fn pull_back(&self, stage: &StageOracle<'_>, adjoint: &Tensor) -> Result<MixedProduct> {
        let adapted = (stage.adapted(adjoint)? * stage.learning_rate())?;
        stage.through_solution(&adapted, |stage, v| self.mixed_product(stage, v))
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

register_hypergradient!(
    "sama",
    Sama,
    "implicit derivative preconditioned as the inner optimiser, for Adam"
);
