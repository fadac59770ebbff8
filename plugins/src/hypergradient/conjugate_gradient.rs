//! `conjugate-gradient`: the implicit derivative by conjugate gradients.

use super::products::{IMPLICIT_BOUND, Product, Products};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tetlo_core::kinds::Hypergradient;
use tetlo_core::multilevel::{ErrorBound, Limit, MixedProduct, StageOracle};
use tetlo_core::optim::{add_scaled, at_least, norm};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result, register_hypergradient};

/// Options of `conjugate-gradient`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct ConjugateGradientOptions {
    /// Most iterations K.
    #[schemars(range(min = 1))]
    pub iterations: usize,
    /// Added to the Hessian's diagonal.
    pub damping: f64,
    /// Ends at this residual, relative to the right-hand side.
    pub tolerance: f64,
    /// Start from the solution of the last architecture step (Ji, Yang and Liang 2021).
    pub warm_start: bool,
    /// How second derivatives are taken.
    pub products: Products,
    /// Length of the perturbation of the weights (`products = "central-difference"`).
    pub epsilon: f64,
}

impl Default for ConjugateGradientOptions {
    fn default() -> Self {
        Self {
            iterations: 5,
            damping: 0.0,
            tolerance: 1e-10,
            warm_start: true,
            products: Products::default(),
            epsilon: 0.01,
        }
    }
}

/// −∇_c ⟨∇_θ L, v⟩ with (H + damping)·v = a, H = ∇²_θ L + wd, by K conjugate-gradient iterations
/// (Pedregosa 2016; Rajeswaran et al. 2019).
///
/// Suits stages that are trained to convergence and have a Hessian that is positive definite, with the
/// damping if need be. It ends where it meets a direction without curvature, with what it has; at the
/// first iteration that is v = a, as `t1-t2` (a truncated Newton method does the same). Such a solution is
/// not kept for a warm start, and one that is worse than none is not used. Cost: 2·(K + 1) passes, two
/// more for a warm start. Bias: of the residual, the damping, and the distance from the solution.
#[derive(Debug)]
pub struct ConjugateGradient {
    options: ConjugateGradientOptions,
    product: Product,
}

impl FromOptions for ConjugateGradient {
    type Options = ConjugateGradientOptions;

    fn from_options(options: ConjugateGradientOptions) -> Result<Self> {
        if options.iterations == 0 {
            return Err(Error::config("`iterations` must be at least 1"));
        }
        at_least("damping", options.damping, 0.0)?;
        at_least("tolerance", options.tolerance, 0.0)?;
        let product = Product::new(options.products, options.epsilon)?;
        Ok(Self { options, product })
    }
}

impl ConjugateGradient {
    /// The solution, and whether it is one to start from next time.
    fn solve(&self, stage: &StageOracle<'_>, adjoint: &Tensor) -> Result<(Tensor, bool)> {
        let o = &self.options;
        let apply = |v: &Tensor| -> Result<Tensor> {
            let product = stage.hessian(v, |stage, v| self.mixed_product(stage, v))?;
            add_scaled(&product, o.damping, v)
        };
        let scale = norm(adjoint)?;
        let wanted = o.tolerance * scale;
        let (mut solution, mut residual) = (adjoint.zeros_like()?, adjoint.clone());
        let mut started = false;
        if let Some(start) = stage.warm_start().filter(|_| o.warm_start) {
            let left = add_scaled(adjoint, -1.0, &apply(start)?)?;
            if norm(&left)? < scale {
                (solution, residual, started) = (start.clone(), left, true);
            }
        }
        let mut direction = residual.clone();
        let mut length = norm(&residual)?;
        for iteration in 0..o.iterations {
            if length <= wanted {
                break;
            }
            let curved = apply(&direction)?;
            let curvature = (&direction * &curved)?.sum_all()?;
            let curvature = curvature.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
            if curvature <= 0.0 {
                let nothing = iteration == 0 && !started;
                return Ok((if nothing { adjoint.clone() } else { solution }, false));
            }
            if !curvature.is_finite() {
                return Err(Error::Invalid("a Hessian product is not finite".into()));
            }
            let size = length * length / curvature;
            solution = add_scaled(&solution, size, &direction)?;
            residual = add_scaled(&residual, -size, &curved)?;
            let next = norm(&residual)?;
            direction = add_scaled(&residual, (next / length).powi(2), &direction)?;
            length = next;
        }
        Ok((solution, true))
    }
}

impl Hypergradient for ConjugateGradient {
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        self.product.of(stage, v)
    }

    fn pull_back(&self, stage: &StageOracle<'_>, adjoint: &Tensor) -> Result<MixedProduct> {
        let (solution, keeps) = self.solve(stage, adjoint)?;
        let pulled = stage.through_solution(&solution, |stage, v| self.mixed_product(stage, v))?;
        if self.options.warm_start && keeps {
            stage.keep(solution);
        }
        Ok(pulled)
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
        Some(json!({"iterations": 100}))
    }
}

register_hypergradient!(
    "conjugate-gradient",
    ConjugateGradient,
    "implicit derivative: inverse Hessian by conjugate gradients"
);
