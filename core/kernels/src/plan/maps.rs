//! Maps in a plan: when they run, and where their gradients come from.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "calls kernels on the places that the plan gave; an image only touches its own part"
)]

use std::ops::Range;

use super::compile::Compiler;
use super::exec::Pass;
use super::packing::Packing;
use super::{MapNode, Pooled, Raw, State};
use crate::chain;
use crate::graph::{Shape, StateId};
use crate::maps::{INPUTS, Map, MapBackward, MapForward, Plane};

impl Compiler<'_> {
    /// A term that reads a map; gives its raw output and its norm.
    pub(super) fn map(
        &mut self,
        (state, term): (usize, usize),
        inputs: &[StateId],
        map: &Map,
        norm: Option<chain::Norm>,
        output_shape: Shape,
    ) -> (Raw, usize) {
        let (channels, height, width) = output_shape;
        let (padded, pixels) = (channels.next_multiple_of(16), height * width);
        let sources: Vec<usize> = inputs.iter().map(|id| id.0).collect();
        let packing = self.plan.states[state].packing;
        let known = self
            .plan
            .maps
            .iter()
            .position(|m| m.target.is_none() && m.map == *map && m.sources == sources);
        let at = known.unwrap_or_else(|| {
            let floats = padded * pixels;
            let raw = Raw::kept(self.items(packing, floats), floats);
            let output = Pooled {
                raw,
                part: self.small(3 * padded * self.plan.max_batch),
                gradient: self.small(2 * padded),
                consumers: Vec::new(),
                normalised: false,
            };
            self.node(map, sources, (packing, output_shape), output, None)
        });
        let node = &mut self.plan.maps[at];
        node.output.normalised |= norm.is_some();
        node.output.consumers.push((state, term));
        let (raw, part) = (node.output.raw, node.output.part);
        (raw, self.norm(norm, (packing, channels, pixels), Some(part)))
    }

    /// A state that is nothing but a map: its output is the state.
    pub(super) fn whole_map(&mut self, state: usize, inputs: &[StateId], map: &Map) {
        let sources: Vec<usize> = inputs.iter().map(|id| id.0).collect();
        let s = &self.plan.states[state];
        let (x, floats, shape, packing) = (s.x, s.floats, s.shape(), s.packing);
        let weights = sources.iter().any(|s| self.plan.states[*s].has_weights);
        let ops = sources.iter().any(|s| self.plan.states[*s].has_ops);
        let output = Pooled {
            raw: Raw::kept(x, floats),
            part: 0,
            gradient: 0,
            consumers: Vec::new(),
            normalised: false,
        };
        let follows = Some(self.last(&sources));
        self.node(map, sources, (packing, shape), output, Some(state));
        let s = &mut self.plan.states[state];
        (s.follows, s.has_weights, s.has_ops) = (follows, weights, ops);
    }

    fn node(
        &mut self,
        map: &Map,
        sources: Vec<usize>,
        (packing, shape): (Packing, Shape),
        output: Pooled,
        target: Option<usize>,
    ) -> usize {
        let last = self.last(&sources);
        let packings = sources.iter().map(|s| self.plan.states[*s].packing.images);
        let group = packings.fold(packing.images, usize::max);
        let state = &mut self.plan.states[last];
        state.group = state.group.max(group);
        let map = map.clone();
        self.plan.maps.push(MapNode { map, sources, packing, shape, output, target });
        let at = self.plan.maps.len() - 1;
        self.plan.states[last].maps.push(at);
        at
    }

    /// The state with terms that is finished when the last of these is.
    fn last(&self, sources: &[usize]) -> usize {
        let finished = sources.iter().map(|&s| self.plan.states[s].follows.unwrap_or(s));
        finished.max().unwrap_or(0)
    }
}

impl MapNode {
    /// The image in an output, or all of its item for a map that runs on items.
    fn plane(&self, data: *mut f32, packing: Packing, image: usize) -> Plane {
        let (channels, height, width) = self.shape;
        let lane = if self.packing == packing { 0 } else { self.packing.lane(image) };
        Plane { data, channels, height, width, lane }
    }
}

impl Pass<'_> {
    /// The image in a state, or all of its item for a map that is packed as the state is.
    unsafe fn plane(&self, state: &State, at: usize, packing: Packing, image: usize) -> Plane {
        let (channels, height, width) = state.shape();
        let item = image / state.packing.images;
        let lane = if state.packing == packing { 0 } else { state.packing.lane(image) };
        let data = self.activation(at + item * state.floats);
        Plane { data, channels, height, width, lane }
    }

    unsafe fn inputs_of(&self, node: &MapNode, packing: Packing, image: usize) -> [Plane; INPUTS] {
        let mut planes = [Plane::NONE; INPUTS];
        for (plane, s) in planes.iter_mut().zip(&node.sources) {
            let s = &self.plan.states[*s];
            *plane = self.plane(s, s.x, packing, image);
        }
        planes
    }

    /// How a map runs: on items if its inputs are packed as its output is, else image by image.
    fn runs_on(&self, node: &MapNode) -> Packing {
        let alike = |s: &usize| self.plan.states[*s].packing == node.packing;
        if node.sources.iter().all(alike) { node.packing } else { Packing::NONE }
    }

    /// The maps that wait for this state, and pools and the like of the states that they are.
    pub(super) unsafe fn maps(&self, state: &State, images: &Range<usize>) {
        for node in state.maps.iter().map(|m| &self.plan.maps[*m]) {
            let raw = &node.output.raw;
            let row = node.shape.0.next_multiple_of(16);
            let packing = self.runs_on(node);
            for image in images.clone().step_by(packing.images) {
                let item = image / node.packing.images;
                let stats = if node.output.normalised && self.inputs.running.is_none() {
                    self.small(node.output.part + item * 3 * row)
                } else {
                    std::ptr::null_mut()
                };
                let data = self.activation(raw.kept + item * raw.floats);
                (self.kernels.map)(&MapForward {
                    map: &node.map,
                    x: &self.inputs_of(node, packing, image)[..node.sources.len()],
                    out: node.plane(data, packing, image),
                    stats,
                    stats_row: row,
                });
            }
            if let Some(target) = node.target {
                for item in node.packing.of_images(images) {
                    self.derived(&self.plan.states[target], item);
                }
            }
        }
    }

    /// Gradients through the maps that wait for this state; all that read them is finished.
    pub(super) unsafe fn maps_back(&self, thread: usize, state: &State, images: &Range<usize>) {
        for node in state.maps.iter().rev().map(|m| &self.plan.maps[*m]) {
            if !node.sources.iter().any(|s| self.inputs.wanted.at(&self.plan.states[*s])) {
                continue;
            }
            if let Some(target) = node.target {
                for item in node.packing.of_images(images) {
                    self.shared_gradients(thread, &self.plan.states[target], item);
                }
            }
            let packing = self.runs_on(node);
            for image in images.clone().step_by(packing.images) {
                self.map_back(thread, node, packing, image);
            }
        }
    }

    unsafe fn map_back(&self, thread: usize, node: &MapNode, packing: Packing, image: usize) {
        let item = image / node.packing.images;
        let data = if let Some(target) = node.target {
            let s = &self.plan.states[target];
            self.activation(s.dx + item * s.floats)
        } else {
            self.scratch(thread, self.plan.scratch.lazy)
        };
        let g = node.plane(data, packing, image);
        if node.target.is_none() {
            for b in 0..g.blocks() {
                let place = (item, b, g.blocks(), g.pixels());
                self.shared_gradient(&node.output, place, g.block(b));
            }
        }
        let x = self.inputs_of(node, packing, image);
        let mut dx = x;
        for (dx, s) in dx.iter_mut().zip(&node.sources) {
            let s = &self.plan.states[*s];
            let own = self.plane(s, s.dx, packing, image);
            *dx = if self.inputs.wanted.at(s) { own } else { Plane::NONE };
        }
        let (x, dx) = (&x[..node.sources.len()], &dx[..node.sources.len()]);
        (self.kernels.map_back)(&MapBackward { map: &node.map, x, g, dx });
    }
}
