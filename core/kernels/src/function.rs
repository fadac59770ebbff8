//! Functions written as candle tensor code, run inside a compiled network.

use std::fmt::Debug;

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, Tensor, Var, bail};

use crate::error::{Error, Result};
use crate::graph::Shape;

/// A function of activations and weights in candle tensor code. It stands in a chain like a
/// convolution: [`crate::Primitive::Function`].
///
/// `forward` must be a pure function of its arguments, and built from operations whose gradients
/// candle has right. It is called with `f32` in a compiled network, with `f64` in the reference.
pub trait TensorFunction: Debug + Send + Sync {
    /// What messages call it.
    fn name(&self) -> &str;

    /// (channels, height, width) of its output.
    ///
    /// # Errors
    /// Says why it cannot take `input`.
    fn output(&self, input: Shape) -> std::result::Result<Shape, String>;

    /// How many weights it has for this input.
    fn weights(&self, input: Shape) -> usize;

    /// The output `[n, channels, height, width]` for `x` `[n, channels, height, width]` and its
    /// slice of the flat weight vector.
    ///
    /// # Errors
    /// Those of candle.
    fn forward(
        &self,
        x: &Tensor,
        weights: &Tensor,
        pass: &FunctionPass,
    ) -> candle_core::Result<Tensor>;
}

/// What a [`TensorFunction`] knows of the pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FunctionPass {
    /// Normalisations use the statistics of the batch.
    pub train: bool,
    /// Names the random draws of the pass; the same in a repeated pass.
    pub key: u64,
}

impl FunctionPass {
    pub(crate) fn new(train: bool, key: u64) -> Self {
        Self { train, key }
    }
}

/// A function of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionId(pub(crate) usize);

fn failed(code: &dyn TensorFunction, reason: &impl ToString) -> Error {
    Error::Function { name: code.name().to_owned(), reason: reason.to_string() }
}

/// That `code` has made a value that is not finite of finite ones.
pub(crate) fn not_finite(code: &dyn TensorFunction, what: &str) -> Error {
    failed(code, &format!("{what} has a value that is not finite, though its input is finite"))
}

/// The output, contiguous, of the shape it was said to have.
pub(crate) fn run(
    code: &dyn TensorFunction,
    x: &Tensor,
    weights: &Tensor,
    pass: FunctionPass,
    (c, h, w): Shape,
) -> Result<Tensor> {
    let go = || {
        let y = code.forward(x, weights, &pass)?;
        let expected = [x.dim(0)?, c, h, w];
        if y.dims() != expected {
            bail!("it gives the shape {:?}, expected {expected:?}", y.dims());
        }
        if y.dtype() != x.dtype() {
            bail!("it gives {:?} of {:?}", y.dtype(), x.dtype());
        }
        y.contiguous()
    };
    go().map_err(|e| failed(code, &e))
}

/// Gradients of `<g, y>` in `x` and in the weights, where wanted. A function that does not depend
/// on `x` has no gradient there; weights without one are an error.
pub(crate) fn pull_back(
    code: &dyn TensorFunction,
    y: &Tensor,
    g: &Tensor,
    x: Option<&Var>,
    weights: Option<&Var>,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let go = || {
        let along = || crate::backward(&(y * g)?.sum_all()?);
        let gradients = if y.track_op() { Some(along()?) } else { None };
        let of = |var: Option<&Var>| -> candle_core::Result<Option<Tensor>> {
            let Some(found) = var.and_then(|v| gradients.as_ref()?.get(v)) else { return Ok(None) };
            Ok(Some(found.detach().contiguous()?))
        };
        let (of_x, of_weights) = (of(x)?, of(weights)?);
        if weights.is_some_and(|w| w.elem_count() > 0) && of_weights.is_none() {
            bail!("no gradient reaches its weights");
        }
        Ok((of_x, of_weights))
    };
    go().map_err(|e| failed(code, &e))
}

/// A contiguous tensor's values, to be overwritten.
struct Overwrite<'a>(&'a dyn Fn(&mut [f32]));

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(values), Some((start, end))) => (self.0)(&mut values[start..end]),
            _ => bail!("expected a contiguous tensor of f32"),
        }
        Ok(())
    }
}

/// Fills a contiguous tensor that nobody else reads at the moment.
pub(crate) fn overwrite(
    code: &dyn TensorFunction,
    tensor: &Tensor,
    fill: &dyn Fn(&mut [f32]),
) -> Result<()> {
    tensor.inplace_op1(&Overwrite(fill)).map_err(|e| failed(code, &e))
}

/// Reads a contiguous tensor.
pub(crate) fn read<R>(
    code: &dyn TensorFunction,
    tensor: &Tensor,
    f: impl FnOnce(&[f32]) -> R,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(f(&values[start..end])),
        _ => Err(failed(code, &"expected a contiguous tensor of f32 on the CPU")),
    }
}

/// A variable of this shape: the present one if it fits.
pub(crate) fn buffer<'a>(
    code: &dyn TensorFunction,
    place: &'a mut Option<Var>,
    shape: &[usize],
) -> Result<&'a Var> {
    if place.as_ref().is_none_or(|v| v.dims() != shape) {
        let new = Var::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu);
        *place = Some(new.map_err(|e| failed(code, &e))?);
    }
    Ok(place.as_ref().expect("just set"))
}
