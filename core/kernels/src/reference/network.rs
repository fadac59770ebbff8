//! The reference as a candle operation whose gradient is itself a tracked operation.

use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType,
    bail,
};

use super::{Gradients, How, Inputs, Moved, Scalar, run, run_back, second_derivatives};
use crate::graph::Graph;
use crate::network::{self, Mode, Outputs};

/// A graph that runs, forward and backward, on the reference: slower than [`crate::Network`], with
/// the same values, in `f32` or `f64`, and twice differentiable.
///
/// Gradients reach the weights and the operation weights. In a process with
/// `CANDLE_GRAD_DO_NOT_DETACH=1` candle differentiates them again: with
/// p = (weights, operation weights), F(p) the exports and G(p, g) = F'(p)ᵀ g the gradient, the
/// gradients of `<c, G>` are `<g, F>''(p) c` in p and F'(p) c in g ([`super::second_derivatives`]). Third
/// derivatives are an error, as are second ones of a graph with a tensor function.
///
/// Every derivative begins with the forward pass again, so that nothing is kept in memory.
#[derive(Debug, Clone)]
pub struct ReferenceNetwork {
    graph: Arc<Graph>,
    smooth: bool,
}

impl ReferenceNetwork {
    /// The graph as it is, or its smooth variant ([`How::smooth`]).
    pub fn new(graph: Graph, smooth: bool) -> Self {
        Self { graph: Arc::new(graph), smooth }
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Does it run the smooth variant?
    pub fn is_smooth(&self) -> bool {
        self.smooth
    }

    /// As [`crate::Network::forward_with_key`], all tensors of one type, `f32` or `f64`.
    pub fn forward_with_key(
        &self,
        images: &Tensor,
        weights: &Tensor,
        ops: &Tensor,
        mode: Mode<'_>,
        key: u64,
    ) -> Result<Outputs> {
        if images.track_op() {
            bail!("the reference of a network has no gradient for its images: detach them");
        }
        let graph = &self.graph;
        let batch = network::check(graph, images, weights, ops, mode)?;
        let running = match mode {
            Mode::Train => None,
            Mode::Eval { running } => Some(running.detach().contiguous()?),
        };
        for (what, tensor) in [
            ("weights", Some(weights)),
            ("operation weights", Some(ops)),
            ("running statistics", running.as_ref()),
        ] {
            let found = tensor.map_or(images.dtype(), Tensor::dtype);
            if found != images.dtype() {
                bail!("the images are {:?}, but the {what} {found:?}", images.dtype());
            }
        }
        let training = running.is_none();
        let call = Call {
            graph: Arc::clone(graph),
            how: How { key, smooth: self.smooth },
            images: images.contiguous()?,
            running,
            batch,
            weights: weights.elem_count(),
        };
        let parameters = Tensor::cat(&[weights, ops], 0)?;
        let flat = parameters.apply_op1(Exports(Arc::new(call)))?;
        network::outputs(graph, &flat, batch, training)
    }
}

/// What a pass does not differentiate.
struct Call {
    graph: Arc<Graph>,
    how: How,
    images: Tensor,
    running: Option<Tensor>,
    batch: usize,
    /// How many of the parameters are weights; the rest are operation weights.
    weights: usize,
}

/// A number of the reference and of candle.
trait Float: Scalar + WithDType {}
impl Float for f32 {}
impl Float for f64 {}

fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let values = storage.as_slice::<T>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("expected a contiguous tensor"),
    }
}

impl Call {
    /// `f` of the inputs at these parameters.
    fn with<T: Float>(
        &self,
        parameters: &[T],
        f: impl FnOnce(&Inputs<'_, T>) -> crate::Result<Vec<T>>,
    ) -> Result<(CpuStorage, Shape)> {
        let images = self.images.flatten_all()?.to_vec1::<T>()?;
        let running = self.running.as_ref().map(Tensor::to_vec1::<T>).transpose()?;
        let (weights, ops) = parameters.split_at(self.weights);
        let (batch, running) = (self.batch, running.as_deref());
        let out = f(&Inputs { batch, images: &images, weights, ops, running })?;
        let shape = Shape::from(out.len());
        Ok((T::to_cpu_storage_owned(out), shape))
    }

    /// Exports, then batch statistics.
    fn exports<T: Float>(&self, parameters: &[T]) -> Result<(CpuStorage, Shape)> {
        self.with(parameters, |inputs| {
            let forward = run(&self.graph, inputs, self.how)?;
            let mut flat = forward.exports.concat();
            if self.running.is_none() {
                flat.extend(forward.statistics);
            }
            Ok(flat)
        })
    }

    /// A flat gradient cut into the exports; the rest of it, of the statistics, does not count.
    fn cut<T: Float>(&self, mut flat: &[T]) -> Vec<Vec<T>> {
        let mut parts = Vec::new();
        for export in self.graph.exports() {
            let len = self.graph.export_shape(export, self.batch).iter().product();
            let (part, rest) = flat.split_at(len);
            parts.push(part.to_vec());
            flat = rest;
        }
        parts
    }

    fn gradient<T: Float>(&self, parameters: &[T], g: &[T]) -> Result<(CpuStorage, Shape)> {
        self.with(parameters, |inputs| {
            let forward = run(&self.graph, inputs, self.how)?;
            let Gradients { weights, ops } = run_back(&self.graph, inputs, &forward, &self.cut(g))?;
            Ok([weights, ops].concat())
        })
    }

    /// Gradients of `<c, gradient(parameters, g)>`: in the parameters, then in `g`.
    fn second<T: Float>(&self, parameters: &[T], g: &[T], c: &[T]) -> Result<(CpuStorage, Shape)> {
        self.with(parameters, |inputs| {
            let (weights, ops) = c.split_at(self.weights);
            let along = Moved { weights, ops };
            let found = second_derivatives(&self.graph, inputs, self.how, &self.cut(g), along)?;
            let Gradients { weights, ops } = found.gradients;
            let mut of_g = found.exports.concat();
            of_g.resize(g.len(), T::default());
            Ok([weights, ops, of_g].concat())
        })
    }
}

macro_rules! by_type {
    ($call:expr, $method:ident($($storage:ident, $layout:ident);*)) => {
        match $call.images.dtype() {
            DType::F32 => $call.$method::<f32>($(slice($storage, $layout)?),*),
            DType::F64 => $call.$method::<f64>($(slice($storage, $layout)?),*),
            other => bail!("the reference of a network runs in F32 or F64, not {other:?}"),
        }
    };
}

/// F(p).
struct Exports(Arc<Call>);

impl CustomOp1 for Exports {
    fn name(&self) -> &'static str {
        "reference-network"
    }

    fn cpu_fwd(&self, p: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        by_type!(self.0, exports(p, at))
    }

    fn bwd(&self, p: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(p.apply_op2(&g.contiguous()?, Gradient(Arc::clone(&self.0)))?))
    }
}

/// G(p, g).
struct Gradient(Arc<Call>);

impl CustomOp2 for Gradient {
    fn name(&self) -> &'static str {
        "reference-network-gradient"
    }

    fn cpu_fwd(
        &self,
        p: &CpuStorage,
        p_at: &Layout,
        g: &CpuStorage,
        g_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_type!(self.0, gradient(p, p_at; g, g_at))
    }

    fn bwd(
        &self,
        p: &Tensor,
        g: &Tensor,
        _: &Tensor,
        c: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let both = p.apply_op3(g, &c.contiguous()?, Second(Arc::clone(&self.0)))?;
        let (of_p, of_g) = (p.elem_count(), g.elem_count());
        Ok((Some(both.narrow(0, 0, of_p)?), Some(both.narrow(0, of_p, of_g)?)))
    }
}

/// The gradients of `<c, G(p, g)>`.
struct Second(Arc<Call>);

impl CustomOp3 for Second {
    fn name(&self) -> &'static str {
        "reference-network-second"
    }

    fn cpu_fwd(
        &self,
        p: &CpuStorage,
        p_at: &Layout,
        g: &CpuStorage,
        g_at: &Layout,
        c: &CpuStorage,
        c_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_type!(self.0, second(p, p_at; g, g_at; c, c_at))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        bail!("the reference of a network has no third derivatives")
    }
}
