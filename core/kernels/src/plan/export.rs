//! What a network gives out, and the gradients that come in.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "reads and writes activations of its own image, outputs of its own image or row"
)]

use super::exec::{Pass, Shared};
use super::packing::Packing;
use super::{Plan, State};
use crate::graph::{Export, Graph};

/// An [`Export`] with its place in a flat vector of all: `images * before + image * each`.
#[derive(Debug)]
pub(super) struct Output {
    kind: Kind,
    /// Floats of an image.
    each: usize,
    /// Floats of an image in the exports before it.
    before: usize,
}

#[derive(Debug)]
enum Kind {
    /// The states one after the other, their pixels averaged or not.
    States {
        states: Vec<usize>,
        relu: bool,
        pooled: bool,
    },
    Linear {
        of: usize,
        weight: usize,
        bias: usize,
    },
}

impl Output {
    pub(super) fn all(graph: &Graph) -> Vec<Self> {
        let mut before = 0;
        let place = |export: &Export| {
            let each = graph.export_shape(export, 1).iter().product();
            let kind = match export {
                Export::Pooled { states, relu } | Export::Map { states, relu } => Kind::States {
                    states: states.iter().map(|s| s.0).collect(),
                    relu: *relu,
                    pooled: matches!(export, Export::Pooled { .. }),
                },
                Export::Linear { of, weight, bias, .. } => {
                    Kind::Linear { of: of.0, weight: *weight, bias: *bias }
                }
            };
            before += each;
            Self { kind, each, before: before - each }
        };
        graph.exports().iter().map(place).collect()
    }
}

impl Plan {
    /// Copies what the gradients of linear exports need of all exports: their inputs.
    pub(super) fn keep_inputs(&self, images: usize, out: &[f32], kept: &mut Vec<f32>) {
        kept.clear();
        for (of, _) in self.linear() {
            kept.extend_from_slice(&out[images * of.before..][..images * of.each]);
        }
    }

    /// The linear exports, each after its input.
    fn linear(&self) -> impl Iterator<Item = (&Output, &Output)> {
        self.outputs.iter().filter_map(|output| match output.kind {
            Kind::Linear { of, .. } => Some((&self.outputs[of], output)),
            Kind::States { .. } => None,
        })
    }
}

impl Pass<'_> {
    pub(super) unsafe fn export(&self, out: Shared<f32>) {
        let batch = self.inputs.batch;
        for output in &self.plan.outputs {
            self.items(Packing::NONE, &|_, image| {
                let mut to = out.at(batch * output.before + image * output.each);
                match &output.kind {
                    Kind::States { states, relu, pooled } => {
                        for s in states.iter().map(|s| &self.plan.states[*s]) {
                            self.export_state(s, image, (*relu, *pooled), to);
                            to = to.add(s.channels * if *pooled { 1 } else { s.pixels() });
                        }
                    }
                    Kind::Linear { of, weight, bias } => {
                        let of = &self.plan.outputs[*of];
                        let x = out.at(batch * of.before + image * of.each).cast_const();
                        let x = std::slice::from_raw_parts(x, of.each);
                        for o in 0..output.each {
                            let row = &self.inputs.weights[weight + o * of.each..][..of.each];
                            *to.add(o) = dot(row, x) + self.inputs.weights[bias + o];
                        }
                    }
                }
            });
        }
    }

    unsafe fn export_state(
        &self,
        s: &State,
        image: usize,
        (relu, pooled): (bool, bool),
        to: *mut f32,
    ) {
        let pixels = s.pixels();
        let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
        for c in 0..s.channels {
            let at = s.x + image * s.floats + c / 16 * pixels * 16 + c % 16;
            let x = self.activation(at).cast_const();
            // Not `max`: NaN must pass.
            let value = |p: usize| {
                let v = *x.add(p * 16);
                if v < floor { floor } else { v }
            };
            if pooled {
                let sum: f64 = (0..pixels).map(|p| f64::from(value(p))).sum();
                *to.add(c) = (sum / pixels as f64) as f32;
            } else {
                for p in 0..pixels {
                    *to.add(c * pixels + p) = value(p);
                }
            }
        }
    }

    /// Gradients of linear exports: to their weights (where wanted), and added to the gradients of
    /// the exports they read.
    pub(super) unsafe fn linear_gradients(
        &self,
        kept: &[f32],
        gradient: &mut [f32],
        weights: Option<Shared<f32>>,
    ) {
        let batch = self.inputs.batch;
        let mut inputs = kept;
        for (of, output) in self.plan.linear() {
            let Kind::Linear { weight, bias, .. } = output.kind else { continue };
            let x = &inputs[..batch * of.each];
            inputs = &inputs[batch * of.each..];
            let (earlier, own) = gradient.split_at_mut(batch * output.before);
            let g = &own[..batch * output.each];
            if let Some(weights) = weights {
                self.workers.run(output.each, &|_, o| {
                    let (row, b) = (weights.at(weight + o * of.each), weights.at(bias + o));
                    let row = std::slice::from_raw_parts_mut(row, of.each);
                    for image in 0..batch {
                        let factor = g[image * output.each + o];
                        *b += factor;
                        add_scaled(row, factor, &x[image * of.each..][..of.each]);
                    }
                });
            }
            let below = Shared::new(&mut earlier[batch * of.before..][..batch * of.each]);
            self.items(Packing::NONE, &|_, image| {
                let below = std::slice::from_raw_parts_mut(below.at(image * of.each), of.each);
                for o in 0..output.each {
                    let row = &self.inputs.weights[weight + o * of.each..][..of.each];
                    add_scaled(below, g[image * output.each + o], row);
                }
            });
        }
    }

    /// Adds the gradients of exports to those of an image's states.
    pub(super) unsafe fn export_gradients(&self, gradient: &[f32], image: usize) {
        let batch = self.inputs.batch;
        for output in &self.plan.outputs {
            let Kind::States { states, relu, pooled } = &output.kind else { continue };
            let mut g = &gradient[batch * output.before + image * output.each..][..output.each];
            for s in states.iter().map(|s| &self.plan.states[*s]) {
                let pixels = s.pixels();
                let used = if *pooled { 1 } else { pixels };
                for c in 0..s.channels {
                    let place = image * s.floats + c / 16 * pixels * 16 + c % 16;
                    let (x, dx) = (self.activation(s.x + place), self.activation(s.dx + place));
                    for p in 0..pixels {
                        if !relu || *x.add(p * 16) > 0.0 {
                            let value = if *pooled { g[0] / pixels as f32 } else { g[p] };
                            *dx.add(p * 16) += value;
                        }
                    }
                    g = &g[used..];
                }
            }
        }
    }
}

/// In 16 sums side by side, which vectorises.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for (s, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *s += a * b;
        }
    }
    sums.iter().map(|s| f64::from(*s)).sum::<f64>() as f32
}

fn add_scaled(to: &mut [f32], factor: f32, from: &[f32]) {
    for (t, f) in to.iter_mut().zip(from) {
        *t += factor * f;
    }
}
