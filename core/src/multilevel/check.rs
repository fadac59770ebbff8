//! Check problems: small smooth stage graphs whose exact hypergradient is known, on which every
//! estimator is held against it.

use super::graph::StageGraph;
use super::oracle::{
    Batches, Criterion, CrossEntropy, Level, LossParameters, Point, Problem, TransferLosses,
    WarmStarts,
};
use crate::Result;
use crate::network::Network;
use crate::optim::{Inner, InnerState};
use crate::registry::macros::declare_kind;
use crate::rng::{Key, Purpose};
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
    /// Each stage's own loss.
    pub criteria: Vec<Arc<dyn Criterion>>,
    /// The group of architecture parameters of each stage's network, if it has one.
    pub architecture: Vec<Option<usize>>,
    /// Parameters of each stage's transfer losses.
    pub parameters: Vec<Vec<LossParameters>>,
    /// Inner optimiser a stage.
    pub inner: Vec<Inner>,
    /// Its memory a stage.
    pub memory: Vec<InnerState>,
    /// Parameters.
    pub point: Point,
    /// The batches.
    pub batches: Batches,
    /// The transfer losses.
    pub transfers: TransferLosses,
    /// Is what the transfer losses return a differentiable function of both features? Not so for hard
    /// targets: what is differentiated there is not what finite differences of J see.
    pub transfer_is_smooth: bool,
    /// Does every stage stand at the solution of its inner problem? Then estimators of its derivative
    /// can be held against it.
    pub solved: bool,
    /// Key of the draws.
    pub draw: Key,
    /// What estimators start from.
    pub warm: WarmStarts,
}

impl CheckCase {
    /// A case of networks that are trained on cross entropy by their inner optimisers' plain state: all
    /// that a problem does not say is as it is for these.
    pub fn new(
        graph: StageGraph,
        networks: Vec<Arc<dyn Network>>,
        inner: Vec<Inner>,
        point: Point,
        batches: Batches,
    ) -> Self {
        let stages = networks.len();
        let mut groups = 0..;
        let architecture = networks
            .iter()
            .map(|n| (!n.architecture().is_empty()).then(|| groups.next()).flatten())
            .collect();
        Self {
            graph,
            networks,
            criteria: (0..stages).map(|_| Arc::new(CrossEntropy) as Arc<dyn Criterion>).collect(),
            architecture,
            parameters: vec![vec![]; stages],
            inner,
            memory: vec![InnerState::default(); stages],
            point,
            batches,
            transfers: TransferLosses::default(),
            transfer_is_smooth: true,
            solved: false,
            draw: Key::new(0, Purpose::Problem),
            warm: WarmStarts::new(),
        }
    }

    /// The case as the reverse pass takes it.
    pub fn problem(&self) -> Problem<'_> {
        let levels = (0..self.networks.len()).map(|stage| Level {
            network: self.networks[stage].as_ref(),
            criterion: self.criteria[stage].as_ref(),
            architecture: self.architecture[stage],
            parameters: &self.parameters[stage],
            inner: self.inner[stage],
            memory: &self.memory[stage],
        });
        Problem {
            graph: &self.graph,
            levels: levels.collect(),
            transfers: &self.transfers,
            batches: &self.batches,
            draw: self.draw,
            weight_step: false,
            warm: &self.warm,
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

    /// The hypergradient of the inner problems' solutions in the main architecture, where it is known
    /// without any of this crate's derivatives: a closed form, or differences of a solver's values.
    /// Flat, in f64.
    ///
    /// # Errors
    /// As [`CheckProblem::case`].
    fn known(&self, _levels: usize, _arrays: &Arrays) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The problem with `levels` levels on these data.
    ///
    /// # Errors
    /// An array is missing or has a wrong shape; the message names it.
    fn case(&self, levels: usize, arrays: &Arrays) -> Result<CheckCase>;
}
declare_kind!(CheckProblem, "check-problem");
