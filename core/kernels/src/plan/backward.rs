//! The backward pass: states in reverse, bundle by bundle, last stages first.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "calls kernels on the places that the plan gave; an item only touches its own image or chunk"
)]

use super::exec::{Pass, Shared, Wanted};
use super::forward::GROUP;
use super::norm::Sums;
use super::{Bundle, Coefficients, Conv, Pooled, State};
use crate::graph::{Export, Weight};
use crate::primitives::{
    Depthwise, DepthwiseWeight, Dots, Lazy, Mask, Mix, MixWeight, PoolBack, Rectify,
};

/// A chunk of partial weight gradients, and whether an image before this one has written to it.
#[derive(Clone, Copy)]
struct Partial {
    chunk: usize,
    add: bool,
}

/// The gradient of a convolution's (normalised) output and how to get that of the raw output from
/// it.
#[derive(Clone, Copy)]
struct Incoming<'a> {
    g: *const f32,
    coefficients: &'a Coefficients,
}

impl Pass<'_> {
    pub(super) unsafe fn backward(
        &self,
        exports: &[Export],
        gradient: &[f32],
        wanted: Wanted,
        weights: Shared<f32>,
        ops: Shared<f64>,
    ) {
        let states = &self.plan.states;
        let weight_target = wanted.weights.then_some(weights);
        let needed = |s: &State| (wanted.weights && s.has_weights) || (wanted.ops && s.has_ops);
        self.images(&|_, image| {
            for state in states.iter().filter(|s| needed(s)) {
                let dx = self.activation(state.dx + image * state.floats);
                std::ptr::write_bytes(dx, 0, state.floats);
            }
            self.export_gradients(exports, gradient, image);
        });
        for state in states[1..].iter().rev().filter(|s| needed(s)) {
            self.pool_coefficients(state);
            self.images(&|thread, image| {
                self.shared_gradients(thread, state, image);
                if let Some(first) = state.bundles.first() {
                    self.dots(state, first, image, true);
                }
            });
            if let Some(first) = state.bundles.first() {
                self.bundle_coefficients(state, first, weight_target, ops);
            }
            for (q, bundle) in state.bundles.iter().enumerate() {
                let below = bundle.sources.iter().any(|&s| needed(&states[s]));
                let next = state.bundles.get(q + 1);
                let through = below || wanted.weights;
                if through {
                    for depth in (1..bundle.depth).rev() {
                        self.each(wanted, &|thread, image, partial| {
                            self.later_stage_back(thread, state, bundle, depth, image, partial);
                        });
                        self.finish_stage(bundle, depth, weight_target);
                    }
                }
                self.each(wanted, &|thread, image, partial| {
                    if through {
                        self.first_stage_back(thread, state, bundle, image, partial, &needed);
                    }
                    if let Some(next) = next {
                        self.dots(state, next, image, false);
                    }
                });
                if through {
                    self.finish_stage(bundle, 0, weight_target);
                }
                if let Some(next) = next {
                    self.bundle_coefficients(state, next, weight_target, ops);
                }
            }
        }
    }

    /// All images; in fixed chunks if partial weight gradients are summed on the way.
    unsafe fn each(&self, wanted: Wanted, f: &(dyn Fn(usize, usize, Option<Partial>) + Sync)) {
        if !wanted.weights {
            self.images(&|thread, image| f(thread, image, None));
            return;
        }
        let (images, chunks) = (self.inputs.batch, self.chunks());
        self.workers.run(chunks, &|thread, chunk| {
            let first = chunk * images / chunks;
            for image in first..(chunk + 1) * images / chunks {
                f(thread, image, Some(Partial { chunk, add: image > first }));
            }
        });
    }

    unsafe fn export_gradients(&self, exports: &[Export], gradient: &[f32], image: usize) {
        let mut at = 0;
        for export in exports {
            let states = || export.states().iter().map(|s| &self.plan.states[s.0]);
            let channels: usize = states().map(|s| s.channels).sum();
            let pixels = states().next().map_or(0, State::pixels);
            let pooled = matches!(export, Export::Pooled { .. });
            let each = channels * if pooled { 1 } else { pixels };
            let mut g = &gradient[at + image * each..at + (image + 1) * each];
            for s in states() {
                for c in 0..s.channels {
                    let place = image * s.floats + c / 16 * pixels * 16 + c % 16;
                    let (x, dx) = (self.activation(s.x + place), self.activation(s.dx + place));
                    let pass = |p: usize| !export.relu() || *x.add(p * 16) > 0.0;
                    let used = if pooled { 1 } else { pixels };
                    for p in 0..pixels {
                        let value = if pooled { g[0] / pixels as f32 } else { g[p] };
                        if pass(p) {
                            *dx.add(p * 16) += value;
                        }
                    }
                    g = &g[used..];
                }
            }
            at += self.inputs.batch * each;
        }
    }

    /// Gradients from later states through pools, identities and rectifiers; those states are
    /// finished.
    unsafe fn shared_gradients(&self, thread: usize, state: &State, image: usize) {
        let (plane, pixels) = (state.pixels() * 16, state.pixels());
        let dx = self.activation(state.dx + image * state.floats);
        for pools in &state.pools {
            let max = self.scratch(thread, self.plan.scratch.lazy);
            let average = self.scratch(thread, self.plan.scratch.inner);
            for b in 0..state.blocks {
                let at = (image * state.blocks + b) * pools.pixels * 16;
                let gather = |pooled: &Option<Pooled>, out: *mut f32| match pooled {
                    Some(p) => {
                        self.pool_gradient(state, p, pools.pixels, image, b, out);
                        out.cast_const()
                    }
                    None => std::ptr::null(),
                };
                (self.kernels.pool_back)(&PoolBack {
                    dx: dx.add(b * plane),
                    height: state.height,
                    width: state.width,
                    stride: pools.stride,
                    max: gather(&pools.max, max),
                    index: self.activation(pools.index + at),
                    average: gather(&pools.average, average),
                });
            }
        }
        for b in 0..state.blocks {
            let planes = |consumers: &[(usize, usize)], add, out: *mut f32| {
                let planes = consumers.iter().map(|c| self.consumer(*c, image, b));
                self.sum(out, pixels, std::ptr::null(), add, planes);
            };
            if !state.identities.is_empty() {
                planes(&state.identities, true, dx.add(b * plane));
            }
            if !state.rectified_consumers.is_empty() {
                let g = self.scratch(thread, self.plan.scratch.input);
                planes(&state.rectified_consumers, false, g);
                let x = self.activation(state.x + image * state.floats + b * plane);
                (self.kernels.rectify)(&Rectify { dx: dx.add(b * plane), g, x, n: pixels });
            }
        }
    }

    /// The gradient plane of a term's state, and the factors it comes back with.
    unsafe fn consumer(
        &self,
        (state, term): (usize, usize),
        image: usize,
        block: usize,
    ) -> (*const f32, *const f32) {
        let state = &self.plan.states[state];
        let c = &state.terms[term].coefficients;
        let dx = state.dx + image * state.floats + block * state.pixels() * 16;
        let a = self.small(c.a + image * c.a_stride + block * 16);
        (self.activation(dx).cast_const(), a.cast_const())
    }

    /// `sum over consumers of a G, + b z + c` for one block of a pool.
    unsafe fn pool_gradient(
        &self,
        state: &State,
        pooled: &Pooled,
        pixels: usize,
        image: usize,
        block: usize,
        out: *mut f32,
    ) {
        let z = self.activation(pooled.raw.kept + (image * state.blocks + block) * pixels * 16);
        let b = self.small(pooled.gradient + block * 16);
        let c = self.small(pooled.gradient + state.padded() + block * 16);
        let own = (z.cast_const(), b.cast_const());
        let planes = pooled.consumers.iter().map(|k| self.consumer(*k, image, block));
        self.sum(out, pixels, c, false, std::iter::once(own).chain(planes));
    }

    /// Products of a finished gradient with the raw outputs of a bundle: all that its norms and
    /// weights need.
    unsafe fn dots(&self, state: &State, bundle: &Bundle, image: usize, first: bool) {
        let plane = state.pixels() * 16;
        for b in 0..state.blocks {
            let g = self.activation(state.dx + image * state.floats + b * plane);
            let at = image * state.padded() + b * 16;
            let mut sum =
                if first { self.small(state.gradient_sum + at) } else { std::ptr::null_mut() };
            for terms in state.terms[bundle.terms.clone()].chunks(GROUP) {
                let mut src = [std::ptr::null::<f32>(); GROUP];
                let mut dot = [std::ptr::null_mut::<f32>(); GROUP];
                for (q, t) in terms.iter().enumerate() {
                    src[q] = self.raw(&t.raw, image).add(b * plane);
                    dot[q] = self.small(t.dot + at);
                }
                let (src, dot, n_src) = (src.as_ptr(), dot.as_ptr(), terms.len());
                (self.kernels.dots)(&Dots { g, n: state.pixels(), src, n_src, dot, sum });
                sum = std::ptr::null_mut();
            }
        }
    }

    /// The incoming gradient of stage `depth` of a chain.
    unsafe fn incoming<'a>(
        &'a self,
        state: &'a State,
        (position, term, chain): (usize, usize, &'a [usize]),
        depth: usize,
        image: usize,
    ) -> Incoming<'a> {
        if depth + 1 == chain.len() {
            let g = self.activation(state.dx + image * state.floats);
            return Incoming { g, coefficients: &state.terms[term].coefficients };
        }
        let conv = &self.plan.convs[chain[depth]];
        let g = self.inner_gradient(position, image);
        Incoming { g, coefficients: &conv.coefficients }
    }

    /// The gradient between two stages of a chain.
    unsafe fn inner_gradient(&self, position: usize, image: usize) -> *mut f32 {
        self.activation(self.plan.inner_gradients[position] + image * self.plan.inner_floats)
    }

    unsafe fn later_stage_back(
        &self,
        thread: usize,
        state: &State,
        bundle: &Bundle,
        depth: usize,
        image: usize,
        partial: Option<Partial>,
    ) {
        for (position, (term, chain)) in bundle.chains.iter().enumerate() {
            if chain.len() <= depth {
                continue;
            }
            let (before, conv) =
                (&self.plan.convs[chain[depth - 1]], &self.plan.convs[chain[depth]]);
            if partial.is_some() {
                self.inner_tile(thread, image, before, conv);
            }
            let incoming = self.incoming(state, (position, *term, chain), depth, image);
            let input = self.scratch(thread, self.plan.scratch.inner);
            self.conv_back(thread, conv, image, incoming, Some((input, false)), partial);
            self.mask(before, conv, image, position, input);
        }
    }

    /// Through the rectifier between two stages, with the sums that the norm before it needs.
    unsafe fn mask(
        &self,
        before: &Conv,
        conv: &Conv,
        image: usize,
        position: usize,
        g: *const f32,
    ) {
        let geometry = &self.plan.geometries[conv.geometry_in];
        let pixels = geometry.height * geometry.width;
        let norm = &self.plan.norms[before.norm];
        let out = self.inner_gradient(position, image);
        let z = self.raw(&before.raw, image);
        for b in 0..before.lanes_out.len() {
            let at = b * pixels * 16;
            let sums = before.sums + image * 2 * norm.padded + b * 16;
            (self.kernels.mask)(&Mask {
                g: g.add(at),
                out: out.add(at),
                z: z.add(at),
                n: pixels,
                s: self.small(norm.values + 2 * norm.padded + b * 16),
                t: self.small(norm.values + 3 * norm.padded + b * 16),
                relu: conv.relu,
                sum: self.small(sums),
                dot: self.small(sums + norm.padded),
            });
        }
    }

    /// After stage `depth`: its weight gradients, and the lazy gradients of the stage before.
    unsafe fn finish_stage(&self, bundle: &Bundle, depth: usize, weights: Option<Shared<f32>>) {
        let chains = || bundle.chains.iter().filter(|(_, c)| c.len() > depth);
        // A bundle of pools alone has no stage.
        if let (Some(weights), Some(stage)) = (weights, bundle.stages.get(depth)) {
            self.gather_gradients(stage, weights);
        }
        if depth == 0 {
            return;
        }
        for (_, chain) in chains() {
            let conv = &self.plan.convs[chain[depth - 1]];
            let norm = &self.plan.norms[conv.norm];
            let sums =
                Sums { gradient: conv.sums, dot: conv.sums + norm.padded, step: 2 * norm.padded };
            self.coefficients(norm, Weight::One, sums, &conv.coefficients, weights, None);
        }
    }

    unsafe fn first_stage_back(
        &self,
        thread: usize,
        state: &State,
        bundle: &Bundle,
        image: usize,
        partial: Option<Partial>,
        needed: &dyn Fn(&State) -> bool,
    ) {
        let below = bundle.sources.iter().any(|&s| needed(&self.plan.states[s]));
        let input = self.scratch(thread, self.plan.scratch.input);
        for relu in [true, false] {
            let mut started = false;
            for (position, (term, chain)) in bundle.chains.iter().enumerate() {
                let conv = &self.plan.convs[chain[0]];
                if conv.relu != relu {
                    continue;
                }
                if !started && partial.is_some() {
                    self.source_tile(thread, image, &bundle.sources, conv);
                }
                let incoming = self.incoming(state, (position, *term, chain), 0, image);
                let out = below.then_some((input, started));
                self.conv_back(thread, conv, image, incoming, out, partial);
                started = true;
            }
            if started && below {
                self.add_to_sources(bundle, image, input, relu, needed);
            }
        }
    }

    /// `dx += [x > 0] g` for the sources of a bundle.
    unsafe fn add_to_sources(
        &self,
        bundle: &Bundle,
        image: usize,
        mut g: *const f32,
        relu: bool,
        needed: &dyn Fn(&State) -> bool,
    ) {
        for &s in &bundle.sources {
            let s = &self.plan.states[s];
            if needed(s) {
                let x = self.activation(s.x + image * s.floats).cast_const();
                (self.kernels.rectify)(&Rectify {
                    dx: self.activation(s.dx + image * s.floats),
                    g,
                    x: if relu { x } else { std::ptr::null() },
                    n: s.floats / 16,
                });
            }
            g = g.add(s.floats);
        }
    }

    /// Gradients of one convolution: to its input (`out`, written or added to) and to its weights.
    /// The tile must hold its input if weight gradients are wanted.
    unsafe fn conv_back(
        &self,
        thread: usize,
        conv: &Conv,
        image: usize,
        incoming: Incoming<'_>,
        out: Option<(*mut f32, bool)>,
        partial: Option<Partial>,
    ) {
        if conv.depthwise.is_some() {
            self.separable_back(thread, conv, image, incoming, out, partial);
        } else {
            self.dense_back(thread, conv, image, incoming, out, partial);
        }
    }

    /// Gradient of the raw output: densely, or into the gradient tile (`row`, `block`: of the
    /// target).
    unsafe fn lazy(
        &self,
        conv: &Conv,
        image: usize,
        incoming: Incoming<'_>,
        (out, row, block): (*mut f32, usize, usize),
    ) {
        let geometry = &self.plan.geometries[conv.geometry_out];
        let (plane, c) = (geometry.height * geometry.width * 16, incoming.coefficients);
        let z = self.raw(&conv.raw, image);
        for b in 0..conv.lanes_out.len() {
            (self.kernels.lazy)(&Lazy {
                out: out.add(b * block),
                out_row: row,
                g: incoming.g.add(b * plane),
                z: z.add(b * plane),
                rows: geometry.height,
                cols: geometry.width,
                a: self.small(c.a + image * c.a_stride + b * 16),
                b: self.small(c.b + b * 16),
                c: self.small(c.c + b * 16),
            });
        }
    }

    unsafe fn separable_back(
        &self,
        thread: usize,
        conv: &Conv,
        image: usize,
        incoming: Incoming<'_>,
        out: Option<(*mut f32, bool)>,
        partial: Option<Partial>,
    ) {
        let Some(d) = &conv.depthwise else { return };
        let g_in = &self.plan.geometries[conv.geometry_in];
        let g_out = &self.plan.geometries[conv.geometry_out];
        let (pixels, taps) = (g_out.height * g_out.width, d.kernel * d.kernel);
        let dz = self.scratch(thread, self.plan.scratch.lazy);
        self.lazy(conv, image, incoming, (dz, g_out.width * 16, pixels * 16));
        if let Some(p) = partial {
            // The depthwise result again: cheaper than having stored it.
            let u = self.scratch(thread, self.plan.scratch.depthwise);
            self.depthwise(thread, conv, 0, g_out.height, u);
            (self.kernels.mix_weight)(&MixWeight {
                dw: self.partial(p.chunk, conv.partial + conv.partial_mix),
                g: dz,
                g_row: 0,
                g_block: pixels * 16,
                x: u,
                x_step: 16,
                x_row: 0,
                x_block: pixels * 16,
                rows: 1,
                cols: pixels,
                blocks_out: conv.lanes_out.len(),
                blocks_in: conv.lanes_in.len(),
                lanes: conv.lanes_out.as_ptr(),
                add: p.add,
            });
        }
        let du = self.gradient_tile(thread, g_out);
        (self.kernels.mix)(&Mix {
            out: du,
            out_step: 16,
            out_row: g_out.row,
            out_block: g_out.block,
            x: dz,
            x_step: 16,
            x_row: g_out.width * 16,
            x_block: pixels * 16,
            rows: g_out.height,
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
        });
        let tile = self.tile(thread, g_in);
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
                let at = (b * g_in.height + parity.row) * g_in.width + parity.col;
                (self.kernels.depthwise)(&Depthwise {
                    out: out.add(at * 16),
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

    unsafe fn dense_back(
        &self,
        thread: usize,
        conv: &Conv,
        image: usize,
        incoming: Incoming<'_>,
        out: Option<(*mut f32, bool)>,
        partial: Option<Partial>,
    ) {
        let g_in = &self.plan.geometries[conv.geometry_in];
        let g_out = &self.plan.geometries[conv.geometry_out];
        let dz = self.gradient_tile(thread, g_out);
        self.lazy(conv, image, incoming, (dz, g_out.row, g_out.block));
        let (blocks_in, blocks_out) = (conv.lanes_in.len(), conv.lanes_out.len());
        if let Some(p) = partial {
            let tile = self.tile(thread, g_in);
            for (t, tap) in conv.taps.iter().enumerate() {
                let at = conv.partial + conv.partial_mix + t * blocks_in * blocks_out * 256;
                (self.kernels.mix_weight)(&MixWeight {
                    dw: self.partial(p.chunk, at),
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
                });
            }
        }
        let Some((out, add)) = out else { return };
        for parity in &conv.parities {
            (self.kernels.mix)(&Mix {
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
            });
        }
    }
}
