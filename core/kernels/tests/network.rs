//! The candle operation: which gradients, which buffers, which errors.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use candle_core::{Device, Tensor, Var};
use common::{
    Data, Places, Random, dense_graph, flat, loss, partial_graph, random_graph, run, vector,
};
use tetlo_kernels::{
    Error, Export, GraphBuilder, Mode, Network, Plan, Primitive, Term, Weight, counters, simd_paths,
};

fn example(seed: u64, batch: usize, simd: &str) -> (Network, Data) {
    let mut r = Random::new(seed);
    let graph =
        if seed.is_multiple_of(3) { partial_graph(&mut r) } else { random_graph(&mut r, batch).0 };
    let data = Data::random(&graph, &mut r, batch);
    (Network::with_simd(graph, simd).unwrap(), data)
}

/// Two separable chains in one state: enough to have every buffer.
fn small() -> (Network, Data) {
    let mut r = Random::new(7);
    let mut p = Places::default();
    let mut b = GraphBuilder::new(4, 6, 6);
    let images = b.input();
    let mut chain = |stride| {
        vec![
            Primitive::Relu,
            p.depthwise(4, 3, stride, 1),
            p.pointwise(4, 4, 1),
            p.norm(4),
            Primitive::Relu,
            p.depthwise(4, 3, 1, 1),
            p.pointwise(4, 4, 1),
            p.norm(4),
        ]
    };
    let term = |input, chain, op| Term { input: vec![input], chain, weight: Weight::Shared(op) };
    let first = b.state(vec![term(images, chain(1), 0)]).unwrap();
    let second = b.state(vec![term(first, chain(2), 1)]).unwrap();
    b.export(Export::Map { states: vec![second], relu: false });
    let graph = b.finish().unwrap();
    let data = Data::random(&graph, &mut r, 3);
    (Network::new(graph), data)
}

#[test]
fn fewer_images_than_the_plan() {
    let paths = simd_paths().into_iter();
    for (simd, seed) in paths.flat_map(|simd| (0..31).map(move |seed| (simd, seed))) {
        let (mut network, mut data) = example(seed, 5, simd);
        if seed == 30 {
            network = Network::with_simd(dense_graph(16, 20, 12, 9), simd).unwrap();
            data = Data::random(network.graph(), &mut Random::new(seed), 5);
        }
        let mut r = Random::new(seed);
        run(&network, &data, false);
        data = Data::random(network.graph(), &mut r, 2);
        let fresh = Network::with_simd(network.graph().clone(), simd).unwrap();
        let fresh = run(&fresh, &data, false);
        assert_eq!(run(&network, &data, false).bits(), fresh.bits(), "seed {seed}, {simd}");
    }
}

#[test]
fn only_the_tracked_gradients() {
    let paths = simd_paths().into_iter();
    for (simd, seed) in paths.flat_map(|simd| (0..30).map(move |seed| (simd, seed))) {
        let (network, data) = example(seed, 4, simd);
        let both = run(&network, &data, false);
        let images = data.images(network.graph());
        for (track_weights, track_ops) in [(true, false), (false, true), (false, false)] {
            let weights = Var::from_tensor(&flat(&data.weights)).unwrap();
            let ops = Var::from_tensor(&flat(&data.ops)).unwrap();
            let w = if track_weights { weights.as_tensor().clone() } else { weights.detach() };
            let o = if track_ops { ops.as_tensor().clone() } else { ops.detach() };
            let out = network.forward(&images, &w, &o, Mode::Train).unwrap();
            assert!(out.exports.iter().map(vector).eq(both.exports.iter().cloned()), "seed {seed}");
            assert_eq!(vector(&out.statistics.unwrap()), both.statistics);
            if !track_weights && !track_ops {
                continue;
            }
            let gradients = loss(&out.exports, &data.exports).backward().unwrap();
            let found = |var: &Var| gradients.get(var).map(vector);
            assert_eq!(found(&weights), track_weights.then(|| both.weights.clone()), "seed {seed}");
            assert_eq!(found(&ops), track_ops.then(|| both.ops.clone()), "seed {seed}");
        }
    }
}

#[test]
fn several_passes_at_once() {
    let (network, data) = small();
    let images = data.images(network.graph());
    let ops = flat(&data.ops);
    let single = |values: &[f32]| {
        let weights = Var::from_tensor(&flat(values)).unwrap();
        let out = network.forward(&images, &weights, &ops, Mode::Train).unwrap();
        let gradients = loss(&out.exports, &data.exports).backward().unwrap();
        vector(gradients.get(&weights).unwrap())
    };
    let values: Vec<Vec<f32>> =
        (1..=3u8).map(|q| data.weights.iter().map(|w| w * f32::from(q)).collect()).collect();
    let expected: Vec<_> = values.iter().map(|v| single(v)).collect();
    for together in [2, 3] {
        let before = counters().recomputed;
        let weights: Vec<_> =
            values[..together].iter().map(|v| Var::from_tensor(&flat(v)).unwrap()).collect();
        let losses = weights.iter().map(|w| {
            let out = network.forward(&images, w, &ops, Mode::Train).unwrap();
            loss(&out.exports, &data.exports)
        });
        let sum = losses.reduce(|a, b| (a + b).unwrap()).unwrap();
        let gradients = sum.backward().unwrap();
        for (w, expected) in weights.iter().zip(&expected) {
            assert_eq!(&vector(gradients.get(w).unwrap()), expected);
        }
        // Other tests of this process may add to the counter, never take away.
        let repeated = counters().recomputed - before;
        assert!(repeated >= together as u64 - 2, "{together} passes, {repeated} repeated");
    }
}

#[test]
fn weights_changed_in_place() {
    let (network, data) = small();
    let images = data.images(network.graph());
    let ops = flat(&data.ops);
    let weights = Var::from_tensor(&flat(&data.weights)).unwrap();
    let pass = || {
        let out = network.forward(&images, &weights, &ops, Mode::Train).unwrap();
        loss(&out.exports, &data.exports)
    };
    // While the activations are there, the gradient is that of the values which the pass has seen.
    let expected = vector(pass().backward().unwrap().get(&weights).unwrap());
    let kept = pass();
    weights.set(&(weights.as_tensor() * 2.0).unwrap().detach()).unwrap();
    assert_eq!(vector(kept.backward().unwrap().get(&weights).unwrap()), expected);
    // Otherwise the pass cannot be repeated.
    let lost = pass();
    let others = [pass(), pass()];
    weights.set(&(weights.as_tensor() * 2.0).unwrap().detach()).unwrap();
    let error = lost.backward().unwrap_err().to_string();
    assert!(error.contains("changed in place"), "{error}");
    drop(others);
}

#[test]
fn errors() {
    let (network, data) = small();
    let images = data.images(network.graph());
    let (weights, ops) = (flat(&data.weights), flat(&data.ops));
    let error = |images: &Tensor, weights: &Tensor, ops: &Tensor| {
        network.forward(images, weights, ops, Mode::Train).unwrap_err().to_string()
    };
    let tracked = Var::from_tensor(&images).unwrap();
    assert!(error(&tracked, &weights, &ops).contains("no gradient for its images"));
    let wide = Tensor::zeros((1, 4, 6, 7), candle_core::DType::F32, images.device()).unwrap();
    assert!(error(&wide, &weights, &ops).contains("images of shape (4, 6, 6)"));
    let short = weights.narrow(0, 0, 10).unwrap();
    assert!(error(&images, &short, &ops).contains("weights, but there are 10"));
    let short = ops.narrow(0, 0, 1).unwrap();
    assert!(error(&images, &weights, &short).contains("reads 2 operation weights"));
    assert!(Network::with_simd(network.graph().clone(), "sse1").is_none());

    let mut b = GraphBuilder::new(4, 5, 6);
    let images = b.input();
    let mut fail = |chain: Vec<Primitive>| {
        b.state(vec![Term { input: vec![images], chain, weight: Weight::One }]).unwrap_err()
    };
    let reduce = Primitive::FactorizedReduce { out: 4, even: 0, odd: 8 };
    assert_eq!(
        fail(vec![Primitive::Relu, reduce]).to_string(),
        "cannot compile the chain [Relu, FactorizedReduce to 4]: FactorizedReduce needs an even height and \
         width, but they are 5 and 6"
    );
    let pool = Primitive::MaxPool { stride: 1 };
    assert!(matches!(fail(vec![Primitive::Relu, pool.clone()]), Error::Chain { .. }));
    assert!(matches!(fail(vec![pool, Primitive::Relu]), Error::Chain { .. }));
    let depthwise = Primitive::Depthwise { kernel: 3, stride: 1, dilation: 1, weight: 0 };
    assert!(fail(vec![depthwise]).to_string().contains("must be followed by a Pointwise"));
    let pointwise = |stride| Primitive::Pointwise { out: 3, stride, weight: 0 };
    assert!(fail(vec![pointwise(3)]).to_string().contains("stride 3"));
    assert!(b.state(vec![]).is_err());
    let term = |chain| Term { input: vec![images], chain, weight: Weight::One };
    let mixed = b.state(vec![term(vec![]), term(vec![pointwise(1)])]).unwrap_err();
    assert!(mixed.to_string().contains("term 1 has shape (3, 5, 6)"), "{mixed}");
}

#[test]
fn memory_of_a_plan() {
    let (network, _) = small();
    let (one, eight) =
        (Plan::estimate_bytes(network.graph(), 1), Plan::estimate_bytes(network.graph(), 8));
    assert!(0 < one && one < eight, "{one} {eight}");
    assert_eq!(Plan::compile(network.graph(), 8).max_batch(), 8);
}

#[test]
fn weights_are_packed_when_they_change() {
    let (network, data) = small();
    let images = data.images(network.graph());
    let ops = flat(&data.ops);
    let one = flat(&data.weights);
    let output = |weights: &Tensor| {
        vector(&network.forward(&images, weights, &ops, Mode::Train).unwrap().exports[0])
    };
    let first = output(&one);
    assert_eq!(output(&one.copy().unwrap()), first);
    let mut changed = data.weights.clone();
    *changed.last_mut().unwrap() += 0.5;
    assert_ne!(output(&flat(&changed)), first);
    assert_eq!(output(&one), first);
}

/// The gradient of a constant image goes to the first pixel of each window.
#[test]
fn ties_of_a_max_pool() {
    let mut b = GraphBuilder::new(1, 3, 3);
    let images = b.input();
    let term = |input, chain, weight| Term { input: vec![input], chain, weight };
    let scale = Primitive::Depthwise { kernel: 3, stride: 1, dilation: 1, weight: 0 };
    let mix = Primitive::Pointwise { out: 1, stride: 1, weight: 9 };
    let copy = b.state(vec![term(images, vec![scale, mix], Weight::One)]).unwrap();
    let pool = Primitive::MaxPool { stride: 2 };
    let pooled = b.state(vec![term(copy, vec![pool], Weight::One)]).unwrap();
    b.export(Export::Map { states: vec![pooled], relu: false });
    let graph = b.finish().unwrap();
    // The depthwise kernel is the identity; its gradient at tap (i, j) is the sum of g[y, x] * x[y
    // + i - 1, x + j - 1].
    let mut weights = vec![0.0; 10];
    (weights[4], weights[9]) = (1.0, 1.0);
    let data = Data {
        batch: 1,
        images: vec![2.0; 9],
        weights,
        ops: vec![0.0],
        running: vec![0.0],
        exports: vec![vec![1.0, 10.0, 100.0, 1000.0]],
    };
    // Windows start at (0, 0), (0, 1), (1, 0), (1, 1): gradient 1, 10, 100, 1000 there. Tap (0, 0)
    // reads up and left: of these pixels only (1, 1) has such a neighbour: 2 * 1000. Tap (0, 1)
    // reads up: pixels (1, 0) and (1, 1): 2 * 1100; tap (1, 0) reads left: 2 * 1010; the others
    // read inside.
    for simd in simd_paths() {
        let found = run(&Network::with_simd(graph.clone(), simd).unwrap(), &data, false);
        assert_eq!(
            found.weights[..9],
            [2000.0, 2200.0, 2200.0, 2020.0, 2222.0, 2222.0, 2020.0, 2222.0, 2222.0],
            "{simd}"
        );
    }
}

/// A rectifier must not hide that something has gone wrong.
#[test]
fn nan_passes_rectifiers() {
    for simd in simd_paths() {
        let mut p = Places::default();
        let mut b = GraphBuilder::new(1, 4, 4);
        let images = b.input();
        let conv = vec![Primitive::Relu, p.dense(1, 1, 3, 1)];
        for chain in [vec![Primitive::Relu], conv] {
            let term = Term { input: vec![images], chain, weight: Weight::One };
            let state = b.state(vec![term]).unwrap();
            b.export(Export::Pooled { states: vec![state], relu: true });
        }
        let network = Network::with_simd(b.finish().unwrap(), simd).unwrap();
        let images = Tensor::full(f32::NAN, (1, 1, 4, 4), &Device::Cpu).unwrap();
        let out = network.forward(&images, &flat(&[1.0; 9]), &flat(&[0.0]), Mode::Train).unwrap();
        assert!(out.exports.iter().all(|e| vector(e)[0].is_nan()), "{simd}");
    }
}
