//! A method at a state of its search as a check problem.

use super::{Method, SearchState};
use candle_core::{DType, Tensor};
use std::sync::Arc;
use tetlo_core::kinds::{Hypergradient, Progress, TransferLoss};
use tetlo_core::multilevel::check::CheckCase;
use tetlo_core::multilevel::{Batch, Batches, Criterion, CrossEntropy, Point, Stage, WarmStarts};
use tetlo_core::network::Network;
use tetlo_core::optim::InnerState;
use tetlo_core::rng::Purpose;
use tetlo_core::{Error, Result};

/// A method as a check problem.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The problem, in f64.
    pub case: CheckCase,
    /// The method's own estimators, one a stage.
    pub estimators: Vec<Box<dyn Hypergradient>>,
}

fn wide(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.detach().to_dtype(DType::F64)?)
}

fn wide_all(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    tensors.iter().map(wide).collect()
}

fn wide_batch(batch: &Batch) -> Result<Batch> {
    Ok(Batch { images: wide(&batch.images)?, labels: batch.labels.clone() })
}

fn wide_memory(memory: &InnerState) -> Result<InnerState> {
    let of = |part: &Option<Tensor>| part.as_ref().map(wide).transpose();
    Ok(InnerState { first: of(&memory.first)?, second: of(&memory.second)?, steps: memory.steps })
}

impl Method {
    /// The networks' references, or their smooth variants.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where a network has none.
    pub(crate) fn references(&self, smooth: bool) -> Result<Vec<Arc<dyn Network>>> {
        let of = |(network, stage): (&Arc<dyn Network>, &Stage)| {
            network.reference(smooth).ok_or_else(|| Error::Unsupported {
                plugin: stage.name.clone(),
                what: "passes in f64: its network has no reference (`Network::reference`)".into(),
            })
        };
        self.networks.iter().zip(&self.graph.stages).map(of).collect()
    }

    /// The architecture step that the search would make at `state` on `batches`, in f64 on the
    /// networks' references, or on their smooth variants.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where a network has no reference.
    pub(crate) fn into_check(
        self,
        state: &SearchState,
        batches: &Batches,
        at: Progress,
        smooth: bool,
    ) -> Result<Checked> {
        let stages = self.networks.len();
        let transfer_is_smooth = self.transfers.iter().all(TransferLoss::teacher_is_smooth);
        let case = CheckCase {
            networks: self.references(smooth)?,
            criteria: (0..stages).map(|_| Arc::new(CrossEntropy) as Arc<dyn Criterion>).collect(),
            architecture: self.groups.clone(),
            parameters: self.parameters.iter().map(|(places, _)| places.clone()).collect(),
            inner: (0..stages).map(|stage| self.inner(stage, at.epoch)).collect(),
            memory: state.inner.iter().map(wide_memory).collect::<Result<_>>()?,
            point: Point {
                weights: wide_all(&state.point.weights)?,
                architecture: wide_all(&state.point.architecture)?,
            },
            batches: Batches {
                train: wide_batch(&batches.train)?,
                valid: wide_batch(&batches.valid)?,
                transfer: batches.transfer.as_ref().map(wide_batch).transpose()?,
            },
            transfer_is_smooth,
            solved: false,
            draw: self.key(Purpose::Relaxation).step(at.step),
            warm: WarmStarts::new(),
            transfers: self.transfers,
            graph: self.graph,
        };
        Ok(Checked { case, estimators: self.estimators })
    }
}
