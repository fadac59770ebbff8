//! From recipes to graphs of kernels: names, shapes and places of parameters, counts.

use super::recipe::{Recipe, Step};
use super::tensor::TensorStep;
use crate::layout::{Init, Layout};
use crate::{Error, Result};
use tetlo_kernels::{Affine, AvgPool2x2, GraphBuilder, Map, Primitive, StateId, Term, Weight};

/// A network under construction: the kernels' graph and the layouts of its parameters.
#[derive(Debug)]
pub struct NetworkBuilder {
    /// The graph so far.
    pub graph: GraphBuilder,
    /// Weights so far.
    pub weights: Layout,
    /// Running statistics so far.
    pub buffers: Layout,
    /// Multiply-adds of one image so far.
    pub multiply_adds: u64,
    /// Steps of tensor code so far.
    tensor_steps: usize,
}

/// Channels, height, width of an activation.
pub type Shape = (usize, usize, usize);

impl NetworkBuilder {
    /// A builder for images of this shape.
    pub fn new(shape: Shape) -> Self {
        Self {
            graph: GraphBuilder::new(shape.0, shape.1, shape.2),
            weights: Layout::new(),
            buffers: Layout::new(),
            multiply_adds: 0,
            tensor_steps: 0,
        }
    }

    /// Joint shape of states that are concatenated along their channels.
    pub fn joint_shape(&self, states: &[StateId]) -> Shape {
        let mut shape = self.graph.shape(states[0]);
        for s in &states[1..] {
            shape.0 += self.graph.shape(*s).0;
        }
        shape
    }

    /// A term: `recipe` on the concatenation of `input`, its parameters named below `prefix`.
    /// `None` for an operation that contributes nothing. Also the shape of the result.
    ///
    /// # Errors
    /// The recipe does not fit the shape.
    pub fn term(
        &mut self,
        prefix: &str,
        recipe: &Recipe,
        input: &[StateId],
        weight: Weight,
    ) -> Result<Option<Term>> {
        let Recipe::Chain(steps) = recipe else { return Ok(None) };
        let mut shape = self.joint_shape(input);
        let mut chain = Vec::with_capacity(steps.len());
        for step in steps {
            chain.push(self.lower(prefix, step, &mut shape)?);
        }
        Ok(Some(Term { input: input.to_vec(), chain, weight }))
    }

    /// A state of its own with the channels of these.
    ///
    /// # Errors
    /// Their heights or widths differ.
    pub fn joined(&mut self, states: &[StateId]) -> Result<StateId> {
        let channels: Vec<usize> = (0..self.joint_shape(states).0).collect();
        Ok(self.graph.gather(states, &channels)?)
    }

    /// A state that is one chain.
    ///
    /// # Errors
    /// The recipe does not fit the shape.
    pub fn chain(&mut self, prefix: &str, steps: Vec<Step>, input: &[StateId]) -> Result<StateId> {
        let recipe = Recipe::Chain(steps);
        let term = self.term(prefix, &recipe, input, Weight::One)?;
        Ok(self.graph.state(term.into_iter().collect())?)
    }

    fn lower(&mut self, prefix: &str, step: &Step, shape: &mut Shape) -> Result<Primitive> {
        let (channels, ..) = *shape;
        let primitive = match step {
            Step::Relu => Primitive::Relu,
            Step::Depthwise { name, kernel, stride, dilation } => {
                let weight = self.conv(prefix, name, [channels, 1, *kernel, *kernel]);
                reduce(shape, *stride);
                self.count(shape, channels * kernel * kernel);
                Primitive::Depthwise {
                    kernel: *kernel,
                    stride: *stride,
                    dilation: *dilation,
                    weight,
                }
            }
            Step::Pointwise { name, out, stride } => {
                let weight = self.conv(prefix, name, [*out, channels, 1, 1]);
                reduce(shape, *stride);
                shape.0 = *out;
                self.count(shape, out * channels);
                Primitive::Pointwise { out: *out, stride: *stride, weight }
            }
            Step::Dense { name, out, kernel, stride } => {
                let weight = self.conv(prefix, name, [*out, channels, *kernel, *kernel]);
                reduce(shape, *stride);
                shape.0 = *out;
                self.count(shape, out * channels * kernel * kernel);
                Primitive::Dense { kernel: *kernel, stride: *stride, out: *out, weight }
            }
            Step::FactorizedReduce { even, odd, out } => {
                even_sides(shape, "a factorised reduction", prefix)?;
                let half = out / 2;
                let first = self.conv(prefix, even, [half, channels, 1, 1]);
                let second = self.conv(prefix, odd, [out - half, channels, 1, 1]);
                reduce(shape, 2);
                shape.0 = *out;
                self.count(shape, out * channels);
                Primitive::FactorizedReduce { out: *out, even: first, odd: second }
            }
            Step::MaxPool { stride } => {
                reduce(shape, *stride);
                Primitive::MaxPool { stride: *stride }
            }
            Step::AvgPool { stride } => {
                reduce(shape, *stride);
                Primitive::AvgPool { stride: *stride }
            }
            Step::AvgPool2 => {
                even_sides(shape, "a 2 × 2 average pool", prefix)?;
                reduce(shape, 2);
                Primitive::Map(Map::AvgPool2x2(AvgPool2x2))
            }
            Step::BatchNorm { name, affine } => self.batch_norm(prefix, name, channels, *affine),
            Step::Tensor(step) => self.tensor(prefix, step, shape),
        };
        Ok(primitive)
    }

    fn conv(&mut self, prefix: &str, name: &str, shape: [usize; 4]) -> usize {
        let fan_in = shape[1] * shape[2] * shape[3];
        self.weights.push(format!("{}.weight", join(prefix, name)), &shape, Init::fan_in(fan_in))
    }

    fn tensor(&mut self, prefix: &str, step: &TensorStep, shape: &mut Shape) -> Primitive {
        let weight = self.weights.len();
        for (name, shape, init) in step.parameters() {
            self.weights.push(join(prefix, name), shape, init);
        }
        let function = self.graph.function(step.at(prefix, self.tensor_steps));
        self.tensor_steps += 1;
        *shape = step.output(*shape);
        self.count(shape, step.per_pixel());
        Primitive::Function { function, weight }
    }

    fn batch_norm(&mut self, prefix: &str, name: &str, channels: usize, affine: bool) -> Primitive {
        let name = join(prefix, name);
        let affine = affine.then(|| push_affine(&mut self.weights, &name, channels));
        let statistics = push_statistics(&mut self.buffers, &name, channels);
        Primitive::BatchNorm {
            affine: affine.map(|(gamma, beta)| Affine { gamma, beta }),
            statistics,
        }
    }

    fn count(&mut self, shape: &Shape, per_pixel: usize) {
        self.multiply_adds += (shape.1 * shape.2 * per_pixel) as u64;
    }
}

/// Scale and shift of a batch normalisation; their offsets.
pub(super) fn push_affine(weights: &mut Layout, name: &str, channels: usize) -> (usize, usize) {
    let gamma = weights.push(format!("{name}.weight"), &[channels], Init::Constant(1.0));
    let beta = weights.push(format!("{name}.bias"), &[channels], Init::Constant(0.0));
    (gamma, beta)
}

/// Running mean and variance of a batch normalisation; the offset of the mean.
pub(super) fn push_statistics(buffers: &mut Layout, name: &str, channels: usize) -> usize {
    let mean = buffers.push(format!("{name}.running_mean"), &[channels], Init::Constant(0.0));
    buffers.push(format!("{name}.running_var"), &[channels], Init::Constant(1.0));
    mean
}

fn even_sides(shape: &Shape, what: &str, place: &str) -> Result<()> {
    let (_, height, width) = *shape;
    if height.is_multiple_of(2) && width.is_multiple_of(2) {
        return Ok(());
    }
    Err(Error::config_hint(
        format!("{what} needs even sides, but `{place}` gets {height} × {width} activations"),
        "use images whose sides are a multiple of 4",
    ))
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

fn reduce(shape: &mut Shape, stride: usize) {
    shape.1 = (shape.1 - 1) / stride + 1;
    shape.2 = (shape.2 - 1) / stride + 1;
}
