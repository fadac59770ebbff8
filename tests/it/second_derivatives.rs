//! Exact second derivatives of whole networks: those of `PyTorch`, and those of extrapolated
//! differences.

use crate::network::{filled, filled_between, probe};
use crate::tetlo::fixture;
use candle_core::{DType, Device, Tensor, Var};
use serde_json::{Value, json};
use std::cell::Cell;
use std::process::Command;
use std::sync::Arc;
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{Auxiliary, AuxiliarySite, Hypergradient, Relaxation, SearchSpace};
use tetlo_core::multilevel::reverse::{Adjoints, Contribution, Via, hypergradient};
use tetlo_core::multilevel::{
    Batch, Batches, CrossEntropy, Level, PluginRef, Point, Problem, StageGraph, TransferLosses,
    WarmStarts, cross_entropy,
};
use tetlo_core::network::{ImageShape, Network, Pass};
use tetlo_core::optim::{Inner, InnerState};
use tetlo_core::registry::build;
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::{DerivedSize, KernelNetwork, SpaceSpec, initial_values};
use tetlo_engine::npz;
use tetlo_kernels::reference::{self, How, Inputs};
use tetlo_plugins as _;
use tetlo_search_spaces as _;
use tetlo_tests as _;

const SWITCH: &str = "CANDLE_GRAD_DO_NOT_DETACH";
/// The inner learning rate.
const ETA: f64 = 0.05;
/// Of the fixture's numbers.
const SEED: u64 = 0;

/// Runs this test again in a process that has candle's second derivatives; true in that process.
fn in_child(test: &str) -> bool {
    const CHILD: &str = "TETLO_SECOND_DERIVATIVES";
    if std::env::var(CHILD).is_ok() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    let name = format!("second_derivatives::{test}");
    command.args([&name, "--exact", "--nocapture"]).env(CHILD, "1").env(SWITCH, "1");
    let output = command.output().expect("it runs");
    let out = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && out.contains("1 passed");
    assert!(passed, "{out}{}", String::from_utf8_lossy(&output.stderr));
    false
}

fn space(name: &str, channels: usize, cells: usize) -> SpaceSpec {
    let options = json!({"channels": channels, "cells": cells});
    build::<dyn SearchSpace>(name, &options).expect("registered").spec()
}

fn image(side: usize) -> ImageShape {
    ImageShape { channels: 3, height: side, width: side }
}

fn supernet(space: &SpaceSpec, side: usize, classes: usize) -> KernelNetwork {
    let softmax = build::<dyn Relaxation>("softmax", &Value::Null).expect("registered");
    space.supernet(image(side), classes, Arc::from(softmax)).expect("it fits")
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let wide = tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all());
    wide.and_then(|t| t.to_vec1()).expect("numbers")
}

fn tensor(values: &[f64]) -> Tensor {
    Tensor::from_slice(values, values.len(), &Device::Cpu).expect("a vector")
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn off(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    norm(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>()) / norm(b)
}

/// The derivative of `f(t)` at 0, extrapolated from central differences with three lengths.
fn slope(f: impl Fn(f64) -> Vec<f64>, step: f64) -> Vec<f64> {
    let combine = |a: &[f64], b: &[f64], factors: (f64, f64)| -> Vec<f64> {
        a.iter().zip(b).map(|(a, b)| factors.0 * a + factors.1 * b).collect()
    };
    let [a, b, c] =
        [step, step / 2.0, step / 4.0].map(|h| combine(&f(h), &f(-h), (0.5 / h, -0.5 / h)));
    let once =
        [(&b, &a), (&c, &b)].map(|(fine, coarse)| combine(fine, coarse, (4.0 / 3.0, -1.0 / 3.0)));
    combine(&once[1], &once[0], (16.0 / 15.0, -1.0 / 15.0))
}

/// Everything a pass depends on, in `f64`.
struct Case {
    network: Arc<dyn Network>,
    weights: Tensor,
    architecture: Option<Tensor>,
    images: Tensor,
    labels: Vec<u32>,
}

impl Case {
    /// Random values for a network, α wider apart than at the start of a search.
    fn random(network: Arc<dyn Network>, batch: usize, side: usize, seed: u64) -> Self {
        let key = Key::new(seed, Purpose::Problem);
        let (weights, _, alphas) = initial_values(&*network, key).expect("values");
        let mut draws = key.stream();
        let wide = |t: Tensor| t.to_dtype(DType::F64).expect("numbers");
        let images: Vec<f64> = (0..batch * 3 * side * side).map(|_| draws.normal()).collect();
        let images = tensor(&images).reshape((batch, 3, side, side)).expect("images");
        Self {
            weights: wide(weights),
            architecture: alphas.map(|a| (wide(a) * 500.0).expect("numbers")),
            images,
            labels: (0..batch).map(|_| draws.below(3) as u32).collect(),
            network,
        }
    }

    /// A direction in the weights, of length 1.
    fn direction(&self) -> Tensor {
        let mut draws = Key::new(7, Purpose::Problem).stream();
        let v: Vec<f64> = (0..self.weights.elem_count()).map(|_| draws.normal()).collect();
        (tensor(&v) / norm(&v)).expect("a direction")
    }

    /// Cross entropies of all that the network says of classes, and a bent term of the embedding.
    fn loss(&self, weights: &Tensor, architecture: Option<&Tensor>) -> Tensor {
        let pass = Pass::train(Key::new(1, Purpose::Relaxation)).with_drop_path(0.2);
        let images = self.images.to_dtype(weights.dtype()).expect("images");
        let out = self.network.forward(weights, architecture, &images, &pass).expect("a pass");
        let bent = out.embedding.sqr().and_then(|s| s.mean_all()).expect("a number");
        let mut loss =
            (cross_entropy(&out.logits, &self.labels).expect("a loss") + bent).expect("a sum");
        if let Some(logits) = &out.auxiliary_logits {
            loss = (loss + cross_entropy(logits, &self.labels).expect("a loss")).expect("a sum");
        }
        loss
    }

    fn vars(&self, dtype: DType) -> (Var, Option<Var>) {
        let var = |t: &Tensor| {
            Var::from_tensor(&t.to_dtype(dtype).expect("numbers")).expect("a variable")
        };
        (var(&self.weights), self.architecture.as_ref().map(var))
    }

    /// ∇ L in the weights, then in α, at `weights + t·v`.
    fn gradient(&self, t: f64, v: &Tensor) -> Vec<f64> {
        let moved = (&self.weights + (v * t).expect("numbers")).expect("numbers");
        let (_, alphas) = self.vars(DType::F64);
        let weights = Var::from_tensor(&moved).expect("a variable");
        let loss = self.loss(&weights, alphas.as_ref().map(Var::as_tensor));
        let found = loss.backward().expect("gradients");
        let of = |var: &Var| values(found.get(var).expect("a gradient"));
        [of(&weights), alphas.as_ref().map(of).unwrap_or_default()].concat()
    }

    /// ∇ ⟨∇_w L, v⟩ in the weights, then in α, by double backward.
    fn product(&self, v: &Tensor, dtype: DType) -> candle_core::Result<Vec<f64>> {
        let (weights, alphas) = self.vars(dtype);
        let first = self.loss(&weights, alphas.as_ref().map(Var::as_tensor)).backward()?;
        let gradient = first.get(&weights).expect("a gradient");
        let second = (gradient * v.to_dtype(dtype)?)?.sum_all()?.backward()?;
        let of = |var: &Var| values(second.get(var).expect("a second derivative"));
        Ok([of(&weights), alphas.as_ref().map(of).unwrap_or_default()].concat())
    }
}

fn smooth(network: &dyn Network) -> Arc<dyn Network> {
    let found = network.reference(true).expect("a network of primitives");
    assert!(found.twice_differentiable() && !network.twice_differentiable());
    found
}

/// ∇_w and ∇_α of ⟨∇_w CE, v⟩ of a whole search network, as it is and made smooth.
#[test]
fn products_equal_pytorch() {
    if !in_child("products_equal_pytorch") {
        return;
    }
    let theirs = npz::read(&fixture("network/second_derivatives.npz")).expect("an npz");
    let fused = supernet(&space("darts", 2, 3), 8, 4);
    let of_layout = |layout: &tetlo_core::layout::Layout, prefix: &str| {
        let parts = layout.entries().iter();
        let parts = parts.map(|e| values(&filled(&format!("{prefix}{}", e.name), &e.shape, SEED)));
        tensor(&parts.collect::<Vec<_>>().concat())
    };
    let labels = values(&filled_between("y", &[2], (0.0, 4.0), SEED));
    for variant in ["real", "smooth"] {
        let case = Case {
            network: fused.reference(variant == "smooth").expect("a network of primitives"),
            weights: of_layout(fused.weights(), ""),
            architecture: Some(of_layout(fused.architecture(), "")),
            images: filled_between("x", &[2, 3, 8, 8], (-1.5, 1.5), SEED)
                .to_dtype(DType::F64)
                .expect("images"),
            labels: labels.iter().map(|l| *l as u32).collect(),
        };
        let (weights, alphas) = case.vars(DType::F64);
        let alphas = alphas.expect("a supernet has α");
        let pass = Pass::train(Key::new(1, Purpose::Relaxation));
        let out =
            case.network.forward(&weights, Some(&alphas), &case.images, &pass).expect("a pass");
        let loss = cross_entropy(&out.logits, &case.labels).expect("a loss");
        let their = |name: &str| values(&theirs[&format!("{variant}/{name}")]);
        assert!(off(&values(&loss), &their("loss")) < 1e-13, "{variant}: loss {loss}");
        let first = loss.backward().expect("gradients");
        let v = of_layout(fused.weights(), "v/");
        let along = (first.get(&weights).expect("a gradient") * v).and_then(|p| p.sum_all());
        let second = along.and_then(|a| a.backward()).expect("second derivatives");
        let ours = values(second.get(&alphas).expect("a product"));
        for e in fused.architecture().entries() {
            let error =
                off(&ours[e.offset..e.offset + e.len()], &their(&format!("alpha/{}", e.name)));
            assert!(error < 1e-11, "{variant}: {} is off by {error:e}", e.name);
        }
        let ours = values(second.get(&weights).expect("a product"));
        let mut entries: Vec<_> = fused.weights().entries().iter().collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let rows = their("probe");
        assert_eq!(rows.len(), 3 * entries.len());
        let largest = rows.chunks(3).map(|row| row[1]).fold(0.0, f64::max);
        for (e, row) in entries.into_iter().zip(rows.chunks(3)) {
            // Sums may cancel. A few products vanish but for rounding.
            let scale = row[1].max(1e-6 * largest) * (e.len() as f64).sqrt();
            for (a, b) in probe(&ours[e.offset..e.offset + e.len()]).iter().zip(row) {
                let error = (a - b).abs() / scale;
                assert!(error < 1e-11, "{variant}: {} is off by {error:e}", e.name);
            }
        }
    }
}

/// Every kind of network that is built of primitives, with the side of its images.
fn networks() -> Vec<(&'static str, Arc<dyn Network>, usize)> {
    let darts = space("darts", 4, 3);
    let mut partial = space("darts", 8, 3);
    (partial.mixing.factor, partial.mixing.edge_normalization) = (4, true);
    let genotype = std::fs::read_to_string(fixture("network/darts_v2.genotype.json"));
    let genotype = Genotype::parse(&genotype.expect("a file")).expect("a genotype");
    let size = DerivedSize { channels: 2, cells: 4, auxiliary_head: true };
    let derived = darts.derived(&genotype, image(16), 3, size).expect("it fits");
    let auxiliary = |name: &str, options: &Value| {
        let plugin = build::<dyn Auxiliary>(name, options).expect("registered");
        plugin.network(&AuxiliarySite::new(image(8), 3, &darts)).expect("it fits")
    };
    vec![
        ("darts", Arc::new(supernet(&darts, 8, 3)), 8),
        ("nas-bench-201", Arc::new(supernet(&space("nas-bench-201", 3, 1), 8, 3)), 8),
        ("partial channels", Arc::new(supernet(&partial, 8, 3)), 8),
        ("derived, with head and drop-path", Arc::new(derived), 16),
        ("resnet", auxiliary("resnet", &json!({"depth": 8, "width": 3})), 8),
        ("a second supernet", auxiliary("supernet", &json!({"channels": 2, "cells": 2})), 8),
    ]
}

/// Every kind of network that is built of primitives, smooth, in `f64`; and in `f32` to its rounding.
#[test]
fn double_backward_is_that_of_differences() {
    if !in_child("double_backward_is_that_of_differences") {
        return;
    }
    for (name, network, side) in networks() {
        let case = Case::random(smooth(&*network), 4, side, 3);
        let v = case.direction();
        let product = case.product(&v, DType::F64).expect("a product");
        let expected = slope(|t| case.gradient(t, &v), 0.02);
        let (of_weights, of_alphas) = product.split_at(case.weights.elem_count());
        let (weights, alphas) = expected.split_at(case.weights.elem_count());
        let error = off(of_weights, weights);
        assert!(error < 1e-9, "{name}: the weights' product is off by {error:e}");
        if !alphas.is_empty() {
            let error = off(of_alphas, alphas);
            assert!(error < 1e-9, "{name}: the architecture's product is off by {error:e}");
        }
        let error = off(&case.product(&v, DType::F32).expect("a product"), &product);
        assert!(error < 1e-4, "{name}: in single precision the product is off by {error:e}");
    }
}

/// Cross entropy of the smooth graph and its gradients in weights and α, by hand from the reference: no
/// candle.
struct ByHand {
    loss: f64,
    weights: Vec<f64>,
    alphas: Vec<f64>,
}

fn by_hand(fused: &KernelNetwork, batch: &Batch, weights: &[f64], alphas: &[f64]) -> ByHand {
    let columns = fused.architecture().entries()[0].shape[1];
    let softmax = |row: &[f64]| -> Vec<f64> {
        let sum: f64 = row.iter().map(|a| a.exp()).sum();
        row.iter().map(|a| a.exp() / sum).collect()
    };
    let ops: Vec<f64> = alphas.chunks(columns).flat_map(softmax).collect();
    let (images, n) = (values(&batch.images), batch.labels.len());
    let inputs = Inputs { batch: n, images: &images, weights, ops: &ops, running: None };
    let how = How { smooth: true, ..How::default() };
    let forward = reference::forward_as(fused.graph(), &inputs, how);
    let classes = forward.exports[1].len() / n;
    let (mut loss, mut of_logits) = (0.0, vec![]);
    for (scores, label) in forward.exports[1].chunks(classes).zip(&batch.labels) {
        let mut p = softmax(scores);
        loss -= p[*label as usize].ln() / n as f64;
        p[*label as usize] -= 1.0;
        of_logits.extend(p.into_iter().map(|p| p / n as f64));
    }
    let of_exports = [vec![0.0; forward.exports[0].len()], of_logits];
    let found = reference::backward(fused.graph(), &inputs, &forward, &of_exports);
    let rows = ops.chunks(columns).zip(found.ops.chunks(columns));
    let through_softmax = rows.flat_map(|(p, g)| {
        let mean: f64 = p.iter().zip(g).map(|(p, g)| p * g).sum();
        p.iter().zip(g).map(|(p, g)| p * (g - mean)).collect::<Vec<_>>()
    });
    ByHand { loss, weights: found.weights, alphas: through_softmax.collect() }
}

/// a + t·b.
fn moved(a: &[f64], t: f64, b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + t * b).collect()
}

/// The estimator `exact` on a smooth DARTS supernet: its mixed term against the extrapolated difference
/// of gradients, and the whole hypergradient against extrapolated differences of J through the update.
#[test]
fn exact_on_a_darts_supernet() {
    if !in_child("exact_on_a_darts_supernet") {
        return;
    }
    for (seed, batch, side) in [(0, 4, 16), (1, 8, 8)] {
        let fused = supernet(&space("darts", 4, 3), side, 3);
        let [train, valid] =
            [0, 1].map(|i| Case::random(smooth(&fused), batch, side, seed + 9 * i));
        let (network, architecture) = (&*train.network, train.architecture.clone().into_iter());
        let point =
            Point { weights: vec![train.weights.clone()], architecture: architecture.collect() };
        let batch_of =
            |case: &Case| Batch { images: case.images.clone(), labels: case.labels.clone() };
        let batches = Batches { train: batch_of(&train), valid: batch_of(&valid), transfer: None };
        let graph = StageGraph::bilevel(PluginRef::named("exact")).validated().expect("a graph");
        let level = Level {
            network,
            criterion: &CrossEntropy,
            architecture: Some(0),
            parameters: &[],
            inner: Inner::plain(ETA),
            memory: &InnerState::default(),
        };
        let problem = Problem {
            graph: &graph,
            levels: vec![level],
            transfers: &TransferLosses::default(),
            batches: &batches,
            draw: Key::new(1, Purpose::Relaxation),
            weight_step: false,
            warm: &WarmStarts::default(),
            passes: Cell::new(0),
        };
        let exact = build::<dyn Hypergradient>("exact", &Value::Null).expect("registered");
        let found = hypergradient(&problem, &point, &[&*exact], Adjoints::Joint);
        let found = found.expect("a hypergradient");
        let of = |keep: &dyn Fn(&Contribution) -> bool| {
            values(&found.sum(0, keep).expect("a sum").expect("it has terms"))
        };

        let (w, a) = (values(&point.weights[0]), values(&point.architecture[0]));
        let updated = |a: &[f64]| moved(&w, -ETA, &by_hand(&fused, &batches.train, &w, a).weights);
        let after = by_hand(&fused, &batches.valid, &updated(&a), &a);
        let length = norm(&after.weights);
        let v: Vec<f64> = after.weights.iter().map(|v| v / length).collect();
        let along = |t| by_hand(&fused, &batches.train, &moved(&w, t, &v), &a).alphas;
        let mixed: Vec<f64> = slope(along, 0.02).iter().map(|s| -ETA * length * s).collect();
        let error = off(&of(&|c| c.via == Via::Update(0)), &mixed);
        assert!(error < 1e-9, "seed {seed}: the mixed term is off by {error:e}");

        let gradient = of(&|_| true);
        let mut draws = Key::new(seed, Purpose::Split).stream();
        for _ in 0..4 {
            let d: Vec<f64> = a.iter().map(|_| draws.normal()).collect();
            let objective = |t| {
                let a = moved(&a, t, &d);
                vec![by_hand(&fused, &batches.valid, &updated(&a), &a).loss]
            };
            let expected = slope(objective, 0.02)[0];
            let got: f64 = gradient.iter().zip(&d).map(|(g, d)| g * d).sum();
            let error = (got - expected).abs() / (norm(&gradient) * norm(&d));
            assert!(error < 1e-9, "seed {seed}: {got} for {expected}");
        }
    }
}

/// The reference of each network gives what the fused one gives, with batch and running statistics.
#[test]
fn the_same_network() {
    for (name, network, side) in networks() {
        let slow = network.reference(false).expect("a network of primitives");
        assert_eq!(slow.weights(), network.weights(), "{name}");
        assert_eq!(slow.buffers(), network.buffers(), "{name}");
        assert_eq!(slow.architecture(), network.architecture(), "{name}");
        let case = Case::random(network.clone(), 4, side, 5);
        let narrow = |t: &Tensor| t.to_dtype(DType::F32).expect("numbers");
        let weights = narrow(&case.weights);
        let architecture = case.architecture.as_ref().map(narrow);
        let images = narrow(&case.images);
        let draw = Key::new(1, Purpose::Relaxation);
        let run = |network: &dyn Network, pass: &Pass<'_>| {
            let out = network.forward(&weights, architecture.as_ref(), &images, pass);
            let out = out.expect("a pass");
            let parts =
                [Some(out.logits), Some(out.embedding), out.auxiliary_logits, out.statistics];
            parts.map(|part| part.map(|t| values(&t)))
        };
        let training = Pass::train(draw).with_drop_path(0.2);
        let (found, expected) = (run(&*slow, &training), run(&*network, &training));
        let statistics = expected[3].as_deref().expect("it has normalisations");
        let buffers = narrow(&tensor(statistics));
        let evaluation = Pass::evaluate(&buffers, draw);
        let later = (run(&*slow, &evaluation), run(&*network, &evaluation));
        assert!(later.0[3].is_none());
        for (found, expected) in [(found, expected), later] {
            for (found, expected) in found.iter().zip(&expected) {
                match (found, expected) {
                    (Some(found), Some(expected)) => {
                        let error = off(found, expected);
                        assert!(error < 1e-5, "{name}: off by {error:e}");
                    }
                    (found, expected) => assert_eq!(found, expected, "{name}"),
                }
            }
        }
    }
}

/// Networks with operations in tensor code run in `f64` too; their double backward names the operation.
#[test]
fn tensor_code_has_none_and_says_so() {
    if !in_child("tensor_code_has_none_and_says_so") {
        return;
    }
    let fused = supernet(&space("gated", 4, 1), 8, 3);
    let network = fused.reference(false).expect("it runs");
    assert!(!network.twice_differentiable());
    let case = Case::random(network, 2, 8, 0);
    let v = case.direction();
    assert!(case.gradient(0.0, &v).iter().all(|g| g.is_finite()));
    let error = case.product(&v, DType::F64).expect_err("no second derivatives").to_string();
    assert!(error.contains("`cells.0._ops.") && error.contains("second derivatives"), "{error}");
}
