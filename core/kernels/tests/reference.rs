//! The reference: hand-worked values, and its gradients against finite differences.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Data, Random, random_graph};
use tetlo_kernels::reference::{self, Inputs};
use tetlo_kernels::{Affine, AvgPool2x2, Export, GraphBuilder, Map, Primitive, Term, Weight};

/// Output of one chain on one image.
fn output(
    shape: (usize, usize, usize),
    images: &[f64],
    chain: Vec<Primitive>,
    weights: &[f64],
) -> Vec<f64> {
    let (c, h, w) = shape;
    let batch = images.len() / (c * h * w);
    let mut b = GraphBuilder::new(c, h, w);
    let input = vec![b.input()];
    let state = b.state(vec![Term { input, chain, weight: Weight::One }]).unwrap();
    b.export(Export::Map { states: vec![state], relu: false });
    let inputs = Inputs { batch, images, weights, ops: &[], running: None };
    reference::forward(&b.finish().unwrap(), &inputs).exports.remove(0)
}

fn near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    assert!(
        found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12),
        "{found:?} for {expected:?}"
    );
}

#[test]
fn by_hand() {
    let image = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, -9.0];
    let one = (1, 3, 3);
    let out = output(one, &image, vec![Primitive::MaxPool { stride: 2 }], &[]);
    near(&out, &[5.0, 6.0, 8.0, 8.0]);
    // Corners hold four pixels: (1 + 2 + 4 + 5) / 4, (2 + 3 + 5 + 6) / 4, (4 + 5 + 7 + 8) / 4, (5 +
    // 6 + 8 - 9) / 4.
    let out = output(one, &image, vec![Primitive::AvgPool { stride: 2 }], &[]);
    near(&out, &[3.0, 4.0, 6.0, 2.5]);
    let out =
        output((1, 2, 4), &image[..8], vec![Primitive::Map(Map::AvgPool2x2(AvgPool2x2))], &[]);
    near(&out, &[3.5, 5.5]); // (1 + 2 + 5 + 6) / 4, (3 + 4 + 7 + 8) / 4
    near(&output(one, &image, vec![Primitive::Relu], &[])[7..], &[8.0, 0.0]);
    // The kernel 1 0 0 / 0 0 0 / 0 0 2 gives x[y - 1, x - 1] + 2 x[y + 1, x + 1].
    let kernel = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0];
    let dense = |stride| vec![Primitive::Dense { kernel: 3, stride, out: 1, weight: 0 }];
    let expected = [10.0, 12.0, 0.0, 16.0, -17.0, 2.0, 0.0, 4.0, 5.0];
    near(&output(one, &image, dense(1), &kernel), &expected);
    near(&output(one, &image, dense(2), &kernel), &[10.0, 0.0, 0.0, 5.0]);
    // The same taps two pixels apart reach only the far corners; then the pointwise factor 3.
    let dilated = vec![
        Primitive::Depthwise { kernel: 3, stride: 1, dilation: 2, weight: 0 },
        Primitive::Pointwise { out: 1, stride: 1, weight: 9 },
    ];
    let weights: Vec<f64> = kernel.iter().copied().chain([3.0]).collect();
    let expected = [-54.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0];
    near(&output(one, &image, dilated, &weights), &expected);
    // Even pixels (x = 1) times 10, odd pixels (x = 4) times 100.
    let reduce = vec![Primitive::FactorizedReduce { out: 2, even: 0, odd: 1 }];
    near(&output((1, 2, 2), &[1.0, 2.0, 3.0, 4.0], reduce, &[10.0, 100.0]), &[10.0, 400.0]);
    // Two channels to one: 2 x0 - x1.
    let pointwise = vec![Primitive::Pointwise { out: 1, stride: 1, weight: 0 }];
    near(&output((2, 1, 2), &[1.0, 2.0, 5.0, 7.0], pointwise, &[2.0, -1.0]), &[-3.0, -3.0]);
    // Mean 2, variance 1 over both images: y = (x - 2) / sqrt(1 + 1e-5), then 3 y + 4.
    let norm = Primitive::BatchNorm { affine: Some(Affine { gamma: 1, beta: 2 }), statistics: 0 };
    let identity = Primitive::Pointwise { out: 1, stride: 1, weight: 0 };
    let r = 3.0 / (1.0f64 + 1e-5).sqrt();
    near(
        &output((1, 1, 1), &[1.0, 3.0], vec![identity, norm], &[1.0, 3.0, 4.0]),
        &[4.0 - r, 4.0 + r],
    );
}

/// Central differences of the `f64` forward pass, on random graphs that stay away from kinks.
#[test]
fn finite_differences() {
    let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    let mut tested = 0;
    for seed in 0..200 {
        let mut r = Random::new(seed);
        let batch = 1 + r.below(3);
        let (graph, _, _) = random_graph(&mut r, batch);
        let data = Data::random(&graph, &mut r, batch);
        let (images, weights, ops) = (wide(&data.images), wide(&data.weights), wide(&data.ops));
        let (running, exports) = (wide(&data.running), data.exports.iter().map(|e| wide(e)));
        let exports: Vec<Vec<f64>> = exports.collect();
        let running = (seed % 4 == 0).then_some(&*running);
        let inputs = Inputs { batch, images: &images, weights: &weights, ops: &ops, running };
        let forward = reference::forward(&graph, &inputs);
        if reference::margin(&graph, &inputs, &forward) < 2e-4 {
            continue;
        }
        tested += 1;
        let gradients = reference::backward(&graph, &inputs, &forward, &exports);
        let loss = |weights: &[f64], ops: &[f64]| -> f64 {
            let out = reference::forward(&graph, &Inputs { weights, ops, ..inputs }).exports;
            out.iter().flatten().zip(exports.iter().flatten()).map(|(o, g)| o * g).sum()
        };
        let step = 1e-6;
        let slope = |values: &[f64], i: usize, loss: &dyn Fn(&[f64]) -> f64| {
            let at = |d: f64| {
                let mut v = values.to_vec();
                v[i] += d;
                loss(&v)
            };
            (at(step) - at(-step)) / (2.0 * step)
        };
        let scale = |g: &[f64]| g.iter().fold(1.0, |a: f64, g| a.max(g.abs()));
        for _ in 0..8 {
            let i = r.below(weights.len());
            let found = slope(&weights, i, &|w| loss(w, &ops));
            let exact = gradients.weights[i];
            assert!(
                (found - exact).abs() < 1e-5 * scale(&gradients.weights),
                "seed {seed}: {found} {exact}"
            );
        }
        for i in 0..ops.len().min(8) {
            let found = slope(&ops, i, &|o| loss(&weights, o));
            let exact = gradients.ops[i];
            assert!(
                (found - exact).abs() < 1e-5 * scale(&gradients.ops),
                "seed {seed}: {found} {exact}"
            );
        }
    }
    assert!(tested > 30, "{tested} graphs tested");
}
