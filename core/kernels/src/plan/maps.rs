//! Maps in a plan: when they run, and where their gradients come from.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "calls kernels on the places that the plan gave; an image only touches its own part"
)]

use super::compile::Compiler;
use super::exec::Pass;
use super::{MapNode, Pooled, Raw, State};
use crate::chain;
use crate::graph::{Shape, StateId};
use crate::maps::{INPUTS, Map, MapBackward, MapForward, Plane};

impl Compiler {
    /// A term that reads a map; gives its raw output and its norm.
    pub(super) fn map(
        &mut self,
        (state, term): (usize, usize),
        inputs: &[StateId],
        map: &Map,
        norm: Option<chain::Norm>,
        output: Shape,
    ) -> (Raw, usize) {
        let (channels, height, width) = output;
        let (padded, pixels) = (channels.next_multiple_of(16), height * width);
        let sources: Vec<usize> = inputs.iter().map(|id| id.0).collect();
        let known = self.plan.maps.iter().position(|m| {
            m.target.is_none() && m.map == *map && m.sources == sources
        });
        let at = known.unwrap_or_else(|| {
            let floats = padded * pixels;
            let raw = Raw::kept(self.activations(floats), floats);
            let output = Pooled {
                raw,
                part: self.small(3 * padded * self.plan.max_batch),
                gradient: self.small(2 * padded),
                consumers: Vec::new(),
            };
            self.node(map, sources, (channels, height, width), output, None)
        });
        let node = &mut self.plan.maps[at];
        node.normed |= norm.is_some();
        node.output.consumers.push((state, term));
        let (raw, part) = (node.output.raw, node.output.part);
        (raw, self.norm(norm, channels, pixels, Some(part)))
    }

    /// A state that is nothing but a map: its output is the state.
    pub(super) fn whole_map(&mut self, state: usize, inputs: &[StateId], map: &Map) {
        let sources: Vec<usize> = inputs.iter().map(|id| id.0).collect();
        let s = &self.plan.states[state];
        let (x, floats, shape) = (s.x, s.floats, (s.channels, s.height, s.width));
        let weights = sources.iter().any(|s| self.plan.states[*s].has_weights);
        let ops = sources.iter().any(|s| self.plan.states[*s].has_ops);
        let output =
            Pooled { raw: Raw::kept(x, floats), part: 0, gradient: 0, consumers: Vec::new() };
        let follows = Some(self.last(&sources));
        self.node(map, sources, shape, output, Some(state));
        let s = &mut self.plan.states[state];
        (s.follows, s.has_weights, s.has_ops) = (follows, weights, ops);
    }

    fn node(
        &mut self,
        map: &Map,
        sources: Vec<usize>,
        shape: Shape,
        output: Pooled,
        target: Option<usize>,
    ) -> usize {
        let last = self.last(&sources);
        let map = map.clone();
        self.plan.maps.push(MapNode { map, sources, shape, output, target, normed: false });
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

impl Pass<'_> {
    unsafe fn plane(&self, at: usize, (channels, height, width): Shape) -> Plane {
        Plane { data: self.activation(at), channels, height, width }
    }

    unsafe fn inputs_of(&self, node: &MapNode, image: usize) -> [Plane; INPUTS] {
        let mut planes = [Plane::NONE; INPUTS];
        for (plane, s) in planes.iter_mut().zip(&node.sources) {
            let s = &self.plan.states[*s];
            *plane = self.plane(s.x + image * s.floats, s.shape());
        }
        planes
    }

    /// The maps that wait for this state, and pools and the like of the states that they are.
    pub(super) unsafe fn maps(&self, state: &State, image: usize) {
        for node in state.maps.iter().map(|m| &self.plan.maps[*m]) {
            let raw = &node.output.raw;
            let row = node.shape.0.next_multiple_of(16);
            let stats = if node.normed && self.inputs.running.is_none() {
                self.small(node.output.part + image * 3 * row)
            } else {
                std::ptr::null_mut()
            };
            (self.kernels.map)(&MapForward {
                map: &node.map,
                x: &self.inputs_of(node, image)[..node.sources.len()],
                out: self.plane(raw.kept + image * raw.floats, node.shape),
                stats,
                stats_row: row,
            });
            if let Some(target) = node.target {
                self.derived(&self.plan.states[target], image);
            }
        }
    }

    /// Gradients through the maps that wait for this state; all that read them is finished.
    pub(super) unsafe fn maps_back(
        &self,
        thread: usize,
        state: &State,
        image: usize,
        needed: &dyn Fn(&State) -> bool,
    ) {
        for node in state.maps.iter().rev().map(|m| &self.plan.maps[*m]) {
            if !node.sources.iter().any(|s| needed(&self.plan.states[*s])) {
                continue;
            }
            let g = if let Some(target) = node.target {
                let s = &self.plan.states[target];
                self.shared_gradients(thread, s, image);
                self.plane(s.dx + image * s.floats, node.shape)
            } else {
                let data = self.scratch(thread, self.plan.scratch.lazy);
                let (channels, height, width) = node.shape;
                let g = Plane { data, channels, height, width };
                for b in 0..g.blocks() {
                    let place = (image, b, g.blocks(), g.pixels());
                    self.shared_gradient(&node.output, place, g.block(b));
                }
                g
            };
            let x = self.inputs_of(node, image);
            let mut dx = x;
            for (dx, s) in dx.iter_mut().zip(&node.sources) {
                let s = &self.plan.states[*s];
                dx.data = if needed(s) {
                    self.activation(s.dx + image * s.floats)
                } else {
                    std::ptr::null_mut()
                };
            }
            let (x, dx) = (&x[..node.sources.len()], &dx[..node.sources.len()]);
            (self.kernels.map_back)(&MapBackward { map: &node.map, x, g, dx });
        }
    }
}
