//! Graph to plan: gives everything its place.

use std::collections::HashMap;
use std::sync::Arc;

use super::packing::{Packing, packings};
use super::{
    Bundle, Coefficients, Conv, Depthwise, Function, Geometry, MixWeights, Norm, Output, Parity,
    Plan, Pooled, Pools, Raw, Run, Scratch, Sizes, State, Term,
};
use crate::chain;
use crate::chain::{Chain, Stage, out_size};
use crate::graph::{Graph, Weight};
use crate::graph::{StateId, Term as GraphTerm};
use crate::primitives::{Tap, room};

pub(super) struct Compiler<'a> {
    graph: &'a Graph,
    pub(super) plan: Plan,
    /// Raw outputs of passes without gradients: one place for each convolution of a bundle.
    passing: Vec<usize>,
    passing_floats: usize,
}

pub(super) fn compile(graph: &Graph, max_batch: usize) -> Plan {
    let stages = || {
        graph.states.iter().flat_map(|s| &s.terms).flat_map(|(_, chain)| match chain {
            Chain::Convs(stages) => stages.as_slice(),
            _ => &[],
        })
    };
    let out_floats = |s: &Stage| s.output.0.div_ceil(16) * s.output.1 * s.output.2 * 16;
    let mut c = Compiler {
        graph,
        plan: Plan {
            max_batch,
            group: 1,
            pad: stages().map(Stage::reach).max().unwrap_or(0),
            states: Vec::new(),
            convs: Vec::new(),
            norms: Vec::new(),
            maps: Vec::new(),
            geometries: Vec::new(),
            outputs: Output::all(graph),
            functions: 0,
            function_floats: 0,
            shared_weights: overlapping(graph),
            inner_gradients: Vec::new(),
            inner_floats: 0,
            sizes: Sizes::default(),
            scratch: Scratch::default(),
        },
        passing: Vec::new(),
        passing_floats: stages().map(out_floats).max().unwrap_or(0),
    };
    for (state, packing) in graph.states.iter().zip(packings(graph)) {
        c.plan.group = c.plan.group.max(packing.images);
        let (channels, height, width) = state.shape;
        let blocks = channels.div_ceil(16);
        let floats = blocks * height * width * 16;
        let (x, dx) = (c.items(packing, floats), c.items(packing, floats));
        let gradient_sum = c.small(max_batch * blocks * 16);
        c.plan.states.push(State {
            packing,
            group: 1,
            channels,
            blocks,
            height,
            width,
            floats,
            x,
            dx,
            terms: Vec::new(),
            bundles: Vec::new(),
            pools: Vec::new(),
            maps: Vec::new(),
            follows: None,
            identities: Vec::new(),
            rectified: None,
            rectified_consumers: Vec::new(),
            gradient_sum,
            has_weights: false,
            has_ops: false,
        });
    }
    for (index, state) in graph.computed() {
        if let [(term, Chain::Map { map, norm: None, .. })] = &*state.terms
            && term.weight.is_one()
        {
            c.whole_map(index, &term.input, map);
            continue;
        }
        for bundle in bundles(&state.terms) {
            c.bundle(index, &bundle);
        }
    }
    c.scratch();
    c.plan
}

/// Whether two parameters lie on top of each other.
fn overlapping(graph: &Graph) -> bool {
    let terms = graph.states.iter().flat_map(|s| &s.terms);
    let mut used: Vec<_> = terms.flat_map(|(_, chain)| chain.weights()).collect();
    used.sort_unstable();
    used.windows(2).any(|w| w[0].0 + w[0].1 > w[1].0)
}

/// Terms by input, in order of first appearance. Terms without a convolution need no tile of their
/// input: bundles that have no others are joined to one.
fn bundles(terms: &[(GraphTerm, Chain)]) -> Vec<Vec<&(GraphTerm, Chain)>> {
    let mut position: HashMap<&[StateId], usize> = HashMap::new();
    let mut bundles: Vec<Vec<_>> = Vec::new();
    for term in terms {
        let at = *position.entry(&term.0.input).or_insert(bundles.len());
        if at == bundles.len() {
            bundles.push(Vec::new());
        }
        bundles[at].push(term);
    }
    let convolves = |b: &Vec<&(GraphTerm, Chain)>| b.iter().any(|t| matches!(t.1, Chain::Convs(_)));
    let (mut bundles, others): (Vec<_>, Vec<_>) = bundles.into_iter().partition(convolves);
    if !others.is_empty() {
        bundles.push(others.concat());
    }
    bundles
}

fn lanes(channels: usize) -> Vec<u32> {
    (0..channels.div_ceil(16)).map(|b| (channels - 16 * b).min(16) as u32).collect()
}

impl Compiler<'_> {
    pub(super) fn activations(&mut self, floats_of_an_image: usize) -> usize {
        let at = self.plan.sizes.activations;
        self.plan.sizes.activations += floats_of_an_image * self.plan.max_batch;
        at
    }

    /// The same for packed images.
    pub(super) fn items(&mut self, packing: Packing, floats_of_an_item: usize) -> usize {
        let at = self.plan.sizes.activations;
        self.plan.sizes.activations += floats_of_an_item * packing.items(self.plan.max_batch);
        at
    }

    pub(super) fn small(&mut self, floats: usize) -> usize {
        let at = self.plan.sizes.small;
        self.plan.sizes.small += floats.next_multiple_of(16);
        at
    }

    fn packed(&mut self, floats: usize) -> usize {
        let at = self.plan.sizes.packed;
        self.plan.sizes.packed += floats;
        at
    }

    fn geometry(&mut self, height: usize, width: usize) -> usize {
        let known =
            self.plan.geometries.iter().position(|g| (g.height, g.width) == (height, width));
        known.unwrap_or_else(|| {
            let pad = self.plan.pad;
            let row = (width + 2 * pad) * 16;
            self.plan.geometries.push(Geometry {
                height,
                width,
                row,
                block: (height + 2 * pad) * row,
                origin: pad * row + pad * 16,
                tile_blocks: 0,
                tile: 0,
                grad_blocks: 0,
                grad: 0,
                team: 1,
            });
            self.plan.geometries.len() - 1
        })
    }

    pub(super) fn norm(
        &mut self,
        batch: Option<chain::Norm>,
        (packing, channels, pixels): (Packing, usize, usize),
        part: Option<usize>,
    ) -> usize {
        let padded = channels.next_multiple_of(16);
        let part = part.unwrap_or_else(|| self.small(3 * padded * self.plan.max_batch));
        let values = self.small(4 * padded);
        self.plan.norms.push(Norm { batch, packing, channels, padded, pixels, part, values });
        self.plan.norms.len() - 1
    }

    fn coefficients(&mut self, padded: usize, per_image: bool) -> Coefficients {
        let (a_stride, copies) = if per_image { (padded, self.plan.max_batch) } else { (0, 1) };
        let room = 2 * padded;
        Coefficients {
            a: self.small(room * copies),
            a_stride,
            b: self.small(room),
            c: self.small(room),
        }
    }

    fn bundle(&mut self, state: usize, terms: &[&(GraphTerm, Chain)]) {
        let sources: Vec<usize> = terms[0].0.input.iter().map(|id| id.0).collect();
        let first = self.plan.states[state].terms.len();
        let mut chains = Vec::new();
        let mut convs_so_far = 0;
        for (term, chain) in terms {
            let sources: Vec<usize> = term.input.iter().map(|id| id.0).collect();
            let index = self.plan.states[state].terms.len();
            let (raw, norm) = match chain {
                Chain::Identity { relu } => self.identity(state, index, sources[0], *relu),
                Chain::Pool { max, stride, norm, .. } => {
                    self.pool((state, index), sources[0], *max, *stride, *norm)
                }
                Chain::Map { map, norm, output } => {
                    self.map((state, index), &term.input, map, *norm, *output)
                }
                Chain::Convs(stages) => {
                    let mut chain = Vec::new();
                    for (q, stage) in stages.iter().enumerate() {
                        let first_sources = if q == 0 { Some(&*sources) } else { None };
                        let last = q + 1 == stages.len();
                        let packing = self.plan.states[state].packing;
                        chain.push(self.conv(stage, packing, first_sources, last, convs_so_far));
                        convs_so_far += 1;
                    }
                    let conv = &self.plan.convs[chain[chain.len() - 1]];
                    let found = (conv.raw, conv.norm);
                    chains.push((index, chain));
                    found
                }
            };
            let padded = self.plan.states[state].padded();
            let per_image = matches!(term.weight, Weight::PerImage(_));
            let (scale_stride, copies) =
                if per_image { (padded, self.plan.max_batch) } else { (0, 1) };
            let term_plan = Term {
                raw,
                norm,
                weight: term.weight,
                scale: self.small(padded * copies),
                scale_stride,
                coefficients: self.coefficients(padded, per_image),
                dot: self.small(padded * self.plan.max_batch),
            };
            let below = sources.iter().map(|&s| &self.plan.states[s]);
            let (mut weights, mut ops) = (!chain.weights().is_empty(), !term.weight.is_one());
            for s in below {
                weights |= s.has_weights;
                ops |= s.has_ops;
            }
            let target = &mut self.plan.states[state];
            target.terms.push(term_plan);
            target.has_weights |= weights;
            target.has_ops |= ops;
        }
        self.place_partial_gradients(&chains);
        let per_image = terms.iter().any(|(t, _)| matches!(t.weight, Weight::PerImage(_)));
        let padded = self.plan.states[state].padded();
        let (bias_stride, copies) = if per_image { (padded, self.plan.max_batch) } else { (0, 1) };
        let bias = self.small(padded * copies);
        let depth = chains.iter().map(|(_, c)| c.len()).max().unwrap_or(0);
        let of_depth = |d: usize| chains.iter().filter_map(|(_, c)| c.get(d).copied()).collect();
        let stages = (0..depth).map(of_depth).collect();
        let terms = first..self.plan.states[state].terms.len();
        let bundle = Bundle { sources, terms, chains, stages, depth, bias, bias_stride };
        self.plan.states[state].bundles.push(bundle);
    }

    fn identity(&mut self, state: usize, term: usize, source: usize, relu: bool) -> (Raw, usize) {
        let s = &self.plan.states[source];
        let (packing, channels, pixels, floats) = (s.packing, s.channels, s.pixels(), s.floats);
        let raw = if relu {
            let raw = s.rectified.unwrap_or_else(|| {
                let at = self.items(packing, floats);
                Raw::kept(at, floats)
            });
            let s = &mut self.plan.states[source];
            s.rectified = Some(raw);
            s.rectified_consumers.push((state, term));
            raw
        } else {
            let x = s.x;
            self.plan.states[source].identities.push((state, term));
            Raw::kept(x, floats)
        };
        (raw, self.norm(None, (packing, channels, pixels), Some(0)))
    }

    fn pool(
        &mut self,
        consumer: (usize, usize),
        source: usize,
        max: bool,
        stride: usize,
        norm: Option<chain::Norm>,
    ) -> (Raw, usize) {
        let s = &self.plan.states[source];
        let (packing, channels, padded) = (s.packing, s.channels, s.padded());
        let pixels = out_size(s.height, stride) * out_size(s.width, stride);
        let floats = padded * pixels;
        let same = |p: &Pools| p.stride == stride;
        let at = s.pools.iter().position(same).unwrap_or_else(|| {
            let pools = &mut self.plan.states[source].pools;
            pools.push(Pools { stride, max: None, average: None, index: 0, pixels });
            pools.len() - 1
        });
        let known = &self.plan.states[source].pools[at];
        if (if max { &known.max } else { &known.average }).is_none() {
            let kept = self.items(packing, floats);
            let index = if max { self.items(packing, floats) } else { 0 };
            let new = Pooled {
                raw: Raw::kept(kept, floats),
                part: self.small(3 * padded * self.plan.max_batch),
                gradient: self.small(2 * padded),
                consumers: Vec::new(),
                normalised: false,
            };
            let pools = &mut self.plan.states[source].pools[at];
            if max {
                (pools.max, pools.index) = (Some(new), index);
            } else {
                pools.average = Some(new);
            }
        }
        let pools = &mut self.plan.states[source].pools[at];
        let slot = if max { &mut pools.max } else { &mut pools.average };
        let pooled = slot.as_mut().expect("just set");
        pooled.consumers.push(consumer);
        pooled.normalised |= norm.is_some();
        let (raw, part) = (pooled.raw, pooled.part);
        (raw, self.norm(norm, (packing, channels, pixels), Some(part)))
    }

    fn conv(
        &mut self,
        stage: &Stage,
        packing: Packing,
        sources: Option<&[usize]>,
        last: bool,
        position: usize,
    ) -> usize {
        let (inputs, h, w) = stage.input;
        let (outputs, ho, wo) = stage.output;
        let (geometry_in, geometry_out) = (self.geometry(h, w), self.geometry(ho, wo));
        let (runs, lanes_in) = match sources {
            _ if packing.is_packed() => {
                let run = |q| Run { channel: 0, lane: q * packing.width, len: inputs };
                ((0..packing.images).map(run).collect(), lanes(inputs))
            }
            Some(sources) => self.concatenation(sources),
            None => (vec![Run { channel: 0, lane: 0, len: inputs }], lanes(inputs)),
        };
        let (blocks_in, blocks_out) = (lanes_in.len(), outputs.div_ceil(16));
        let stride = stage.conv.stride();
        let (gi, go) = (self.plan.geometries[geometry_in], self.plan.geometries[geometry_out]);
        let at_tap = |t: usize| t * blocks_in * blocks_out * 256;
        let (depthwise, weights, offsets) = match stage.conv {
            chain::Conv::Separable { kernel, dilation, depthwise, pointwise, .. } => {
                let offsets = stencil(kernel, dilation);
                let at = |t: usize| t * 16;
                let depthwise = Depthwise {
                    kernel,
                    dilation,
                    weight: depthwise,
                    packed: self.packed(blocks_in * kernel * kernel * 16),
                    taps: taps(&offsets, gi.row, at),
                    parities: parities(&offsets, stride, (h, w), go.row, at),
                };
                (Some(depthwise), MixWeights::Dense(pointwise), vec![(0, 0)])
            }
            chain::Conv::Dense { kernel, weight, .. } => {
                (None, MixWeights::Dense(weight), stencil(kernel, 1))
            }
            chain::Conv::Factorized { even, odd } => {
                let weights = MixWeights::Factorized { even, odd, half: outputs / 2 };
                (None, weights, vec![(0, 0), (1, 1)])
            }
            chain::Conv::Function { .. } => (None, MixWeights::Dense(0), vec![]),
        };
        let parities = match depthwise {
            Some(_) => Vec::new(),
            None => parities(&offsets, stride, (h, w), go.row, at_tap),
        };
        let winograd = stage.winograd().filter(|_| !packing.is_packed());
        let floats = blocks_out * ho * wo * 16;
        let kept = self.items(packing, floats);
        if position == self.passing.len() {
            let place = self.activations(self.passing_floats);
            self.passing.push(place);
        }
        let (sums, coefficients) = if last {
            (0, Coefficients { a: 0, a_stride: 0, b: 0, c: 0 })
        } else {
            let padded = blocks_out * 16;
            (self.small(2 * padded * self.plan.max_batch), self.coefficients(padded, false))
        };
        let function = self.function(stage);
        let mut conv = Conv {
            packing,
            function,
            relu: stage.relu,
            stride,
            taps: taps(&offsets, gi.row, at_tap),
            parities,
            winograd,
            weights,
            inputs,
            outputs,
            runs,
            lanes_in,
            lanes_out: lanes(outputs),
            packed: 0,
            packed_back: 0,
            geometry_in,
            geometry_out,
            raw: Raw {
                kept,
                floats,
                passing: self.passing[position],
                passing_step: self.passing_floats,
            },
            norm: self.norm(stage.norm, (packing, outputs, ho * wo), None),
            partial: 0,
            partial_mix: depthwise.as_ref().map_or(0, |d| blocks_in * d.kernel * d.kernel * 16),
            depthwise,
            sums,
            coefficients,
        };
        if conv.function.is_some() {
            self.plan.convs.push(conv);
            return self.plan.convs.len() - 1;
        }
        conv.packed = self.packed(conv.mix_floats());
        conv.packed_back = self.packed(conv.back_floats());
        self.reserve_tiles(&conv);
        self.plan.convs.push(conv);
        self.plan.convs.len() - 1
    }

    /// Room for the input and the gradient of a convolution in the tiles of its geometries.
    fn reserve_tiles(&mut self, conv: &Conv) {
        let (blocks_in, blocks_out) = (conv.lanes_in.len(), conv.lanes_out.len());
        let input = &mut self.plan.geometries[conv.geometry_in];
        input.tile_blocks = input.tile_blocks.max(blocks_in);
        input.team = input.team.max(conv.team());
        // After a depthwise part the gradient of its result is in the tile, else that of the
        // output.
        let grad_blocks = if conv.depthwise.is_some() { blocks_in } else { blocks_out };
        let output = &mut self.plan.geometries[conv.geometry_out];
        output.grad_blocks = output.grad_blocks.max(grad_blocks);
        output.team = output.team.max(conv.team());
    }

    fn function(&mut self, stage: &Stage) -> Option<Function> {
        let chain::Conv::Function { function, weight, len } = stage.conv else { return None };
        let floats = |(c, h, w): (usize, usize, usize)| c * h * w;
        // Both with their gradients.
        self.plan.function_floats += 2 * (floats(stage.input) + floats(stage.output));
        self.plan.functions += 1;
        let (code, slot) = (Arc::clone(&self.graph.functions[function]), self.plan.functions - 1);
        Some(Function { code, slot, weight, len })
    }

    fn concatenation(&self, sources: &[usize]) -> (Vec<Run>, Vec<u32>) {
        let (mut runs, mut used, mut channel) = (Vec::new(), Vec::new(), 0);
        for &s in sources {
            let len = self.plan.states[s].channels;
            runs.push(Run { channel, lane: used.len() * 16, len });
            used.extend(lanes(len));
            channel += len;
        }
        (runs, used)
    }

    /// Stage by stage, the convolutions of a bundle lie side by side in a chunk of partial
    /// gradients.
    fn place_partial_gradients(&mut self, chains: &[(usize, Vec<usize>)]) {
        // Functions need none.
        let depths = chains.iter().map(|(_, c)| c.len()).max().unwrap_or(0);
        for depth in 0..depths {
            let mut at = 0;
            for conv in chains.iter().filter_map(|(_, c)| c.get(depth)) {
                let conv = &mut self.plan.convs[*conv];
                conv.partial = at;
                at += conv.partial_mix + conv.back_floats();
            }
            self.plan.sizes.partial = self.plan.sizes.partial.max(at);
        }
    }

    fn scratch(&mut self) {
        let mut at = 0;
        let mut take = |floats: usize| {
            at += floats;
            at - floats
        };
        for g in &mut self.plan.geometries {
            g.tile = take(g.team * g.tile_blocks * g.block);
            g.grad = take(g.team * g.grad_blocks * g.block);
        }
        let mut dense = 16;
        for s in &self.plan.states {
            dense = dense.max(s.floats);
        }
        for m in &self.plan.maps {
            dense = dense.max(m.output.raw.floats);
        }
        let (mut inner, mut winograd, mut together) = (0, 0, 0);
        for c in &self.plan.convs {
            let pixels = |g: usize| self.plan.geometries[g].height * self.plan.geometries[g].width;
            let (before, after) = (pixels(c.geometry_in), pixels(c.geometry_out));
            dense = dense.max(c.lanes_in.len() * 16 * before.max(after)).max(c.raw.floats);
            together = together.max(c.team() * c.lanes_in.len() * 16 * before);
            inner = inner.max(c.raw.floats);
            for tile in c.winograd.iter().flat_map(|w| [w.forward, w.back]) {
                winograd = winograd.max(room(tile, c.lanes_in.len(), c.lanes_out.len()));
            }
        }
        self.plan.scratch = Scratch {
            depthwise: take(dense),
            lazy: take(dense),
            inner: take(dense.max(together)),
            input: take(dense.max(together)),
            winograd: take(winograd),
        };
        self.plan.sizes.scratch = at.next_multiple_of(1024);
        let bundles = self.plan.states.iter().flat_map(|s| &s.bundles);
        let deep = bundles.filter(|b| b.depth > 1).map(|b| b.chains.len()).max().unwrap_or(0);
        self.plan.inner_floats = inner;
        self.plan.inner_gradients = (0..deep).map(|_| self.activations(inner)).collect();
    }
}

/// Offsets of a centred square kernel, row by row.
fn stencil(kernel: usize, dilation: usize) -> Vec<(isize, isize)> {
    let at = |i: usize| (i as isize - (kernel / 2) as isize) * dilation as isize;
    (0..kernel * kernel).map(|t| (at(t / kernel), at(t % kernel))).collect()
}

fn taps(offsets: &[(isize, isize)], row: usize, weight: impl Fn(usize) -> usize) -> Vec<Tap> {
    let place = |(t, &(y, x)): (usize, &(isize, isize))| Tap {
        offset: y * row as isize + x * 16,
        weight: weight(t),
    };
    offsets.iter().enumerate().map(place).collect()
}

/// Output `o` reads input `stride * o + offset`; so input `stride * i + parity` is reached from
/// output `i + (parity - offset) / stride` wherever that division is exact.
fn parities(
    offsets: &[(isize, isize)],
    stride: usize,
    (height, width): (usize, usize),
    row: usize,
    weight: impl Fn(usize) -> usize,
) -> Vec<Parity> {
    let s = stride as isize;
    let mut parities = Vec::new();
    for py in 0..stride.min(height) {
        for px in 0..stride.min(width) {
            let mut taps = Vec::new();
            for (t, &(y, x)) in offsets.iter().enumerate() {
                let (y, x) = (py as isize - y, px as isize - x);
                if y.rem_euclid(s) == 0 && x.rem_euclid(s) == 0 {
                    let offset = y / s * row as isize + x / s * 16;
                    taps.push(Tap { offset, weight: weight(t) });
                }
            }
            let (rows, cols) = ((height - py).div_ceil(stride), (width - px).div_ceil(stride));
            parities.push(Parity { row: py, col: px, rows, cols, taps });
        }
    }
    parities
}
