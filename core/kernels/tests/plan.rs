//! Compiled networks against the reference in `f64`.

#![expect(clippy::unwrap_used, reason = "tests")]
mod common;

use common::{
    Data, KINDS, Places, Random, chain, dense_graph, differences, expect, partial_graph,
    random_graph, run, single_precision,
};
use proptest::prelude::*;
use tetlo_kernels::{Export, Graph, GraphBuilder, Network, Term, Weight, simd_paths};

/// Single precision. Where batch norms of few values amplify rounding, 100 times the error of plain
/// `f32` loops.
const TOLERANCE: f64 = 2e-4;

/// Closer than this to a jump of the gradient, rounding may decide it.
const MARGIN: f64 = 3e-6;

fn check(graph: &Graph, data: &Data, what: &str) {
    for evaluate in [false, true] {
        let expected = expect(graph, data, evaluate);
        if expected.margin < MARGIN {
            continue;
        }
        for simd in simd_paths() {
            let network = Network::with_simd(graph.clone(), simd).unwrap();
            let found = differences(&run(&network, data, evaluate), &expected);
            if found.iter().all(|d| *d < TOLERANCE) {
                continue;
            }
            let single = single_precision(graph, data, evaluate, &expected);
            let near = found.iter().zip(single).all(|(f, s)| *f < TOLERANCE.max(100.0 * s));
            assert!(
                near,
                "{what}, {simd}, evaluate {evaluate}: exports, statistics, weights, ops differ by {found:?}, \
                 plain single precision by {single:?}"
            );
        }
    }
}

/// One chain of each kind, alone, over many channel counts, sizes and strides.
#[test]
fn every_chain() {
    for kind in 0..KINDS {
        for (from, out) in [(1, 1), (3, 16), (16, 16), (24, 24), (36, 48)] {
            for (h, w, stride) in [(8, 8, 2), (5, 7, 1), (5, 7, 2), (3, 35, 1), (1, 1, 1)] {
                let mut r = Random::new((kind * 100 + from + h) as u64);
                let mut p = Places { affine: from % 16 != 0, ..Places::default() };
                let mut b = GraphBuilder::new(from, h, w);
                let images = b.input();
                let Some(primitives) = chain(kind, &mut p, &mut r, (from, h, w), out, stride)
                else {
                    continue;
                };
                // A state before it, so that the gradient to the input is checked too.
                let below = p.depthwise(from, 3, 1, 1);
                let mixed = p.pointwise(from, from, 1);
                let below =
                    Term { input: vec![images], chain: vec![below, mixed], weight: Weight::One };
                let below = b.state(vec![below]).unwrap();
                let term = Term {
                    input: vec![below],
                    chain: primitives.clone(),
                    weight: Weight::Shared(0),
                };
                let state = b.state(vec![term]).unwrap();
                b.export(Export::Map { states: vec![state], relu: false });
                let graph = b.finish().unwrap();
                let data = Data::random(&graph, &mut r, 3);
                check(&graph, &data, &format!("{from}x{h}x{w} {primitives:?}"));
            }
        }
    }
}

/// Dense 3x3 convolutions that are large enough for Winograd's transform: odd sizes, unused lanes,
/// more and fewer tiles than a band (one image, and more than share one), concatenated inputs, a
/// gradient that is added to.
#[test]
fn dense_convolutions() {
    for (from, out) in [(12, 12), (16, 16), (17, 30), (40, 20), (16, 64)] {
        for (h, w, batch) in [
            (4, 4, 5),
            (7, 6, 3),
            (6, 9, 1),
            (13, 11, 3),
            (8, 34, 3),
            (8, 8, 1),
            (8, 8, 7),
            (16, 8, 9),
        ] {
            let mut r = Random::new((from * out + h * w) as u64);
            let graph = dense_graph(from, out, h, w);
            let data = Data::random(&graph, &mut r, batch);
            check(&graph, &data, &format!("{from} to {out} channels, {h}x{w}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs(seed in any::<u64>(), batch in 1..6usize) {
        let mut r = Random::new(seed);
        let (graph, _, _) = random_graph(&mut r, batch);
        let data = Data::random(&graph, &mut r, batch);
        check(&graph, &data, &format!("seed {seed} batch {batch}"));
    }
}

/// Convolutions out of one state, some by Winograd's transform for several images together, some not:
/// on small maps and with a last group that is not full.
#[test]
fn teams_beside_single_images() {
    for (h, w) in [(5, 4), (8, 8), (6, 9)] {
        for batch in [1, 5, 6] {
            let mut r = Random::new((h * 10 + batch) as u64);
            let mut p = Places { affine: true, ..Places::default() };
            let mut b = GraphBuilder::new(20, h, w);
            let images = b.input();
            let below = vec![p.pointwise(20, 20, 1)];
            let below = Term { input: vec![images], chain: below, weight: Weight::One };
            let below = b.state(vec![below]).unwrap();
            let chains = [
                vec![p.dense(20, 16, 3, 2), p.norm(16)],
                vec![p.dense(20, 20, 3, 1), tetlo_kernels::Primitive::Relu, p.dense(20, 16, 3, 2)],
                vec![p.depthwise(20, 3, 2, 1), p.pointwise(20, 16, 1)],
            ];
            let terms = chains.into_iter().enumerate().map(|(op, chain)| Term {
                input: vec![below],
                chain,
                weight: Weight::Shared(op),
            });
            let state = b.state(terms.collect()).unwrap();
            b.export(Export::Map { states: vec![state], relu: false });
            let graph = b.finish().unwrap();
            let data = Data::random(&graph, &mut r, batch);
            check(&graph, &data, &format!("{h}x{w}, batch {batch}"));
        }
    }
}

/// One filter bank in two places: its gradient is the sum.
#[test]
fn shared_weights() {
    let mut r = Random::new(5);
    let mut p = Places { affine: true, ..Places::default() };
    let mut b = GraphBuilder::new(20, 6, 5);
    let chain = vec![p.depthwise(20, 3, 1, 1), p.pointwise(20, 20, 1), p.norm(20)];
    let (mut state, mut states) = (b.input(), Vec::new());
    for op in 0..3 {
        let term = |weight| Term { input: vec![state], chain: chain.clone(), weight };
        state = b.state(vec![term(Weight::Shared(op)), term(Weight::One)]).unwrap();
        states.push(state);
    }
    b.export(Export::Pooled { states, relu: true });
    let graph = b.finish().unwrap();
    let data = Data::random(&graph, &mut r, 4);
    check(&graph, &data, "shared weights");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn partial_channels(seed in any::<u64>(), batch in 1..10usize) {
        let mut r = Random::new(seed);
        let graph = partial_graph(&mut r);
        let data = Data::random(&graph, &mut r, batch);
        check(&graph, &data, &format!("seed {seed} batch {batch}"));
    }
}
