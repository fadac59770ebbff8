//! Second derivatives: the reference, forward and reverse, on dual numbers.

use super::{Dual, Gradients, How, Inputs, Scalar, run, run_back};
use crate::error::Result;
use crate::graph::Graph;

/// A direction in which the weights and the operation weights move.
#[derive(Debug, Clone, Copy)]
pub struct Moved<'a, T> {
    /// Of the flat weights.
    pub weights: &'a [T],
    /// Of the operation weights.
    pub ops: &'a [T],
}

/// Derivatives along a direction v, of the exports F and of `<g, F>` for some g. Batch statistics
/// are differentiated through; running ones are constants.
#[derive(Debug, Clone)]
pub struct SecondDerivatives<T> {
    /// `F' v`, export by export.
    pub exports: Vec<Vec<T>>,
    /// `<g, F>'' v`.
    pub gradients: Gradients<T>,
}

/// The Hessian of `sum over exports of <g[i], export i>` times `direction`, and the exports'
/// derivative along it: exact but for rounding, in one forward and one reverse pass on dual numbers.
/// At a kink of a rectifier or a max pool both are those of the branch that was taken.
///
/// # Errors
/// The graph has a tensor function; the message names it.
pub fn second_derivatives<T: Scalar>(
    graph: &Graph,
    inputs: &Inputs<'_, T>,
    how: How,
    g: &[Vec<T>],
    direction: Moved<'_, T>,
) -> Result<SecondDerivatives<T>> {
    let fixed = |values: &[T]| values.iter().map(|v| Dual::constant(*v)).collect::<Vec<_>>();
    let moved = |values: &[T], along: &[T]| {
        let pairs = values.iter().zip(along);
        pairs.map(|(value, tangent)| Dual { value: *value, tangent: *tangent }).collect::<Vec<_>>()
    };
    let (images, running) = (fixed(inputs.images), inputs.running.map(fixed));
    let weights = moved(inputs.weights, direction.weights);
    let ops = moved(inputs.ops, direction.ops);
    let inputs = Inputs {
        batch: inputs.batch,
        images: &images,
        weights: &weights,
        ops: &ops,
        running: running.as_deref(),
    };
    let g: Vec<_> = g.iter().map(|g| fixed(g)).collect();
    let forward = run(graph, &inputs, how)?;
    let gradients = run_back(graph, &inputs, &forward, &g)?;
    let tangents = |values: &[Dual<T>]| values.iter().map(|v| v.tangent).collect::<Vec<_>>();
    Ok(SecondDerivatives {
        exports: forward.exports.iter().map(|e| tangents(e)).collect(),
        gradients: Gradients {
            weights: tangents(&gradients.weights),
            ops: tangents(&gradients.ops),
        },
    })
}
