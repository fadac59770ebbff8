//! The memory of a plan, and access to it while a pass runs.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "a pass runs on raw places in its arenas, which the plan keeps apart"
)]

use std::ops::Range;

use super::function::Slot;
use super::packing::Packing;
use super::{Bundle, CHUNKS, Conv, Geometry, Plan, Raw, State};
use crate::arena::Arena;
use crate::counters::{COUNTERS, count};
use crate::error::Result;
use crate::primitives::{Fill, Kernels, Mix, MixWeight, PackedMix, PackedMixWeight};
use crate::threads::Workers;

/// The arenas of one pass, and what they hold.
#[derive(Debug)]
pub(crate) struct Buffers {
    activations: Arena,
    small: Arena,
    packed: Arena,
    partial: Arena,
    scratch: Arena,
    scratch_threads: usize,
    /// The weights that `packed` was made from.
    packed_from: Vec<f32>,
    ops: Vec<f32>,
    op_gradient: Vec<f64>,
    statistics: Vec<f32>,
    /// Inputs of linear exports in the last pass, and the gradients of all exports.
    linear_inputs: Vec<f32>,
    gradient: Vec<f32>,
    /// Of each tensor function.
    functions: Vec<Slot>,
}

/// Which gradients a backward pass has to give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub weights: bool,
    pub ops: bool,
}

impl Wanted {
    pub(crate) fn any(self) -> bool {
        self.weights || self.ops
    }

    /// Whether a state's gradient leads to a wanted one.
    pub(super) fn at(self, state: &State) -> bool {
        (self.weights && state.has_weights) || (self.ops && state.has_ops)
    }
}

/// The inputs of a forward pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub images: &'a [f32],
    pub weights: &'a [f32],
    pub ops: &'a [f32],
    /// Running mean and variance; `None`: the statistics of the batch.
    pub running: Option<&'a [f32]>,
    pub batch: usize,
    /// The gradients that will follow.
    pub wanted: Wanted,
    /// Names the random draws of tensor functions.
    pub key: u64,
}

/// Where gradients go; `None`: not wanted.
#[derive(Debug)]
pub(crate) struct Targets<'a> {
    /// Added to.
    pub weights: Option<&'a mut [f32]>,
    /// Overwritten.
    pub ops: Option<&'a mut [f32]>,
}

/// What a backward pass must know of its forward pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recorded {
    pub batch: usize,
    /// The statistics were given.
    pub evaluation: bool,
}

/// An address that closures of several threads may hold; items write disjoint parts.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(*mut T);

// SAFETY: every use names the part that its item owns.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Shared<T> {}

impl<T> Shared<T> {
    pub(super) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }
    pub(super) unsafe fn at(self, offset: usize) -> *mut T {
        self.0.add(offset)
    }
}

/// A thread's work on an image, which is the `slot`-th of those that it works on together.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub thread: usize,
    pub slot: usize,
    pub image: usize,
}

impl At {
    /// Of each image.
    pub(super) fn each(thread: usize, images: &Range<usize>) -> impl Iterator<Item = Self> + use<> {
        images.clone().enumerate().map(move |(slot, image)| Self { thread, slot, image })
    }

    /// With what only one image needs at a time: geometries that no team works on have room for one.
    pub(super) fn alone(self) -> Self {
        Self { slot: 0, ..self }
    }
}

/// Runs `f(items)` for as many of them as a convolution takes together.
pub(super) fn in_teams(conv: &Conv, items: &Range<usize>, f: &dyn Fn(Range<usize>)) {
    for first in items.clone().step_by(conv.team()) {
        f(first..items.end.min(first + conv.team()));
    }
}

/// One pass over a plan. Offsets come from the plan, so they lie inside the arenas; a work item
/// only writes the parts of its own image, chunk or convolution, and the scratch memory of its own
/// thread.
pub(super) struct Pass<'a> {
    pub plan: &'a Plan,
    pub kernels: &'static Kernels,
    pub workers: &'a Workers,
    pub inputs: Inputs<'a>,
    arenas: Places,
}

#[derive(Clone, Copy)]
struct Places {
    activations: Shared<f32>,
    small: Shared<f32>,
    packed: Shared<f32>,
    partial: Shared<f32>,
    scratch: Shared<f32>,
}

impl Buffers {
    pub(crate) fn new(plan: &Plan, statistics: usize) -> Result<Self> {
        let s = &plan.sizes;
        Ok(Self {
            activations: Arena::new(s.activations)?,
            small: Arena::new(s.small)?,
            packed: Arena::new(s.packed)?,
            partial: Arena::new(s.partial * CHUNKS)?,
            scratch: Arena::new(0)?,
            scratch_threads: 0,
            packed_from: Vec::new(),
            ops: Vec::new(),
            op_gradient: Vec::new(),
            statistics: vec![0.0; statistics],
            linear_inputs: Vec::new(),
            gradient: Vec::new(),
            functions: (0..plan.functions).map(|_| Slot::default()).collect(),
        })
    }

    /// Runs forward; gives the exports, then (in training) the statistics, in `out`.
    pub(crate) fn forward(
        &mut self,
        plan: &Plan,
        kernels: &'static Kernels,
        inputs: Inputs<'_>,
        out: &mut [f32],
    ) -> Result<()> {
        let workers = Workers::acquire();
        self.prepare(plan, &workers)?;
        self.ops.clear();
        self.ops.extend_from_slice(inputs.ops);
        let pack = !same_bits(&self.packed_from, inputs.weights);
        if pack {
            count(&COUNTERS.packings);
            self.packed_from.clear();
            self.packed_from.extend_from_slice(inputs.weights);
        }
        let pass = Pass { plan, kernels, workers: &workers, inputs, arenas: self.arenas() };
        let statistics = Shared::new(&mut self.statistics);
        // SAFETY: the arenas belong to this plan (see `Network`), and nobody else uses them now.
        unsafe {
            if pack {
                pass.pack_weights();
            }
            pass.forward(Shared::new(out), statistics, &mut self.functions)?;
        }
        if inputs.wanted.any() {
            plan.keep_inputs(inputs.batch, out, &mut self.linear_inputs);
        }
        let n = self.statistics.len();
        if inputs.running.is_none() {
            let at = out.len() - n;
            out[at..].copy_from_slice(&self.statistics);
        }
        Ok(())
    }

    /// Runs backward from the gradient of the exports. The last forward pass of these
    /// buffers must have had these inputs (images and weights are not read again).
    pub(crate) fn backward(
        &mut self,
        plan: &Plan,
        kernels: &'static Kernels,
        recorded: Recorded,
        gradient: &[f32],
        targets: Targets<'_>,
    ) -> Result<()> {
        let Targets { weights, ops } = targets;
        let workers = Workers::acquire();
        self.prepare(plan, &workers)?;
        self.op_gradient.clear();
        self.op_gradient.resize(self.ops.len(), 0.0);
        let wanted = Wanted { weights: weights.is_some(), ops: ops.is_some() };
        let Recorded { batch, evaluation } = recorded;
        let arenas = self.arenas();
        let inputs = Inputs {
            images: &[],
            weights: &self.packed_from,
            ops: &self.ops,
            running: if evaluation { Some(&[]) } else { None },
            batch,
            wanted,
            key: 0,
        };
        let pass = Pass { plan, kernels, workers: &workers, inputs, arenas };
        self.gradient.clear();
        self.gradient.extend_from_slice(gradient);
        let mut nothing = [];
        let weights = Shared::new(weights.unwrap_or(&mut nothing));
        let op_gradient = Shared::new(&mut self.op_gradient);
        // SAFETY: the arenas belong to this plan and hold its last forward pass; nobody else uses
        // them now.
        unsafe {
            let target = wanted.weights.then_some(weights);
            pass.linear_gradients(&self.linear_inputs, &mut self.gradient, target);
            pass.backward(&self.gradient, weights, op_gradient, &mut self.functions)?;
        }
        if let Some(ops) = ops {
            for (out, g) in ops.iter_mut().zip(&self.op_gradient) {
                *out = *g as f32;
            }
        }
        Ok(())
    }

    fn prepare(&mut self, plan: &Plan, workers: &Workers) -> Result<()> {
        if self.scratch_threads < workers.threads() {
            self.scratch_threads = workers.threads();
            self.scratch = Arena::new(plan.sizes.scratch * self.scratch_threads)?;
        }
        Ok(())
    }

    fn arenas(&self) -> Places {
        Places {
            activations: Shared(self.activations.ptr()),
            small: Shared(self.small.ptr()),
            packed: Shared(self.packed.ptr()),
            partial: Shared(self.partial.ptr()),
            scratch: Shared(self.scratch.ptr()),
        }
    }
}

/// Exact comparison, NaN included, at the speed of `memcmp`.
pub(crate) fn same_bits(a: &[f32], b: &[f32]) -> bool {
    // SAFETY: any `f32` is four valid bytes.
    let bytes =
        |x: &[f32]| unsafe { std::slice::from_raw_parts(x.as_ptr().cast::<u8>(), size_of_val(x)) };
    // SAFETY: the lifetimes of the two slices outlive the comparison.
    a.len() == b.len() && bytes(a) == bytes(b)
}

impl Pass<'_> {
    pub(super) unsafe fn activation(&self, at: usize) -> *mut f32 {
        self.arenas.activations.at(at)
    }
    pub(super) unsafe fn small(&self, at: usize) -> *mut f32 {
        self.arenas.small.at(at)
    }
    pub(super) unsafe fn packed(&self, at: usize) -> *mut f32 {
        self.arenas.packed.at(at)
    }
    /// In the partial gradients of a chunk.
    pub(super) unsafe fn partial(&self, chunk: usize, at: usize) -> *mut f32 {
        self.arenas.partial.at(chunk * self.plan.sizes.partial + at)
    }
    pub(super) unsafe fn scratch(&self, thread: usize, at: usize) -> *mut f32 {
        self.arenas.scratch.at(thread * self.plan.sizes.scratch + at)
    }

    /// A raw output of an image, where this pass keeps it.
    pub(super) unsafe fn raw(&self, raw: &Raw, image: usize) -> *mut f32 {
        let at = if self.inputs.wanted.any() { raw.kept } else { raw.passing };
        self.activation(at + image * self.raw_step(raw))
    }

    /// Floats between the raw outputs of images.
    pub(super) fn raw_step(&self, raw: &Raw) -> usize {
        if self.inputs.wanted.any() { raw.floats } else { raw.passing_step }
    }

    pub(super) fn chunks(&self, packing: Packing) -> usize {
        CHUNKS.min(packing.items(self.inputs.batch))
    }

    /// Runs `f(thread, item)` for all items of packed images, which are the images if they are not.
    pub(super) fn items(&self, packing: Packing, f: &(dyn Fn(usize, usize) + Sync)) {
        self.workers.run(packing.items(self.inputs.batch), f);
    }

    /// Runs `f(thread, images)` for all groups of so many images.
    pub(super) fn groups(&self, size: usize, f: &(dyn Fn(usize, Range<usize>) + Sync)) {
        let batch = self.inputs.batch;
        let images = |g: usize| g * size..batch.min((g + 1) * size);
        self.workers.run(batch.div_ceil(size), &|thread, g| f(thread, images(g)));
    }

    /// Items that the convolutions of a stage work on together, where bytes do not depend on it: no
    /// more than leave work for each thread.
    pub(super) fn team(&self, bundle: &Bundle, depth: usize) -> usize {
        self.whole_team(bundle, depth).min(self.inputs.batch / self.workers.threads()).max(1)
    }

    /// The same for any number of threads.
    pub(super) fn whole_team(&self, bundle: &Bundle, depth: usize) -> usize {
        let stage = bundle.stages.get(depth).into_iter().flatten();
        stage.map(|c| self.plan.convs[*c].team()).max().unwrap_or(1)
    }

    /// The images of an item.
    pub(super) fn images_of(&self, packing: Packing, item: usize) -> Range<usize> {
        item * packing.images..self.inputs.batch.min((item + 1) * packing.images)
    }

    /// Where the coefficients of an item are, after those of all others: the last one may lack images.
    pub(super) fn tail(&self, packing: Packing, item: usize) -> usize {
        let lacks = (item + 1) * packing.images > self.inputs.batch;
        if lacks { 16 } else { 0 }
    }

    pub(super) unsafe fn run_mix(&self, packing: Packing, mix: Mix) {
        if packing.is_packed() {
            (self.kernels.packed_mix)(&PackedMix { mix, width: packing.width });
        } else {
            (self.kernels.mix)(&mix);
        }
    }

    pub(super) unsafe fn run_mix_weight(&self, packing: Packing, mix: MixWeight) {
        if packing.is_packed() {
            (self.kernels.packed_mix_weight)(&PackedMixWeight { mix, width: packing.width });
        } else {
            (self.kernels.mix_weight)(&mix);
        }
    }

    /// The first inner pixel of an activation tile; blocks are `geometry.block` apart.
    pub(super) unsafe fn tile(&self, at: At, geometry: &Geometry) -> *mut f32 {
        let slot = at.slot * geometry.tile_blocks * geometry.block;
        self.scratch(at.thread, geometry.tile + slot + geometry.origin)
    }
    /// The same of a gradient tile.
    pub(super) unsafe fn gradient_tile(&self, at: At, geometry: &Geometry) -> *mut f32 {
        let slot = at.slot * geometry.grad_blocks * geometry.block;
        self.scratch(at.thread, geometry.grad + slot + geometry.origin)
    }

    /// Fills the tile of the input of a bundle's first convolutions.
    pub(super) unsafe fn source_tile(&self, at: At, sources: &[usize], conv: &Conv) {
        let g = &self.plan.geometries[conv.geometry_in];
        let (tile, image) = (self.tile(at, g), at.image);
        let mut block = 0;
        for &s in sources {
            let s = &self.plan.states[s];
            let x = self.activation(s.x + image * s.floats);
            for b in 0..s.blocks {
                (self.kernels.fill)(&Fill {
                    out: tile.add(block * g.block),
                    out_row: g.row,
                    x: x.add(b * s.pixels() * 16),
                    rows: g.height,
                    cols: g.width,
                    s: std::ptr::null(),
                    t: std::ptr::null(),
                    relu: conv.relu,
                });
                block += 1;
            }
        }
    }

    /// Some rows of the input of a bundle's first convolution, densely into `out`.
    pub(super) unsafe fn source_rows(
        &self,
        image: usize,
        sources: &[usize],
        relu: bool,
        (first, rows): (usize, usize),
        mut out: *mut f32,
    ) {
        for &s in sources {
            let s = &self.plan.states[s];
            let x = self.activation(s.x + image * s.floats + first * s.width * 16);
            let cols = rows * s.width;
            for b in 0..s.blocks {
                (self.kernels.fill)(&Fill {
                    out,
                    out_row: 0,
                    x: x.add(b * s.pixels() * 16),
                    rows: 1,
                    cols,
                    s: std::ptr::null(),
                    t: std::ptr::null(),
                    relu,
                });
                out = out.add(cols * 16);
            }
        }
    }

    /// Fills the tile of a later stage: the normalised output of the stage before it.
    pub(super) unsafe fn inner_tile(&self, at: At, before: &Conv, conv: &Conv) {
        let g = &self.plan.geometries[conv.geometry_in];
        let norm = &self.plan.norms[before.norm];
        let (tile, z) = (self.tile(at, g), self.raw(&before.raw, at.image));
        for b in 0..before.lanes_out.len() {
            (self.kernels.fill)(&Fill {
                out: tile.add(b * g.block),
                out_row: g.row,
                x: z.add(b * g.height * g.width * 16),
                rows: g.height,
                cols: g.width,
                s: self.small(norm.values + 2 * norm.padded + b * 16),
                t: self.small(norm.values + 3 * norm.padded + b * 16),
                relu: conv.relu,
            });
        }
    }
}
