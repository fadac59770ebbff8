//! Tensor functions in compiled networks.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "common/functions.rs"]
mod code;
mod common;

use candle_core::{DType, Device, Tensor, Var};
use code::{Calls, Code, function, mixed, observed};
use common::{
    Data, Places, Random, differences, expect, flat, loss, run, single_precision, vector,
};
use tetlo_kernels::reference::{self, How, Inputs};
use tetlo_kernels::{
    Error, Export, Graph, GraphBuilder, Mode, Network, Primitive, Term, Weight, simd_paths,
};

/// `batch × channels × height × width`, affine norms.
const SHAPES: [(usize, (usize, usize, usize), bool); 6] = [
    (3, (3, 5, 7), true),
    (1, (1, 4, 4), false),
    (5, (16, 4, 6), true),
    (2, (20, 8, 8), false),
    (4, (33, 3, 3), true),
    (3, (2, 1, 6), false),
];

#[test]
fn against_the_reference() {
    for (seed, (batch, shape, affine)) in SHAPES.into_iter().enumerate() {
        let graph = mixed(shape, batch, affine);
        let mut compared = 0;
        for try_ in 0..20 {
            let data = Data::random(&graph, &mut Random::new(100 * try_ + seed as u64), batch);
            for evaluate in [false, true] {
                let expected = expect(&graph, &data, evaluate);
                if expected.margin < 3e-6 {
                    continue;
                }
                compared += 1;
                let single = single_precision(&graph, &data, evaluate, &expected);
                for simd in simd_paths() {
                    let network = Network::with_simd(graph.clone(), simd).unwrap();
                    let found = differences(&run(&network, &data, evaluate), &expected);
                    let near = found.iter().zip(single).all(|(f, s)| *f < 2e-5f64.max(10.0 * s));
                    assert!(near, "{shape:?}, {simd}, evaluate {evaluate}: {found:?}, {single:?}");
                }
            }
            if compared >= 4 {
                break;
            }
        }
        assert!(compared >= 2, "{shape:?}: {compared} passes compared");
    }
}

/// Central differences of the `f64` reference.
#[test]
fn finite_differences() {
    let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    let mut tested = 0;
    for seed in 0..40 {
        let (batch, shape, affine) = SHAPES[seed as usize % 3];
        let graph = mixed(shape, batch, affine);
        let mut r = Random::new(seed);
        let data = Data::random(&graph, &mut r, batch);
        let (images, weights, ops) = (wide(&data.images), wide(&data.weights), wide(&data.ops));
        let (running, exports) = (wide(&data.running), data.exports.iter().map(|e| wide(e)));
        let exports: Vec<Vec<f64>> = exports.collect();
        let running = (seed % 4 == 0).then_some(&*running);
        let inputs = Inputs { batch, images: &images, weights: &weights, ops: &ops, running };
        let how = How { key: seed, ..How::default() };
        let forward = reference::forward_as(&graph, &inputs, how);
        if reference::margin(&graph, &inputs, &forward) < 1e-4 {
            continue;
        }
        tested += 1;
        let gradients = reference::backward(&graph, &inputs, &forward, &exports);
        let value = |weights: &[f64], ops: &[f64]| -> f64 {
            let inputs = Inputs { weights, ops, ..inputs };
            let out = reference::forward_as(&graph, &inputs, how).exports;
            out.iter().flatten().zip(exports.iter().flatten()).map(|(o, g)| o * g).sum()
        };
        let largest = |v: &[f64]| v.iter().fold(1.0, |a: f64, v| a.max(v.abs()));
        let moved = |values: &[f64], i: usize, step: f64| {
            let mut v = values.to_vec();
            v[i] += step;
            v
        };
        let step = 1e-6;
        for _ in 0..30 {
            let i = r.below(weights.len());
            let at = |s| value(&moved(&weights, i, s), &ops);
            let found = (at(step) - at(-step)) / (2.0 * step);
            let exact = gradients.weights[i];
            let near = (found - exact).abs() < 1e-5 * largest(&gradients.weights);
            assert!(near, "seed {seed}: weight {i}: {found} {exact}");
        }
        for i in 0..ops.len() {
            let at = |s| value(&weights, &moved(&ops, i, s));
            let found = (at(step) - at(-step)) / (2.0 * step);
            let exact = gradients.ops[i];
            let near = (found - exact).abs() < 1e-5 * largest(&gradients.ops);
            assert!(near, "seed {seed}: operation weight {i}: {found} {exact}");
        }
    }
    assert!(tested >= 5, "{tested} graphs tested");
}

/// Chains of one bundle that all begin with a function: the weight gradients of the convolutions after
/// them have places of their own.
#[test]
fn functions_first() {
    let (shape, batch) = ((3, 5, 4), 3);
    let mut p = Places { affine: true, ..Places::default() };
    let mut b = GraphBuilder::new(3, 5, 4);
    let images = b.input();
    let terms = [20, 7].map(|wide| {
        let chain = vec![
            function(&mut b, &mut p, Code::Gate, shape),
            p.dense(3, wide, 3, 1),
            p.norm(wide),
            Primitive::Relu,
            p.depthwise(wide, 3, 1, 1),
            p.pointwise(wide, 20, 1),
        ];
        Term { input: vec![images], chain, weight: Weight::One }
    });
    let state = b.state(terms.to_vec()).unwrap();
    b.export(Export::Map { states: vec![state], relu: false });
    let graph = b.finish().unwrap();
    let data = Data::random(&graph, &mut Random::new(4), batch);
    let expected = expect(&graph, &data, false);
    assert!(expected.margin > 3e-6);
    for simd in simd_paths() {
        let network = Network::with_simd(graph.clone(), simd).unwrap();
        let found = differences(&run(&network, &data, false), &expected);
        assert!(found.iter().all(|f| *f < 2e-5), "{simd}: {found:?}");
    }
}

/// images → function → convolution → function, each under its own operation weight.
fn line(calls: &[Calls; 2]) -> (Network, Data) {
    let mut p = Places::default();
    let mut b = GraphBuilder::new(2, 4, 4);
    let images = b.input();
    let shape = (2, 4, 4);
    let low = observed(&mut b, &mut p, Code::Gate, shape, &calls[0]);
    let high = observed(&mut b, &mut p, Code::Gate, shape, &calls[1]);
    let term = |input, chain, weight| Term { input: vec![input], chain, weight };
    let first = b.state(vec![term(images, vec![low], Weight::One)]).unwrap();
    let conv = p.pointwise(2, 2, 1);
    let second = b.state(vec![term(first, vec![conv], Weight::Shared(0))]).unwrap();
    let third = b.state(vec![term(second, vec![high], Weight::Shared(1))]).unwrap();
    b.export(Export::Map { states: vec![third], relu: false });
    let graph = b.finish().unwrap();
    let data = Data::random(&graph, &mut Random::new(3), 3);
    (Network::new(graph), data)
}

#[test]
fn only_what_is_wanted() {
    let calls = [Calls::default(), Calls::default()];
    let (network, data) = line(&calls);
    let both = run(&network, &data, false);
    let images = data.images(network.graph());
    let seen = || [0, 1].map(|i| std::mem::take(&mut *calls[i].lock().unwrap()));
    // Images have no gradient, so the lower function never needs that of its input.
    assert_eq!(seen(), [vec![(false, true)], vec![(true, true)]]);
    let cases = [
        (true, false, [(false, true), (true, true)]),
        // Below the first operation weight nothing is wanted: its function keeps no graph.
        (false, true, [(false, false), (true, false)]),
        (false, false, [(false, false), (false, false)]),
    ];
    for (of_weights, of_ops, expected) in cases {
        let weights = Var::from_tensor(&flat(&data.weights)).unwrap();
        let ops = Var::from_tensor(&flat(&data.ops)).unwrap();
        let w = if of_weights { weights.as_tensor().clone() } else { weights.detach() };
        let o = if of_ops { ops.as_tensor().clone() } else { ops.detach() };
        let out = network.forward(&images, &w, &o, Mode::Train).unwrap();
        assert_eq!(vector(&out.exports[0]), both.exports[0]);
        assert_eq!(seen(), expected.map(|e| vec![e]));
        if !of_weights && !of_ops {
            continue;
        }
        let gradients = loss(&out.exports, &data.exports).backward().unwrap();
        let found = |var: &Var| gradients.get(var).map(vector);
        assert_eq!(found(&weights), of_weights.then(|| both.weights.clone()));
        assert_eq!(found(&ops), of_ops.then(|| both.ops.clone()));
        assert_eq!(seen(), [vec![], vec![]], "a gradient does not run the function again");
    }
}

/// Two passes are kept, a third is repeated, with the same draws.
#[test]
fn repeated_passes_draw_the_same() {
    let mut p = Places::default();
    let mut b = GraphBuilder::new(2, 3, 3);
    let images = b.input();
    let noise = function(&mut b, &mut p, Code::Noise, (2, 3, 3));
    let conv = p.pointwise(2, 2, 1);
    let chain = vec![conv, noise];
    let state = b.state(vec![Term { input: vec![images], chain, weight: Weight::One }]).unwrap();
    b.export(Export::Map { states: vec![state], relu: false });
    let network = Network::new(b.finish().unwrap());
    let data = Data::random(network.graph(), &mut Random::new(8), 4);
    let images = data.images(network.graph());
    let weights: Vec<Var> =
        (0..3).map(|_| Var::from_tensor(&flat(&data.weights)).unwrap()).collect();
    let pass = |w: &Var, key| {
        let out =
            network.forward_with_key(&images, w, &flat(&[0.0]), Mode::Train, key).unwrap().exports;
        loss(&out, &data.exports)
    };
    let alone: Vec<Vec<f32>> = (0..3)
        .map(|key| {
            let gradients = pass(&weights[0], key).backward().unwrap();
            vector(gradients.get(&weights[0]).unwrap())
        })
        .collect();
    assert!(alone[0] != alone[1] && alone[1] != alone[2]);
    let losses = [pass(&weights[0], 0), pass(&weights[1], 1), pass(&weights[2], 2)];
    let [a, b, c] = losses;
    let gradients = ((a + b).unwrap() + c).unwrap().backward().unwrap();
    for (w, alone) in weights.iter().zip(&alone) {
        assert_eq!(&vector(gradients.get(w).unwrap()), alone);
    }
}

fn single(code: Code) -> Graph {
    let mut p = Places::default();
    let mut b = GraphBuilder::new(2, 4, 4);
    let images = b.input();
    let conv = p.pointwise(2, 2, 1);
    let chain = vec![conv, function(&mut b, &mut p, code, (2, 4, 4))];
    let term = Term { input: vec![images], chain, weight: Weight::One };
    let state = b.state(vec![term]).unwrap();
    b.export(Export::Map { states: vec![state], relu: false });
    b.finish().unwrap()
}

#[test]
fn errors() {
    let cases = [
        (Code::Cut, "the test function: it gives the shape [3, 2, 3, 4], expected [3, 2, 4, 4]"),
        (Code::Broken, "the test function: its output has a value that is not finite"),
        (Code::Unused, "the test function: no gradient reaches its weights"),
        (Code::Steep, "the test function: its gradient has a value that is not finite"),
    ];
    for (code, expected) in cases {
        let graph = single(code);
        let data = Data::random(&graph, &mut Random::new(2), 3);
        let network = Network::new(graph);
        let weights = Var::from_tensor(&flat(&data.weights)).unwrap();
        let out =
            network.forward(&data.images(network.graph()), &weights, &flat(&[0.0]), Mode::Train);
        let result = out.and_then(|out| loss(&out.exports, &data.exports).backward().map(drop));
        let error = result.err().map_or("no error".to_owned(), |e| e.to_string());
        assert!(error.contains(expected), "{code:?}: {error}");
    }
    // Where the input is already not finite the function is not blamed.
    let network = Network::new(single(Code::Tanh));
    let images = Tensor::full(f32::NAN, (1, 2, 4, 4), &Device::Cpu).unwrap();
    let weights = Tensor::ones(4, DType::F32, &Device::Cpu).unwrap();
    let out = network.forward(&images, &weights, &flat(&[0.0]), Mode::Train).unwrap();
    assert!(vector(&out.exports[0]).iter().all(|v| v.is_nan()));

    let mut other = GraphBuilder::new(2, 4, 4);
    let foreign = function(&mut other, &mut Places::default(), Code::Tanh, (2, 4, 4));
    let mut b = GraphBuilder::new(2, 4, 4);
    let images = b.input();
    let mut fail = |chain: Vec<Primitive>| {
        b.state(vec![Term { input: vec![images], chain, weight: Weight::One }]).unwrap_err()
    };
    assert_eq!(fail(vec![foreign.clone()]), Error::UnknownFunction { function: 0 });
    let mut b = other;
    let chain = vec![foreign, Primitive::MaxPool { stride: 1 }];
    let error = b.state(vec![Term { input: vec![images], chain, weight: Weight::One }]);
    let text = error.unwrap_err().to_string();
    assert!(text.contains("[the test function, MaxPool stride 1]"), "{text}");
}

/// Fewer images than the plan, then as many again: the tensors of a function follow.
#[test]
fn changing_batches() {
    let (batch, shape, affine) = SHAPES[0];
    let graph = mixed(shape, batch, affine);
    let network = Network::new(graph.clone());
    for n in [3, 1, 2, 3] {
        // The operation weights of the graph are for `batch` images.
        let mut data = Data::random(&graph, &mut Random::new(n as u64), n);
        data.ops = Random::new(1).values(graph.ops(batch), 1.0);
        let fresh = run(&Network::new(graph.clone()), &data, false);
        assert_eq!(run(&network, &data, false).bits(), fresh.bits(), "{n} images");
    }
}

/// Enough work for candle to use its threads: matrix products, convolutions, reductions.
fn large() -> (Graph, Data) {
    let (shape, batch) = ((24, 20, 20), 6);
    let mut p = Places { affine: true, ..Places::default() };
    let mut b = GraphBuilder::new(24, 20, 20);
    let images = b.input();
    let conv = vec![p.dense(24, 24, 3, 1), p.norm(24)];
    let term = |input, chain, weight| Term { input: vec![input], chain, weight };
    let first = b.state(vec![term(images, conv, Weight::One)]).unwrap();
    let [attend, gate, centre] =
        [Code::Attend, Code::Gate, Code::Centre].map(|code| function(&mut b, &mut p, code, shape));
    let second = vec![
        term(first, vec![attend, p.norm(24)], Weight::Shared(0)),
        term(first, vec![gate, p.pointwise(24, 24, 1), p.norm(24)], Weight::Shared(1)),
        term(first, vec![Primitive::Relu, centre], Weight::Shared(2)),
    ];
    let second = b.state(second).unwrap();
    let down = function(&mut b, &mut p, Code::Conv { out: 32 }, shape);
    let third = b.state(vec![term(second, vec![down, p.norm(32)], Weight::One)]).unwrap();
    b.export(Export::Pooled { states: vec![third], relu: true });
    let graph = b.finish().unwrap();
    let data = Data::random(&graph, &mut Random::new(5), batch);
    (graph, data)
}

/// The same bytes whatever candle's pool and the kernels use. Candle reads its number of threads
/// from the environment, so each number has a process of its own.
#[test]
#[expect(clippy::print_stdout, reason = "the parent process reads it")]
fn any_number_of_threads() {
    const THREADS: &str = "TETLO_TEST_THREADS";
    let (graph, data) = large();
    if let Ok(threads) = std::env::var(THREADS) {
        tetlo_kernels::set_threads(threads.parse().unwrap());
        let found = run(&Network::new(graph), &data, false);
        let hash = found.bits().iter().fold(0xCBF2_9CE4_8422_2325u64, |h, b| {
            (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        println!("hash {hash}");
        return;
    }
    let hash = |threads: &str| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["any_number_of_threads", "--exact", "--nocapture"]);
        let output = command.env(THREADS, threads).env("RAYON_NUM_THREADS", threads).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let line = text.lines().find_map(|l| l.split_once("hash ").map(|(_, h)| h.to_owned()));
        line.unwrap_or_else(|| panic!("{text}"))
    };
    let one = hash("1");
    for threads in ["2", "3", "8"] {
        assert_eq!(hash(threads), one, "{threads} threads");
    }
}
