//! The gradients of one convolution of one image.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "calls kernels on the places that the plan gave; an item only touches its own image or chunk"
)]

use super::exec::{At, Pass};
use super::{Coefficients, Conv};
use crate::chain;
use crate::primitives::{
    Depthwise, DepthwiseWeight, Lazy, Mix, MixWeight, Winograd, WinogradWeight,
};
use std::ops::Range;

/// A chunk of partial weight gradients, and whether an image before this one has written to it.
#[derive(Clone, Copy)]
pub(super) struct Partial {
    pub chunk: usize,
    pub add: bool,
}

impl Partial {
    /// After so many images of those that are worked on together.
    pub(super) fn after(self, images: usize) -> Self {
        Self { add: self.add || images > 0, ..self }
    }
}

/// The gradient of a convolution's (normalised) output and how to get that of the raw output from
/// it.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub g: *const f32,
    /// Floats between images.
    pub step: usize,
    pub coefficients: &'a Coefficients,
}

impl Incoming<'_> {
    /// Of a later image.
    fn after(self, images: usize) -> Self {
        Self { g: self.g.wrapping_add(images * self.step), ..self }
    }
}

impl Pass<'_> {
    /// Gradients of one convolution: to its inputs (`out`, written or added to) and to its weights.
    /// The tiles must hold its inputs if weight gradients are wanted.
    pub(super) unsafe fn conv_back(
        &self,
        thread: usize,
        conv: &Conv,
        items: &Range<usize>,
        incoming: Incoming<'_>,
        out: Option<(*mut f32, bool)>,
        partial: Option<Partial>,
    ) {
        if let Some(w) = conv.winograd {
            let g_out = &self.plan.geometries[conv.geometry_out];
            for at in At::each(thread, items) {
                let dz = (self.gradient_tile(at, g_out), g_out.row, g_out.block);
                let incoming = incoming.after(at.slot);
                self.lazy(conv, at.image, incoming, (0, g_out.height), dz);
            }
            self.winograd_back(thread, conv, w, items.len(), out, partial);
            return;
        }
        for at in At::each(thread, items) {
            let incoming = incoming.after(at.slot);
            let partial = partial.map(|p| p.after(at.slot));
            let out = out.map(|(out, add)| (out.add(at.slot * self.input_floats(conv)), add));
            if conv.depthwise.is_some() {
                self.separable_back(at, conv, incoming, out, partial);
            } else {
                self.dense_back(at, conv, incoming, out, partial);
            }
        }
    }

    /// Floats of the gradient of a convolution's input.
    pub(super) fn input_floats(&self, conv: &Conv) -> usize {
        let g_in = &self.plan.geometries[conv.geometry_in];
        conv.lanes_in.len() * g_in.height * g_in.width * 16
    }

    /// Gradient of some rows of the raw output: densely, or into the gradient tile (`row`, `block`: of
    /// the target).
    pub(super) unsafe fn lazy(
        &self,
        conv: &Conv,
        image: usize,
        incoming: Incoming<'_>,
        (first, rows): (usize, usize),
        (out, row, block): (*mut f32, usize, usize),
    ) {
        let geometry = &self.plan.geometries[conv.geometry_out];
        let (plane, c) = (geometry.height * geometry.width * 16, incoming.coefficients);
        let z = self.raw(&conv.raw, image);
        let tail = self.tail(conv.packing, image);
        for b in 0..conv.lanes_out.len() {
            let at = b * plane + first * geometry.width * 16;
            (self.kernels.lazy)(&Lazy {
                out: out.add(b * block),
                out_row: row,
                g: incoming.g.add(at),
                z: z.add(at),
                rows,
                cols: geometry.width,
                a: self.small(c.a + image * c.a_stride + b * 16 + tail),
                b: self.small(c.b + b * 16 + tail),
                c: self.small(c.c + b * 16 + tail),
            });
        }
    }

    unsafe fn separable_back(
        &self,
        at: At,
        conv: &Conv,
        incoming: Incoming<'_>,
        out: Option<(*mut f32, bool)>,
        partial: Option<Partial>,
    ) {
        let Some(d) = &conv.depthwise else { return };
        let g_in = &self.plan.geometries[conv.geometry_in];
        let g_out = &self.plan.geometries[conv.geometry_out];
        let taps = d.kernel * d.kernel;
        let At { thread, image, .. } = at;
        let u = self.scratch(thread, self.plan.scratch.depthwise);
        let du = self.gradient_tile(at.alone(), g_out);
        // In bands, so that both sides of the channel mix are in the first cache level.
        let band = conv.band(g_out);
        for first in (0..g_out.height).step_by(band) {
            let rows = band.min(g_out.height - first);
            let (row, block) = (g_out.width * 16, rows * g_out.width * 16);
            if partial.is_some() {
                // The depthwise result again: cheaper than having stored it.
                self.depthwise(at, conv, first, rows, u);
            }
            let x = (u.cast_const(), row, block);
            let dz = self.mix_weight(thread, conv, image, incoming, (first, rows), x, partial);
            self.run_mix(
                conv.packing,
                Mix {
                    out: du.add(first * g_out.row),
                    out_step: 16,
                    out_row: g_out.row,
                    out_block: g_out.block,
                    x: dz,
                    x_step: 16,
                    x_row: row,
                    x_block: block,
                    rows,
                    cols: g_out.width,
                    blocks_in: conv.lanes_out.len(),
                    blocks_out: conv.lanes_in.len(),
                    lanes: conv.lanes_out.as_ptr(),
                    taps: conv.taps.as_ptr(),
                    n_taps: conv.taps.len(),
                    w: self.packed(conv.packed_back),
                    stats: std::ptr::null_mut(),
                    first: false,
                    ahead: 0,
                    add: false,
                },
            );
        }
        let tile = self.tile(at, g_in);
        for b in 0..conv.lanes_in.len() {
            if let Some(p) = partial {
                (self.kernels.depthwise_weight)(&DepthwiseWeight {
                    dw: self.partial(p.chunk, conv.partial + b * taps * 16),
                    g: du.add(b * g_out.block),
                    g_row: g_out.row,
                    x: tile.add(b * g_in.block),
                    x_row: g_in.row,
                    x_step: 16 * conv.stride,
                    rows: g_out.height,
                    cols: g_out.width,
                    k: d.kernel,
                    dilation: d.dilation,
                    add: p.add,
                });
            }
            let Some((out, add)) = out else { continue };
            for parity in &d.parities {
                let pixel = (b * g_in.height + parity.row) * g_in.width + parity.col;
                (self.kernels.depthwise)(&Depthwise {
                    out: out.add(pixel * 16),
                    out_step: 16 * conv.stride,
                    out_row: conv.stride * g_in.width * 16,
                    x: du.add(b * g_out.block),
                    x_step: 16,
                    x_row: g_out.row,
                    rows: parity.rows,
                    cols: parity.cols,
                    taps: parity.taps.as_ptr(),
                    n_taps: parity.taps.len(),
                    w: self.packed(d.packed + b * taps * 16),
                    add,
                });
            }
        }
    }

    /// The gradient of some rows of the raw output, densely in scratch memory; with it, that of the
    /// weights of a mix with one tap, whose input (`row` and `block` apart) has the same pixels.
    #[expect(clippy::too_many_arguments, reason = "two calls")]
    unsafe fn mix_weight(
        &self,
        thread: usize,
        conv: &Conv,
        image: usize,
        incoming: Incoming<'_>,
        (first, rows): (usize, usize),
        (x, x_row, x_block): (*const f32, usize, usize),
        partial: Option<Partial>,
    ) -> *const f32 {
        let cols = self.plan.geometries[conv.geometry_out].width;
        let (row, block) = (cols * 16, rows * cols * 16);
        let dz = self.scratch(thread, self.plan.scratch.lazy);
        self.lazy(conv, image, incoming, (first, rows), (dz, row, block));
        if let Some(p) = partial {
            self.run_mix_weight(
                conv.packing,
                MixWeight {
                    dw: self.partial(p.chunk, conv.partial + conv.partial_mix),
                    g: dz,
                    g_row: row,
                    g_block: block,
                    x,
                    x_step: 16,
                    x_row,
                    x_block,
                    rows,
                    cols,
                    blocks_out: conv.lanes_out.len(),
                    blocks_in: conv.lanes_in.len(),
                    lanes: conv.lanes_out.as_ptr(),
                    add: p.add || first > 0,
                },
            );
        }
        dz
    }

    /// Some rows of a pointwise convolution: its input is at `x` (`row` and `block` apart), the
    /// gradient of that goes to `out` (densely, `block` apart, written or added to).
    #[expect(clippy::too_many_arguments, reason = "two calls")]
    pub(super) unsafe fn pointwise_back(
        &self,
        thread: usize,
        conv: &Conv,
        image: usize,
        incoming: Incoming<'_>,
        (first, rows): (usize, usize),
        x: (*const f32, usize, usize),
        out: Option<(*mut f32, usize, bool)>,
        partial: Option<Partial>,
    ) {
        let pixels = rows * self.plan.geometries[conv.geometry_out].width;
        let dz = self.mix_weight(thread, conv, image, incoming, (first, rows), x, partial);
        let Some((out, out_block, add)) = out else { return };
        self.run_mix(
            conv.packing,
            Mix {
                out,
                out_step: 16,
                out_row: 0,
                out_block,
                x: dz,
                x_step: 16,
                x_row: 0,
                x_block: pixels * 16,
                rows: 1,
                cols: pixels,
                blocks_in: conv.lanes_out.len(),
                blocks_out: conv.lanes_in.len(),
                lanes: conv.lanes_out.as_ptr(),
                taps: conv.taps.as_ptr(),
                n_taps: 1,
                w: self.packed(conv.packed_back),
                stats: std::ptr::null_mut(),
                first: false,
                ahead: 0,
                add,
            },
        );
    }

    unsafe fn dense_back(
        &self,
        at: At,
        conv: &Conv,
        incoming: Incoming<'_>,
        out: Option<(*mut f32, bool)>,
        partial: Option<Partial>,
    ) {
        let g_in = &self.plan.geometries[conv.geometry_in];
        let g_out = &self.plan.geometries[conv.geometry_out];
        if conv.is_pointwise() {
            let (tile, band) = (self.tile(at, g_in).cast_const(), conv.band(g_out));
            let plane = g_in.height * g_in.width * 16;
            for first in (0..g_out.height).step_by(band) {
                let rows = (first, band.min(g_out.height - first));
                let x = (tile.add(first * g_in.row), g_in.row, g_in.block);
                let out = out.map(|(out, add)| (out.add(first * g_in.width * 16), plane, add));
                self.pointwise_back(at.thread, conv, at.image, incoming, rows, x, out, partial);
            }
            return;
        }
        let dz = self.gradient_tile(at.alone(), g_out);
        let dz_place = (dz, g_out.row, g_out.block);
        self.lazy(conv, at.image, incoming, (0, g_out.height), dz_place);
        let (blocks_in, blocks_out) = (conv.lanes_in.len(), conv.lanes_out.len());
        if let Some(p) = partial {
            let tile = self.tile(at, g_in);
            for (t, tap) in conv.taps.iter().enumerate() {
                let place = conv.partial + conv.partial_mix + t * blocks_in * blocks_out * 256;
                self.run_mix_weight(
                    conv.packing,
                    MixWeight {
                        dw: self.partial(p.chunk, place),
                        g: dz,
                        g_row: g_out.row,
                        g_block: g_out.block,
                        x: tile.offset(tap.offset),
                        x_step: 16 * conv.stride,
                        x_row: conv.stride * g_in.row,
                        x_block: g_in.block,
                        rows: g_out.height,
                        cols: g_out.width,
                        blocks_out,
                        blocks_in,
                        lanes: conv.lanes_out.as_ptr(),
                        add: p.add,
                    },
                );
            }
        }
        let Some((out, add)) = out else { return };
        for parity in &conv.parities {
            self.run_mix(
                conv.packing,
                Mix {
                    out: out.add((parity.row * g_in.width + parity.col) * 16),
                    out_step: 16 * conv.stride,
                    out_row: conv.stride * g_in.width * 16,
                    out_block: g_in.height * g_in.width * 16,
                    x: dz,
                    x_step: 16,
                    x_row: g_out.row,
                    x_block: g_out.block,
                    rows: parity.rows,
                    cols: parity.cols,
                    blocks_in: blocks_out,
                    blocks_out: blocks_in,
                    lanes: conv.lanes_out.as_ptr(),
                    taps: parity.taps.as_ptr(),
                    n_taps: parity.taps.len(),
                    w: self.packed(conv.packed_back),
                    stats: std::ptr::null_mut(),
                    first: false,
                    ahead: 0,
                    add,
                },
            );
        }
    }

    /// The same for some images, from the gradients of the raw outputs in the gradient tiles.
    unsafe fn winograd_back(
        &self,
        thread: usize,
        conv: &Conv,
        winograd: chain::Winograd,
        images: usize,
        out: Option<(*mut f32, bool)>,
        partial: Option<Partial>,
    ) {
        let g_in = &self.plan.geometries[conv.geometry_in];
        let g_out = &self.plan.geometries[conv.geometry_out];
        let (blocks_in, blocks_out) = (conv.lanes_in.len(), conv.lanes_out.len());
        let scratch = self.scratch(thread, self.plan.scratch.winograd);
        let first = At { thread, slot: 0, image: 0 };
        let dz = self.gradient_tile(first, g_out);
        let g_image = g_out.grad_blocks * g_out.block;
        if let Some(p) = partial {
            (self.kernels.winograd_weight)(&WinogradWeight {
                tile: winograd.back,
                images,
                g_image,
                x_image: g_in.tile_blocks * g_in.block,
                dw: self.partial(p.chunk, conv.partial + conv.partial_mix),
                g: dz,
                g_row: g_out.row,
                g_block: g_out.block,
                x: self.tile(first, g_in),
                x_row: g_in.row,
                x_block: g_in.block,
                rows: g_out.height,
                cols: g_out.width,
                blocks_out,
                blocks_in,
                lanes: conv.lanes_out.as_ptr(),
                scratch,
                add: p.add,
            });
        }
        let Some((out, add)) = out else { return };
        (self.kernels.winograd)(&Winograd {
            tile: winograd.back,
            images,
            out_image: self.input_floats(conv),
            x_image: g_image,
            stats_image: 0,
            out,
            out_row: g_in.width * 16,
            out_block: g_in.height * g_in.width * 16,
            x: dz,
            x_row: g_out.row,
            x_block: g_out.block,
            rows: g_in.height,
            cols: g_in.width,
            blocks_in: blocks_out,
            blocks_out: blocks_in,
            lanes: conv.lanes_out.as_ptr(),
            w: self.packed(conv.packed_back),
            scratch,
            stats: std::ptr::null_mut(),
            ahead: 0,
            add,
        });
    }
}
