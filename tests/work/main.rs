//! Counted work: what a search step makes the machine do, without a clock.
//!
//! A binary of its own, because the counters and the allocator belong to the process. A change that
//! makes more work fails here; where it makes less, the number is lowered with it.

mod heap;

use candle_core::{Device, Tensor, Var};
use heap::allocations;
use serde_json::json;
use std::path::Path;
use tetlo_core::config;
use tetlo_core::kinds::{Progress, SearchSpace};
use tetlo_core::multilevel::{Batch, Batches};
use tetlo_core::network::ImageShape;
use tetlo_core::registry;
use tetlo_engine::method::Method;
use tetlo_engine::record::Silent;
use tetlo_kernels::{
    Counters, Export, GraphBuilder, Mode, Network, Primitive, Term, Weight, counters, kernel_calls,
};
use tetlo_plugins as _;
use tetlo_search_spaces as _;

/// One test: the counters are of the process.
#[test]
fn counted_work() {
    tetlo_kernels::set_threads(1);
    tetlo_kernels::count_kernels();
    buffers_of_the_default_supernet();
    kernels_allocate_only_what_they_give();
    let more: Vec<String> = STEPS.iter().filter_map(Step::more_than_expected).collect();
    assert!(more.is_empty(), "more work than before:\n{}", more.join("\n"));
}

/// The default supernet (C = 16, 8 cells, 32 × 32) with 8 images: states and their gradients, raw
/// outputs of every convolution and pool (KERNELS.md: 183 MB), and tiles of a thread.
fn buffers_of_the_default_supernet() {
    let method = method("darts-1st", 16, 8, 32);
    let mib = method.networks[0].activation_bytes(8) >> 20;
    assert!(mib <= 295, "the buffers of the default supernet have {mib} MiB");
}

/// A graph of `depth` separable convolutions, one after the other.
fn stack(depth: usize) -> Network {
    let mut b = GraphBuilder::new(4, 8, 8);
    let mut last = b.input();
    for i in 0..depth {
        let (weight, statistics) = (i * 52, i * 8);
        let chain = vec![
            Primitive::Relu,
            Primitive::Depthwise { kernel: 3, stride: 1, dilation: 1, weight },
            Primitive::Pointwise { out: 4, stride: 1, weight: weight + 36 },
            Primitive::BatchNorm { affine: None, statistics },
        ];
        let term = Term { input: vec![last], chain, weight: Weight::Shared(i) };
        last = b.state(vec![term]).expect("a state");
    }
    b.export(Export::Pooled { states: vec![last], relu: false });
    Network::new(b.finish().expect("a graph"))
}

/// Allocations of a forward and a backward pass do not grow with the network: the tensors that go in
/// and out, and nothing for any layer.
fn kernels_allocate_only_what_they_give() {
    let of = |depth: usize| {
        let network = stack(depth);
        let normal =
            |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("a tensor");
        let images = normal(&[2, 4, 8, 8]);
        let weights = Var::from_tensor(&normal(&[depth * 52])).expect("a variable");
        let ops = Var::from_tensor(&normal(&[depth])).expect("a variable");
        let mut counted = 0;
        for _ in 0..3 {
            let before = allocations();
            let said = network.forward(&images, &weights, &ops, Mode::Train).expect("a pass");
            let sum = said.exports[0].sum_all().expect("a sum");
            sum.backward().expect("gradients");
            counted = allocations() - before;
        }
        counted
    };
    let (shallow, deep) = (of(1), of(12));
    assert_eq!(shallow, deep, "allocations of 1 and of 12 layers");
}

/// What a search step of a method takes.
struct Step {
    preset: &'static str,
    /// Forward and backward passes of the kernels.
    passes: (u64, u64),
    /// Of an image, in units of the main model's and the auxiliary model's multiply-adds.
    multiply_adds: (u64, u64),
    /// Times that weights are packed: once for each set of weights that a pass sees first.
    packings: u64,
    /// Heap allocations of the whole step: candle's tensors and graphs of heads and losses, vectors of
    /// the optimisers. Rounded up by a hundredth.
    allocations: u64,
    /// Calls of kernels, all together and of the channel mixing, the heaviest.
    kernels: u64,
    mixes: u64,
}

const STEPS: [Step; 3] = [
    // The architecture's gradient at the present weights, then the weights': two passes, and one packing,
    // since both are at the same weights.
    Step {
        preset: "darts-1st",
        passes: (2, 2),
        multiply_adds: (5, 0),
        packings: 1,
        allocations: 1_650,
        kernels: 18_588,
        mixes: 5_636,
    },
    // W', the objective there, W ±, and the weights' own: five passes, three of them with gradients of
    // weights (3 each), two without (2 each). Weights to pack: W, W', W ± and W again.
    Step {
        preset: "darts-2nd",
        passes: (5, 5),
        multiply_adds: (13, 0),
        packings: 5,
        allocations: 4_150,
        kernels: 49_052,
        mixes: 14_872,
    },
    // Main 8 forward, 6 backward, 4 of them with weights; auxiliary 7, 5, 5 (METHODS.md §1.2: eight
    // gradients, V± without a backward pass of the main model, the teachers without any).
    Step {
        preset: "tetlo",
        passes: (15, 11),
        multiply_adds: (18, 17),
        packings: 11,
        allocations: 12_250,
        kernels: 71_564,
        mixes: 22_144,
    },
];

const IMAGES: usize = 4;

impl Step {
    /// What a step takes more than is written above; its passes and multiply-adds must be those exactly.
    fn more_than_expected(&self) -> Option<String> {
        let Self { preset, .. } = *self;
        let method = method(preset, 4, 3, 8);
        let batch = |seed: usize| Batch {
            images: Tensor::randn(0f32, 1.0, (IMAGES, 3, 8, 8), &Device::Cpu).expect("images"),
            labels: (0..IMAGES).map(|i| ((3 * i + seed) % 10) as u32).collect(),
        };
        let transfer = method.graph.uses_transfer_batch().then(|| batch(2));
        let batches = Batches { train: batch(0), valid: batch(1), transfer };
        let mut state = method.initial_state().expect("a state");
        let mut step = |i: usize| {
            let at = Progress { epoch: 0, epochs: 50, step: i };
            method.step(&mut state, &batches, at, &mut Silent).expect("a step");
        };
        step(0);
        step(1); // now all optimisers have their memory
        let (before, calls, heap) = (counters(), total(), allocations());
        step(2);
        let heap = allocations() - heap;
        let (after, now) = (counters(), total());
        let difference = |f: fn(&Counters) -> u64| f(&after) - f(&before);

        assert_eq!(difference(|c| c.plans), 0, "{preset}: plans compiled");
        assert_eq!(difference(|c| c.allocations), 0, "{preset}: buffers allocated");
        assert_eq!(difference(|c| c.recomputed), 0, "{preset}: passes repeated");
        let passes = (difference(|c| c.forwards), difference(|c| c.backwards));
        assert_eq!(passes, self.passes, "{preset}: passes");
        let macs = |stage: usize| {
            // The classifier is no kernel.
            method.networks.get(stage).map_or(0, |n| {
                let classifier = n.weights().entries().iter().rev().nth(1).expect("a classifier");
                n.multiply_adds() - classifier.shape.iter().product::<usize>() as u64
            })
        };
        let expected = self.multiply_adds.0 * macs(0) + self.multiply_adds.1 * macs(1);
        let images = IMAGES as u64;
        assert_eq!(difference(|c| c.multiply_adds), images * expected, "{preset}: multiply-adds");
        let packings = difference(|c| c.packings);
        let (kernels, mixes) = (now.0 - calls.0, now.1 - calls.1);
        let found = [packings, heap, kernels, mixes];
        let most = [self.packings, self.allocations, self.kernels, self.mixes];
        let more = found.iter().zip(most).any(|(found, most)| *found > most);
        more.then(|| {
            format!("{preset}: packings, allocations, kernels, mixes are {found:?}, not {most:?}")
        })
    }
}

/// Calls of all kernels, and of those that mix channels.
fn total() -> (u64, u64) {
    let calls = kernel_calls();
    let mixing = |name: &str| name.starts_with("mix") || name.starts_with("winograd");
    let mixes = calls.iter().filter(|(name, _)| mixing(name));
    (calls.iter().map(|(_, n)| n).sum(), mixes.map(|(_, n)| n).sum())
}

fn method(preset: &str, channels: usize, cells: usize, side: usize) -> Method {
    let text = format!(
        "version = 1\nname = \"work\"\nseeds = [0]\n[[task]]\nname = \"t\"\n\
         dataset = {{ plugin = \"digits\" }}\nsearch-space = {{ plugin = \"darts\" }}\n\
         [[method]]\nname = \"m\"\npreset = \"{preset}\"\n[evaluate]\nplugin = \"retrain\"\n"
    );
    let config = config::load("work", &text, Path::new("."), &[]).expect("a config");
    let options = json!({ "channels": channels, "cells": cells });
    let space = registry::build::<dyn SearchSpace>("darts", &options).expect("a space");
    let image = ImageShape { channels: 3, height: side, width: side };
    let space = space.spec().validated().expect("a valid space");
    Method::new(&config.methods[0], space, image, 10, 0).expect("a method")
}
