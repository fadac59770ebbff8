//! Batch statistics, scales, and the coefficients of the lazy gradient.
//!
//! `y = gamma * r * (z - m) + beta`, `r = (variance + 1e-5)^(-1/2)`, over `M` values a channel. For
//! the gradient `G` of a weighted term, `SG = sum w G`, `S = r (sum w G z - m SG)`: `dz = gamma (w
//! r G - r^2 S / M z + (r^2 m S / M - r SG / M))`, `dgamma = S`, `dbeta = SG`, and the gradient of
//! the term's weight is `sum over channels of gamma S + beta SG` taken without the weight.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    clippy::needless_range_loop,
    reason = "reads and writes the small arena, on one thread; lanes side by side vectorise"
)]

use super::exec::{Pass, Shared};
use super::packing::Packing;
use super::{Bundle, Coefficients, EPS, Norm, State};
use crate::graph::Weight;
use crate::primitives::{Lanes, Moments, Total};

/// Where per-image sums lie: `at + image * step`, sums of `G` and of `G * z`.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub gradient: usize,
    pub dot: usize,
    pub step: usize,
}

impl Pass<'_> {
    unsafe fn lanes(&self, at: usize) -> Lanes {
        self.small(at).cast::<[f32; 16]>().read().map(f64::from)
    }

    /// An image's part of its item's sums: channels from lane 0 on.
    unsafe fn of_image(&self, packing: Packing, at: usize, step: usize, image: usize) -> Lanes {
        if !packing.is_packed() {
            return self.lanes(at + image * step);
        }
        let lanes = self.lanes(at + image / packing.images * step);
        let first = packing.lane(image);
        std::array::from_fn(|l| if l < packing.width { lanes[first + l] } else { 0.0 })
    }

    /// The sum of all images' parts.
    unsafe fn total(&self, packing: Packing, at: usize, step: usize) -> Lanes {
        let (images, mut out) = (self.inputs.batch, [0.0; 16]);
        if packing.is_packed() {
            for image in 0..images {
                let part = self.of_image(packing, at, step, image);
                for l in 0..16 {
                    out[l] += part[l];
                }
            }
        } else {
            let from = self.small(at).cast_const();
            (self.kernels.total)(&Total { from, step, images, out: &raw mut out });
        }
        out
    }

    /// The same for all images of an item.
    unsafe fn spread(&self, packing: Packing, at: usize, values: &Lanes) {
        self.put(at, &std::array::from_fn(|l| values[l % packing.width]));
    }

    /// Also for a last item that lacks images.
    unsafe fn spread_all(&self, packing: Packing, at: usize, values: &Lanes) {
        self.spread(packing, at, values);
        if packing.is_packed() {
            let there = self.inputs.batch % packing.images * packing.width;
            let value = |l| if l < there { values[l % packing.width] } else { 0.0 };
            self.put(at + 16, &std::array::from_fn(value));
        }
    }

    unsafe fn put(&self, at: usize, values: &Lanes) {
        let p = self.small(at);
        for l in 0..16 {
            *p.add(l) = values[l] as f32;
        }
    }

    /// `gamma` and `beta` of a block; 1 and 0 without them and in unused lanes.
    fn affine(&self, norm: &Norm, block: usize) -> (Lanes, Lanes) {
        let (mut gamma, mut beta) = ([1.0; 16], [0.0; 16]);
        if let Some(affine) = norm.batch.and_then(|n| n.affine) {
            for l in 0..16.min(norm.channels - block * 16) {
                gamma[l] = f64::from(self.inputs.weights[affine.gamma + block * 16 + l]);
                beta[l] = f64::from(self.inputs.weights[affine.beta + block * 16 + l]);
            }
        }
        (gamma, beta)
    }

    /// Clears and gives the place of an image's statistics; null if nobody reads them.
    pub(super) unsafe fn statistics_of(&self, norm: &Norm, image: usize) -> *mut f32 {
        if norm.batch.is_none() || self.inputs.running.is_some() {
            return std::ptr::null_mut();
        }
        let part = self.small(norm.part + image * 3 * norm.padded);
        std::ptr::write_bytes(part, 0, 2 * norm.padded);
        part
    }

    /// Mean, `r` and scale of a norm from the images' sums or the running statistics.
    pub(super) unsafe fn finalize(&self, norm: &Norm, statistics: Shared<f32>) {
        for block in 0..norm.padded / 16 {
            let at = norm.values + block * 16;
            let Some(batch_norm) = norm.batch else {
                for (q, value) in [0.0, 1.0, 1.0, 0.0].into_iter().enumerate() {
                    self.put(at + q * norm.padded, &[value; 16]);
                }
                continue;
            };
            let used = 16.min(norm.channels - block * 16);
            let slot = batch_norm.statistics + block * 16;
            let (mut mean, mut variance) = ([0.0; 16], [0.0; 16]);
            if let Some(running) = self.inputs.running {
                for l in 0..used {
                    mean[l] = f64::from(running[slot + l]);
                    variance[l] = f64::from(running[slot + norm.channels + l]);
                }
            } else {
                let count = self.moments(norm, block, &mut mean, &mut variance);
                let unbiased = count / (count - 1.0).max(1.0);
                for l in 0..used {
                    *statistics.at(slot + l) = mean[l] as f32;
                    *statistics.at(slot + norm.channels + l) = (variance[l] * unbiased) as f32;
                }
            }
            let (gamma, beta) = self.affine(norm, block);
            let r: Lanes = std::array::from_fn(|l| 1.0 / (variance[l] + EPS).sqrt());
            let s = std::array::from_fn(|l| gamma[l] * r[l]);
            let t = std::array::from_fn(|l| beta[l] - gamma[l] * mean[l] * r[l]);
            for (q, values) in [mean, r, s, t].iter().enumerate() {
                self.spread(norm.packing, at + q * norm.padded, values);
            }
        }
    }

    /// Exact combination of the images' means and squared deviations, in order. Gives the number of
    /// values.
    unsafe fn moments(
        &self,
        norm: &Norm,
        block: usize,
        mean: &mut Lanes,
        variance: &mut Lanes,
    ) -> f64 {
        let (images, pixels) = (self.inputs.batch, norm.pixels as f64);
        if !norm.packing.is_packed() {
            (self.kernels.moments)(&Moments {
                part: self.small(norm.part + block * 16),
                step: 3 * norm.padded,
                padded: norm.padded,
                images,
                pixels,
                mean,
                variance,
            });
            return images as f64 * pixels;
        }
        let part = |image: usize, q: usize| {
            let at = norm.part + q * norm.padded + block * 16;
            self.of_image(norm.packing, at, 3 * norm.padded, image)
        };
        for image in 0..images {
            let (sum, shift) = (part(image, 0), part(image, 2));
            for l in 0..16 {
                mean[l] += shift[l] + sum[l] / pixels;
            }
        }
        for l in 0..16 {
            mean[l] /= images as f64;
        }
        for image in 0..images {
            let (sum, square, shift) = (part(image, 0), part(image, 1), part(image, 2));
            for l in 0..16 {
                let d = shift[l] + sum[l] / pixels - mean[l];
                variance[l] += square[l] - sum[l] * sum[l] / pixels + pixels * d * d;
            }
        }
        let count = images as f64 * pixels;
        for l in 0..16 {
            variance[l] = (variance[l] / count).max(0.0);
        }
        count
    }

    fn weight(&self, weight: Weight, image: usize) -> f64 {
        match weight {
            Weight::One => 1.0,
            Weight::Shared(index) => f64::from(self.inputs.ops[index]),
            Weight::PerImage(start) => f64::from(self.inputs.ops[start + image]),
        }
    }

    /// Factors and bias of a bundle's terms.
    pub(super) unsafe fn bundle_scales(&self, state: &State, bundle: &Bundle) {
        let copies = if bundle.bias_stride > 0 { self.inputs.batch } else { 1 };
        for block in 0..state.blocks {
            for image in 0..copies {
                let mut bias = [0.0; 16];
                for term in &state.terms[bundle.terms.clone()] {
                    let norm = &self.plan.norms[term.norm];
                    let w = self.weight(term.weight, image);
                    let s = self.lanes(norm.values + 2 * norm.padded + block * 16);
                    let t = self.lanes(norm.values + 3 * norm.padded + block * 16);
                    for l in 0..16 {
                        bias[l] += w * t[l];
                    }
                    if image == 0 || term.scale_stride > 0 {
                        let at = term.scale + image * term.scale_stride + block * 16;
                        self.put(at, &s.map(|s| w * s));
                    }
                }
                self.put(bundle.bias + image * bundle.bias_stride + block * 16, &bias);
            }
        }
    }

    /// Coefficients of `dz = a G + b z + c` for all terms of a bundle, and the gradients of their
    /// weights.
    pub(super) unsafe fn bundle_coefficients(
        &self,
        state: &State,
        bundle: &Bundle,
        weights: Option<Shared<f32>>,
        ops: Shared<f64>,
    ) {
        for term in &state.terms[bundle.terms.clone()] {
            let sums = Sums { gradient: state.gradient_sum, dot: term.dot, step: state.padded() };
            let norm = &self.plan.norms[term.norm];
            self.coefficients(norm, term.weight, sums, &term.coefficients, weights, Some(ops));
        }
    }

    /// The same for one norm.
    pub(super) unsafe fn coefficients(
        &self,
        norm: &Norm,
        weight: Weight,
        sums: Sums,
        out: &Coefficients,
        weights: Option<Shared<f32>>,
        ops: Option<Shared<f64>>,
    ) {
        let images = self.inputs.batch;
        let count = (images * norm.pixels) as f64;
        let fixed = norm.batch.is_none() || self.inputs.running.is_some();
        for block in 0..norm.padded / 16 {
            let used = 16.min(norm.channels - block * 16);
            let (mean, r) = (
                self.lanes(norm.values + block * 16),
                self.lanes(norm.values + norm.padded + block * 16),
            );
            let (gamma, beta) = self.affine(norm, block);
            // Sums with the weights of the images, and the gradient of those weights.
            let (mut sum, mut dot) = ([0.0; 16], [0.0; 16]);
            let mut add = |g: Lanes, gz: Lanes, w: f64, index: Option<usize>| {
                for l in 0..16 {
                    sum[l] += w * g[l];
                    dot[l] += w * gz[l];
                }
                if let (Some(ops), Some(index)) = (ops, index) {
                    let of = |l: usize| gamma[l] * r[l] * (gz[l] - mean[l] * g[l]) + beta[l] * g[l];
                    *ops.at(index) += (0..used).map(of).sum::<f64>();
                }
            };
            if let Weight::PerImage(start) = weight {
                for image in 0..images {
                    let of =
                        |at: usize| self.of_image(norm.packing, at + block * 16, sums.step, image);
                    let w = self.weight(weight, image);
                    add(of(sums.gradient), of(sums.dot), w, Some(start + image));
                    let at = out.a + image * out.a_stride + block * 16;
                    self.put(at, &std::array::from_fn(|l| w * gamma[l] * r[l]));
                }
            } else {
                let total = |at: usize| self.total(norm.packing, at + block * 16, sums.step);
                let index = if let Weight::Shared(index) = weight { Some(index) } else { None };
                add(total(sums.gradient), total(sums.dot), self.weight(weight, 0), index);
            }
            let s: Lanes = std::array::from_fn(|l| r[l] * (dot[l] - mean[l] * sum[l]));
            if let (Some(weights), Some(affine)) = (weights, norm.batch.and_then(|n| n.affine)) {
                for l in 0..used {
                    *weights.at(affine.gamma + block * 16 + l) += s[l] as f32;
                    *weights.at(affine.beta + block * 16 + l) += sum[l] as f32;
                }
            }
            if out.a_stride == 0 {
                let w = self.weight(weight, 0);
                let a = std::array::from_fn(|l| w * gamma[l] * r[l]);
                self.spread_all(norm.packing, out.a + block * 16, &a);
            }
            let (mut b, mut c) = ([0.0; 16], [0.0; 16]);
            if !fixed {
                for l in 0..16 {
                    b[l] = -gamma[l] * r[l] * r[l] * s[l] / count;
                    c[l] = gamma[l] * r[l] * (r[l] * mean[l] * s[l] - sum[l]) / count;
                }
            }
            self.spread_all(norm.packing, out.b + block * 16, &b);
            self.spread_all(norm.packing, out.c + block * 16, &c);
        }
    }

    /// Adds up `b` and `c` of all terms that read a pool or a map.
    pub(super) unsafe fn pool_coefficients(&self, state: &State) {
        let pools = state.pools.iter().flat_map(|p| p.max.iter().chain(&p.average));
        let pools = pools.map(|p| (p, state.blocks));
        let maps = state.maps.iter().map(|m| &self.plan.maps[*m]);
        let maps = maps.filter(|m| m.target.is_none());
        for (pooled, blocks) in pools.chain(maps.map(|m| (&m.output, m.shape.0.div_ceil(16)))) {
            for block in 0..blocks {
                let (mut b, mut c) = ([0.0; 16], [0.0; 16]);
                for &(target, term) in &pooled.consumers {
                    let k = &self.plan.states[target].terms[term].coefficients;
                    let (tb, tc) = (self.lanes(k.b + block * 16), self.lanes(k.c + block * 16));
                    for l in 0..16 {
                        b[l] += tb[l];
                        c[l] += tc[l];
                    }
                }
                self.put(pooled.gradient + block * 16, &b);
                self.put(pooled.gradient + (blocks + block) * 16, &c);
            }
        }
    }
}
