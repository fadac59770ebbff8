//! The same graphs, slowly and obviously: plain loops over `[image][channel][row][column]`, forward
//! and backward.
//!
//! For tests and checks, in `f64` or `f32`.

mod primitives;

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use crate::graph::{Export, Graph, Primitive, Term, Weight};
use primitives::{Convolution, Window, max_pool, max_pool_back};
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
    /// Nearest value of this type.
    fn from_f64(x: f64) -> Self;
    /// The value.
    fn to_f64(self) -> f64;
}

impl Real for f32 {
    fn from_f64(x: f64) -> Self {
        x as Self
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
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
    fn zeros(shape: (usize, usize, usize, usize)) -> Self {
        let (n, c, h, w) = shape;
        Self { shape, data: vec![T::default(); n * c * h * w] }
    }
    fn at(&self, n: usize, c: usize, y: usize, x: usize) -> usize {
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

impl<T: Real> Inputs<'_, T> {
    fn op(&self, weight: Weight, image: usize) -> T {
        match weight {
            Weight::One => T::from_f64(1.0),
            Weight::Shared(index) => self.ops[index],
            Weight::PerImage(start) => self.ops[start + image],
        }
    }

    fn apply(&self, primitive: Primitive, x: &Images<T>, statistics: &mut [T]) -> Images<T> {
        let c = x.shape.1;
        match primitive {
            Primitive::Relu => x.map(relu),
            Primitive::MaxPool { stride } => max_pool(x, Window::around(stride)),
            Primitive::AvgPool { stride } => avg_pool(x, Window::around(stride)),
            Primitive::AvgPool2 => avg_pool(x, Window::SQUARES),
            Primitive::BatchNorm { affine, statistics: at } => {
                let affine =
                    affine.map(|a| (&self.weights[a.gamma..][..c], &self.weights[a.beta..][..c]));
                let running = self.running.map(|r| (&r[at..][..c], &r[at + c..][..c]));
                batch_norm(x, affine, running, &mut statistics[at..at + 2 * c])
            }
            _ => {
                let parts: Vec<_> = convolutions(primitive, c)
                    .iter()
                    .map(|conv| convolve(x, conv, self.weights))
                    .collect();
                Images::concatenate(&parts.iter().collect::<Vec<_>>())
            }
        }
    }

    fn apply_back(
        &self,
        primitive: Primitive,
        x: &Images<T>,
        g: &Images<T>,
        weights: &mut [T],
    ) -> Images<T> {
        let c = x.shape.1;
        match primitive {
            Primitive::Relu => {
                let pass = |(g, x): (&T, &T)| if *x > T::default() { *g } else { T::default() };
                Images { shape: x.shape, data: g.data.iter().zip(&x.data).map(pass).collect() }
            }
            Primitive::MaxPool { stride } => max_pool_back(x, g, Window::around(stride)),
            Primitive::AvgPool { stride } => avg_pool_back(x, g, Window::around(stride)),
            Primitive::AvgPool2 => avg_pool_back(x, g, Window::SQUARES),
            Primitive::BatchNorm { affine, statistics: at } => {
                let gamma = affine.map(|a| &self.weights[a.gamma..][..c]);
                let running = self.running.map(|r| (&r[at..][..c], &r[at + c..][..c]));
                let (dx, dgamma, dbeta) = batch_norm_back(x, g, gamma, running);
                if let Some(a) = affine {
                    for q in 0..c {
                        weights[a.gamma + q] += dgamma[q];
                        weights[a.beta + q] += dbeta[q];
                    }
                }
                dx
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
                    convolve_back(x, g, conv, self.weights, &mut dx, weights);
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
            let next = self.apply(*primitive, &steps[steps.len() - 1], statistics);
            steps.push(next);
        }
        steps
    }
}

/// The convolutions of a primitive, side by side.
fn convolutions(primitive: Primitive, channels: usize) -> Box<[Convolution]> {
    let plain = Convolution {
        out: 0,
        kernel: 1,
        stride: 1,
        dilation: 1,
        shift: 0,
        depthwise: false,
        weight: 0,
    };
    match primitive {
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
pub fn forward<T: Real>(graph: &Graph, inputs: &Inputs<'_, T>) -> Forward<T> {
    let (n, (c, h, w)) = (inputs.batch, graph.input_shape());
    let mut states = vec![Images { shape: (n, c, h, w), data: inputs.images.to_vec() }];
    let mut statistics = vec![T::default(); graph.statistics()];
    for (_, state) in graph.computed() {
        let (c, h, w) = state.shape;
        let mut sum = Images::zeros((n, c, h, w));
        for (term, _) in &state.terms {
            let steps = inputs.run_term(term, &states, &mut statistics);
            let len = sum.image_len();
            for (i, (a, v)) in sum.data.iter_mut().zip(&steps[steps.len() - 1].data).enumerate() {
                *a += inputs.op(term.weight, i / len) * *v;
            }
        }
        states.push(sum);
    }
    let exports = graph.exports().iter().map(|e| export(e, &states)).collect();
    Forward { states, exports, statistics }
}

fn export<T: Real>(export: &Export, states: &[Images<T>]) -> Vec<T> {
    let parts: Vec<_> = export.states().iter().map(|id| &states[id.index()]).collect();
    let mut map = Images::concatenate(&parts);
    if export.relu() {
        map = map.map(relu);
    }
    match export {
        Export::Map { .. } => map.data,
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
pub fn backward<T: Real>(
    graph: &Graph,
    inputs: &Inputs<'_, T>,
    forward: &Forward<T>,
    exports: &[Vec<T>],
) -> Gradients<T> {
    let mut weights = vec![T::default(); inputs.weights.len()];
    let mut ops = vec![T::default(); inputs.ops.len()];
    let states = &forward.states;
    let mut gradients: Vec<_> = states.iter().map(|s| Images::zeros(s.shape)).collect();
    for (export, g) in graph.exports().iter().zip(exports) {
        let parts: Vec<_> = export.states().iter().map(|id| &states[id.index()]).collect();
        let map = Images::concatenate(&parts);
        let pixels = map.shape.2 * map.shape.3;
        let mut spread = Images::zeros(map.shape);
        for (i, d) in spread.data.iter_mut().enumerate() {
            let pass = !export.relu() || map.data[i] > T::default();
            let value = match export {
                Export::Map { .. } => g[i],
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
            let steps = inputs.run_term(term, states, &mut forward.statistics.clone());
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
                g = inputs.apply_back(*primitive, x, &g, &mut weights);
            }
            g.split_into(&mut gradients, term.input.iter().map(|id| id.index()));
        }
    }
    Gradients { weights, ops }
}

/// How close the pass comes to a point where its gradient jumps: the smallest distance of a
/// rectifier's input from zero, or of the two largest values of a max-pool window. Exact zeros and
/// ties do not count: they have a convention.
///
/// Single precision can decide differently within its rounding error of such a point.
pub fn margin<T: Real>(graph: &Graph, inputs: &Inputs<'_, T>, forward: &Forward<T>) -> f64 {
    let mut margin = f64::INFINITY;
    let mut near = |distance: f64| {
        if distance > 0.0 {
            margin = margin.min(distance);
        }
    };
    for (_, state) in graph.computed() {
        for (term, _) in &state.terms {
            let steps = inputs.run_term(term, &forward.states, &mut forward.statistics.clone());
            for (primitive, x) in term.chain.iter().zip(&steps) {
                match *primitive {
                    Primitive::Relu => x.data.iter().for_each(|v| near(v.to_f64().abs())),
                    Primitive::MaxPool { stride } => {
                        primitives::windows(x, Window::around(stride), |_, window| {
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
