//! Networks are functions; their state is a value passed in.

use crate::Result;
use crate::layout::Layout;
use crate::rng::Key;
use candle_core::Tensor;
use std::fmt::Debug;
use std::sync::Arc;

/// The size of the images a network takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageShape {
    /// Colour channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// Which statistics batch normalisation uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// Those of the batch (train mode).
    Batch,
    /// The running ones (evaluation mode).
    Running,
}

/// What a forward pass needs beside parameters and images.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Pass<'a> {
    /// Batch or running statistics.
    pub statistics: Statistics,
    /// The running statistics, one flat tensor in the layout of [`Network::buffers`]; only read.
    pub buffers: Option<&'a Tensor>,
    /// Key of every random draw of the pass (drop-path, stochastic relaxation). Passes on the same
    /// batch of one step share it, so that they share their draws.
    pub draw: Key,
    /// Probability with which a path is dropped (derived networks).
    pub drop_path: f64,
}

impl<'a> Pass<'a> {
    /// A pass with batch statistics and no drop-path.
    pub fn train(draw: Key) -> Self {
        Self { statistics: Statistics::Batch, buffers: None, draw, drop_path: 0.0 }
    }

    /// A pass with running statistics.
    pub fn evaluate(buffers: &'a Tensor, draw: Key) -> Self {
        Self { statistics: Statistics::Running, buffers: Some(buffers), ..Self::train(draw) }
    }

    /// The same with drop-path.
    #[must_use]
    pub fn with_drop_path(self, drop_path: f64) -> Self {
        Self { drop_path, ..self }
    }
}

/// What a forward pass gives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Output {
    /// Class scores, N × classes.
    pub logits: Tensor,
    /// Features after global pooling, N × D.
    pub embedding: Tensor,
    /// Feature maps at the end of each resolution, N × C × H × W, from the finest to the coarsest;
    /// only from networks that were built with them.
    pub maps: Vec<Tensor>,
    /// Logits of the auxiliary head, for networks that have one and with batch statistics.
    pub auxiliary_logits: Option<Tensor>,
    /// Batch mean and unbiased variance in the layout of [`Network::buffers`], detached (only with
    /// batch statistics, and only for networks with batch normalisation).
    pub statistics: Option<Tensor>,
}

impl Output {
    /// Logits and embedding alone.
    pub fn new(logits: Tensor, embedding: Tensor) -> Self {
        Self { logits, embedding, maps: vec![], auxiliary_logits: None, statistics: None }
    }

    /// The same values, cut from any graph.
    #[must_use]
    pub fn detached(&self) -> Self {
        let cut = |t: &Option<Tensor>| t.as_ref().map(Tensor::detach);
        Self {
            logits: self.logits.detach(),
            embedding: self.embedding.detach(),
            maps: self.maps.iter().map(Tensor::detach).collect(),
            auxiliary_logits: cut(&self.auxiliary_logits),
            statistics: cut(&self.statistics),
        }
    }

    /// The same with feature maps.
    #[must_use]
    pub fn with_maps(self, maps: Vec<Tensor>) -> Self {
        Self { maps, ..self }
    }

    /// The same with batch statistics.
    #[must_use]
    pub fn with_statistics(self, statistics: Option<Tensor>) -> Self {
        Self { statistics, ..self }
    }

    /// The same with the auxiliary head's logits.
    #[must_use]
    pub fn with_auxiliary_logits(self, logits: Option<Tensor>) -> Self {
        Self { auxiliary_logits: logits, ..self }
    }
}

/// A differentiable model with parameters outside itself.
///
/// `forward` is pure: equal arguments give equal bytes. Weights, architecture parameters and
/// running statistics are flat tensors whose parts the layouts name. Any float type, as long as all
/// agree (networks of kernels are f32; small check problems f64).
pub trait Network: Debug + Send + Sync {
    /// Names and places of the weights.
    fn weights(&self) -> &Layout;

    /// Names and places of the running statistics; empty without batch normalisation.
    fn buffers(&self) -> &Layout;

    /// Names and places of the architecture parameters α (flat); empty for a fixed network.
    fn architecture(&self) -> &Layout;

    /// Multiply-adds of one image's forward pass.
    fn multiply_adds(&self) -> u64;

    /// Bytes of activations and scratch that a batch of this size takes (an estimate for plans).
    fn activation_bytes(&self, _batch: usize) -> usize {
        0
    }

    /// Bytes of the tensors that a pass of this many images gives out (an estimate for plans).
    fn export_bytes(&self, _batch: usize) -> usize {
        0
    }

    /// Is every operation of `forward` differentiable twice, as plain tensor operations are? Kernels
    /// are not: double backward through them would be silently wrong.
    fn twice_differentiable(&self) -> bool {
        false
    }

    /// The same network, with the same layouts, on slow loops that run in `f32` and `f64` (the type of
    /// the tensors passed in) and are twice differentiable; `None`: there is none. `smooth`: with
    /// x·σ(x) for rectifiers and average pools for max pools, for comparisons with differences, which
    /// converge on smooth networks only.
    ///
    /// With operations in tensor code it runs, but is not twice differentiable: double backward is an
    /// error that names them.
    fn reference(&self, _smooth: bool) -> Option<Arc<dyn Network>> {
        None
    }

    /// Logits and embedding of a batch of images (N × C × H × W). `architecture` is the flat α;
    /// fixed networks ignore it and take `None`.
    fn forward(
        &self,
        weights: &Tensor,
        architecture: Option<&Tensor>,
        images: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<Output>;
}

/// Running statistics after a training pass: 0.9 · old + 0.1 · batch (`PyTorch`'s momentum 0.1).
pub fn update_running_statistics(buffers: &Tensor, batch: Option<&Tensor>) -> Result<Tensor> {
    match batch {
        Some(batch) => Ok(((buffers * 0.9)? + (batch.detach() * 0.1)?)?),
        None => Ok(buffers.clone()),
    }
}
