//! The forward pass.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "calls kernels on the places that the plan gave; an image only touches its own part"
)]

use super::exec::{At, Pass, Shared, in_teams};
use super::function::Slot;
use super::{Bundle, Conv, State};
use crate::error::Result;
use crate::primitives::{Depthwise, Fill, Mix, Pool, Scaled, Sum, Winograd};
use std::ops::Range;

/// Floats ahead of a write that its cache line is fetched.
const AHEAD: usize = 4096;
/// Terms of one call of a streaming kernel.
pub(super) const GROUP: usize = 8;

impl Pass<'_> {
    pub(super) unsafe fn forward(
        &self,
        out: Shared<f32>,
        statistics: Shared<f32>,
        functions: &mut [Slot],
    ) -> Result<()> {
        let states = &self.plan.states;
        self.groups(states[0].group(), &|_, images| {
            for image in images.clone() {
                self.load_images(&states[0], image);
                self.derived(&states[0], image);
            }
            self.maps(&states[0], &images);
        });
        // Passes over the images end where sums over all of them are needed; until then an image goes
        // on while it is in the cache.
        let mut open: Option<&State> = None;
        let close = |state: &State| {
            self.groups(state.group(), &|_, images| self.finish(state, &images));
        };
        for state in states[1..].iter().filter(|s| s.follows.is_none()) {
            // Raw outputs that only pass through lie item by item, so only alike items go on.
            if let Some(before) = open.take_if(|s| s.packing != state.packing) {
                close(before);
            }
            for (q, bundle) in state.bundles.iter().enumerate() {
                let before = open.filter(|_| q == 0);
                let team = self.team(bundle, 0);
                let group = before.map_or(1, State::group).max(state.packing.images);
                let group = if group > 1 { group } else { team };
                self.groups(group, &|thread, images| {
                    if let Some(before) = before {
                        self.finish(before, &images);
                    }
                    let items = state.packing.of_images(&images);
                    for first in items.clone().step_by(team) {
                        let items = first..items.end.min(first + team);
                        if q > 0 {
                            for item in items.clone() {
                                self.add_bundle(state, &state.bundles[q - 1], item, q > 1);
                            }
                        }
                        self.first_stage(thread, bundle, &items);
                    }
                });
                self.functions(bundle, 0, functions)?;
                for depth in 1..bundle.depth {
                    self.finalize_stage(bundle, depth - 1, statistics);
                    let team = self.team(bundle, depth).max(state.packing.images);
                    self.groups(team, &|thread, images| {
                        let items = state.packing.of_images(&images);
                        self.later_stage(thread, bundle, depth, &items);
                    });
                    self.functions(bundle, depth, functions)?;
                }
                if bundle.depth > 0 {
                    self.finalize_stage(bundle, bundle.depth - 1, statistics);
                }
                self.finalize_pools(state, bundle, statistics);
                self.bundle_scales(state, bundle);
                open = Some(state);
            }
            if state.bundles.is_empty() {
                let group = open.map_or(1, State::group).max(state.group());
                self.groups(group, &|_, images| {
                    if let Some(before) = open {
                        self.finish(before, &images);
                    }
                    self.finish(state, &images);
                });
                open = None;
            }
        }
        if let Some(last) = open {
            close(last);
        }
        self.export(out);
        Ok(())
    }

    unsafe fn load_images(&self, state: &State, image: usize) {
        let pixels = state.pixels();
        let x = self.activation(state.x + image * state.floats);
        let images = &self.inputs.images[image * state.channels * pixels..];
        for channel in 0..state.channels {
            let plane = &images[channel * pixels..(channel + 1) * pixels];
            let out = x.add(channel / 16 * pixels * 16 + channel % 16);
            for (p, v) in plane.iter().enumerate() {
                *out.add(p * 16) = *v;
            }
        }
    }

    /// Adds the last bundle of a state, and does what reads it alone.
    unsafe fn finish(&self, state: &State, images: &Range<usize>) {
        for item in state.packing.of_images(images) {
            if let Some(last) = state.bundles.last() {
                self.add_bundle(state, last, item, state.bundles.len() > 1);
            }
            self.derived(state, item);
        }
        self.maps(state, images);
    }

    /// Pools and rectified copy of a finished state.
    pub(super) unsafe fn derived(&self, state: &State, image: usize) {
        let (plane, x) = (state.pixels() * 16, self.activation(state.x + image * state.floats));
        for pools in &state.pools {
            for b in 0..state.blocks {
                let at = (image * state.blocks + b) * pools.pixels * 16;
                let stats = image * 3 * state.padded() + b * 16;
                let places = |p: &Option<super::Pooled>| match p {
                    Some(p) => (self.activation(p.raw.kept + at), self.small(p.part + stats)),
                    None => (std::ptr::null_mut(), std::ptr::null_mut()),
                };
                let ((max, max_stats), (average, average_stats)) =
                    (places(&pools.max), places(&pools.average));
                (self.kernels.pool)(&Pool {
                    x: x.add(b * plane),
                    height: state.height,
                    width: state.width,
                    stride: pools.stride,
                    max,
                    index: self.activation(pools.index + at),
                    average,
                    max_stats,
                    average_stats,
                    stats_row: state.padded(),
                });
            }
        }
        if let Some(raw) = state.rectified {
            let out = self.activation(raw.kept + image * raw.floats);
            (self.kernels.fill)(&Fill {
                out,
                out_row: 0,
                x,
                rows: 1,
                cols: raw.floats / 16,
                s: std::ptr::null(),
                t: std::ptr::null(),
                relu: true,
            });
        }
    }

    unsafe fn first_stage(&self, thread: usize, bundle: &Bundle, items: &Range<usize>) {
        // Chains with and without a rectifier need different tiles.
        for relu in [true, false] {
            let mut ready = self.banded(bundle, relu);
            let sources = ready.then_some(&*bundle.sources);
            for (_, chain) in &bundle.chains {
                let conv = &self.plan.convs[chain[0]];
                if conv.relu != relu || conv.function.is_some() {
                    continue;
                }
                if !ready {
                    At::each(thread, items)
                        .for_each(|at| self.source_tile(at, &bundle.sources, conv));
                    ready = true;
                }
                self.conv(thread, conv, items, sources);
            }
        }
    }

    /// The convolutions of a bundle with (or without) a rectifier need no tile: there is only one, and
    /// it is pointwise.
    pub(super) fn banded(&self, bundle: &Bundle, relu: bool) -> bool {
        let convs = bundle.chains.iter().map(|(_, chain)| &self.plan.convs[chain[0]]);
        let mut convs = convs.filter(|conv| conv.relu == relu && conv.function.is_none());
        convs.next().is_some_and(Conv::is_pointwise) && convs.next().is_none()
    }

    unsafe fn later_stage(
        &self,
        thread: usize,
        bundle: &Bundle,
        depth: usize,
        items: &Range<usize>,
    ) {
        for (_, chain) in bundle.chains.iter().filter(|(_, c)| c.len() > depth) {
            let (before, conv) =
                (&self.plan.convs[chain[depth - 1]], &self.plan.convs[chain[depth]]);
            if conv.function.is_some() {
                continue;
            }
            in_teams(conv, items, &|items| {
                At::each(thread, &items).for_each(|at| self.inner_tile(at, before, conv));
                self.conv(thread, conv, &items, None);
            });
        }
    }

    unsafe fn finalize_stage(&self, bundle: &Bundle, depth: usize, statistics: Shared<f32>) {
        for conv in bundle.chains.iter().filter_map(|(_, c)| c.get(depth)) {
            self.finalize(&self.plan.norms[self.plan.convs[*conv].norm], statistics);
        }
    }

    /// Norms of the terms without a convolution.
    unsafe fn finalize_pools(&self, state: &State, bundle: &Bundle, statistics: Shared<f32>) {
        for index in bundle.terms.clone() {
            if bundle.chains.iter().all(|(term, _)| *term != index) {
                self.finalize(&self.plan.norms[state.terms[index].norm], statistics);
            }
        }
    }

    /// One convolution of the tiles (or of `sources`) into its raw outputs, with statistics.
    unsafe fn conv(
        &self,
        thread: usize,
        conv: &Conv,
        items: &Range<usize>,
        sources: Option<&[usize]>,
    ) {
        let Some(w) = conv.winograd else {
            At::each(thread, items).for_each(|at| self.conv_of(at, conv, sources));
            return;
        };
        let g_in = &self.plan.geometries[conv.geometry_in];
        let g_out = &self.plan.geometries[conv.geometry_out];
        let norm = &self.plan.norms[conv.norm];
        let at = At { thread, slot: 0, image: items.start };
        let (z, plane) = (self.raw(&conv.raw, at.image), g_out.height * g_out.width * 16);
        // Clears those of every image.
        for image in items.start + 1..items.end {
            self.statistics_of(norm, image);
        }
        let stats = self.statistics_of(norm, items.start);
        (self.kernels.winograd)(&Winograd {
            tile: w.forward,
            images: items.len(),
            out_image: self.raw_step(&conv.raw),
            x_image: g_in.tile_blocks * g_in.block,
            stats_image: 3 * norm.padded,
            out: z,
            out_row: g_out.width * 16,
            out_block: plane,
            x: self.tile(at, g_in),
            x_row: g_in.row,
            x_block: g_in.block,
            rows: g_out.height,
            cols: g_out.width,
            blocks_in: conv.lanes_in.len(),
            blocks_out: conv.lanes_out.len(),
            lanes: conv.lanes_in.as_ptr(),
            w: self.packed(conv.packed),
            scratch: self.scratch(thread, self.plan.scratch.winograd),
            stats,
            ahead: AHEAD,
            add: false,
        });
    }

    unsafe fn conv_of(&self, at: At, conv: &Conv, sources: Option<&[usize]>) {
        let image = at.image;
        let g_in = &self.plan.geometries[conv.geometry_in];
        let g_out = &self.plan.geometries[conv.geometry_out];
        let stats = self.statistics_of(&self.plan.norms[conv.norm], image);
        let (z, plane) = (self.raw(&conv.raw, image), g_out.height * g_out.width * 16);
        let mix = Mix {
            out: z,
            out_step: 16,
            out_row: g_out.width * 16,
            out_block: plane,
            x: self.tile(at, g_in),
            x_step: 16 * conv.stride,
            x_row: conv.stride * g_in.row,
            x_block: g_in.block,
            rows: g_out.height,
            cols: g_out.width,
            blocks_in: conv.lanes_in.len(),
            blocks_out: conv.lanes_out.len(),
            lanes: conv.lanes_in.as_ptr(),
            taps: conv.taps.as_ptr(),
            n_taps: conv.taps.len(),
            w: self.packed(conv.packed),
            stats,
            first: true,
            ahead: AHEAD,
            add: false,
        };
        if conv.depthwise.is_none() && sources.is_none() {
            self.run_mix(conv.packing, mix);
            return;
        }
        // In bands, so that what is mixed never leaves the first cache level.
        let u = self.scratch(at.thread, self.plan.scratch.depthwise);
        let band = conv.band(g_out);
        for first in (0..g_out.height).step_by(band) {
            let rows = band.min(g_out.height - first);
            let block = rows * g_out.width * 16;
            match sources {
                Some(sources) => self.source_rows(image, sources, conv.relu, (first, rows), u),
                None => self.depthwise(at, conv, first, rows, u),
            }
            self.run_mix(
                conv.packing,
                Mix {
                    out: z.add(first * g_out.width * 16),
                    x: u,
                    x_step: 16,
                    x_row: 0,
                    x_block: block,
                    rows: 1,
                    cols: rows * g_out.width,
                    first: first == 0,
                    ..mix
                },
            );
        }
    }

    /// Depthwise results of some rows of the tile, densely into `out`.
    pub(super) unsafe fn depthwise(
        &self,
        at: At,
        conv: &Conv,
        first: usize,
        rows: usize,
        out: *mut f32,
    ) {
        let Some(d) = &conv.depthwise else { return };
        let g_in = &self.plan.geometries[conv.geometry_in];
        let cols = self.plan.geometries[conv.geometry_out].width;
        let tile = self.tile(at, g_in);
        for b in 0..conv.lanes_in.len() {
            (self.kernels.depthwise)(&Depthwise {
                out: out.add(b * rows * cols * 16),
                out_step: 16,
                out_row: cols * 16,
                x: tile.add(b * g_in.block + first * conv.stride * g_in.row),
                x_step: 16 * conv.stride,
                x_row: conv.stride * g_in.row,
                rows,
                cols,
                taps: d.taps.as_ptr(),
                n_taps: d.taps.len(),
                w: self.packed(d.packed + b * d.kernel * d.kernel * 16),
                add: false,
            });
        }
    }

    /// Sums scaled planes in groups; `bias` and `add` as in [`Sum`].
    pub(super) unsafe fn sum(
        &self,
        out: *mut f32,
        n: usize,
        bias: *const f32,
        add: bool,
        planes: impl Iterator<Item = Scaled>,
    ) {
        let mut group = [(std::ptr::null(), std::ptr::null()); GROUP];
        let (mut used, mut bias, mut add) = (0, bias, add);
        let mut planes = planes.peekable();
        loop {
            while used < GROUP
                && let Some(plane) = planes.next()
            {
                group[used] = plane;
                used += 1;
            }
            let (src, n_src) = (group.as_ptr(), used);
            (self.kernels.sum)(&Sum { out, n, src, n_src, bias, add });
            if planes.peek().is_none() {
                return;
            }
            (used, bias, add) = (0, std::ptr::null(), true);
        }
    }

    unsafe fn add_bundle(&self, state: &State, bundle: &Bundle, image: usize, add: bool) {
        let plane = state.pixels() * 16;
        let x = self.activation(state.x + image * state.floats);
        for b in 0..state.blocks {
            let bias = self.small(bundle.bias + image * bundle.bias_stride + b * 16);
            let planes = state.terms[bundle.terms.clone()].iter().map(|t| {
                let scale = self.small(t.scale + image * t.scale_stride + b * 16);
                (self.raw(&t.raw, image).add(b * plane).cast_const(), scale.cast_const())
            });
            self.sum(x.add(b * plane), state.pixels(), bias, add, planes);
        }
    }
}
