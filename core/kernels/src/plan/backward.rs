//! The backward pass: states in reverse, bundle by bundle, last stages first.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "calls kernels on the places that the plan gave; an item only touches its own image or chunk"
)]

use super::convolution_back::{Incoming, Partial};
use super::exec::{At, Pass, Shared, in_teams};
use super::forward::GROUP;
use super::function::Slot;
use super::norm::Sums;
use super::{Bundle, Conv, MapNode, Pooled, State, Term};
use crate::error::Result;
use crate::graph::Weight;
use crate::primitives::{Dots, Mask, PoolBack, Rectify};
use std::ops::Range;

impl Pass<'_> {
    pub(super) unsafe fn backward(
        &self,
        gradient: &[f32],
        weights: Shared<f32>,
        ops: Shared<f64>,
        functions: &mut [Slot],
    ) -> Result<()> {
        let (states, wanted) = (&self.plan.states, self.inputs.wanted);
        let weight_target = wanted.weights.then_some(weights);
        let needed = |s: &State| wanted.at(s);
        self.groups(self.plan.group, &|_, images| {
            for state in states.iter().filter(|s| needed(s)) {
                for item in state.packing.of_images(&images) {
                    let dx = self.activation(state.dx + item * state.floats);
                    std::ptr::write_bytes(dx, 0, state.floats);
                }
            }
            images.for_each(|image| self.export_gradients(gradient, image));
        });
        let read = |m: &MapNode| m.sources.iter().any(|s| needed(&states[*s]));
        let maps_read = |s: &State| s.maps.iter().any(|m| read(&self.plan.maps[*m]));
        let mut order = states[1..]
            .iter()
            .rev()
            .filter(|s| s.follows.is_none() && (needed(s) || maps_read(s)))
            .peekable();
        let mut begun = false;
        while let Some(state) = order.next() {
            if !begun {
                self.shared_coefficients(state);
                self.groups(state.group(), &|thread, images| self.begin(thread, state, &images));
            }
            begun = false;
            if !needed(state) {
                continue;
            }
            // A pass over a state's items can begin the state before it where their groups agree.
            // Tensor code gives its gradients after the pass.
            let code = state.bundles.last().is_some_and(|b| self.has_function(b, 0));
            let alike = |s: &&State| !code && s.group() == state.packing.images;
            let before = order.peek().copied().filter(alike);
            if let Some(first) = state.bundles.first() {
                self.bundle_coefficients(state, first, weight_target, ops);
            }
            for (q, bundle) in state.bundles.iter().enumerate() {
                let below = bundle.sources.iter().any(|&s| needed(&states[s]));
                let next = state.bundles.get(q + 1);
                let through = below || wanted.weights;
                if through {
                    for depth in (1..bundle.depth).rev() {
                        self.each(state, (bundle, depth), &|thread, items, partial| {
                            self.later_stage_back(thread, state, (bundle, depth), &items, partial);
                        });
                        self.functions_back(state, bundle, depth, functions, weight_target)?;
                        self.finish_stage(bundle, depth, weight_target);
                    }
                }
                if let (None, Some(before)) = (next, before) {
                    self.shared_coefficients(before);
                    begun = true;
                }
                // An item goes on with the next bundle or state while it is in the cache.
                self.each(state, (bundle, 0), &|thread, items, partial| {
                    if through {
                        self.first_stage_back(thread, state, bundle, &items, partial);
                    }
                    for item in items {
                        if let Some(next) = next {
                            self.dots(state, next, item, false);
                        } else if let Some(before) = before {
                            self.begin(thread, before, &self.images_of(state.packing, item));
                        }
                    }
                });
                if through {
                    self.functions_back(state, bundle, 0, functions, weight_target)?;
                    self.finish_stage(bundle, 0, weight_target);
                }
                if let Some(next) = next {
                    self.bundle_coefficients(state, next, weight_target, ops);
                }
            }
        }
        Ok(())
    }

    /// Coefficients of the pools and maps of a state.
    unsafe fn shared_coefficients(&self, state: &State) {
        for target in state.maps.iter().filter_map(|m| self.plan.maps[*m].target) {
            self.pool_coefficients(&self.plan.states[target]);
        }
        self.pool_coefficients(state);
    }

    /// Completes the gradient of a state, and starts on its first bundle.
    unsafe fn begin(&self, thread: usize, state: &State, images: &Range<usize>) {
        self.maps_back(thread, state, images);
        if !self.inputs.wanted.at(state) {
            return;
        }
        for item in state.packing.of_images(images) {
            self.shared_gradients(thread, state, item);
            if let Some(first) = state.bundles.first() {
                self.dots(state, first, item, true);
            }
        }
    }

    /// All items, as many as a stage takes together; in fixed chunks if partial weight gradients are
    /// summed on the way.
    unsafe fn each(
        &self,
        state: &State,
        (bundle, depth): (&Bundle, usize),
        f: &(dyn Fn(usize, Range<usize>, Option<Partial>) + Sync),
    ) {
        let packing = state.packing;
        if !self.inputs.wanted.weights {
            let team = self.team(bundle, depth).max(packing.images);
            self.groups(team, &|thread, images| f(thread, packing.of_images(&images), None));
            return;
        }
        let team = self.whole_team(bundle, depth);
        let (items, chunks) = (packing.items(self.inputs.batch), self.chunks(packing));
        self.workers.run(chunks, &|thread, chunk| {
            let all = chunk * items / chunks..(chunk + 1) * items / chunks;
            for first in all.clone().step_by(team) {
                let partial = Partial { chunk, add: first > all.start };
                f(thread, first..all.end.min(first + team), Some(partial));
            }
        });
    }

    /// Gradients from later states through pools, identities and rectifiers; those states are
    /// finished.
    pub(super) unsafe fn shared_gradients(&self, thread: usize, state: &State, image: usize) {
        let (plane, pixels) = (state.pixels() * 16, state.pixels());
        let dx = self.activation(state.dx + image * state.floats);
        for pools in &state.pools {
            let max = self.scratch(thread, self.plan.scratch.lazy);
            let average = self.scratch(thread, self.plan.scratch.inner);
            for b in 0..state.blocks {
                let at = (image * state.blocks + b) * pools.pixels * 16;
                let gather = |pooled: &Option<Pooled>, out: *mut f32| match pooled {
                    Some(p) => {
                        let place = (image, b, state.blocks, pools.pixels);
                        self.shared_gradient(p, place, out);
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

    /// `sum over consumers of a G, + b z + c` for one block (of so many, with so many pixels) of a pool
    /// or map.
    pub(super) unsafe fn shared_gradient(
        &self,
        pooled: &Pooled,
        (image, block, blocks, pixels): (usize, usize, usize, usize),
        out: *mut f32,
    ) {
        let planes = pooled.consumers.iter().map(|k| self.consumer(*k, image, block));
        if !pooled.normalised {
            self.sum(out, pixels, std::ptr::null(), false, planes);
            return;
        }
        let z = self.activation(pooled.raw.kept + (image * blocks + block) * pixels * 16);
        let b = self.small(pooled.gradient + block * 16);
        let c = self.small(pooled.gradient + (blocks + block) * 16);
        let own = (z.cast_const(), b.cast_const());
        self.sum(out, pixels, c, false, std::iter::once(own).chain(planes));
    }

    /// Products of a finished gradient with the raw outputs of a bundle: all that its norms and
    /// weights need.
    unsafe fn dots(&self, state: &State, bundle: &Bundle, image: usize, first: bool) {
        let (plane, wanted) = (state.pixels() * 16, self.inputs.wanted);
        let used = |t: &&Term| {
            self.plan.norms[t.norm].batch.is_some() || (wanted.ops && !t.weight.is_one())
        };
        for b in 0..state.blocks {
            let g = self.activation(state.dx + image * state.floats + b * plane);
            let at = image * state.padded() + b * 16;
            let mut sum =
                if first { self.small(state.gradient_sum + at) } else { std::ptr::null_mut() };
            let mut terms = state.terms[bundle.terms.clone()].iter().filter(used).peekable();
            while terms.peek().is_some() || !sum.is_null() {
                let mut src = [std::ptr::null::<f32>(); GROUP];
                let mut dot = [std::ptr::null_mut::<f32>(); GROUP];
                let mut n_src = 0;
                for t in terms.by_ref().take(GROUP) {
                    src[n_src] = self.raw(&t.raw, image).add(b * plane);
                    dot[n_src] = self.small(t.dot + at);
                    n_src += 1;
                }
                let (src, dot) = (src.as_ptr(), dot.as_ptr());
                (self.kernels.dots)(&Dots { g, n: state.pixels(), src, n_src, dot, sum });
                sum = std::ptr::null_mut();
            }
        }
    }

    /// The incoming gradient of stage `depth` of a chain.
    pub(super) unsafe fn incoming<'a>(
        &'a self,
        state: &'a State,
        (position, term, chain): (usize, usize, &'a [usize]),
        depth: usize,
        image: usize,
    ) -> Incoming<'a> {
        if depth + 1 == chain.len() {
            let g = self.activation(state.dx + image * state.floats);
            let coefficients = &state.terms[term].coefficients;
            return Incoming { g, step: state.floats, coefficients };
        }
        let conv = &self.plan.convs[chain[depth]];
        let g = self.inner_gradient(position, image);
        Incoming { g, step: self.plan.inner_floats, coefficients: &conv.coefficients }
    }

    /// The gradient between two stages of a chain.
    unsafe fn inner_gradient(&self, position: usize, image: usize) -> *mut f32 {
        self.activation(self.plan.inner_gradients[position] + image * self.plan.inner_floats)
    }

    unsafe fn later_stage_back(
        &self,
        thread: usize,
        state: &State,
        (bundle, depth): (&Bundle, usize),
        items: &Range<usize>,
        partial: Option<Partial>,
    ) {
        for (position, (term, chain)) in bundle.chains.iter().enumerate() {
            if chain.len() <= depth {
                continue;
            }
            let (before, conv) =
                (&self.plan.convs[chain[depth - 1]], &self.plan.convs[chain[depth]]);
            if conv.function.is_some() {
                continue;
            }
            let input = self.scratch(thread, self.plan.scratch.inner);
            in_teams(conv, items, &|team| {
                if partial.is_some() {
                    At::each(thread, &team).for_each(|at| self.inner_tile(at, before, conv));
                }
                let partial = partial.map(|p| p.after(team.start - items.start));
                let incoming = self.incoming(state, (position, *term, chain), depth, team.start);
                self.conv_back(thread, conv, &team, incoming, Some((input, false)), partial);
                for at in At::each(thread, &team) {
                    let input = input.add(at.slot * self.input_floats(conv));
                    self.mask(before, conv, at.image, position, input);
                }
            });
        }
    }

    /// Through the rectifier between two stages, with the sums that the norm before it needs.
    pub(super) unsafe fn mask(
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
        items: &Range<usize>,
        partial: Option<Partial>,
    ) {
        let below = self.below(bundle);
        let input = self.scratch(thread, self.plan.scratch.input);
        for relu in [true, false] {
            let (mut started, banded) = (false, self.banded(bundle, relu));
            for (position, (term, chain)) in bundle.chains.iter().enumerate() {
                let conv = &self.plan.convs[chain[0]];
                if conv.relu != relu || conv.function.is_some() {
                    continue;
                }
                if banded {
                    for at in At::each(thread, items) {
                        let place = (position, *term, &**chain);
                        let incoming = self.incoming(state, place, 0, at.image);
                        let partial = partial.map(|p| p.after(at.slot));
                        self.banded_back(thread, bundle, conv, at.image, incoming, partial);
                    }
                    continue;
                }
                if !started && partial.is_some() {
                    At::each(thread, items)
                        .for_each(|at| self.source_tile(at, &bundle.sources, conv));
                }
                let out = below.then_some((input, started));
                let incoming = self.incoming(state, (position, *term, chain), 0, items.start);
                self.conv_back(thread, conv, items, incoming, out, partial);
                started = true;
            }
            if started && below {
                let conv = &self.plan.convs[bundle.chains[0].1[0]];
                let height = self.plan.geometries[conv.geometry_in].height;
                for at in At::each(thread, items) {
                    let input = input.add(at.slot * self.input_floats(conv));
                    self.add_to_sources(bundle, at.image, (0, height), input, relu);
                }
            }
        }
    }

    /// A convolution that has its sources for itself: a band of them at a time.
    unsafe fn banded_back(
        &self,
        thread: usize,
        bundle: &Bundle,
        conv: &Conv,
        image: usize,
        incoming: Incoming<'_>,
        partial: Option<Partial>,
    ) {
        let g = &self.plan.geometries[conv.geometry_in];
        let below = self.below(bundle);
        let x = self.scratch(thread, self.plan.scratch.depthwise);
        let input = self.scratch(thread, self.plan.scratch.input);
        let band = conv.band(g);
        for first in (0..g.height).step_by(band) {
            let rows = band.min(g.height - first);
            let block = rows * g.width * 16;
            if partial.is_some() {
                self.source_rows(image, &bundle.sources, conv.relu, (first, rows), x);
            }
            let (x, out) = ((x.cast_const(), g.width * 16, block), (input, block, false));
            let out = below.then_some(out);
            self.pointwise_back(thread, conv, image, incoming, (first, rows), x, out, partial);
            if below {
                self.add_to_sources(bundle, image, (first, rows), input, conv.relu);
            }
        }
    }

    /// Whether the gradient in one of a bundle's sources leads to a wanted one.
    pub(super) fn below(&self, bundle: &Bundle) -> bool {
        bundle.sources.iter().any(|&s| self.inputs.wanted.at(&self.plan.states[s]))
    }

    /// `dx += [x > 0] g` in some rows of the sources of a bundle.
    pub(super) unsafe fn add_to_sources(
        &self,
        bundle: &Bundle,
        image: usize,
        (first, rows): (usize, usize),
        mut g: *const f32,
        relu: bool,
    ) {
        for &s in &bundle.sources {
            let s = &self.plan.states[s];
            let (at, n) = (first * s.width * 16, rows * s.width);
            for b in 0..s.blocks {
                if self.inputs.wanted.at(s) {
                    let at = image * s.floats + b * s.pixels() * 16 + at;
                    let x = self.activation(s.x + at).cast_const();
                    (self.kernels.rectify)(&Rectify {
                        dx: self.activation(s.dx + at),
                        g,
                        x: if relu { x } else { std::ptr::null() },
                        n,
                    });
                }
                g = g.add(n * 16);
            }
        }
    }
}
