//! Tensor functions for tests, and graphs that hold them beside fused chains.

use std::sync::{Arc, Mutex};

use candle_core::{D, Result, Tensor};
use tetlo_kernels::{
    Export, FunctionPass, Graph, GraphBuilder, Primitive, Shape, StateId, TensorFunction, Term,
    Weight,
};

use crate::common::{Places, Random};

/// What a function does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// `x * sigmoid(tanh(mean(x) A) B)`, mean over the pixels.
    Gate,
    /// A convolution of stride 2 to `out` channels, then tanh.
    Conv { out: usize },
    /// `x - w * mean(x)`, mean over images and pixels: images depend on each other.
    Centre,
    /// `tanh(x)`: no weights.
    Tanh,
    /// Attention of each pixel to all of its image.
    Attend,
    /// A bias: does not depend on `x`.
    Bias,
    /// `x * w * (1 + noise)`, noise of the pass's key, in training.
    Noise,
    /// Its weights are not used.
    Unused,
    /// Gives a map without the last row.
    Cut,
    /// Its output is not finite.
    Broken,
    /// Its gradient is not finite.
    Steep,
}

/// Which of x and weights had gradients in a call.
pub(crate) type Calls = Arc<Mutex<Vec<(bool, bool)>>>;

#[derive(Debug)]
pub(crate) struct Function {
    pub code: Code,
    pub calls: Calls,
}

impl TensorFunction for Function {
    fn name(&self) -> &'static str {
        "the test function"
    }

    fn output(&self, (c, h, w): Shape) -> std::result::Result<Shape, String> {
        Ok(match self.code {
            Code::Conv { out } => (out, (h - 1) / 2 + 1, (w - 1) / 2 + 1),
            _ => (c, h, w),
        })
    }

    fn weights(&self, (c, ..): Shape) -> usize {
        match self.code {
            Code::Gate => c * 2 * 2,
            Code::Conv { out } => out * c * 9,
            Code::Tanh | Code::Cut | Code::Broken | Code::Steep => 0,
            _ => c,
        }
    }

    fn forward(&self, x: &Tensor, weights: &Tensor, pass: &FunctionPass) -> Result<Tensor> {
        self.calls.lock().unwrap().push((x.track_op(), weights.track_op()));
        let (n, c, h, w) = x.dims4()?;
        let scale = || weights.narrow(0, 0, c)?.reshape((1, c, 1, 1));
        match self.code {
            Code::Gate => {
                let a = weights.narrow(0, 0, 2 * c)?.reshape((c, 2))?;
                let b = weights.narrow(0, 2 * c, 2 * c)?.reshape((2, c))?;
                let mean = x.flatten_from(2)?.mean(D::Minus1)?;
                let gate = candle_nn::ops::sigmoid(&mean.matmul(&a)?.tanh()?.matmul(&b)?)?;
                x.broadcast_mul(&gate.reshape((n, c, 1, 1))?)
            }
            Code::Conv { out } => {
                // Padded by hand: candle has no gradient at stride 2 for every parity of the sides.
                let (h2, w2) = ((h - 1) / 2 + 1, (w - 1) / 2 + 1);
                let x = x.pad_with_zeros(2, 1, 2 * h2 - h)?.pad_with_zeros(3, 1, 2 * w2 - w)?;
                x.conv2d(&weights.reshape((out, c, 3, 3))?, 0, 2, 1, 1)?.tanh()
            }
            Code::Centre => {
                let mean = x.mean_keepdim(0)?.mean_keepdim(2)?.mean_keepdim(3)?;
                x.broadcast_sub(&mean.broadcast_mul(&scale()?)?)
            }
            Code::Tanh | Code::Unused => x.tanh(),
            Code::Bias => scale()?.broadcast_as((n, c, h, w)),
            Code::Noise => {
                let mut r = Random::new(pass.key);
                let noise = Tensor::new(r.values(n, 1.0), x.device())?.to_dtype(x.dtype())?;
                let noise = if pass.train { noise } else { noise.zeros_like()? };
                let factor = (noise + 1.0)?.reshape((n, 1, 1, 1))?;
                x.broadcast_mul(&scale()?)?.broadcast_mul(&factor)
            }
            Code::Cut => x.narrow(2, 0, h - 1),
            Code::Broken => x.broadcast_div(&x.zeros_like()?),
            Code::Steep => (x - x.detach())?.sqrt(),
            Code::Attend => {
                let flat = x.flatten_from(2)?.broadcast_mul(&weights.reshape((1, c, 1))?)?;
                let scores = (flat.t()?.matmul(&flat)? / (c as f64).sqrt())?;
                let attention = candle_nn::ops::softmax(&scores, D::Minus1)?;
                flat.matmul(&attention.t()?)?.reshape((n, c, h, w))
            }
        }
    }
}

/// Adds a function and its weights.
pub(crate) fn function(
    b: &mut GraphBuilder,
    p: &mut Places,
    code: Code,
    input: Shape,
) -> Primitive {
    observed(b, p, code, input, &Calls::default())
}

pub(crate) fn observed(
    b: &mut GraphBuilder,
    p: &mut Places,
    code: Code,
    input: Shape,
    calls: &Calls,
) -> Primitive {
    let function = Function { code, calls: Arc::clone(calls) };
    let weight = p.weights(function.weights(input));
    Primitive::Function { function: b.function(Arc::new(function)), weight }
}

fn term(input: &[StateId], chain: Vec<Primitive>, weight: Weight) -> Term {
    Term { input: input.to_vec(), chain, weight }
}

/// Functions alone, behind a rectifier, before and after convolutions and norms, of concatenated
/// states, twice in a chain; fused chains of the same states beside them.
pub(crate) fn mixed(shape: Shape, batch: usize, affine: bool) -> Graph {
    let (c, h, w) = shape;
    let mut b = GraphBuilder::new(c, h, w);
    let mut p = Places { affine, ..Places::default() };
    let images = b.input();
    let below = vec![p.dense(c, c, 3, 1)];
    let first = b.state(vec![term(&[images], below, Weight::One)]).unwrap();
    let mut gate = |code| function(&mut b, &mut p, code, shape);
    let [alone, rectified, centred, tanh, noise, bias] =
        [Code::Gate, Code::Gate, Code::Centre, Code::Tanh, Code::Noise, Code::Bias].map(&mut gate);
    let terms = vec![
        term(&[first], vec![alone], Weight::Shared(0)),
        term(
            &[first],
            vec![
                Primitive::Relu,
                p.depthwise(c, 3, 1, 1),
                p.pointwise(c, c, 1),
                p.norm(c),
                rectified,
                p.norm(c),
            ],
            Weight::Shared(1),
        ),
        term(&[first], vec![Primitive::Relu, centred, p.norm(c)], Weight::PerImage(2)),
        term(&[first], vec![Primitive::MaxPool { stride: 1 }, p.norm(c)], Weight::One),
        term(&[images], vec![tanh, Primitive::Relu, p.dense(c, c, 3, 1)], Weight::One),
        term(&[images], vec![noise], Weight::One),
        term(&[first], vec![bias], Weight::One),
        term(&[first], vec![], Weight::One),
    ];
    let second = b.state(terms).unwrap();
    let joint = (2 * c, h, w);
    let conv = function(&mut b, &mut p, Code::Conv { out: 5 }, joint);
    let out = ((h - 1) / 2 + 1, (w - 1) / 2 + 1);
    let again = function(&mut b, &mut p, Code::Gate, (5, out.0, out.1));
    let constant = function(&mut b, &mut p, Code::Bias, (5, out.0, out.1));
    let terms = vec![
        term(
            &[first, second],
            vec![
                Primitive::Relu,
                conv,
                p.norm(5),
                Primitive::Relu,
                again,
                p.pointwise(5, 5, 1),
                p.norm(5),
            ],
            Weight::One,
        ),
        term(&[second], vec![p.pointwise(c, 5, 2), constant, p.norm(5)], Weight::Shared(2 + batch)),
        term(&[second], vec![Primitive::Relu, p.dense(c, 5, 3, 2), p.norm(5)], Weight::One),
    ];
    let third = b.state(terms).unwrap();
    b.export(Export::Pooled { states: vec![third], relu: false });
    b.export(Export::Map { states: vec![second], relu: true });
    b.finish().unwrap()
}
