//! What changes during a search.

use candle_core::Tensor;
use tetlo_core::multilevel::combine::ArchState;
use tetlo_core::multilevel::{Point, WarmStarts};
use tetlo_core::optim::InnerState;

/// Everything that changes during a search: a value.
#[derive(Debug, Clone)]
pub struct SearchState {
    /// Weights a stage, architecture parameters a group.
    pub point: Point,
    /// Running statistics a stage.
    pub buffers: Vec<Option<Tensor>>,
    /// Memory of the inner optimiser a stage.
    pub inner: Vec<InnerState>,
    /// Memory of the architecture's optimiser.
    pub arch: ArchState,
    /// What estimators keep from one architecture step to the next.
    pub warm: WarmStarts,
}

impl Default for SearchState {
    fn default() -> Self {
        Self {
            point: Point { weights: vec![], architecture: vec![] },
            buffers: vec![],
            inner: vec![],
            arch: ArchState::default(),
            warm: WarmStarts::new(),
        }
    }
}
