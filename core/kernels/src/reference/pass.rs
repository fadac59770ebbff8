//! Each primitive and each export in a pass over a graph.

use super::call::Call;
use super::primitives::{
    Convolution, avg_pool, avg_pool_back, batch_norm, batch_norm_back, convolve, convolve_back,
    max_pool, max_pool_back,
};
use super::{How, Images, Inputs, Scalar};
use crate::error::Result;
use crate::function::FunctionPass;
use crate::graph::{Export, Graph, Primitive, Term, Weight};

/// Values for a stretch of a flat vector: where it begins, and what.
pub(super) type Stretch<T> = (usize, Vec<T>);

/// A pass over a graph.
pub(super) struct Pass<'a, T> {
    pub graph: &'a Graph,
    pub inputs: &'a Inputs<'a, T>,
    pub how: How,
}

/// What a term does in a pass.
pub(super) struct Run<T> {
    /// Activations before each primitive, and the term's output last.
    pub steps: Vec<Images<T>>,
    pub statistics: Vec<Stretch<T>>,
}

/// The gradients that a term gives.
pub(super) struct TermGradients<T> {
    pub input: Images<T>,
    pub weights: Vec<Stretch<T>>,
    /// Of its factor, image by image.
    pub factor: Vec<T>,
}

impl<T: Scalar> Inputs<'_, T> {
    pub(super) fn op(&self, weight: Weight, image: usize) -> T {
        match weight {
            Weight::One => T::from_f64(1.0),
            Weight::Shared(index) => self.ops[index],
            Weight::PerImage(start) => self.ops[start + image],
        }
    }
}

/// `max(0, x)`, or `x sigmoid(x)` in the smooth variant.
fn rectify<T: Scalar>(x: T, smooth: bool) -> T {
    match smooth {
        true => x * x.sigmoid(),
        false if x.to_f64() > 0.0 => x,
        false => T::default(),
    }
}

fn rectify_back<T: Scalar>(x: T, g: T, smooth: bool) -> T {
    if smooth {
        let (s, one) = (x.sigmoid(), T::from_f64(1.0));
        return g * s * (one + x * (one - s));
    }
    if x.to_f64() > 0.0 { g } else { T::default() }
}

impl<T: Scalar> Pass<'_, T> {
    fn apply(
        &self,
        primitive: &Primitive,
        x: &Images<T>,
        statistics: &mut Vec<Stretch<T>>,
    ) -> Result<Images<T>> {
        let (c, inputs, smooth) = (x.shape.1, self.inputs, self.how.smooth);
        Ok(match *primitive {
            Primitive::Relu => x.map(|v| rectify(v, smooth)),
            Primitive::Map(ref map) => {
                let other = if smooth { map.smooth() } else { None };
                other.as_ref().unwrap_or(map).reference(x)
            }
            Primitive::MaxPool { stride } if !smooth => max_pool(x, stride),
            Primitive::MaxPool { stride } | Primitive::AvgPool { stride } => avg_pool(x, stride),
            Primitive::BatchNorm { affine, statistics: at } => {
                let affine = affine
                    .map(|a| (&inputs.weights[a.gamma..][..c], &inputs.weights[a.beta..][..c]));
                let running = inputs.running.map(|r| (&r[at..][..c], &r[at + c..][..c]));
                let (y, found) = batch_norm(x, affine, running);
                statistics.push((at, found));
                y
            }
            Primitive::Function { function, weight } => self.call(function.0, weight, x)?.output(),
            _ => {
                let parts: Vec<_> = convolutions(primitive, c)
                    .iter()
                    .map(|conv| convolve(x, conv, inputs.weights))
                    .collect();
                Images::concatenate(&parts.iter().collect::<Vec<_>>())
            }
        })
    }

    fn call(&self, function: usize, weight: usize, x: &Images<T>) -> Result<Call<'_>> {
        let how = FunctionPass::new(self.inputs.running.is_none(), self.how.key);
        Call::new(&*self.graph.functions[function], x, &self.inputs.weights[weight..], how)
    }

    fn apply_back(
        &self,
        primitive: &Primitive,
        x: &Images<T>,
        g: &Images<T>,
        weights: &mut Vec<Stretch<T>>,
    ) -> Result<Images<T>> {
        let (c, inputs, smooth) = (x.shape.1, self.inputs, self.how.smooth);
        Ok(match *primitive {
            Primitive::Map(ref map) => {
                let other = if smooth { map.smooth() } else { None };
                other.as_ref().unwrap_or(map).reference_back(x, g)
            }
            Primitive::Relu => x.zip_map(g, |x, g| rectify_back(x, g, smooth)),
            Primitive::MaxPool { stride } if !smooth => max_pool_back(x, g, stride),
            Primitive::MaxPool { stride } | Primitive::AvgPool { stride } => {
                avg_pool_back(x, g, stride)
            }
            Primitive::BatchNorm { affine, statistics: at } => {
                let gamma = affine.map(|a| &inputs.weights[a.gamma..][..c]);
                let running = inputs.running.map(|r| (&r[at..][..c], &r[at + c..][..c]));
                let (dx, dgamma, dbeta) = batch_norm_back(x, g, gamma, running);
                if let Some(a) = affine {
                    weights.extend([(a.gamma, dgamma), (a.beta, dbeta)]);
                }
                dx
            }
            Primitive::Function { function, weight } => {
                let (dx, dw) = self.call(function.0, weight, x)?.back(x, g)?;
                weights.push((weight, dw));
                dx
            }
            _ => {
                let convs = convolutions(primitive, c);
                let mut parts: Vec<_> = convs
                    .iter()
                    .map(|conv| Images::zeros((g.shape.0, conv.out, g.shape.2, g.shape.3)))
                    .collect();
                let count = parts.len();
                g.split_into(&mut parts, 0..count);
                let mut dx = Images::zeros(x.shape);
                for (conv, g) in convs.iter().zip(&parts) {
                    let dw = convolve_back(x, g, conv, inputs.weights, &mut dx);
                    weights.push((conv.weight, dw));
                }
                dx
            }
        })
    }

    pub(super) fn run_term(&self, term: &Term, states: &[Images<T>]) -> Result<Run<T>> {
        let inputs: Vec<_> = term.input.iter().map(|id| &states[id.index()]).collect();
        let mut steps = vec![Images::concatenate(&inputs)];
        let mut statistics = Vec::new();
        for primitive in &term.chain {
            let next = self.apply(primitive, &steps[steps.len() - 1], &mut statistics)?;
            steps.push(next);
        }
        Ok(Run { steps, statistics })
    }

    /// The gradients of a term, whose state has gradient `g`. Its activations are computed again.
    pub(super) fn term_back(
        &self,
        term: &Term,
        states: &[Images<T>],
        g: &Images<T>,
    ) -> Result<TermGradients<T>> {
        let steps = self.run_term(term, states)?.steps;
        let (mut g, len) = (g.clone(), g.image_len());
        let images =
            g.data.chunks_exact_mut(len).zip(steps[steps.len() - 1].data.chunks_exact(len));
        let mut factor = Vec::new();
        for (image, (g, y)) in images.enumerate() {
            if term.weight != Weight::One {
                factor.push(super::primitives::dot(g, y));
                let weight = self.inputs.op(term.weight, image);
                for g in g {
                    *g = *g * weight;
                }
            }
        }
        let mut weights = Vec::new();
        for (primitive, x) in term.chain.iter().zip(&steps).rev() {
            g = self.apply_back(primitive, x, &g, &mut weights)?;
        }
        Ok(TermGradients { input: g, weights, factor })
    }

    /// The value of an export that reads states.
    pub(super) fn export(&self, export: &Export, states: &[Images<T>]) -> Vec<T> {
        let mut map = concatenated(export, states);
        if export.relu() {
            map = map.map(|v| rectify(v, self.how.smooth));
        }
        if !matches!(export, Export::Pooled { .. }) {
            return map.data;
        }
        let pixels = map.shape.2 * map.shape.3;
        let mean = |plane: &[T]| {
            let sum = plane.iter().fold(T::default(), |a, b| a + *b);
            sum / T::from_f64(pixels as f64)
        };
        map.data.chunks(pixels).map(mean).collect()
    }

    /// Its gradient, at the concatenation of the states it reads.
    pub(super) fn export_back(&self, export: &Export, states: &[Images<T>], g: &[T]) -> Images<T> {
        let mut map = concatenated(export, states);
        let pixels = map.shape.2 * map.shape.3;
        for (i, x) in map.data.iter_mut().enumerate() {
            let g = match export {
                Export::Pooled { .. } => g[i / pixels] / T::from_f64(pixels as f64),
                _ => g[i],
            };
            *x = if export.relu() { rectify_back(*x, g, self.how.smooth) } else { g };
        }
        map
    }
}

fn concatenated<T: Scalar>(export: &Export, states: &[Images<T>]) -> Images<T> {
    let parts: Vec<_> = export.states().iter().map(|id| &states[id.index()]).collect();
    Images::concatenate(&parts)
}

/// The convolutions of a primitive, side by side.
fn convolutions(primitive: &Primitive, channels: usize) -> Box<[Convolution]> {
    let plain = Convolution {
        out: 0,
        kernel: 1,
        stride: 1,
        dilation: 1,
        shift: 0,
        depthwise: false,
        weight: 0,
    };
    match *primitive {
        Primitive::Depthwise { kernel, stride, dilation, weight } => Box::new([Convolution {
            out: channels,
            kernel,
            stride,
            dilation,
            weight,
            depthwise: true,
            ..plain
        }]),
        Primitive::Pointwise { out, stride, weight } => {
            Box::new([Convolution { out, stride, weight, ..plain }])
        }
        Primitive::Dense { kernel, stride, out, weight } => {
            Box::new([Convolution { out, kernel, stride, weight, ..plain }])
        }
        Primitive::FactorizedReduce { out, even, odd } => {
            let half = out / 2;
            let both = [
                Convolution { out: half, stride: 2, weight: even, ..plain },
                Convolution { out: out - half, stride: 2, shift: 1, weight: odd, ..plain },
            ];
            both.into_iter().filter(|c| c.out > 0).collect()
        }
        _ => Box::new([]),
    }
}
