//! The same graphs, slowly and obviously: plain loops over `[image][channel][row][column]`, forward
//! and backward.
//!
//! For tests and checks, in `f64` or `f32`.

mod primitives;

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use candle_core::{DType, Device, Tensor, Var};

use crate::function::{self, FunctionPass, TensorFunction};
use crate::graph::{Export, Graph, Primitive, Term, Weight};
use primitives::{Convolution, max_pool, max_pool_back};
use primitives::{avg_pool, avg_pool_back, batch_norm, batch_norm_back, convolve, convolve_back};

/// `f32` or `f64`.
pub trait Real:
    Copy
    + Debug
    + Default
    + PartialOrd
    + Add<Output = Self>
    + AddAssign
    + Div<Output = Self>
    + Mul<Output = Self>
    + Neg<Output = Self>
    + Sub<Output = Self>
{
    /// The type in candle's tensors.
    const DTYPE: DType;
    /// Nearest value of this type.
    fn from_f64(x: f64) -> Self;
    /// The value.
    fn to_f64(self) -> f64;
}

impl Real for f32 {
    const DTYPE: DType = DType::F32;
    fn from_f64(x: f64) -> Self {
        x as Self
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    const DTYPE: DType = DType::F64;
    fn from_f64(x: f64) -> Self {
        x
    }
    fn to_f64(self) -> f64 {
        self
    }
}

/// Images in `[image][channel][row][column]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Images<T> {
    /// (images, channels, height, width).
    pub shape: (usize, usize, usize, usize),
    /// The values.
    pub data: Vec<T>,
}

impl<T: Real> Images<T> {
    pub(crate) fn zeros(shape: (usize, usize, usize, usize)) -> Self {
        let (n, c, h, w) = shape;
        Self { shape, data: vec![T::default(); n * c * h * w] }
    }
    pub(crate) fn at(&self, n: usize, c: usize, y: usize, x: usize) -> usize {
        let (_, channels, h, w) = self.shape;
        ((n * channels + c) * h + y) * w + x
    }
    fn map(&self, f: impl Fn(T) -> T) -> Self {
        Self { shape: self.shape, data: self.data.iter().map(|v| f(*v)).collect() }
    }
    fn image_len(&self) -> usize {
        self.data.len() / self.shape.0
    }
    fn concatenate(parts: &[&Self]) -> Self {
        let (n, _, h, w) = parts[0].shape;
        let mut data = Vec::new();
        for image in 0..n {
            for p in parts {
                let len = p.image_len();
                data.extend_from_slice(&p.data[image * len..(image + 1) * len]);
            }
        }
        Self { shape: (n, parts.iter().map(|p| p.shape.1).sum(), h, w), data }
    }
    /// The inverse of `concatenate`: adds the parts to `targets`.
    fn split_into(&self, targets: &mut [Self], indices: impl Iterator<Item = usize>) {
        let (mut first, len) = (0, self.image_len());
        for index in indices {
            let target = &mut targets[index];
            let part = target.image_len();
            for image in 0..self.shape.0 {
                let from = &self.data[image * len + first..][..part];
                for (a, b) in target.data[image * part..][..part].iter_mut().zip(from) {
                    *a += *b;
                }
            }
            first += part;
        }
    }
}

/// The inputs of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// Number of images.
    pub batch: usize,
    /// `[batch, channels, height, width]`.
    pub images: &'a [T],
    /// The flat weights.
    pub weights: &'a [T],
    /// The operation weights.
    pub ops: &'a [T],
    /// Running statistics; `None`: those of the batch.
    pub running: Option<&'a [T]>,
}

/// A finished forward pass.
#[derive(Debug, Clone)]
pub struct Forward<T> {
    /// Every state.
    pub states: Vec<Images<T>>,
    /// Every export, flat.
    pub exports: Vec<Vec<T>>,
    /// As in [`crate::Outputs::statistics`] (zero with running statistics).
    pub statistics: Vec<T>,
    key: u64,
}

/// Gradients of a scalar.
#[derive(Debug, Clone)]
pub struct Gradients<T> {
    /// To the flat weights.
    pub weights: Vec<T>,
    /// To the operation weights.
    pub ops: Vec<T>,
}

fn relu<T: Real>(v: T) -> T {
    if v > T::default() { v } else { T::default() }
}

/// A pass over a graph.
struct Pass<'a, T> {
    graph: &'a Graph,
    inputs: &'a Inputs<'a, T>,
    key: u64,
}

impl<T: Real> Inputs<'_, T> {
    fn op(&self, weight: Weight, image: usize) -> T {
        match weight {
            Weight::One => T::from_f64(1.0),
            Weight::Shared(index) => self.ops[index],
            Weight::PerImage(start) => self.ops[start + image],
        }
    }
}

impl<T: Real> Pass<'_, T> {
    fn apply(&self, primitive: &Primitive, x: &Images<T>, statistics: &mut [T]) -> Images<T> {
        let (c, inputs) = (x.shape.1, self.inputs);
        match *primitive {
            Primitive::Relu => x.map(relu),
            Primitive::Map(ref map) => map.reference(x),
            Primitive::MaxPool { stride } => max_pool(x, stride),
            Primitive::AvgPool { stride } => avg_pool(x, stride),
            Primitive::BatchNorm { affine, statistics: at } => {
                let affine = affine
                    .map(|a| (&inputs.weights[a.gamma..][..c], &inputs.weights[a.beta..][..c]));
                let running = inputs.running.map(|r| (&r[at..][..c], &r[at + c..][..c]));
                batch_norm(x, affine, running, &mut statistics[at..at + 2 * c])
            }
            Primitive::Function { function, weight } => {
                let call = Call::new(self, function.0, weight, x);
                images(&call.output)
            }
            _ => {
                let parts: Vec<_> = convolutions(primitive, c)
                    .iter()
                    .map(|conv| convolve(x, conv, inputs.weights))
                    .collect();
                Images::concatenate(&parts.iter().collect::<Vec<_>>())
            }
        }
    }

    fn apply_back(
        &self,
        primitive: &Primitive,
        x: &Images<T>,
        g: &Images<T>,
        weights: &mut [T],
    ) -> Images<T> {
        let (c, inputs) = (x.shape.1, self.inputs);
        match *primitive {
            Primitive::Map(ref map) => map.reference_back(x, g),
            Primitive::Relu => {
                let pass = |(g, x): (&T, &T)| if *x > T::default() { *g } else { T::default() };
                Images { shape: x.shape, data: g.data.iter().zip(&x.data).map(pass).collect() }
            }
            Primitive::MaxPool { stride } => max_pool_back(x, g, stride),
            Primitive::AvgPool { stride } => avg_pool_back(x, g, stride),
            Primitive::BatchNorm { affine, statistics: at } => {
                let gamma = affine.map(|a| &inputs.weights[a.gamma..][..c]);
                let running = inputs.running.map(|r| (&r[at..][..c], &r[at + c..][..c]));
                let (dx, dgamma, dbeta) = batch_norm_back(x, g, gamma, running);
                if let Some(a) = affine {
                    for q in 0..c {
                        weights[a.gamma + q] += dgamma[q];
                        weights[a.beta + q] += dbeta[q];
                    }
                }
                dx
            }
            Primitive::Function { function, weight } => {
                Call::new(self, function.0, weight, x).back(x, g, &mut weights[weight..])
            }
            _ => {
                let convs = convolutions(primitive, c);
                let mut parts: Vec<_> = convs
                    .iter()
                    .map(|conv| Images::zeros((g.shape.0, conv.out, g.shape.2, g.shape.3)))
                    .collect();
                let count = parts.len();
                g.split_into(&mut parts, 0..count);
                let mut dx = Images::zeros(x.shape);
                for (conv, g) in convs.iter().zip(&parts) {
                    convolve_back(x, g, conv, inputs.weights, &mut dx, weights);
                }
                dx
            }
        }
    }

    /// Activations before each primitive of a term, and its output last.
    fn run_term(&self, term: &Term, states: &[Images<T>], statistics: &mut [T]) -> Vec<Images<T>> {
        let inputs: Vec<_> = term.input.iter().map(|id| &states[id.index()]).collect();
        let mut steps = vec![Images::concatenate(&inputs)];
        for primitive in &term.chain {
            let next = self.apply(primitive, &steps[steps.len() - 1], statistics);
            steps.push(next);
        }
        steps
    }
}

/// A tensor function at work.
struct Call<'a> {
    code: &'a dyn TensorFunction,
    x: Var,
    weights: Var,
    output: Tensor,
}

impl<'a> Call<'a> {
    fn new<T: Real>(pass: &Pass<'a, T>, function: usize, weight: usize, x: &Images<T>) -> Self {
        let (code, (n, c, h, w)) = (&*pass.graph.functions[function], x.shape);
        let shape = code.output((c, h, w)).expect("checked when the graph was built");
        let var = |values: &[T], shape: &[usize]| {
            let values: Vec<f64> = values.iter().map(|v| v.to_f64()).collect();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(T::DTYPE)?;
            Var::from_tensor(&tensor)
        };
        let len = code.weights((c, h, w));
        let weights = var(&pass.inputs.weights[weight..weight + len], &[len]);
        let (x, weights) = (
            var(&x.data, &[n, c, h, w]).expect("as many values as the shape says"),
            weights.expect("as many values as the shape says"),
        );
        let how = FunctionPass::new(pass.inputs.running.is_none(), pass.key);
        match function::run(code, &x, &weights, how, shape) {
            Ok(output) => Self { code, x, weights, output },
            Err(e) => panic!("{e}"),
        }
    }

    /// The gradient of `x`; adds that of the weights.
    fn back<T: Real>(&self, x: &Images<T>, g: &Images<T>, weights: &mut [T]) -> Images<T> {
        let g: Vec<f64> = g.data.iter().map(|v| v.to_f64()).collect();
        let g = Tensor::from_vec(g, self.output.shape(), &Device::Cpu)
            .and_then(|g| g.to_dtype(T::DTYPE))
            .expect("the gradient of the output has its shape");
        let pulled =
            function::pull_back(self.code, &self.output, &g, Some(&self.x), Some(&self.weights));
        let (of_x, of_weights) = match pulled {
            Ok(pulled) => pulled,
            Err(e) => panic!("{e}"),
        };
        if let Some(found) = of_weights {
            for (w, v) in weights.iter_mut().zip(values::<T>(&found)) {
                *w += v;
            }
        }
        of_x.map_or_else(|| Images::zeros(x.shape), |found| images(&found))
    }
}

fn images<T: Real>(tensor: &Tensor) -> Images<T> {
    let shape = tensor.dims4().expect("checked when it ran");
    Images { shape, data: values(tensor) }
}

fn values<T: Real>(tensor: &Tensor) -> Vec<T> {
    let wide = tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all());
    let wide: Vec<f64> = wide.and_then(|t| t.to_vec1()).expect("a tensor of floats on the CPU");
    wide.into_iter().map(T::from_f64).collect()
}

/// The convolutions of a primitive, side by side.
fn convolutions(primitive: &Primitive, channels: usize) -> Box<[Convolution]> {
    let plain = Convolution {
        out: 0,
        kernel: 1,
        stride: 1,
        dilation: 1,
        shift: 0,
        depthwise: false,
        weight: 0,
    };
    match *primitive {
        Primitive::Depthwise { kernel, stride, dilation, weight } => Box::new([Convolution {
            out: channels,
            kernel,
            stride,
            dilation,
            weight,
            depthwise: true,
            ..plain
        }]),
        Primitive::Pointwise { out, stride, weight } => {
            Box::new([Convolution { out, stride, weight, ..plain }])
        }
        Primitive::Dense { kernel, stride, out, weight } => {
            Box::new([Convolution { out, kernel, stride, weight, ..plain }])
        }
        Primitive::FactorizedReduce { out, even, odd } => {
            let half = out / 2;
            let both = [
                Convolution { out: half, stride: 2, weight: even, ..plain },
                Convolution { out: out - half, stride: 2, shift: 1, weight: odd, ..plain },
            ];
            both.into_iter().filter(|c| c.out > 0).collect()
        }
        _ => Box::new([]),
    }
}

/// Runs a graph forward.
///
/// # Panics
/// If a tensor function fails.
pub fn forward<T: Real>(graph: &Graph, inputs: &Inputs<'_, T>) -> Forward<T> {
    forward_with_key(graph, inputs, 0)
}

/// The same, with a name for the random draws of tensor functions.
///
/// # Panics
/// If a tensor function fails.
pub fn forward_with_key<T: Real>(graph: &Graph, inputs: &Inputs<'_, T>, key: u64) -> Forward<T> {
    let pass = Pass { graph, inputs, key };
    let (n, (c, h, w)) = (inputs.batch, graph.input_shape());
    let mut states = vec![Images { shape: (n, c, h, w), data: inputs.images.to_vec() }];
    let mut statistics = vec![T::default(); graph.statistics()];
    for (_, state) in graph.computed() {
        let (c, h, w) = state.shape;
        let mut sum = Images::zeros((n, c, h, w));
        for (term, _) in &state.terms {
            let steps = pass.run_term(term, &states, &mut statistics);
            let len = sum.image_len();
            for (i, (a, v)) in sum.data.iter_mut().zip(&steps[steps.len() - 1].data).enumerate() {
                *a += inputs.op(term.weight, i / len) * *v;
            }
        }
        states.push(sum);
    }
    let mut exports: Vec<Vec<T>> = Vec::new();
    for e in graph.exports() {
        let values = match e {
            Export::Linear { of, out, weight, bias } => {
                linear(inputs, &exports[of.index()], *out, *weight, *bias)
            }
            _ => export(e, &states),
        };
        exports.push(values);
    }
    Forward { states, exports, statistics, key }
}

fn linear<T: Real>(
    inputs: &Inputs<'_, T>,
    x: &[T],
    out: usize,
    weight: usize,
    bias: usize,
) -> Vec<T> {
    let channels = x.len() / inputs.batch;
    let mut values = Vec::with_capacity(inputs.batch * out);
    for x in x.chunks(channels) {
        for o in 0..out {
            let row = &inputs.weights[weight + o * channels..][..channels];
            let products = row.iter().zip(x).map(|(w, x)| *w * *x);
            values.push(products.fold(inputs.weights[bias + o], |a, b| a + b));
        }
    }
    values
}

/// Adds the gradient of a linear export to those of its weights and of its input.
fn linear_back<T: Real>(
    inputs: &Inputs<'_, T>,
    (x, dx): (&[T], &mut [T]),
    g: &[T],
    (weight, bias): (usize, usize),
    weights: &mut [T],
) {
    let (channels, out) = (x.len() / inputs.batch, g.len() / inputs.batch);
    for image in 0..inputs.batch {
        for o in 0..out {
            let g = g[image * out + o];
            weights[bias + o] += g;
            for c in 0..channels {
                let (at, row) = (image * channels + c, weight + o * channels + c);
                weights[row] += g * x[at];
                dx[at] += g * inputs.weights[row];
            }
        }
    }
}

fn export<T: Real>(export: &Export, states: &[Images<T>]) -> Vec<T> {
    let parts: Vec<_> = export.states().iter().map(|id| &states[id.index()]).collect();
    let mut map = Images::concatenate(&parts);
    if export.relu() {
        map = map.map(relu);
    }
    match export {
        Export::Map { .. } | Export::Linear { .. } => map.data,
        Export::Pooled { .. } => {
            let pixels = map.shape.2 * map.shape.3;
            let mean = |plane: &[T]| {
                let sum = plane.iter().fold(T::default(), |a, b| a + *b);
                sum / T::from_f64(pixels as f64)
            };
            map.data.chunks(pixels).map(mean).collect()
        }
    }
}

/// Gradients of `sum over exports of <export, exports[i]>`.
///
/// # Panics
/// If a tensor function fails, or no gradient reaches its weights.
pub fn backward<T: Real>(
    graph: &Graph,
    inputs: &Inputs<'_, T>,
    forward: &Forward<T>,
    exports: &[Vec<T>],
) -> Gradients<T> {
    let pass = Pass { graph, inputs, key: forward.key };
    let mut weights = vec![T::default(); inputs.weights.len()];
    let mut ops = vec![T::default(); inputs.ops.len()];
    let states = &forward.states;
    let mut gradients: Vec<_> = states.iter().map(|s| Images::zeros(s.shape)).collect();
    let mut exports = exports.to_vec();
    for (index, export) in graph.exports().iter().enumerate().rev() {
        let (earlier, rest) = exports.split_at_mut(index);
        let g = &rest[0];
        if let Export::Linear { of, weight, bias, .. } = export {
            let input = (&*forward.exports[of.index()], &mut *earlier[of.index()]);
            linear_back(inputs, input, g, (*weight, *bias), &mut weights);
            continue;
        }
        let parts: Vec<_> = export.states().iter().map(|id| &states[id.index()]).collect();
        let map = Images::concatenate(&parts);
        let pixels = map.shape.2 * map.shape.3;
        let mut spread = Images::zeros(map.shape);
        for (i, d) in spread.data.iter_mut().enumerate() {
            let pass = !export.relu() || map.data[i] > T::default();
            let value = match export {
                Export::Map { .. } | Export::Linear { .. } => g[i],
                Export::Pooled { .. } => g[i / pixels] / T::from_f64(pixels as f64),
            };
            *d = if pass { value } else { T::default() };
        }
        spread.split_into(&mut gradients, export.states().iter().map(|id| id.index()));
    }
    for (index, state) in graph.computed().rev() {
        let g = gradients[index].clone();
        let len = g.image_len();
        for (term, _) in &state.terms {
            let steps = pass.run_term(term, states, &mut forward.statistics.clone());
            let y = &steps[steps.len() - 1];
            let mut g = g.clone();
            for (i, g) in g.data.iter_mut().enumerate() {
                match term.weight {
                    Weight::One => {}
                    Weight::Shared(op) => ops[op] += *g * y.data[i],
                    Weight::PerImage(start) => ops[start + i / len] += *g * y.data[i],
                }
                *g = *g * inputs.op(term.weight, i / len);
            }
            for (primitive, x) in term.chain.iter().zip(&steps).rev() {
                g = pass.apply_back(primitive, x, &g, &mut weights);
            }
            g.split_into(&mut gradients, term.input.iter().map(|id| id.index()));
        }
    }
    Gradients { weights, ops }
}

/// How close the pass comes to a point where its gradient jumps: the smallest distance of a
/// rectifier's input from zero, or of the two largest values of a max-pool window. Exact zeros and
/// ties do not count: they have a convention. Also the smallest ratio of deviation to mean of a channel
/// that is normalised with batch statistics: of nearly equal values only rounding is left.
///
/// Single precision can decide differently within its rounding error of such a point.
pub fn margin<T: Real>(graph: &Graph, inputs: &Inputs<'_, T>, forward: &Forward<T>) -> f64 {
    let pass = Pass { graph, inputs, key: forward.key };
    let mut margin = f64::INFINITY;
    let mut near = |distance: f64| {
        if distance > 0.0 {
            margin = margin.min(distance);
        }
    };
    for (_, state) in graph.computed() {
        for (term, _) in &state.terms {
            let steps = pass.run_term(term, &forward.states, &mut forward.statistics.clone());
            for (primitive, x) in term.chain.iter().zip(&steps) {
                match *primitive {
                    Primitive::Relu => x.data.iter().for_each(|v| near(v.to_f64().abs())),
                    Primitive::Map(ref map) => near(map.margin(x)),
                    Primitive::BatchNorm { .. } if inputs.running.is_none() => {
                        primitives::deviations(x).for_each(&mut near);
                    }
                    Primitive::MaxPool { stride } => {
                        primitives::windows(x, stride, |_, window| {
                            let mut values: Vec<f64> =
                                window.iter().map(|i| x.data[*i].to_f64()).collect();
                            values.sort_by(f64::total_cmp);
                            values.windows(2).last().into_iter().for_each(|v| near(v[1] - v[0]));
                        });
                    }
                    _ => {}
                }
            }
        }
    }
    for export in graph.exports().iter().filter(|e| e.relu()) {
        for id in export.states() {
            forward.states[id.index()].data.iter().for_each(|v| near(v.to_f64().abs()));
        }
    }
    margin
}
