//! Forward and backward of each primitive.

use std::ops::Range;

use super::{Images, Scalar};
use crate::chain::out_size;

/// One convolution. Padding is `dilation * (kernel - 1) / 2`; `shift` moves every read down and
/// right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Convolution {
    pub out: usize,
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    pub shift: usize,
    pub depthwise: bool,
    pub weight: usize,
}

/// Pixels of a row that read neighbouring pixels of another with one weight.
#[derive(Debug, Clone, Copy)]
struct Row {
    output: usize,
    input: usize,
    len: usize,
    weight: usize,
}

/// Calls `f` with the rows of all products. Inputs are `conv.stride` apart.
fn rows<T: Scalar>(x: &Images<T>, out: &Images<T>, conv: &Convolution, mut f: impl FnMut(Row)) {
    let ((n, channels, h, w), (ho, wo)) = (x.shape, (out.shape.2, out.shape.3));
    let k = conv.kernel;
    // The outputs whose tap lies inside, and where the first of them reads.
    let inside = |tap: usize, size: usize, outputs: usize| {
        let (first, pad) = (conv.shift + tap * conv.dilation, conv.dilation * (k - 1) / 2);
        let skipped = pad.saturating_sub(first).div_ceil(conv.stride);
        let at = skipped * conv.stride + first - pad;
        let len = size.saturating_sub(at).div_ceil(conv.stride);
        (skipped, at, len.min(outputs.saturating_sub(skipped)))
    };
    // A pointwise convolution sees a plane as one row.
    let plain = k == 1 && conv.stride == 1 && conv.shift == 0;
    for image in 0..n {
        for co in 0..conv.out {
            let inputs = if conv.depthwise { co..co + 1 } else { 0..channels };
            for ci in inputs {
                let filter = if conv.depthwise { co } else { co * channels + ci };
                let at = |y, x0, yo, xo| (out.at(image, co, yo, xo), x.at(image, ci, y, x0));
                if plain {
                    let (output, input) = at(0, 0, 0, 0);
                    f(Row { output, input, len: h * w, weight: conv.weight + filter });
                    continue;
                }
                for (i, j) in (0..k * k).map(|t| (t / k, t % k)) {
                    let weight = conv.weight + (filter * k + i) * k + j;
                    let (top, y, lines) = inside(i, h, ho);
                    let (left, x0, len) = inside(j, w, wo);
                    for line in 0..if len > 0 { lines } else { 0 } {
                        let (output, input) = at(y + line * conv.stride, x0, top + line, left);
                        f(Row { output, input, len, weight });
                    }
                }
            }
        }
    }
}

pub(super) fn convolve<T: Scalar>(x: &Images<T>, conv: &Convolution, weights: &[T]) -> Images<T> {
    let (n, _, h, w) = x.shape;
    let mut out = Images::zeros((n, conv.out, out_size(h, conv.stride), out_size(w, conv.stride)));
    let mut data = std::mem::take(&mut out.data);
    rows(x, &out, conv, |r| {
        let (to, from, weight) =
            (&mut data[r.output..][..r.len], &x.data[r.input..], weights[r.weight]);
        if conv.stride == 1 {
            to.iter_mut().zip(&from[..r.len]).for_each(|(o, x)| *o += *x * weight);
        } else {
            to.iter_mut()
                .zip(from.iter().step_by(conv.stride))
                .for_each(|(o, x)| *o += *x * weight);
        }
    });
    out.data = data;
    out
}

/// Adds to the gradient of `x`; gives that of the filters, which stand at `conv.weight`.
pub(super) fn convolve_back<T: Scalar>(
    x: &Images<T>,
    g: &Images<T>,
    conv: &Convolution,
    weights: &[T],
    dx: &mut Images<T>,
) -> Vec<T> {
    let inputs = if conv.depthwise { 1 } else { x.shape.1 };
    let mut dw = vec![T::default(); conv.out * inputs * conv.kernel * conv.kernel];
    rows(x, g, conv, |r| {
        let (g, from, to) =
            (&g.data[r.output..][..r.len], &x.data[r.input..], &mut dx.data[r.input..]);
        let (weight, of_weight) = (weights[r.weight], &mut dw[r.weight - conv.weight]);
        if conv.stride == 1 {
            to.iter_mut().zip(g).for_each(|(dx, g)| *dx += *g * weight);
            *of_weight += dot(g, &from[..r.len]);
        } else {
            to.iter_mut().step_by(conv.stride).zip(g).for_each(|(dx, g)| *dx += *g * weight);
            let products = g.iter().zip(from.iter().step_by(conv.stride));
            products.for_each(|(g, x)| *of_weight += *g * *x);
        }
    });
    dw
}

/// In four sums, which a processor takes side by side.
pub(super) fn dot<T: Scalar>(a: &[T], b: &[T]) -> T {
    let mut sums = [T::default(); 4];
    let (four, rest) = a.as_chunks::<4>();
    for (i, a) in four.iter().enumerate() {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(&b[4 * i..4 * i + 4]) {
            *sum += *a * *b;
        }
    }
    for (a, b) in rest.iter().zip(&b[a.len() - rest.len()..]) {
        sums[0] += *a * *b;
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// Calls `f(output, positions of the window)` for every 3x3 window, in scan order.
pub(super) fn windows<T: Scalar>(x: &Images<T>, stride: usize, mut f: impl FnMut(usize, &[usize])) {
    let (n, c, h, w) = x.shape;
    let around = |o: usize, size: usize| (o * stride).saturating_sub(1)..(o * stride + 2).min(size);
    let mut output = 0;
    for (image, channel) in (0..n * c).map(|p| (p / c, p % c)) {
        for yo in 0..out_size(h, stride) {
            for xo in 0..out_size(w, stride) {
                let (mut window, mut len) = ([0; 9], 0);
                for y in around(yo, h) {
                    for xi in around(xo, w) {
                        window[len] = x.at(image, channel, y, xi);
                        len += 1;
                    }
                }
                f(output, &window[..len]);
                output += 1;
            }
        }
    }
}

fn pooled<T: Scalar>(x: &Images<T>, stride: usize) -> Images<T> {
    let (n, c, h, w) = x.shape;
    Images::zeros((n, c, out_size(h, stride), out_size(w, stride)))
}

/// The first of the largest.
fn largest<T: Scalar>(x: &Images<T>, window: &[usize]) -> usize {
    let value = |i: usize| x.data[i].to_f64();
    window.iter().copied().reduce(|a, b| if value(b) > value(a) { b } else { a }).unwrap_or(0)
}

pub(super) fn max_pool<T: Scalar>(x: &Images<T>, stride: usize) -> Images<T> {
    let mut out = pooled(x, stride);
    windows(x, stride, |o, window| out.data[o] = x.data[largest(x, window)]);
    out
}

pub(super) fn max_pool_back<T: Scalar>(x: &Images<T>, g: &Images<T>, stride: usize) -> Images<T> {
    let mut dx = Images::zeros(x.shape);
    windows(x, stride, |o, window| dx.data[largest(x, window)] += g.data[o]);
    dx
}

pub(super) fn avg_pool<T: Scalar>(x: &Images<T>, stride: usize) -> Images<T> {
    let mut out = pooled(x, stride);
    windows(x, stride, |o, window| {
        let sum = window.iter().fold(T::default(), |a, i| a + x.data[*i]);
        out.data[o] = sum / T::from_f64(window.len() as f64);
    });
    out
}

pub(super) fn avg_pool_back<T: Scalar>(x: &Images<T>, g: &Images<T>, stride: usize) -> Images<T> {
    let mut dx = Images::zeros(x.shape);
    windows(x, stride, |o, window| {
        for i in window {
            dx.data[*i] += g.data[o] / T::from_f64(window.len() as f64);
        }
    });
    dx
}

/// Two slices of one value a channel.
type Pair<'a, T> = (&'a [T], &'a [T]);

/// Places of a channel in each image.
fn planes<T: Scalar>(x: &Images<T>, c: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let (n, channels, h, w) = x.shape;
    (0..n).map(move |image| (image * channels + c) * h * w).map(move |at| at..at + h * w)
}

/// Mean, (biased) variance and number of values of a channel.
fn moments<T: Scalar>(x: &Images<T>, c: usize) -> (T, T, f64) {
    let values = || planes(x, c).flat_map(|plane| &x.data[plane]);
    let count = (x.shape.0 * x.shape.2 * x.shape.3) as f64;
    let mean = values().fold(T::default(), |a, v| a + *v) / T::from_f64(count);
    let square = |a: T, v: &T| a + (*v - mean) * (*v - mean);
    (mean, values().fold(T::default(), square) / T::from_f64(count), count)
}

fn rsqrt<T: Scalar>(variance: T) -> T {
    (variance + T::from_f64(1e-5)).rsqrt()
}

/// Standard deviation of each channel in units of its mean, at least the smallest positive number;
/// channels with mean 0 are left out.
pub(super) fn deviations<T: Scalar>(x: &Images<T>) -> impl Iterator<Item = f64> + '_ {
    let (n, c, h, w) = x.shape;
    (0..c).filter_map(move |channel| {
        let values = || planes(x, channel).flat_map(|plane| &x.data[plane]).map(|v| v.to_f64());
        let count = (n * h * w) as f64;
        let mean = values().sum::<f64>() / count;
        let variance = values().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
        (mean != 0.0).then(|| (variance.sqrt() / mean.abs()).max(f64::MIN_POSITIVE))
    })
}

/// The output; also the batch's means and unbiased variances, one after the other, unless `running`
/// ones are used.
pub(super) fn batch_norm<T: Scalar>(
    x: &Images<T>,
    affine: Option<Pair<'_, T>>,
    running: Option<Pair<'_, T>>,
) -> (Images<T>, Vec<T>) {
    let mut out = x.clone();
    let channels = x.shape.1;
    let mut statistics = vec![T::default(); if running.is_some() { 0 } else { 2 * channels }];
    for c in 0..channels {
        let (mean, variance) = if let Some((mean, variance)) = running {
            (mean[c], variance[c])
        } else {
            let (mean, variance, count) = moments(x, c);
            statistics[c] = mean;
            statistics[channels + c] = variance * T::from_f64(count / (count - 1.0).max(1.0));
            (mean, variance)
        };
        let r = rsqrt(variance);
        for plane in planes(x, c) {
            for v in &mut out.data[plane] {
                let y = (*v - mean) * r;
                *v = affine.map_or(y, |(gamma, beta)| gamma[c] * y + beta[c]);
            }
        }
    }
    (out, statistics)
}

/// Gradients to the input, `gamma` and `beta`.
pub(super) fn batch_norm_back<T: Scalar>(
    x: &Images<T>,
    g: &Images<T>,
    gamma: Option<&[T]>,
    running: Option<Pair<'_, T>>,
) -> (Images<T>, Vec<T>, Vec<T>) {
    let channels = x.shape.1;
    let mut dx = Images::zeros(x.shape);
    let (mut dgamma, mut dbeta) = (vec![T::default(); channels], vec![T::default(); channels]);
    for c in 0..channels {
        let (mean, variance, count) = match running {
            Some((mean, variance)) => (mean[c], variance[c], 1.0),
            None => moments(x, c),
        };
        let r = rsqrt(variance);
        let y = |x: T| (x - mean) * r;
        for plane in planes(x, c) {
            for (x, g) in x.data[plane.clone()].iter().zip(&g.data[plane]) {
                dgamma[c] += *g * y(*x);
                dbeta[c] += *g;
            }
        }
        let scale = gamma.map_or(r, |gamma| gamma[c] * r);
        let share =
            |sum: T| if running.is_some() { T::default() } else { sum / T::from_f64(count) };
        let (of_mean, of_slope) = (share(dbeta[c]), share(dgamma[c]));
        for plane in planes(x, c) {
            let (x, g) = (&x.data[plane.clone()], &g.data[plane.clone()]);
            for ((dx, x), g) in dx.data[plane].iter_mut().zip(x).zip(g) {
                *dx = scale * (*g - of_mean - y(*x) * of_slope);
            }
        }
    }
    (dx, dgamma, dbeta)
}
