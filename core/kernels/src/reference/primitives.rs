//! Forward and backward of each primitive.

use super::{Images, Real};
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

/// Calls `f(output, input, weight)` with the three positions of every product.
fn products<T: Real>(
    x: &Images<T>,
    out: &Images<T>,
    conv: &Convolution,
    mut f: impl FnMut(usize, usize, usize),
) {
    let (n, channels, h, w) = x.shape;
    let k = conv.kernel;
    let read = |o: usize, tap: usize, size: usize| {
        let at = o * conv.stride + conv.shift + tap * conv.dilation;
        at.checked_sub(conv.dilation * (k - 1) / 2).filter(|at| *at < size)
    };
    for image in 0..n {
        for co in 0..conv.out {
            let inputs = if conv.depthwise { co..co + 1 } else { 0..channels };
            for ci in inputs {
                let filter = if conv.depthwise { co } else { co * channels + ci };
                for (i, j) in (0..k * k).map(|t| (t / k, t % k)) {
                    let weight = conv.weight + (filter * k + i) * k + j;
                    for yo in 0..out.shape.2 {
                        let Some(y) = read(yo, i, h) else { continue };
                        for xo in 0..out.shape.3 {
                            let Some(xi) = read(xo, j, w) else { continue };
                            f(out.at(image, co, yo, xo), x.at(image, ci, y, xi), weight);
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn convolve<T: Real>(x: &Images<T>, conv: &Convolution, weights: &[T]) -> Images<T> {
    let (n, _, h, w) = x.shape;
    let mut out = Images::zeros((n, conv.out, out_size(h, conv.stride), out_size(w, conv.stride)));
    let mut data = std::mem::take(&mut out.data);
    products(x, &out, conv, |o, i, w| data[o] += x.data[i] * weights[w]);
    out.data = data;
    out
}

pub(super) fn convolve_back<T: Real>(
    x: &Images<T>,
    g: &Images<T>,
    conv: &Convolution,
    weights: &[T],
    dx: &mut Images<T>,
    dw: &mut [T],
) {
    products(x, g, conv, |o, i, w| {
        dx.data[i] += g.data[o] * weights[w];
        dw[w] += g.data[o] * x.data[i];
    });
}

/// Calls `f(output, positions of the window)` for every 3x3 window, in scan order.
pub(super) fn windows<T: Real>(x: &Images<T>, stride: usize, mut f: impl FnMut(usize, &[usize])) {
    let (n, c, h, w) = x.shape;
    let around = |o: usize, size: usize| (o * stride).saturating_sub(1)..(o * stride + 2).min(size);
    let mut output = 0;
    for (image, channel) in (0..n * c).map(|p| (p / c, p % c)) {
        for yo in 0..out_size(h, stride) {
            for xo in 0..out_size(w, stride) {
                let rows = around(yo, h);
                let window: Vec<_> = rows
                    .flat_map(|y| around(xo, w).map(move |xi| (y, xi)))
                    .map(|(y, xi)| x.at(image, channel, y, xi))
                    .collect();
                f(output, &window);
                output += 1;
            }
        }
    }
}

fn pooled<T: Real>(x: &Images<T>, stride: usize) -> Images<T> {
    let (n, c, h, w) = x.shape;
    Images::zeros((n, c, out_size(h, stride), out_size(w, stride)))
}

/// The first of the largest.
fn largest<T: Real>(x: &Images<T>, window: &[usize]) -> usize {
    window.iter().copied().reduce(|a, b| if x.data[b] > x.data[a] { b } else { a }).unwrap_or(0)
}

pub(super) fn max_pool<T: Real>(x: &Images<T>, stride: usize) -> Images<T> {
    let mut out = pooled(x, stride);
    windows(x, stride, |o, window| out.data[o] = x.data[largest(x, window)]);
    out
}

pub(super) fn max_pool_back<T: Real>(x: &Images<T>, g: &Images<T>, stride: usize) -> Images<T> {
    let mut dx = Images::zeros(x.shape);
    windows(x, stride, |o, window| dx.data[largest(x, window)] += g.data[o]);
    dx
}

pub(super) fn avg_pool<T: Real>(x: &Images<T>, stride: usize) -> Images<T> {
    let mut out = pooled(x, stride);
    windows(x, stride, |o, window| {
        let sum = window.iter().fold(T::default(), |a, i| a + x.data[*i]);
        out.data[o] = sum / T::from_f64(window.len() as f64);
    });
    out
}

pub(super) fn avg_pool_back<T: Real>(x: &Images<T>, g: &Images<T>, stride: usize) -> Images<T> {
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

/// Positions of a channel.
fn channel<T: Real>(x: &Images<T>, c: usize) -> impl Iterator<Item = usize> + Clone {
    let (n, channels, h, w) = x.shape;
    (0..n).flat_map(move |image| (0..h * w).map(move |p| (image * channels + c) * h * w + p))
}

/// Mean, (biased) variance and number of values of a channel.
fn moments<T: Real>(x: &Images<T>, c: usize) -> (T, T, f64) {
    let count = channel(x, c).count() as f64;
    let mean = channel(x, c).fold(T::default(), |a, i| a + x.data[i]) / T::from_f64(count);
    let square = |a: T, i: usize| a + (x.data[i] - mean) * (x.data[i] - mean);
    (mean, channel(x, c).fold(T::default(), square) / T::from_f64(count), count)
}

fn rsqrt<T: Real>(variance: T) -> T {
    T::from_f64(1.0 / (variance.to_f64() + 1e-5).sqrt())
}

/// Standard deviation of each channel in units of its mean, at least the smallest positive number;
/// channels with mean 0 are left out.
pub(super) fn deviations<T: Real>(x: &Images<T>) -> impl Iterator<Item = f64> + '_ {
    let (n, c, h, w) = x.shape;
    (0..c).filter_map(move |channel| {
        let plane = |image: usize| &x.data[x.at(image, channel, 0, 0)..][..h * w];
        let values = || (0..n).flat_map(plane).map(|v| v.to_f64());
        let count = (n * h * w) as f64;
        let mean = values().sum::<f64>() / count;
        let variance = values().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
        (mean != 0.0).then(|| (variance.sqrt() / mean.abs()).max(f64::MIN_POSITIVE))
    })
}

pub(super) fn batch_norm<T: Real>(
    x: &Images<T>,
    affine: Option<Pair<'_, T>>,
    running: Option<Pair<'_, T>>,
    statistics: &mut [T],
) -> Images<T> {
    let mut out = x.clone();
    let channels = x.shape.1;
    for c in 0..channels {
        let (mean, variance) = if let Some((mean, variance)) = running {
            (mean[c], variance[c])
        } else {
            let (mean, variance, count) = moments(x, c);
            statistics[c] = mean;
            statistics[channels + c] = variance * T::from_f64(count / (count - 1.0).max(1.0));
            (mean, variance)
        };
        for i in channel(x, c) {
            let y = (x.data[i] - mean) * rsqrt(variance);
            out.data[i] = affine.map_or(y, |(gamma, beta)| gamma[c] * y + beta[c]);
        }
    }
    out
}

/// Gradients to the input, `gamma` and `beta`.
pub(super) fn batch_norm_back<T: Real>(
    x: &Images<T>,
    g: &Images<T>,
    gamma: Option<&[T]>,
    running: Option<Pair<'_, T>>,
) -> (Images<T>, Vec<T>, Vec<T>) {
    let channels = x.shape.1;
    let mut dx = Images::zeros(x.shape);
    let (mut dgamma, mut dbeta) = (vec![T::default(); channels], vec![T::default(); channels]);
    for c in 0..channels {
        let (batch_mean, batch_variance, count) = moments(x, c);
        let (mean, variance) =
            running.map_or((batch_mean, batch_variance), |(mean, variance)| (mean[c], variance[c]));
        let r = rsqrt(variance);
        let y = |i: usize| (x.data[i] - mean) * r;
        for i in channel(x, c) {
            dgamma[c] += g.data[i] * y(i);
            dbeta[c] += g.data[i];
        }
        let scale = gamma.map_or(r, |gamma| gamma[c] * r);
        let count = T::from_f64(count);
        for i in channel(x, c) {
            let centred = if running.is_some() {
                g.data[i]
            } else {
                g.data[i] - dbeta[c] / count - y(i) * dgamma[c] / count
            };
            dx.data[i] = scale * centred;
        }
    }
    (dx, dgamma, dbeta)
}
