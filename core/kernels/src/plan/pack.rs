//! Weights into kernel layout, and partial weight gradients back.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "strided copies between the flat vectors and the arenas; a work item is one convolution"
)]

use super::exec::{Pass, Shared};
use super::{Conv, MixWeights, Run};
use crate::chain::Winograd;
use crate::primitives::{Filters, Gather, TileSize, weights_step};

impl Conv {
    /// Start of the weights of an output channel for a tap, and the step between input channels;
    /// `None`: no weights.
    fn row(&self, tap: usize, out: usize) -> Option<(usize, usize)> {
        match self.weights {
            MixWeights::Dense(at) => {
                Some((at + out * self.inputs * self.taps.len() + tap, self.taps.len()))
            }
            MixWeights::Factorized { even, half, .. } if tap == 0 => {
                (out < half).then_some((even + out * self.inputs, 1))
            }
            MixWeights::Factorized { odd, half, .. } => {
                (out >= half).then(|| (odd + (out - half) * self.inputs, 1))
            }
        }
    }

    /// Its runs in pieces that lie in one block of lanes.
    fn pieces(&self) -> impl Iterator<Item = Run> {
        self.runs.iter().flat_map(|run| {
            (0..run.len).step_by(16).map(|q| Run {
                channel: run.channel + q,
                lane: run.lane + q,
                len: (run.len - q).min(16),
            })
        })
    }
}

impl Conv {
    /// (output channel, input channel).
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let inputs = self.inputs;
        (0..self.outputs).flat_map(move |out| (0..inputs).map(move |c| (out, c)))
    }
}

impl Pass<'_> {
    pub(super) unsafe fn pack_weights(&self) {
        let weights = self.inputs.weights;
        self.workers.run(self.plan.convs.len(), &|_, i| self.pack(&self.plan.convs[i], weights));
    }

    unsafe fn pack(&self, conv: &Conv, weights: &[f32]) {
        let (rows_in, rows_out) = (conv.lanes_in.len() * 16, conv.lanes_out.len() * 16);
        if let Some(d) = &conv.depthwise {
            let taps = d.kernel * d.kernel;
            for run in &conv.runs {
                for q in 0..run.len {
                    let lane = run.lane + q;
                    let out = self.packed(d.packed + lane / 16 * taps * 16 + lane % 16);
                    for t in 0..taps {
                        *out.add(t * 16) = weights[d.weight + (run.channel + q) * taps + t];
                    }
                }
            }
        }
        if let Some(w) = conv.winograd {
            self.transform_weights(conv, w, weights);
            return;
        }
        for tap in 0..conv.taps.len() {
            let at = tap * rows_in * rows_out;
            let (forward, back) =
                (self.packed(conv.packed + at), self.packed(conv.packed_back + at));
            if conv.packing.is_packed() {
                // The same for every image: a row of output lanes an input channel, and back.
                for (out, c) in conv.pairs() {
                    let Some((row, step)) = conv.row(tap, out) else { continue };
                    let w = weights[row + c * step];
                    for run in &conv.runs {
                        *forward.add(c * 16 + run.lane + out) = w;
                        *back.add(out * 16 + run.lane + c) = w;
                    }
                }
                continue;
            }
            for run in &conv.runs {
                // A block of 16 input channels at a time: both layouts stay in the first cache
                // level.
                for first in (0..run.len).step_by(16) {
                    let (lane, len) = (run.lane + first, (run.len - first).min(16));
                    for out in 0..conv.outputs {
                        let Some((row, step)) = conv.row(tap, out) else { continue };
                        let from = &weights[row + (run.channel + first) * step..];
                        let f = forward.add((out / 16 * rows_in + lane) * 16 + out % 16);
                        let b = back.add((lane / 16 * rows_out + out) * 16);
                        for q in 0..len {
                            let w = from[q * step];
                            *f.add(q * 16) = w;
                            *b.add(q) = w;
                        }
                    }
                }
            }
        }
    }

    /// Adds the partial gradients of these convolutions to the flat gradient, chunk by chunk in
    /// order.
    pub(super) unsafe fn gather_gradients(&self, convs: &[usize], gradient: Shared<f32>) {
        let gather = |_, i: usize| self.gather(&self.plan.convs[convs[i]], gradient);
        if self.plan.shared_weights {
            (0..convs.len()).for_each(|i| gather(0, i));
        } else {
            self.workers.run(convs.len(), &gather);
        }
    }

    unsafe fn gather(&self, conv: &Conv, gradient: Shared<f32>) {
        let chunks = self.chunks(conv.packing);
        let (rows_in, rows_out) = (conv.lanes_in.len() * 16, conv.lanes_out.len() * 16);
        let stride = self.plan.sizes.partial;
        if let Some(d) = &conv.depthwise {
            let taps = d.kernel * d.kernel;
            for run in &conv.runs {
                for q in 0..run.len {
                    let lane = run.lane + q;
                    let from = self.partial(0, conv.partial + lane / 16 * taps * 16 + lane % 16);
                    let to = gradient.at(d.weight + (run.channel + q) * taps);
                    for t in 0..taps {
                        let mut sum = 0.0;
                        for chunk in 0..chunks {
                            sum += *from.add(chunk * stride + t * 16);
                        }
                        *to.add(t) += sum;
                    }
                }
            }
        }
        if let Some(w) = conv.winograd {
            self.gather_transformed(conv, w.back, gradient);
            return;
        }
        for tap in 0..conv.taps.len() {
            if conv.packing.is_packed() {
                let at = conv.partial + conv.partial_mix + tap * rows_out * rows_in;
                let width = conv.packing.width;
                for (out, c) in conv.pairs() {
                    let Some((row, step)) = conv.row(tap, out) else { continue };
                    // Where the kernel has this pair: see `PackedMixWeight`.
                    let shift = (c + width - out) % width;
                    let mut sum = 0.0;
                    for chunk in 0..chunks {
                        for run in &conv.runs {
                            sum += *self.partial(chunk, at + shift * 16 + run.lane + out);
                        }
                    }
                    *gradient.at(row + c * step) += sum;
                }
                continue;
            }
            for out in 0..conv.outputs {
                let Some((row, step)) = conv.row(tap, out) else { continue };
                let at = conv.partial + conv.partial_mix + (tap * rows_out + out) * rows_in;
                for run in &conv.runs {
                    let from = self.partial(0, at + run.lane).cast_const();
                    let to = gradient.at(row + run.channel * step);
                    if step == 1 {
                        let to = std::slice::from_raw_parts_mut(to, run.len);
                        for chunk in 0..chunks {
                            let from =
                                std::slice::from_raw_parts(from.add(chunk * stride), run.len);
                            for (to, from) in to.iter_mut().zip(from) {
                                *to += from;
                            }
                        }
                    } else {
                        for q in 0..run.len {
                            for chunk in 0..chunks {
                                *to.add(q * step) += *from.add(chunk * stride + q);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Both layouts of a convolution's weights under Winograd's transform.
    unsafe fn transform_weights(&self, conv: &Conv, w: Winograd, weights: &[f32]) {
        let (rows_in, rows_out) = (conv.lanes_in.len() * 16, conv.lanes_out.len() * 16);
        let filters = |out: usize, channel: usize| match conv.row(0, out) {
            Some((row, step)) => weights[row + channel * step..].as_ptr(),
            None => std::ptr::null(),
        };
        for (block, lanes) in conv.lanes_out.iter().enumerate() {
            for run in &conv.runs {
                for q in 0..run.len {
                    (self.kernels.filters)(&Filters {
                        tile: w.forward,
                        w: filters(block * 16, run.channel + q),
                        w_step: conv.inputs * 9,
                        count: *lanes as usize,
                        turned: false,
                        out: self.packed(conv.packed + (block * rows_in + run.lane + q) * 16),
                        out_step: weights_step(conv.lanes_in.len(), conv.lanes_out.len()),
                    });
                }
            }
        }
        for piece in conv.pieces() {
            for out in 0..conv.outputs {
                let at = conv.packed_back + (piece.lane / 16 * rows_out + out) * 16;
                (self.kernels.filters)(&Filters {
                    tile: w.back,
                    w: filters(out, piece.channel),
                    w_step: 9,
                    count: piece.len,
                    turned: true,
                    out: self.packed(at),
                    out_step: weights_step(conv.lanes_in.len(), conv.lanes_out.len()),
                });
            }
        }
    }

    unsafe fn gather_transformed(&self, conv: &Conv, tile: TileSize, gradient: Shared<f32>) {
        let rows_in = conv.lanes_in.len() * 16;
        let at = conv.partial + conv.partial_mix;
        for out in 0..conv.outputs {
            let Some((row, step)) = conv.row(0, out) else { continue };
            for piece in conv.pieces() {
                (self.kernels.gather)(&Gather {
                    tile,
                    dw: self.partial(0, at + out * rows_in + piece.lane),
                    dw_step: weights_step(conv.lanes_in.len(), conv.lanes_out.len()),
                    chunks: self.chunks(conv.packing),
                    chunk_step: self.plan.sizes.partial,
                    out: gradient.at(row + piece.channel * step),
                    count: piece.len,
                });
            }
        }
    }
}
