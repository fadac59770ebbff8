//! Networks of kernels with a linear classifier: supernets, derived networks, auxiliary models.

use super::head::AuxiliaryHead;
use super::lower::NetworkBuilder;
use super::mixing::OperationWeights;
use crate::layout::{Init, Layout};
use crate::network::{Network, Output, Pass, Statistics};
use crate::rng::Purpose;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;
use tetlo_kernels::{Export, Graph, GraphBuilder, Mode, Outputs, ReferenceNetwork, StateId};

/// Places a term's drop-path mask takes: the largest batch with drop-path.
pub(super) const MASK_STRIDE: usize = KernelNetwork::MOST_IMAGES_WITH_DROP_PATH;

/// A network that the kernels run as one operation, with a linear classifier on the pooled features.
#[derive(Debug, Clone)]
pub struct KernelNetwork {
    kernels: Kernels,
    weights: Layout,
    buffers: Layout,
    architecture: Layout,
    operation_weights: Option<Arc<OperationWeights>>,
    auxiliary: Option<Arc<AuxiliaryHead>>,
    /// Terms that drop-path may drop.
    droppable: usize,
    multiply_adds: u64,
    resolutions: Resolutions,
    /// The first export that is a map of [`Output::maps`], if it gives them.
    maps: Option<usize>,
}

/// Where each resolution of a network ends, from the finest to the coarsest.
#[derive(Debug, Clone, Default)]
pub(super) struct Resolutions {
    /// States whose concatenation is the map, a resolution.
    pub(super) states: Vec<Vec<StateId>>,
    /// Rectify them (residual networks, whose readers do)?
    pub(super) relu: bool,
}

/// Who runs the graph.
#[derive(Debug, Clone)]
enum Kernels {
    /// The compiled plan, in `f32`.
    Fused(tetlo_kernels::Network),
    /// The slow, twice differentiable loops, in `f32` or `f64`.
    Reference(ReferenceNetwork),
}

impl Kernels {
    fn graph(&self) -> &Graph {
        match self {
            Self::Fused(network) => network.graph(),
            Self::Reference(network) => network.graph(),
        }
    }

    fn is_smooth(&self) -> bool {
        matches!(self, Self::Reference(network) if network.is_smooth())
    }

    fn forward(
        &self,
        [images, weights, ops]: [&Tensor; 3],
        mode: Mode<'_>,
        key: u64,
    ) -> candle_core::Result<Outputs> {
        match self {
            Self::Fused(network) => network.forward_with_key(images, weights, ops, mode, key),
            Self::Reference(network) => network.forward_with_key(images, weights, ops, mode, key),
        }
    }
}

/// What stands on top of the graph.
#[derive(Debug)]
pub(super) struct Top<'a> {
    /// States whose concatenation is pooled to the embedding.
    pub(super) features: Vec<StateId>,
    /// Rectify before pooling (residual networks)?
    pub(super) relu: bool,
    pub(super) classes: usize,
    /// Name of the classifier's module.
    pub(super) classifier: &'a str,
    pub(super) architecture: Layout,
    pub(super) operation_weights: Option<OperationWeights>,
    /// The auxiliary head, with the states it reads.
    pub(super) auxiliary: Option<(AuxiliaryHead, Vec<StateId>)>,
    pub(super) droppable: usize,
    pub(super) resolutions: Resolutions,
}

impl KernelNetwork {
    /// Largest batch that a pass with drop-path takes.
    pub const MOST_IMAGES_WITH_DROP_PATH: usize = 1024;

    /// Ends a network whose pooled, perhaps rectified features go to a linear classifier.
    pub fn classifier(
        builder: NetworkBuilder,
        features: StateId,
        relu: bool,
        classes: usize,
        name: &str,
    ) -> Result<Self> {
        Self::finish(
            builder,
            Top {
                features: vec![features],
                relu,
                classes,
                classifier: name,
                architecture: Layout::new(),
                operation_weights: None,
                auxiliary: None,
                droppable: 0,
                resolutions: Resolutions { states: vec![vec![features]], relu },
            },
        )
    }

    /// The same network whose resolutions end in these states, from the finest to the coarsest, the
    /// last in its features; without this it has one, that of the features.
    #[must_use]
    pub fn with_resolutions(mut self, states: &[StateId]) -> Self {
        self.resolutions.states = states.iter().map(|s| vec![*s]).collect();
        self
    }

    /// The same network with [`Output::maps`]: of a network built from cells the output of the last
    /// cell, block or stem of each resolution, of a residual network that of the last block, rectified.
    ///
    /// Asked before use: the maps become outputs of the compiled graph, which a network without them
    /// does not pay for.
    ///
    /// # Errors
    /// A state is not of this network.
    pub fn with_maps(self) -> Result<Self> {
        let mut builder = GraphBuilder::from(self.graph());
        let Resolutions { states, relu } = self.resolutions.clone();
        for states in states {
            builder.export(Export::Map { states, relu });
        }
        let maps = Some(self.graph().exports().len());
        let kernels = Kernels::Fused(tetlo_kernels::Network::new(builder.finish()?));
        Ok(Self { kernels, maps, ..self })
    }

    pub(super) fn finish(mut builder: NetworkBuilder, top: Top<'_>) -> Result<Self> {
        let width = builder.joint_shape(&top.features).0;
        let of = builder.graph.export(Export::Pooled { states: top.features, relu: top.relu });
        let (init, name, out) = (Init::fan_in(width), top.classifier, top.classes);
        let weight = builder.weights.push(format!("{name}.weight"), &[out, width], init);
        let bias = builder.weights.push(format!("{name}.bias"), &[out], init);
        builder.graph.export(Export::Linear { of, out, weight, bias });
        let auxiliary = top.auxiliary.map(|(head, states)| {
            builder.graph.export(Export::Map { states, relu: true });
            Arc::new(head)
        });
        builder.multiply_adds += (width * top.classes) as u64;
        Ok(Self {
            kernels: Kernels::Fused(tetlo_kernels::Network::new(builder.graph.finish()?)),
            weights: builder.weights,
            buffers: builder.buffers,
            architecture: top.architecture,
            operation_weights: top.operation_weights.map(Arc::new),
            auxiliary,
            droppable: top.droppable,
            multiply_adds: builder.multiply_adds,
            resolutions: top.resolutions,
            maps: None,
        })
    }

    /// The graph that the kernels run: its exports are the embedding, the logits, with an auxiliary
    /// head the map that this reads, and the maps of [`KernelNetwork::with_maps`].
    pub fn graph(&self) -> &Graph {
        self.kernels.graph()
    }

    /// The operation weights of a pass: relaxed α, or drop-path masks.
    fn operation_weights(
        &self,
        architecture: Option<&Tensor>,
        pass: &Pass<'_>,
        (images, dtype): (usize, DType),
    ) -> Result<Tensor> {
        if let Some(weights) = &self.operation_weights {
            let flat = architecture.ok_or_else(|| {
                Error::Invalid("a supernet needs its architecture parameters".into())
            })?;
            let mut draws = pass.draw.purpose(Purpose::Relaxation).stream();
            return weights.flat(&self.architecture, flat, &mut draws);
        }
        let mut masks = vec![1f32; (self.droppable * MASK_STRIDE).max(1)];
        if pass.drop_path > 0.0 && pass.statistics == Statistics::Batch {
            if images > MASK_STRIDE {
                return Err(Error::config(format!(
                    "drop-path needs batches of at most {MASK_STRIDE} images, got {images}"
                )));
            }
            let keep = 1.0 - pass.drop_path;
            let mut draws = pass.draw.purpose(Purpose::DropPath).stream();
            // Without a term to drop the one value left is no mask.
            for term in masks.chunks_exact_mut(MASK_STRIDE) {
                for m in &mut term[..images] {
                    *m = if draws.uniform() < keep { (1.0 / keep) as f32 } else { 0.0 };
                }
            }
        }
        let len = masks.len();
        Ok(Tensor::from_vec(masks, len, &Device::Cpu)?.to_dtype(dtype)?)
    }
}

impl Network for KernelNetwork {
    fn weights(&self) -> &Layout {
        &self.weights
    }

    fn buffers(&self) -> &Layout {
        &self.buffers
    }

    fn architecture(&self) -> &Layout {
        &self.architecture
    }

    fn multiply_adds(&self) -> u64 {
        self.multiply_adds
    }

    fn activation_bytes(&self, batch: usize) -> usize {
        let fused = tetlo_kernels::Plan::estimate_bytes(self.kernels.graph(), batch);
        match self.kernels {
            Kernels::Fused(_) => fused,
            // Dual numbers of `f64` in place of `f32`.
            Kernels::Reference(_) => 4 * fused,
        }
    }

    fn export_bytes(&self, batch: usize) -> usize {
        let graph = self.kernels.graph();
        let floats = |e: &Export| graph.export_shape(e, batch).iter().product::<usize>();
        4 * graph.exports().iter().map(floats).sum::<usize>()
    }

    fn twice_differentiable(&self) -> bool {
        let is_reference = matches!(self.kernels, Kernels::Reference(_));
        is_reference && self.graph().functions().next().is_none()
    }

    fn reference(&self, smooth: bool) -> Option<Arc<dyn Network>> {
        let reference = ReferenceNetwork::new(self.graph().clone(), smooth);
        Some(Arc::new(Self { kernels: Kernels::Reference(reference), ..self.clone() }))
    }

    fn forward(
        &self,
        weights: &Tensor,
        architecture: Option<&Tensor>,
        images: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<Output> {
        let count = images.dims4()?.0;
        let ops = self.operation_weights(architecture, pass, (count, weights.dtype()))?;
        let running;
        let mode = match (pass.statistics, pass.buffers) {
            (Statistics::Batch, _) => Mode::Train,
            (Statistics::Running, Some(buffers)) => {
                let own =
                    self.auxiliary.as_ref().map_or(self.buffers.len(), |head| head.buffers_at());
                running = buffers.narrow(0, 0, own)?;
                Mode::Eval { running: &running }
            }
            (Statistics::Running, None) => {
                return Err(Error::Invalid("evaluation needs running statistics".into()));
            }
        };
        let key = pass.draw.purpose(Purpose::Operation).stream().next_u64();
        let outputs = self.kernels.forward([images, weights, &ops], mode, key)?;
        let (embedding, logits) = (outputs.exports[0].clone(), outputs.exports[1].clone());
        let mut statistics = outputs.statistics;
        let mut auxiliary_logits = None;
        if let (Some(head), Statistics::Batch) = (&self.auxiliary, pass.statistics) {
            let (map, smooth) = (&outputs.exports[2], self.kernels.is_smooth());
            let (scores, batch) = head.forward(&self.weights, weights, map, smooth)?;
            auxiliary_logits = Some(scores);
            statistics = match statistics {
                Some(own) => Some(Tensor::cat(&[&own, &batch], 0)?),
                None => Some(batch),
            };
        }
        let maps = self.maps.map_or_else(Vec::new, |first| outputs.exports[first..].to_vec());
        Ok(Output::new(logits, embedding)
            .with_maps(maps)
            .with_statistics(statistics)
            .with_auxiliary_logits(auxiliary_logits))
    }
}

/// Draws initial weights, running statistics and architecture parameters of a network.
pub fn initial_values(
    network: &dyn Network,
    key: crate::rng::Key,
) -> Result<(Tensor, Option<Tensor>, Option<Tensor>)> {
    let of = |layout: &Layout, purpose| -> Result<Option<Tensor>> {
        if layout.is_empty() {
            return Ok(None);
        }
        Ok(Some(layout.initialise_tensor(&mut key.purpose(purpose).stream())?))
    };
    let weights = of(network.weights(), Purpose::Weights)?
        .ok_or_else(|| Error::Invalid("a network without weights".into()))?;
    let buffers = of(network.buffers(), Purpose::Weights)?;
    let architecture = of(network.architecture(), Purpose::Architecture)?;
    debug_assert_eq!(weights.dtype(), DType::F32);
    Ok((weights, buffers, architecture))
}
