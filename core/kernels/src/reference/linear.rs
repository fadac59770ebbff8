//! The classifier on a pooled export.

use super::{Inputs, Scalar};

/// `x W^T + b`, image by image.
pub(super) fn linear<T: Scalar>(
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
pub(super) fn linear_back<T: Scalar>(
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
