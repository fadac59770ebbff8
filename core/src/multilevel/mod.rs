//! Multilevel optimisation: stage graphs, their reverse pass, estimators of the mixed second
//! derivative, and the combination of hypergradient terms.
//!
//! A method describes its levels as a [`StageGraph`] (data). [`reverse::hypergradient`] computes the
//! gradient of the objective through all of them, in one pass over the stages.

pub mod check;
pub mod combine;
mod graph;
mod oracle;
mod plugin_ref;
pub mod reverse;
mod stage;

pub use graph::{
    Combine, Control, EstimatorRef, InnerSettings, LossTerm, ModelRole, Objective, Stage,
    StageGraph, TermSplit, TransferRef,
};
pub use oracle::{
    Batch, Batches, Criterion, CrossEntropy, InnerGradient, Level, LossParameters, Point, Problem,
    TransferLosses, WarmStarts, cross_entropy,
};
pub use plugin_ref::PluginRef;
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

/// Largest relative errors an estimator claims on a smooth problem with one inner step a stage; T steps
/// make them T times as large.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorBound {
    /// Of the total hypergradient.
    pub total: f64,
    /// Of each term alone.
    pub term: f64,
}

/// What an estimator's hypergradient becomes as its own parameters (steps, terms, ε) go to their
/// limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The derivative through the inner steps that are made.
    Updates,
    /// The derivative of the inner problem's solution (implicit function theorem). It is that of the
    /// search only as far as the inner problem is solved.
    Solution,
    /// Neither: biased in any case.
    Neither,
}

/// How the adjoint of a stage's trained weights is pulled back to what its training depended on: the
/// trained weights of earlier stages and the architecture.
pub trait Hypergradient: Debug + Send + Sync {
    /// Does the method look through the training of the inner levels at all? `false`: first order, the
    /// stage is taken at its present parameters.
    fn unrolls(&self) -> bool {
        true
    }

    /// The product ∇_context ⟨∇_θ L(θ, context), v⟩ at the weights that `stage` shows, with its own
    /// part ∇_θ ⟨∇_θ L, v⟩ where the stage asks for it.
    ///
    /// # Errors
    /// The estimator does not support the stage's networks.
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct>;

    /// ∂J/∂context for `adjoint` = ∂J/∂(trained weights). By default through the inner steps, each by
    /// one [`Hypergradient::mixed_product`].
    ///
    /// # Errors
    /// As [`Hypergradient::mixed_product`].
    fn pull_back(&self, stage: &StageOracle<'_>, adjoint: &Tensor) -> Result<MixedProduct> {
        stage.through_updates(adjoint, |stage, v| self.mixed_product(stage, v))
    }

    /// What it converges to.
    fn limit(&self) -> Limit {
        Limit::Updates
    }

    /// Does it need networks with second derivatives? Those that searches run on have none.
    fn second_derivatives(&self) -> bool {
        false
    }

    /// The error it claims on smooth problems; `None`: no claim.
    fn bound(&self) -> Option<ErrorBound>;

    /// Options near the limit, for checks of the bound; `None`: the defaults are.
    fn near_limit(&self) -> Option<serde_json::Value> {
        None
    }
}
declare_kind!(Hypergradient, "hypergradient");
