//! Whole supernets of three cells in `f32` against the reference in `f64`: embedding, logits and the
//! gradients of every weight and α.

use candle_core::{Device, Tensor, Var};
use serde_json::{Value, json};
use std::sync::Arc;
use tetlo_core::kinds::{Relaxation, SearchSpace};
use tetlo_core::layout::Layout;
use tetlo_core::network::{ImageShape, Network, Pass};
use tetlo_core::registry::build;
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::{KernelNetwork, initial_values};
use tetlo_kernels::reference::{self, Inputs};
use tetlo_plugins as _;
use tetlo_search_spaces as _;
use tetlo_tests as _;

/// A rectifier or maximum nearer to its kink than this, in `f64`, may be on the other side in `f32`:
/// a few units in the last place of a value near 4. One such unit moves gradients by up to a
/// hundredth, in any implementation (`PyTorch`'s in 2 of 24 batches like these).
const SWITCHES: f64 = 5e-7;

const BATCH: usize = 4;
const CLASSES: usize = 10;
const IMAGE: ImageShape = ImageShape { channels: 3, height: 16, width: 16 };

/// A batch and the values of a network's parameters, as `f32` numbers in `f64`.
struct Case {
    network: KernelNetwork,
    images: Vec<f64>,
    labels: Vec<usize>,
    weights: Vec<f64>,
    alphas: Vec<f64>,
}

/// What is compared.
struct Results {
    embedding: Vec<f64>,
    logits: Vec<f64>,
    weights: Vec<f64>,
    alphas: Vec<f64>,
}

/// ‖a − b‖ / ‖b‖ of everything, and of the worst tensor among the weights.
#[derive(Debug, Clone, Copy)]
struct Errors {
    embedding: f64,
    logits: f64,
    weights: f64,
    worst_weight: f64,
    alphas: f64,
    worst_alpha: f64,
    /// How near the pass comes to a kink.
    margin: f64,
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
}

fn vector(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
    flat.into_iter().map(f64::from).collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

fn off(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    norm(a.iter().zip(b).map(|(a, b)| a - b)) / norm(b.iter().copied())
}

/// The largest error of a named tensor, in units of its own norm.
fn worst(layout: &Layout, a: &[f64], b: &[f64]) -> f64 {
    let of = layout.entries().iter().map(|e| {
        let range = e.offset..e.offset + e.len();
        off(&a[range.clone()], &b[range])
    });
    // Not `max`, which loses NaN.
    of.fold(0.0, |worst, e| if e <= worst { worst } else { e })
}

impl Case {
    fn new(space: &str, channels: usize, seed: u64) -> Self {
        let options = json!({"channels": channels, "cells": 3});
        let space = build::<dyn SearchSpace>(space, &options).expect("registered");
        let softmax = build::<dyn Relaxation>("softmax", &Value::Null).expect("registered");
        let network = space.spec().supernet(IMAGE, CLASSES, Arc::from(softmax)).expect("it fits");
        let key = Key::new(seed, Purpose::Problem);
        let (weights, _, alphas) = initial_values(&network, key).expect("values");
        let mut draws = key.stream();
        let images = (0..BATCH * 3 * 16 * 16).map(|_| f64::from(draws.normal() as f32)).collect();
        let labels = (0..BATCH).map(|_| draws.below(CLASSES)).collect();
        // Wider apart than at the start of a search.
        let alphas = vector(&alphas.expect("a supernet has α"));
        let alphas = alphas.iter().map(|a| f64::from((a * 500.0) as f32)).collect();
        Self { network, images, labels, weights: vector(&weights), alphas }
    }

    fn flat(values: &[f64]) -> Tensor {
        Tensor::from_vec(narrow(values), values.len(), &Device::Cpu).expect("a vector")
    }

    fn fused(&self) -> Results {
        let weights = Var::from_tensor(&Self::flat(&self.weights)).expect("a variable");
        let alphas = Var::from_tensor(&Self::flat(&self.alphas)).expect("a variable");
        let images = Self::flat(&self.images).reshape((BATCH, 3, 16, 16)).expect("images");
        let pass = Pass::train(Key::new(1, Purpose::Relaxation));
        let out = self.network.forward(&weights, Some(&alphas), &images, &pass).expect("a pass");
        let labels: Vec<u32> = self.labels.iter().map(|l| *l as u32).collect();
        let labels = Tensor::new(labels, &Device::Cpu).expect("labels");
        let loss = candle_nn::loss::cross_entropy(&out.logits, &labels).expect("a loss");
        let gradients = loss.backward().expect("gradients");
        let of = |var: &Var| vector(gradients.get(var).expect("a gradient"));
        Results {
            embedding: vector(&out.embedding),
            logits: vector(&out.logits),
            weights: of(&weights),
            alphas: of(&alphas),
        }
    }

    /// Softmax of each row of α.
    fn relaxed(&self) -> Vec<f64> {
        let mut ops = Vec::new();
        for entry in self.network.architecture().entries() {
            let flat = &self.alphas[entry.offset..entry.offset + entry.len()];
            for row in flat.chunks(entry.shape[1]) {
                let sum: f64 = row.iter().map(|a| a.exp()).sum();
                ops.extend(row.iter().map(|a| a.exp() / sum));
            }
        }
        ops
    }

    /// The same in `f64`: mean cross entropy by hand over the reference. Also how near the pass comes to
    /// a kink.
    fn exact(&self) -> (Results, f64) {
        let ops = self.relaxed();
        let inputs = Inputs {
            batch: BATCH,
            images: &self.images,
            weights: &self.weights,
            ops: &ops,
            running: None,
        };
        let graph = self.network.graph();
        let forward = reference::forward(graph, &inputs);
        let embedding = forward.exports[0].clone();
        let logits = forward.exports[1].clone();
        let mut of_logits = Vec::new();
        for (scores, label) in logits.chunks(CLASSES).zip(&self.labels) {
            let sum: f64 = scores.iter().map(|s| s.exp()).sum();
            for (class, score) in scores.iter().enumerate() {
                of_logits.push((score.exp() / sum - f64::from(class == *label)) / BATCH as f64);
            }
        }
        let of_exports = [vec![0.0; embedding.len()], of_logits];
        let gradients = reference::backward(graph, &inputs, &forward, &of_exports);
        let weights = gradients.weights;
        let mut alphas = Vec::new();
        for entry in self.network.architecture().entries() {
            for row in 0..entry.shape[0] {
                let range =
                    entry.offset + row * entry.shape[1]..entry.offset + (row + 1) * entry.shape[1];
                let (p, g) = (&ops[range.clone()], &gradients.ops[range]);
                let mean: f64 = p.iter().zip(g).map(|(p, g)| p * g).sum();
                alphas.extend(p.iter().zip(g).map(|(p, g)| p * (g - mean)));
            }
        }
        let margin = reference::margin(graph, &inputs, &forward);
        (Results { embedding, logits, weights, alphas }, margin)
    }

    fn errors(&self) -> Errors {
        let (a, (b, margin)) = (self.fused(), self.exact());
        Errors {
            embedding: off(&a.embedding, &b.embedding),
            logits: off(&a.logits, &b.logits),
            weights: off(&a.weights, &b.weights),
            worst_weight: worst(self.network.weights(), &a.weights, &b.weights),
            alphas: off(&a.alphas, &b.alphas),
            worst_alpha: worst(self.network.architecture(), &a.alphas, &b.alphas),
            margin,
        }
    }
}

#[expect(clippy::print_stdout, reason = "the figures, shown with --nocapture")]
fn within(space: &str, channels: usize, seeds: std::ops::Range<u64>) {
    let mut errors = Vec::new();
    for seed in seeds {
        let e = Case::new(space, channels, seed).errors();
        println!(
            "{space}, {channels} channels, seed {seed}: embedding {:.1e}, logits {:.1e}, weight \
             gradients {:.1e} (worst tensor {:.1e}), α gradients {:.1e} (worst {:.1e}), margin {:.1e}",
            e.embedding, e.logits, e.weights, e.worst_weight, e.alphas, e.worst_alpha, e.margin
        );
        errors.push(e);
    }
    let mut clear = 0;
    for e in errors {
        // Written so that NaN fails too.
        let values = [e.embedding, e.logits];
        assert!(values.iter().all(|v| *v <= 3e-6), "{space}, {channels} channels: {e:?}");
        let gradients = [e.weights, e.worst_weight, e.alphas, e.worst_alpha];
        let bound = if e.margin > SWITCHES { 1e-5 } else { 0.05 };
        assert!(gradients.iter().all(|g| *g <= bound), "{space}, {channels} channels: {e:?}");
        clear += usize::from(e.margin > SWITCHES);
    }
    assert!(clear >= 3, "{space}, {channels} channels: {clear} batches away from kinks");
}

#[test]
fn darts_of_8_channels() {
    within("darts", 8, 0..6);
}

#[test]
fn darts_of_16_channels() {
    within("darts", 16, 0..8);
}

/// With tensor code among the fused operations of every edge.
#[test]
fn a_space_with_tensor_code() {
    within("gated", 8, 0..3);
    within("gated", 5, 0..3);
}
