//! Check problems: small smooth stage graphs whose exact hypergradient is known, on which every
//! estimator is held against it.

use super::graph::StageGraph;
use super::oracle::{Batches, Point};
use crate::Result;
use crate::kinds::TransferLoss;
use crate::network::Network;
use crate::optim::Inner;
use crate::registry::macros::declare_kind;
use crate::rng::Key;
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

/// Arrays by name, as in an npz file.
pub type Arrays = BTreeMap<String, Tensor>;

/// Everything an estimator needs to run on a check problem.
#[derive(Debug)]
pub struct CheckCase {
    /// The stages.
    pub graph: StageGraph,
    /// A network a stage.
    pub networks: Vec<Arc<dyn Network>>,
    /// The group of architecture parameters of each stage's network, if it has one.
    pub architecture: Vec<Option<usize>>,
    /// Inner optimiser a stage.
    pub inner: Vec<Inner>,
    /// Momentum buffer a stage.
    pub momentum: Vec<Option<Tensor>>,
    /// Parameters.
    pub point: Point,
    /// The batches.
    pub batches: Batches,
    /// The transfer loss, if there is a transfer.
    pub transfer: Option<Box<dyn TransferLoss>>,
    /// Key of the draws.
    pub draw: Key,
}

/// A check problem.
pub trait CheckProblem: Debug + Send + Sync {
    /// The numbers of levels it can be asked for.
    fn levels(&self) -> Vec<usize>;

    /// The problem with `levels` levels. `arrays` gives its data; where it is `None` they are drawn
    /// from `seed` and returned by [`CheckProblem::arrays`].
    ///
    /// # Errors
    /// An array is missing or has a wrong shape; the message names it.
    fn case(&self, levels: usize, arrays: &Arrays) -> Result<CheckCase>;

    /// Data drawn from a seed, by the names that `case` reads.
    fn arrays(&self, levels: usize, seed: u64) -> Result<Arrays>;
}
declare_kind!(CheckProblem, "check-problem");
