//! Holds a map against its reference, and the reference against finite differences.

use candle_core::{Device, Tensor, Var};

use super::Map;
use crate::graph::Shape;
use crate::reference::{self, Images, Inputs};
use crate::{Export, Graph, GraphBuilder, Mode, Network, Primitive, Term, Weight, simd_paths};

/// Uniform in -1..1, the same numbers every time.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed;
    let mut next = || {
        s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (s >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|v| f64::from(*v)).collect()
}

/// The map of states that are pointwise convolutions of the images: bare as a whole state, in a sum
/// with itself normalised, and weighted image by image.
fn graph(map: &Map, inputs: &[Shape], batch: usize) -> Graph {
    let mut b = GraphBuilder::new(2, inputs[0].1, inputs[0].2);
    let images = b.input();
    let mut weights = 0;
    let mut below = Vec::new();
    for shape in inputs {
        let chain = vec![Primitive::Pointwise { out: shape.0, stride: 1, weight: weights }];
        weights += 2 * shape.0;
        let term = Term { input: vec![images], chain, weight: Weight::One };
        below.push(b.state(vec![term]).expect("a state"));
    }
    let norm = Primitive::BatchNorm { affine: None, statistics: 0 };
    let bare = || vec![Primitive::Map(map.clone())];
    let term = |chain, weight| Term { input: below.clone(), chain, weight };
    let whole = b.state(vec![term(bare(), Weight::One)]).expect("a state");
    let normed = [bare(), vec![norm]].concat();
    let sum = b.state(vec![
        term(normed, Weight::Shared(batch)),
        term(bare(), Weight::PerImage(0)),
        Term { input: vec![whole], chain: vec![], weight: Weight::Shared(batch + 1) },
    ]);
    let sum = sum.expect("a state");
    b.export(Export::Map { states: vec![whole, sum], relu: false });
    b.finish().expect("a graph")
}

/// Forward, statistics and gradients on every instruction set, for one and for three images.
pub(super) fn check(map: &Map, inputs: &[Shape]) {
    finite_differences(map, inputs);
    for batch in [1, 3] {
        let graph = graph(map, inputs, batch);
        let (c, h, w) = graph.input_shape();
        let images = values(batch * c * h * w, 1);
        let weights = values(graph.weights(), 2);
        let ops = values(graph.ops(batch), 3);
        let out = graph.export_shape(&graph.exports()[0], batch).iter().product();
        let g = values(out, 4);
        let (wide_images, wide_weights, wide_ops) = (wide(&images), wide(&weights), wide(&ops));
        let inputs = Inputs {
            batch,
            images: &wide_images,
            weights: &wide_weights,
            ops: &wide_ops,
            running: None,
        };
        let forward = reference::forward(&graph, &inputs);
        let gradients = reference::backward(&graph, &inputs, &forward, &[wide(&g)]);
        for simd in simd_paths() {
            let what = |part: &str| format!("{map:?}, {batch} images, {simd}: {part}");
            let network = Network::with_simd(graph.clone(), simd).expect("this machine has it");
            let flat = |v: &[f32]| Tensor::from_slice(v, v.len(), &Device::Cpu).expect("a tensor");
            let images = flat(&images).reshape((batch, c, h, w)).expect("images");
            let weights = Var::from_tensor(&flat(&weights)).expect("a variable");
            let ops = Var::from_tensor(&flat(&ops)).expect("a variable");
            let outputs = network.forward(&images, &weights, &ops, Mode::Train).expect("a pass");
            let map = outputs.exports[0].flatten_all().expect("a map");
            let loss = (&map * flat(&g)).and_then(|p| p.sum_all()).expect("a loss");
            let found = loss.backward().expect("gradients");
            let numbers = |t: &Tensor| t.to_vec1::<f32>().expect("numbers");
            near(&numbers(&map), &forward.exports[0], &what("output"));
            let statistics = outputs.statistics.expect("statistics");
            near(&numbers(&statistics), &forward.statistics, &what("statistics"));
            let of = |v: &Var| numbers(found.get(v).expect("a gradient"));
            near(&of(&weights), &gradients.weights, &what("gradient below"));
            near(&of(&ops), &gradients.ops, &what("gradient of the factors"));
        }
    }
}

/// Equal but for rounding; batch norms of few values amplify it.
fn near(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1.0, |a: f64, e| a.max(e.abs()));
    for (f, e) in found.iter().zip(expected) {
        assert!((f64::from(*f) - e).abs() < 1e-3 * scale, "{what}: {f} for {e}");
    }
}

/// `<g, map(x + s d)>` along a random direction against `<reference_back, d>`.
fn finite_differences(map: &Map, inputs: &[Shape]) {
    let (_, h, w) = inputs[0];
    let shape = (2, inputs.iter().map(|s| s.0).sum(), h, w);
    let images = |seed| Images { shape, data: wide(&values(2 * shape.1 * h * w, seed)) };
    let (x, d) = (images(5), images(6));
    let step = 1e-7;
    let moved = |s: f64| Images {
        shape,
        data: x.data.iter().zip(&d.data).map(|(x, d)| x + s * d).collect(),
    };
    let out = map.reference(&x);
    let g = Images { shape: out.shape, data: wide(&values(out.data.len(), 7)) };
    let dot = |a: &Images<f64>, b: &Images<f64>| {
        a.data.iter().zip(&b.data).map(|(a, b)| a * b).sum::<f64>()
    };
    let at = |s: f64| dot(&map.reference(&moved(s)), &g);
    let expected = (at(step) - at(-step)) / (2.0 * step);
    let found = dot(&map.reference_back(&x, &g), &d);
    assert!((found - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{found} for {expected}");
}
