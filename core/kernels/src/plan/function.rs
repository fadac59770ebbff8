//! Tensor functions: between the planes of a plan and candle's tensors, forward and backward.
//!
//! A function's graph of a pass that is kept for its gradient stays in a slot of the pass's
//! buffers. The tensors that it reads and the one for its incoming gradient are filled in place, so
//! that they are allocated once.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "reads and writes the places that the plan gave; an image only touches its own part"
)]

use std::slice;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use candle_core::{Tensor, Var};

use super::exec::{Pass, Shared};
use super::packing::Packing;
use super::{Bundle, Conv, Function, State};
use crate::error::Result;
use crate::function::{FunctionPass, buffer, not_finite, overwrite, pull_back, read, run};
use crate::primitives::convert::{moments, to_channels, to_planes};

/// What a function holds between the passes.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    x: Option<Var>,
    weights: Option<Var>,
    gradient: Option<Var>,
    /// The output of a kept pass, with the graph behind it.
    output: Option<Tensor>,
}

/// A chain of a bundle: its position, its term, its convolutions.
type Place<'a> = (usize, usize, &'a [usize]);

impl Pass<'_> {
    fn with_function<'a>(
        &'a self,
        bundle: &'a Bundle,
        depth: usize,
    ) -> impl Iterator<Item = (Place<'a>, &'a Conv, &'a Function)> {
        bundle.chains.iter().enumerate().filter_map(move |(position, (term, chain))| {
            let conv = &self.plan.convs[*chain.get(depth)?];
            Some(((position, *term, &**chain), conv, conv.function.as_ref()?))
        })
    }

    /// Whether a chain of the bundle has tensor code at this stage.
    pub(super) fn has_function(&self, bundle: &Bundle, depth: usize) -> bool {
        self.with_function(bundle, depth).next().is_some()
    }

    /// Whether the gradient in a function's input is wanted.
    fn through(&self, bundle: &Bundle, depth: usize) -> bool {
        self.below(bundle) || (depth > 0 && self.inputs.wanted.weights)
    }

    /// The functions at stage `depth` of a bundle's chains.
    pub(super) unsafe fn functions(
        &self,
        bundle: &Bundle,
        depth: usize,
        slots: &mut [Slot],
    ) -> Result<()> {
        for ((_, _, chain), conv, function) in self.with_function(bundle, depth) {
            let slot = &mut slots[function.slot];
            slot.output = None;
            self.function(bundle, chain, depth, (conv, function), slot)?;
        }
        Ok(())
    }

    unsafe fn function(
        &self,
        bundle: &Bundle,
        chain: &[usize],
        depth: usize,
        (conv, function): (&Conv, &Function),
        slot: &mut Slot,
    ) -> Result<()> {
        let code = &*function.code;
        let (g_in, g_out) =
            (self.plan.geometries[conv.geometry_in], self.plan.geometries[conv.geometry_out]);
        let (batch, pixels) = (self.inputs.batch, g_in.height * g_in.width);
        let x = buffer(code, &mut slot.x, &[batch, conv.inputs, g_in.height, g_in.width])?;
        overwrite(code, x, &|values| {
            let values = Shared::new(values);
            self.items(Packing::NONE, &|_, image| {
                let len = conv.inputs * pixels;
                // The shared slice outlives the job, and each image has its own part.
                let out = slice::from_raw_parts_mut(values.at(image * len), len);
                if depth == 0 {
                    self.read_sources(bundle, conv, image, out);
                } else {
                    let before = &self.plan.convs[chain[depth - 1]];
                    self.read_stage(before, conv, image, out);
                }
            });
        })?;
        let weights = buffer(code, &mut slot.weights, &[function.len])?;
        let from = &self.inputs.weights[function.weight..function.weight + function.len];
        overwrite(code, weights, &|values| values.copy_from_slice(from))?;
        let tensor = |var: &Var, tracked: bool| {
            if tracked { var.as_tensor().clone() } else { var.as_detached_tensor() }
        };
        let y = run(
            code,
            &tensor(x, self.through(bundle, depth)),
            &tensor(weights, self.inputs.wanted.weights),
            FunctionPass::new(self.inputs.running.is_none(), self.inputs.key),
            (conv.outputs, g_out.height, g_out.width),
        )?;
        if !read(code, &y, |values| self.write_raw(conv, values))?
            && read(code, x, |values| values.iter().all(|v| v.is_finite()))?
        {
            return Err(not_finite(code, "its output"));
        }
        if self.inputs.wanted.any() {
            slot.output = Some(y);
        }
        Ok(())
    }

    /// The (rectified) states that a first stage reads, channel by channel.
    unsafe fn read_sources(&self, bundle: &Bundle, conv: &Conv, image: usize, mut out: &mut [f32]) {
        for &s in &bundle.sources {
            let s = &self.plan.states[s];
            let x = slice::from_raw_parts(self.activation(s.x + image * s.floats), s.floats);
            let (own, rest) = out.split_at_mut(s.channels * s.pixels());
            to_channels(x, s.pixels(), own, |_, v| if conv.relu && v < 0.0 { 0.0 } else { v });
            out = rest;
        }
    }

    /// The normalised (and rectified) output of the stage before.
    unsafe fn read_stage(&self, before: &Conv, conv: &Conv, image: usize, out: &mut [f32]) {
        let norm = &self.plan.norms[before.norm];
        let values = self.small(norm.values);
        let scale = slice::from_raw_parts(values.add(2 * norm.padded), norm.padded);
        let shift = slice::from_raw_parts(values.add(3 * norm.padded), norm.padded);
        let z = slice::from_raw_parts(self.raw(&before.raw, image), before.raw.floats);
        to_channels(z, norm.pixels, out, |channel, z| {
            let v = scale[channel] * z + shift[channel];
            if conv.relu && v < 0.0 { 0.0 } else { v }
        });
    }

    /// A raw output with its statistics; says whether all values are finite.
    unsafe fn write_raw(&self, conv: &Conv, y: &[f32]) -> bool {
        let norm = &self.plan.norms[conv.norm];
        let len = conv.outputs * norm.pixels;
        let finite = AtomicBool::new(true);
        self.items(Packing::NONE, &|_, image| {
            let z = slice::from_raw_parts_mut(self.raw(&conv.raw, image), conv.raw.floats);
            if !to_planes(&y[image * len..(image + 1) * len], norm.pixels, z) {
                finite.store(false, Relaxed);
            }
            let statistics = self.statistics_of(norm, image);
            if !statistics.is_null() {
                let statistics = slice::from_raw_parts_mut(statistics, 3 * norm.padded);
                moments(z, norm.pixels, statistics);
            }
        });
        finite.into_inner()
    }

    /// Gradients of the functions at stage `depth` of a bundle's chains: to their input, and to
    /// their weights.
    pub(super) unsafe fn functions_back(
        &self,
        state: &State,
        bundle: &Bundle,
        depth: usize,
        slots: &mut [Slot],
        weights: Option<Shared<f32>>,
    ) -> Result<()> {
        for (place, conv, function) in self.with_function(bundle, depth) {
            let slot = &mut slots[function.slot];
            let Some(y) = &slot.output else { continue };
            let through = self.through(bundle, depth);
            if !through && function.len == 0 {
                continue;
            }
            let (code, dims) = (&*function.code, y.dims());
            let g = buffer(code, &mut slot.gradient, dims)?;
            overwrite(code, g, &|values| self.read_gradient(state, place, depth, conv, values))?;
            let x = slot.x.as_ref().filter(|_| through);
            let own = slot.weights.as_ref().filter(|_| weights.is_some());
            let (of_x, of_weights) = pull_back(code, y, &g.as_detached_tensor(), x, own)?;
            let mut finite = true;
            if let (Some(weights), Some(found)) = (weights, of_weights) {
                read(code, &found, |found| {
                    for (i, v) in found.iter().enumerate() {
                        finite &= v.is_finite();
                        *weights.at(function.weight + i) += v;
                    }
                })?;
            }
            if through {
                finite &= match &of_x {
                    Some(found) => read(code, found, |found| {
                        self.write_gradient(bundle, place, depth, conv, Some(found))
                    })?,
                    None => self.write_gradient(bundle, place, depth, conv, None),
                };
            }
            if !finite && read(code, g, |values| values.iter().all(|v| v.is_finite()))? {
                return Err(not_finite(code, "its gradient"));
            }
        }
        Ok(())
    }

    /// The gradient of a function's raw output, channel by channel.
    unsafe fn read_gradient(
        &self,
        state: &State,
        place: Place<'_>,
        depth: usize,
        conv: &Conv,
        values: &mut [f32],
    ) {
        let geometry = self.plan.geometries[conv.geometry_out];
        let pixels = geometry.height * geometry.width;
        let (len, values) = (conv.outputs * pixels, Shared::new(values));
        self.items(Packing::NONE, &|thread, image| {
            let dz = self.scratch(thread, self.plan.scratch.lazy);
            let incoming = self.incoming(state, place, depth, image);
            let out = (dz, geometry.width * 16, pixels * 16);
            self.lazy(conv, image, incoming, (0, geometry.height), out);
            let dz = slice::from_raw_parts(dz, conv.raw.floats);
            // The shared slice outlives the job, and each image has its own part.
            let out = slice::from_raw_parts_mut(values.at(image * len), len);
            to_channels(dz, pixels, out, |_, v| v);
        });
    }

    /// The gradient of a function's input to the states or the stage before; `None`: zero. Says
    /// whether all values are finite.
    unsafe fn write_gradient(
        &self,
        bundle: &Bundle,
        (position, _, chain): Place<'_>,
        depth: usize,
        conv: &Conv,
        found: Option<&[f32]>,
    ) -> bool {
        if depth == 0 && found.is_none() {
            return true;
        }
        let geometry = self.plan.geometries[conv.geometry_in];
        let pixels = geometry.height * geometry.width;
        let len = conv.inputs * pixels;
        let finite = AtomicBool::new(true);
        self.items(Packing::NONE, &|thread, image| {
            let planes = self.scratch(thread, self.plan.scratch.input);
            let floats = conv.lanes_in.len() * 16 * pixels;
            let own = slice::from_raw_parts_mut(planes, floats);
            match found {
                None => own.fill(0.0),
                Some(found) => {
                    // Concatenated inputs have whole blocks each.
                    for run in &conv.runs {
                        let from = &found[image * len + run.channel * pixels..];
                        let to = &mut own[run.lane * pixels..];
                        let to = &mut to[..run.len.next_multiple_of(16) * pixels];
                        if !to_planes(&from[..run.len * pixels], pixels, to) {
                            finite.store(false, Relaxed);
                        }
                    }
                }
            }
            if depth == 0 {
                self.add_to_sources(bundle, image, (0, geometry.height), planes, conv.relu);
            } else {
                let before = &self.plan.convs[chain[depth - 1]];
                self.mask(before, conv, image, position, planes);
            }
        });
        finite.into_inner()
    }
}
