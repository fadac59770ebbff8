//! Kinds that shape a differentiable search: relaxation, supernet transform, regulariser, stopping
//! rule, selection.

use crate::Result;
use crate::genotype::Genotype;
use crate::registry::macros::declare_kind;
use crate::rng::Stream;
use crate::space::{ArchValues, SpaceSpec};
use candle_core::Tensor;
use std::fmt::Debug;

/// Turns architecture parameters into operation weights.
pub trait Relaxation: Debug + Send + Sync {
    /// α (edges × operations of one kind of cell) → weights of the same shape; differentiable.
    /// `draws` gives the pass's random numbers, the same in all passes on a batch.
    fn weights(&self, alpha: &Tensor, draws: &mut Stream) -> Result<Tensor>;
}
declare_kind!(Relaxation, "relaxation");

/// How far a search is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// The epoch, from 0.
    pub epoch: usize,
    /// Epochs in all.
    pub epochs: usize,
    /// The step over the whole search, from 0.
    pub step: usize,
}

impl Progress {
    /// epoch / (epochs − 1), 0 for a single epoch.
    pub fn fraction(&self) -> f64 {
        if self.epochs < 2 { 0.0 } else { self.epoch as f64 / (self.epochs - 1) as f64 }
    }
}

/// Changes the space that the supernet is built from, such as leaving operations out.
pub trait SupernetTransform: Debug + Send + Sync {
    /// The space as the supernet sees it.
    ///
    /// # Errors
    /// The transform does not fit this space.
    fn transform(&self, space: SpaceSpec) -> Result<SpaceSpec>;
}
declare_kind!(SupernetTransform, "supernet-transform");

/// A penalty on the architecture parameters, added to the objective of the architecture step.
pub trait Regularizer: Debug + Send + Sync {
    /// The penalty, a scalar, for the architecture parameters of each kind of cell
    /// (edges × operations each); differentiable.
    fn penalty(&self, alphas: &[Tensor], progress: Progress) -> Result<Tensor>;
}
declare_kind!(Regularizer, "regularizer");

/// What a stopping rule sees of a search, one value an epoch.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// Genotype that would be derived after each epoch.
    pub genotypes: Vec<Genotype>,
    /// (epoch, dominant eigenvalue of the Hessian of the validation loss in α), where computed.
    pub lambda_max: Vec<(usize, f64)>,
    /// Epochs planned in all.
    pub epochs: usize,
}

/// The end of a search, as a stopping rule decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Stop {
    /// The epoch after which the search ends.
    pub stop_epoch: usize,
    /// The epoch whose cell is returned.
    pub return_epoch: usize,
}

/// Decides whether a search ends early.
pub trait StopRule: Debug + Send + Sync {
    /// Looks at the epochs so far (the last one has just ended).
    fn stop(&self, trace: &Trace) -> Result<Option<Stop>>;
}
declare_kind!(StopRule, "stop-rule");

/// Derives a genotype from architecture parameters (discretisation).
pub trait Selection: Debug + Send + Sync {
    /// From *raw* α; ties keep the first edge and the first operation.
    ///
    /// # Errors
    /// The rule does not fit this space.
    fn select(&self, space: &SpaceSpec, alphas: &ArchValues) -> Result<Genotype>;
}
declare_kind!(Selection, "selection");

/// A genotype that was evaluated during a black-box search.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// The architecture.
    pub genotype: Genotype,
    /// Its validation score, higher is better.
    pub score: f64,
}

/// A search that only sees scores: random, evolution, policy gradient. Its state is the history.
pub trait BlackBoxSearch: Debug + Send + Sync {
    /// How many architectures may be evaluated; `None`: as many as the search's epochs.
    fn evaluations(&self) -> Option<usize>;

    /// The next architecture to evaluate.
    fn propose(
        &self,
        space: &SpaceSpec,
        history: &[Evaluated],
        draws: &mut Stream,
    ) -> Result<Genotype>;
}
declare_kind!(BlackBoxSearch, "black-box-search");
