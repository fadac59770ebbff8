//! Check problems: small smooth stage graphs whose exact hypergradient is known, on which every
//! estimator is held against it.

use super::graph::StageGraph;
use super::oracle::{Batches, Level, Point, Problem};
use crate::Result;
use crate::kinds::TransferLoss;
use crate::network::Network;
use crate::optim::Inner;
use crate::registry::macros::declare_kind;
use crate::rng::Key;
use candle_core::Tensor;
use std::cell::Cell;
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
    /// Is what `transfer` returns a differentiable function of both features? Not so for hard
    /// targets: what is differentiated there is not what finite differences of J see.
    pub transfer_is_smooth: bool,
    /// Key of the draws.
    pub draw: Key,
}

impl CheckCase {
    /// The case as the reverse pass takes it.
    pub fn problem(&self) -> Problem<'_> {
        let levels = self.networks.iter().zip(&self.architecture).zip(&self.inner);
        let levels =
            levels.zip(&self.momentum).map(|(((network, group), inner), momentum)| Level {
                network: network.as_ref(),
                architecture: *group,
                inner: *inner,
                momentum: momentum.as_ref(),
            });
        Problem {
            graph: &self.graph,
            levels: levels.collect(),
            transfer: self.transfer.as_deref(),
            batches: &self.batches,
            draw: self.draw,
            weight_step: false,
            passes: Cell::new(0),
        }
    }
}

/// A check problem. Its data are arrays by name, so that others can compute the same elsewhere.
pub trait CheckProblem: Debug + Send + Sync {
    /// The numbers of levels it is to be checked with.
    fn levels(&self) -> Vec<usize>;

    /// Data drawn from a seed: everything that [`CheckProblem::case`] reads at any level.
    fn arrays(&self, seed: u64) -> Result<Arrays>;

    /// Does `arrays` hold what this many levels need? Where the user gives the arrays and no number
    /// of levels, levels without data are left out.
    fn has_arrays(&self, levels: usize, arrays: &Arrays) -> bool;

    /// The problem with `levels` levels on these data.
    ///
    /// # Errors
    /// An array is missing or has a wrong shape; the message names it.
    fn case(&self, levels: usize, arrays: &Arrays) -> Result<CheckCase>;
}
declare_kind!(CheckProblem, "check-problem");
