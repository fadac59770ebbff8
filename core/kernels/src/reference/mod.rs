//! The same graphs, slowly and obviously: plain loops over `[image][channel][row][column]`, forward
//! and backward.
//!
//! For tests, checks and exact second derivatives: the loops are generic over the number
//! ([`Scalar`]), `f32`, `f64` or [`Dual`] numbers of them ([`second_derivatives`],
//! [`ReferenceNetwork`]).

mod call;
mod dual;
mod images;
mod linear;
mod margin;
mod network;
mod pass;
mod primitives;
mod scalar;

use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::graph::{Export, Graph, Weight};
use crate::threads::Workers;
use linear::{linear, linear_back};
use pass::{Pass, Run, TermGradients};

pub use dual::{Moved, SecondDerivatives, second_derivatives};
pub use images::Images;
pub use margin::margin;
pub use network::ReferenceNetwork;
pub use scalar::{Dual, Scalar};

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

/// How a graph is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct How {
    /// Names the random draws of tensor functions ([`crate::FunctionPass::key`]).
    pub key: u64,
    /// The smooth variant of the graph: `x sigmoid(x)` for rectifiers, average pools for max pools of
    /// the same windows. Everywhere differentiable as often as one likes, so that differences
    /// extrapolate to any precision. Tensor functions stay what they are.
    pub smooth: bool,
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
    how: How,
}

/// Gradients of a scalar.
#[derive(Debug, Clone)]
pub struct Gradients<T> {
    /// To the flat weights.
    pub weights: Vec<T>,
    /// To the operation weights.
    pub ops: Vec<T>,
}

/// Runs a graph forward.
///
/// # Panics
/// If a tensor function fails.
pub fn forward<T: Scalar>(graph: &Graph, inputs: &Inputs<'_, T>) -> Forward<T> {
    forward_as(graph, inputs, How::default())
}

/// The same in a certain way.
///
/// # Panics
/// If a tensor function fails.
pub fn forward_as<T: Scalar>(graph: &Graph, inputs: &Inputs<'_, T>, how: How) -> Forward<T> {
    match run(graph, inputs, how) {
        Ok(forward) => forward,
        Err(e) => panic!("{e}"),
    }
}

/// Gradients of `sum over exports of <export, exports[i]>`.
///
/// # Panics
/// If a tensor function fails, or no gradient reaches its weights.
pub fn backward<T: Scalar>(
    graph: &Graph,
    inputs: &Inputs<'_, T>,
    forward: &Forward<T>,
    exports: &[Vec<T>],
) -> Gradients<T> {
    match run_back(graph, inputs, forward, exports) {
        Ok(gradients) => gradients,
        Err(e) => panic!("{e}"),
    }
}

/// `f` of each item, on the threads of the process, in order.
fn in_parallel<I: Sync, R: Send>(
    items: &[I],
    f: impl Fn(&I) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let results: Vec<Mutex<Option<Result<R>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let lock = |slot: &Mutex<Option<Result<R>>>, value| {
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    };
    Workers::acquire().run(items.len(), &|_, item| lock(&results[item], f(&items[item])));
    let done = |slot: Mutex<Option<Result<R>>>| {
        slot.into_inner().unwrap_or_else(PoisonError::into_inner).expect("every item has run")
    };
    results.into_iter().map(done).collect()
}

fn run<T: Scalar>(graph: &Graph, inputs: &Inputs<'_, T>, how: How) -> Result<Forward<T>> {
    let pass = Pass { graph, inputs, how };
    let (n, (c, h, w)) = (inputs.batch, graph.input_shape());
    let mut states = vec![Images { shape: (n, c, h, w), data: inputs.images.to_vec() }];
    let mut statistics = vec![T::default(); graph.statistics()];
    for (_, state) in graph.computed() {
        let (c, h, w) = state.shape;
        let mut sum = Images::zeros((n, c, h, w));
        let terms = in_parallel(&state.terms, |(term, _)| {
            let Run { mut steps, statistics } = pass.run_term(term, &states)?;
            Ok((steps.swap_remove(steps.len() - 1), statistics))
        })?;
        for ((term, _), (y, found)) in state.terms.iter().zip(terms) {
            let len = sum.image_len();
            let images = sum.data.chunks_exact_mut(len).zip(y.data.chunks_exact(len));
            for (image, (sum, y)) in images.enumerate() {
                let weight = inputs.op(term.weight, image);
                sum.iter_mut().zip(y).for_each(|(a, v)| *a += weight * *v);
            }
            for (at, values) in found {
                statistics[at..at + values.len()].copy_from_slice(&values);
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
            _ => pass.export(e, &states),
        };
        exports.push(values);
    }
    Ok(Forward { states, exports, statistics, how })
}

fn run_back<T: Scalar>(
    graph: &Graph,
    inputs: &Inputs<'_, T>,
    forward: &Forward<T>,
    exports: &[Vec<T>],
) -> Result<Gradients<T>> {
    let pass = Pass { graph, inputs, how: forward.how };
    let mut weights = vec![T::default(); inputs.weights.len()];
    let mut ops = vec![T::default(); inputs.ops.len()];
    let states = &forward.states;
    let mut gradients: Vec<_> = states.iter().map(|s| Images::zeros(s.shape)).collect();
    let mut exports = exports.to_vec();
    for (index, export) in graph.exports().iter().enumerate().rev() {
        let (earlier, rest) = exports.split_at_mut(index);
        if let Export::Linear { of, weight, bias, .. } = export {
            let input = (&*forward.exports[of.index()], &mut *earlier[of.index()]);
            linear_back(inputs, input, &rest[0], (*weight, *bias), &mut weights);
            continue;
        }
        let spread = pass.export_back(export, states, &rest[0]);
        spread.split_into(&mut gradients, export.states().iter().map(|id| id.index()));
    }
    for (index, state) in graph.computed().rev() {
        let g = &gradients[index];
        let found = in_parallel(&state.terms, |(term, _)| pass.term_back(term, states, g))?;
        for ((term, _), TermGradients { input, weights: of_weights, factor }) in
            state.terms.iter().zip(found)
        {
            for (image, slope) in factor.into_iter().enumerate() {
                match term.weight {
                    Weight::One => {}
                    Weight::Shared(op) => ops[op] += slope,
                    Weight::PerImage(start) => ops[start + image] += slope,
                }
            }
            for (at, values) in of_weights {
                weights[at..].iter_mut().zip(values).for_each(|(w, v)| *w += v);
            }
            input.split_into(&mut gradients, term.input.iter().map(|id| id.index()));
        }
    }
    Ok(Gradients { weights, ops })
}
