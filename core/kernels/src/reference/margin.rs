//! Distance from jumps of the gradient.

use super::pass::Pass;
use super::primitives::{deviations, windows};
use super::{Forward, Inputs, Scalar};
use crate::graph::{Graph, Primitive};

/// How close the pass comes to a point where its gradient jumps: the smallest distance of a
/// rectifier's input from zero, or of the two largest values of a max-pool window. Exact zeros and
/// ties do not count: they have a convention. Also the smallest ratio of deviation to mean of a channel
/// that is normalised with batch statistics: of nearly equal values only rounding is left.
///
/// Of the network itself, not of its smooth variant. Single precision can decide differently within its rounding error of such a point.
pub fn margin<T: Scalar>(graph: &Graph, inputs: &Inputs<'_, T>, forward: &Forward<T>) -> f64 {
    let pass = Pass { graph, inputs, how: forward.how };
    let mut margin = f64::INFINITY;
    let mut near = |distance: f64| {
        if distance > 0.0 {
            margin = margin.min(distance);
        }
    };
    for (_, state) in graph.computed() {
        for (term, _) in &state.terms {
            let steps = match pass.run_term(term, &forward.states) {
                Ok(run) => run.steps,
                Err(e) => panic!("{e}"),
            };
            for (primitive, x) in term.chain.iter().zip(&steps) {
                match *primitive {
                    Primitive::Relu => x.data.iter().for_each(|v| near(v.to_f64().abs())),
                    Primitive::Map(ref map) => near(map.margin(x)),
                    Primitive::BatchNorm { .. } if inputs.running.is_none() => {
                        deviations(x).for_each(&mut near);
                    }
                    Primitive::MaxPool { stride } => {
                        windows(x, stride, |_, window| {
                            let mut values: Vec<f64> =
                                window.iter().map(|i| x.data[*i].to_f64()).collect();
                            values.sort_by(f64::total_cmp);
                            values.windows(2).last().into_iter().for_each(|v| near(v[1] - v[0]));
                        });
                    }
                    _ => {}
                }
            }
        }
    }
    for export in graph.exports().iter().filter(|e| e.relu()) {
        for id in export.states() {
            forward.states[id.index()].data.iter().for_each(|v| near(v.to_f64().abs()));
        }
    }
    margin
}
