//! Multilevel optimisation: stage graphs, their reverse pass, estimators of the mixed second
//! derivative, and the combination of hypergradient terms.
//!
//! A method describes its levels as a [`StageGraph`] (data). [`reverse::hypergradient`] computes the
//! gradient of the objective through all of them, in one pass over the stages.

pub mod check;
pub mod combine;
mod graph;
mod oracle;
pub mod reverse;
mod stage;

pub use graph::{Combine, Control, LossTerm, ModelRole, Objective, Stage, StageGraph};
pub use oracle::{Batch, Batches, InnerGradient, Level, Point, Problem, cross_entropy};
pub use stage::{Evaluated, MixedProduct, StageOracle, double_backward_enabled};

use crate::Result;
use crate::registry::macros::declare_kind;
use candle_core::Tensor;
use std::fmt::Debug;

/// A method's levels.
pub trait MultilevelOptimizer: Debug + Send + Sync {
    /// Describes the stages and the objective.
    ///
    /// # Errors
    /// Options that do not fit together.
    fn graph(&self) -> Result<StageGraph>;

    /// What the config says without effect or probably without intention (`tetlo config check`).
    fn remarks(&self) -> Vec<String> {
        vec![]
    }
}
declare_kind!(MultilevelOptimizer, "multilevel-optimizer");

/// Largest relative errors an estimator claims on a smooth problem.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorBound {
    /// Of the total hypergradient.
    pub total: f64,
    /// Of each term alone.
    pub term: f64,
}

/// An estimator of the mixed second-derivative product of one stage,
/// ∇_(context) ⟨∇_θ L(θ, context), v⟩, where the context is the updated parameters of earlier stages
/// and the architecture.
pub trait Hypergradient: Debug + Send + Sync {
    /// Does the method look through the update of the inner levels at all? `false`: first order, the
    /// objective's own gradient at the present parameters.
    fn unrolls(&self) -> bool {
        true
    }

    /// The product at the stage's parameters with direction `v`.
    ///
    /// # Errors
    /// The estimator does not support the stage's networks.
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct>;

    /// The error it claims on smooth problems; `None`: no claim.
    fn bound(&self) -> Option<ErrorBound>;
}
declare_kind!(Hypergradient, "hypergradient");
