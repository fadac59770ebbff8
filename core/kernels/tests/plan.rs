//! Compiled networks against the reference in `f64`.

#![expect(clippy::unwrap_used, reason = "tests")]
mod common;

use common::{
    Data, KINDS, Places, Random, chain, differences, expect, random_graph, run, single_precision,
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

/// Operations on some channels of a state, whose sum is joined with others: what reads few channels
/// may run on several images in one register, of which the last lacks some.
fn partial(r: &mut Random, batch: usize) -> Graph {
    let (c, part) = r.pick(&[(4, 1), (4, 2), (16, 4), (12, 3), (8, 4), (20, 8), (32, 8), (36, 12)]);
    let (h, w) = (1 + r.below(9), 1 + r.below(9));
    let mut b = GraphBuilder::new(3, h, w);
    let mut p = Places::default();
    let term = |input, chain, weight| Term { input: vec![input], chain, weight };
    let chain_below = vec![p.pointwise(3, c, 1), p.norm(c)];
    let mut states = vec![b.state(vec![term(b.input(), chain_below, Weight::One)]).unwrap()];
    let mut ops = 0;
    let stride = 1 + r.below(2);
    for node in 0..=1 + r.below(2) {
        let stride = if node == 0 { stride } else { 1 };
        let mut terms = Vec::new();
        let sources = if stride == 2 { 1 } else { states.len() };
        for source in 0..sources {
            if b.shape(states[source]) != b.shape(states[sources - 1]) {
                continue;
            }
            let input = b.gather(&[states[source]], &(0..part).collect::<Vec<_>>()).unwrap();
            let (_, h, w) = b.shape(input);
            for _ in 0..1 + r.below(5) {
                let kind = r.below(KINDS);
                p.affine = r.below(2) == 0;
                // Chains with wide stages in between make the state an unpacked one: now and then.
                if [14, 15, 16].contains(&kind) && r.below(4) > 0 {
                    continue;
                }
                if let Some(chain) = chain(kind, &mut p, r, (part, h, w), part, stride) {
                    ops += 1;
                    terms.push(term(input, chain, Weight::Shared(ops - 1)));
                }
            }
        }
        let (_, h, w) = b.shape(states[sources - 1]);
        let (ho, wo) = ((h - 1) / stride + 1, (w - 1) / stride + 1);
        let mixed = b.state_with_shape(part, ho, wo, terms).unwrap();
        let past = p.pointwise(c, c, stride);
        let past = b.state(vec![term(states[sources - 1], vec![past], Weight::One)]).unwrap();
        let shuffled: Vec<usize> = (0..c).map(|k| (k * 7 + 1) % c).collect();
        let channels: Vec<usize> =
            shuffled.iter().map(|k| if *k < part { *k } else { k + part }).collect();
        let coprime = shuffled.iter().collect::<std::collections::BTreeSet<_>>().len() == c;
        let channels = if coprime { channels } else { (0..part).chain(2 * part..c + part).collect() };
        states.push(b.gather(&[mixed, past], &channels).unwrap());
    }
    let last = states[states.len() - 1];
    b.export(Export::Pooled { states: vec![last], relu: false });
    b.export(Export::Map { states: vec![r.pick(&states)], relu: true });
    let graph = b.finish().unwrap();
    assert!(graph.ops(batch) <= ops);
    graph
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn partial_channels(seed in any::<u64>(), batch in 1..10usize) {
        let mut r = Random::new(seed);
        let graph = partial(&mut r, batch);
        let data = Data::random(&graph, &mut r, batch);
        check(&graph, &data, &format!("seed {seed} batch {batch}"));
    }
}
