//! Steps of operations that are written as candle tensor code.

use super::lower::Shape;
use crate::Result;
use crate::layout::Init;
use crate::rng::{Key, Purpose};
use candle_core::{Tensor, bail};
use std::fmt::{self, Debug};
use std::sync::Arc;
use tetlo_kernels::{FunctionPass, TensorFunction};

/// Tensor code as a step of an operation: slower than the kernels' primitives, but anything that
/// candle can differentiate.
///
/// It must be a pure function of its arguments (random numbers from `pass.draw` only), in any float
/// type, and built from operations whose gradients candle has right (`clippy.toml` lists those it has
/// not). Everything round it stays fused.
pub trait TensorCode: Debug + Send + Sync {
    /// The output (N × out × H' × W') for `x` (N × C × H × W) and the parameters that the step
    /// declares, in order and in their shapes. H' = (H − 1)/stride + 1, W' likewise.
    ///
    /// # Errors
    /// The code cannot do it; the message gets the operation's place in front.
    fn forward(&self, x: &Tensor, parameters: &[Tensor], pass: &TensorPass) -> Result<Tensor>;
}

/// What tensor code knows of the pass.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct TensorPass {
    /// Training (batch statistics) or evaluation?
    pub train: bool,
    /// Key of its random draws: differs from place to place in the network, and is the same in all
    /// passes on one batch of a step.
    pub draw: Key,
}

/// A parameter of tensor code.
#[derive(Debug, Clone, PartialEq)]
struct Parameter {
    name: String,
    shape: Vec<usize>,
    init: Init,
}

/// Tensor code with what must be known of it to build a network: the step `Step::Tensor`.
///
/// ```
/// # use candle_core::Tensor;
/// # use tetlo_core::Result;
/// # use tetlo_core::space::{TensorCode, TensorPass};
/// use tetlo_core::layout::Init;
/// use tetlo_core::space::{Step, TensorStep};
///
/// #[derive(Debug)]
/// struct Scale;
///
/// impl TensorCode for Scale {
///     fn forward(&self, x: &Tensor, parameters: &[Tensor], _: &TensorPass) -> Result<Tensor> {
///         Ok(x.broadcast_mul(&parameters[0].reshape((1, (), 1, 1))?)?)
///     }
/// }
///
/// let step = TensorStep::new(Scale).parameter("scale", &[16], Init::Constant(1.0));
/// assert_eq!(Step::Tensor(step.clone()), Step::Tensor(step));
/// ```
#[derive(Clone)]
pub struct TensorStep {
    code: Arc<dyn TensorCode>,
    parameters: Vec<Parameter>,
    out: Option<usize>,
    stride: usize,
    multiply_adds: usize,
}

impl TensorStep {
    /// Code without parameters that keeps the shape.
    pub fn new(code: impl TensorCode + 'static) -> Self {
        let code: Arc<dyn TensorCode> = Arc::new(code);
        Self { code, parameters: Vec::new(), out: None, stride: 1, multiply_adds: 0 }
    }

    /// Adds a parameter, named below the operation's own name.
    #[must_use]
    pub fn parameter(mut self, name: &str, shape: &[usize], init: Init) -> Self {
        self.parameters.push(Parameter { name: name.to_owned(), shape: shape.to_vec(), init });
        self
    }

    /// Output channels, where they are not those of the input.
    #[must_use]
    pub fn out(self, channels: usize) -> Self {
        Self { out: Some(channels), ..self }
    }

    /// The stride, where it is not 1.
    #[must_use]
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// Multiply-adds for each pixel of the output, where they count.
    #[must_use]
    pub fn multiply_adds(self, per_pixel: usize) -> Self {
        Self { multiply_adds: per_pixel, ..self }
    }

    /// Names (below the operation's), shapes and initial values of its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &[usize], Init)> {
        self.parameters.iter().map(|p| (p.name.as_str(), p.shape.as_slice(), p.init))
    }

    /// Shape of the output.
    pub fn output(&self, (channels, height, width): Shape) -> Shape {
        let half = |side: usize| (side - 1) / self.stride.max(1) + 1;
        (self.out.unwrap_or(channels), half(height), half(width))
    }

    /// Multiply-adds for each pixel of the output.
    pub(super) fn per_pixel(&self) -> usize {
        self.multiply_adds
    }

    /// The step at a place of a network, the `index`-th of its steps of this kind.
    pub(super) fn at(&self, place: &str, index: usize) -> Arc<dyn TensorFunction> {
        let name = format!("the tensor code {:?} of `{place}`", self.code);
        Arc::new(Placed { step: self.clone(), name, index })
    }
}

impl Debug for TensorStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, parameters, out, stride, multiply_adds } = self;
        f.debug_struct("TensorStep")
            .field("code", code)
            .field("parameters", parameters)
            .field("out", out)
            .field("stride", stride)
            .field("multiply_adds", multiply_adds)
            .finish()
    }
}

/// Equal as far as one can see: the same data, and code that prints the same.
impl PartialEq for TensorStep {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

/// What the kernels call.
#[derive(Debug)]
struct Placed {
    step: TensorStep,
    name: String,
    index: usize,
}

impl TensorFunction for Placed {
    fn name(&self) -> &str {
        &self.name
    }

    fn output(&self, input: Shape) -> std::result::Result<Shape, String> {
        if self.step.stride == 0 {
            return Err(format!("{} has stride 0", self.name));
        }
        Ok(self.step.output(input))
    }

    fn weights(&self, _: Shape) -> usize {
        self.step.parameters().map(|(_, shape, _)| shape.iter().product::<usize>()).sum()
    }

    fn forward(
        &self,
        x: &Tensor,
        weights: &Tensor,
        pass: &FunctionPass,
    ) -> candle_core::Result<Tensor> {
        let (mut parameters, mut at) = (Vec::new(), 0);
        for (_, shape, _) in self.step.parameters() {
            let len = shape.iter().product();
            parameters.push(weights.narrow(0, at, len)?.reshape(shape)?);
            at += len;
        }
        let draw = Key::new(pass.key, Purpose::Operation).role(self.index as u32);
        let pass = TensorPass { train: pass.train, draw };
        match self.step.code.forward(x, &parameters, &pass) {
            Ok(y) => Ok(y),
            Err(e) => bail!("{e}"),
        }
    }
}
