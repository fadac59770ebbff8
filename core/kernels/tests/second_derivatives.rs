//! Products with second derivatives, by dual numbers, against extrapolated differences of the
//! reference's gradient; and candle's double backward through [`ReferenceNetwork`].
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use candle_core::{Device, Tensor, Var};
use common::{Data, Random, difference, partial_graph, random_graph, run};
use tetlo_kernels::reference::{self, How, Inputs, Moved};
use tetlo_kernels::{
    FunctionPass, Graph, GraphBuilder, Mode, Network, Primitive, ReferenceNetwork, Shape,
    TensorFunction, Term, Weight,
};

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|v| f64::from(*v)).collect()
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// A graph at a point, with a direction, in `f64`.
struct Case {
    graph: Graph,
    how: How,
    batch: usize,
    images: Vec<f64>,
    /// Weights, then operation weights.
    point: Vec<f64>,
    along: Vec<f64>,
    weights: usize,
    running: Option<Vec<f64>>,
    g: Vec<Vec<f64>>,
}

impl Case {
    fn new(graph: Graph, r: &mut Random, batch: usize, smooth: bool) -> Self {
        let data = Data::random(&graph, r, batch);
        let point = [wide(&data.weights), wide(&data.ops)].concat();
        let along: Vec<f64> = point.iter().map(|_| f64::from(r.value())).collect();
        let running = (r.below(4) == 0).then(|| wide(&data.running));
        let length = norm(&along);
        Self {
            how: How { smooth, ..How::default() },
            batch,
            images: wide(&data.images),
            weights: data.weights.len(),
            along: along.iter().map(|a| a / length).collect(),
            point,
            running,
            g: data.exports.iter().map(|e| wide(e)).collect(),
            graph,
        }
    }

    fn at<'a>(&'a self, point: &'a [f64]) -> Inputs<'a, f64> {
        let (weights, ops) = point.split_at(self.weights);
        let running = self.running.as_deref();
        Inputs { batch: self.batch, images: &self.images, weights, ops, running }
    }

    /// Exports and gradient of `<g, exports> + square/2 |exports|²`, flat.
    fn gradient(&self, point: &[f64], square: f64) -> (Vec<f64>, Vec<f64>) {
        let inputs = self.at(point);
        let forward = reference::forward_as(&self.graph, &inputs, self.how);
        let pairs = self.g.iter().zip(&forward.exports);
        let g: Vec<Vec<f64>> =
            pairs.map(|(g, e)| g.iter().zip(e).map(|(g, e)| g + square * e).collect()).collect();
        let found = reference::backward(&self.graph, &inputs, &forward, &g);
        (forward.exports.concat(), [found.weights, found.ops].concat())
    }

    /// Derivatives of both along the direction, extrapolated from central differences with three
    /// lengths; and how far the last two extrapolations are apart.
    fn differences(&self, step: f64, square: f64) -> ([Vec<f64>; 2], f64) {
        let difference = |h: f64| {
            let moved = |s: f64| {
                let pairs = self.point.iter().zip(&self.along);
                self.gradient(&pairs.map(|(p, a)| p + s * a).collect::<Vec<_>>(), square)
            };
            let (plus, less) = (moved(h), moved(-h));
            let slope = |a: &[f64], b: &[f64]| {
                minus(a, b).iter().map(|d| d / (2.0 * h)).collect::<Vec<f64>>()
            };
            [slope(&plus.0, &less.0), slope(&plus.1, &less.1)]
        };
        let extrapolate = |fine: &[f64], coarse: &[f64], order: f64| {
            let pairs = fine.iter().zip(coarse);
            pairs.map(|(f, c)| f + (f - c) / (order - 1.0)).collect::<Vec<f64>>()
        };
        let [a, b, c] = [step, step / 2.0, step / 4.0].map(difference);
        let mut apart = 0.0f64;
        let parts = std::array::from_fn(|i| {
            let (first, second) = (extrapolate(&b[i], &a[i], 4.0), extrapolate(&c[i], &b[i], 4.0));
            let last = extrapolate(&second, &first, 16.0);
            apart = apart.max(norm(&minus(&last, &second)) / norm(&last).max(1e-3));
            last
        });
        (parts, apart)
    }
}

/// Relative errors of the exports' derivative, of the Hessian's product and of the gradient along the
/// direction, where the differences have converged.
fn errors(case: &Case, step: f64, converged: f64) -> Option<[f64; 3]> {
    let (expected, apart) = case.differences(step, 0.0);
    if apart > converged {
        return None;
    }
    let (weights, ops) = case.along.split_at(case.weights);
    let along = Moved { weights, ops };
    let inputs = case.at(&case.point);
    let found =
        reference::second_derivatives(&case.graph, &inputs, case.how, &case.g, along).unwrap();
    let product = [found.gradients.weights, found.gradients.ops].concat();
    let off =
        |found: &[f64], expected: &[f64]| norm(&minus(found, expected)) / norm(expected).max(1e-3);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (_, gradient) = case.gradient(&case.point, 0.0);
    let slope = (dot(&gradient, &case.along) - dot(&case.g.concat(), &expected[0])).abs();
    let of_exports = off(&found.exports.concat(), &expected[0]);
    Some([of_exports, off(&product, &expected[1]), slope / norm(&gradient).max(1e-3)])
}

#[test]
fn products_are_those_of_differences() {
    let (mut tested, mut moving) = (0, 0);
    for seed in 0..120 {
        let mut r = Random::new(seed);
        let batch = 1 + r.below(4);
        let graph =
            if seed % 3 == 0 { partial_graph(&mut r) } else { random_graph(&mut r, batch).0 };
        let case = Case::new(graph, &mut r, batch, true);
        let Some(errors) = errors(&case, 2e-2, 1e-7) else { continue };
        assert!(errors.iter().all(|e| *e < 1e-8), "seed {seed}: {errors:?}");
        tested += 1;
        moving += usize::from(norm(&case.differences(2e-2, 0.0).0[1]) > 1e-2);
    }
    assert!(tested > 60 && moving > 50, "{tested} graphs tested, {moving} with second derivatives");
}

/// Between two kinks a rectifier and a max pool are smooth too.
#[test]
fn products_beside_kinks() {
    let mut tested = 0;
    for seed in 0..400 {
        let mut r = Random::new(seed);
        let batch = 1 + r.below(2);
        let (graph, _, _) = random_graph(&mut r, batch);
        let case = Case::new(graph, &mut r, batch, false);
        let inputs = case.at(&case.point);
        let forward = reference::forward(&case.graph, &inputs);
        if reference::margin(&case.graph, &inputs, &forward) < 1e-3 {
            continue;
        }
        let Some(errors) = errors(&case, 5e-4, 1e-5) else { continue };
        assert!(errors.iter().all(|e| *e < 1e-6), "seed {seed}: {errors:?}");
        tested += 1;
    }
    assert!(tested > 30, "{tested} graphs tested");
}

/// The values of the plan, in `f32`: exports, statistics, gradients.
#[test]
fn the_network_of_the_plan() {
    for seed in 0..30 {
        let mut r = Random::new(seed);
        let batch = 1 + r.below(3);
        let (graph, _, _) = random_graph(&mut r, batch);
        let data = Data::random(&graph, &mut r, batch);
        let evaluate = seed % 3 == 0;
        let expected = common::expect(&graph, &data, evaluate);
        let single = common::single_precision(&graph, &data, evaluate, &expected);
        if expected.margin < 1e-4 || single.iter().any(|s| *s > 1e-4) {
            continue;
        }
        let fused = run(&Network::new(graph.clone()), &data, evaluate);
        let weights = Var::from_tensor(&common::flat(&data.weights)).unwrap();
        let ops = Var::from_tensor(&common::flat(&data.ops)).unwrap();
        let running = common::flat(&data.running);
        let mode = if evaluate { Mode::Eval { running: &running } } else { Mode::Train };
        let network = ReferenceNetwork::new(graph.clone(), false);
        let images = data.images(&graph);
        let out = network.forward_with_key(&images, &weights, &ops, mode, 0).unwrap();
        assert_eq!(out.statistics.is_none(), evaluate);
        let gradients = common::loss(&out.exports, &data.exports).backward().unwrap();
        let close = |found: &Tensor, expected: &[f32], what: &str| {
            let off = difference(&common::vector(found), &wide(expected));
            assert!(off < 1e-3, "seed {seed}: {what} is off by {off:e}");
        };
        for (found, expected) in out.exports.iter().zip(&fused.exports) {
            close(found, expected, "an export");
        }
        if let Some(found) = out.statistics {
            close(&found, &fused.statistics, "statistics");
        }
        close(gradients.get(&weights).unwrap(), &fused.weights, "the gradient of the weights");
        close(gradients.get(&ops).unwrap(), &fused.ops, "the gradient of the factors");
    }
}

const SWITCH: &str = "CANDLE_GRAD_DO_NOT_DETACH";

/// Runs this test again in a process that has candle's second derivatives; true in that process.
fn in_child(test: &str) -> bool {
    if std::env::var(SWITCH).is_ok() {
        return true;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command.args([test, "--exact"]).env(SWITCH, "1").output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && out.contains("1 passed"), "{out}");
    false
}

/// ∇ ⟨∇ L, v⟩ for L = ⟨g, F⟩ + ½ |F|² on candle's tape, weights and factors apart.
fn double_backward(case: &Case) -> Vec<f64> {
    let tensor = |v: &[f64]| Tensor::from_slice(v, v.len(), &Device::Cpu).unwrap();
    let (weights, ops) = case.point.split_at(case.weights);
    let weights = Var::from_tensor(&tensor(weights)).unwrap();
    let ops = Var::from_tensor(&tensor(ops)).unwrap();
    let (c, h, w) = case.graph.input_shape();
    let images = tensor(&case.images).reshape((case.batch, c, h, w)).unwrap();
    let running = case.running.as_deref().map(tensor);
    let mode = running.as_ref().map_or(Mode::Train, |running| Mode::Eval { running });
    let network = ReferenceNetwork::new(case.graph.clone(), case.how.smooth);
    let out = network.forward_with_key(&images, &weights, &ops, mode, 0).unwrap();
    let terms = out.exports.iter().zip(&case.g).map(|(export, g)| {
        let export = export.flatten_all().unwrap();
        let linear = (&export * tensor(g)).unwrap().sum_all().unwrap();
        (linear + (export.sqr().unwrap().sum_all().unwrap() * 0.5).unwrap()).unwrap()
    });
    let loss = terms.reduce(|a, b| (a + b).unwrap()).unwrap();
    let first = loss.backward().unwrap();
    let (of_weights, of_ops) = case.along.split_at(case.weights);
    let parts = [(&weights, of_weights), (&ops, of_ops)]
        .map(|(var, along)| (first.get(var).unwrap() * tensor(along)).unwrap().sum_all().unwrap());
    let second = (&parts[0] + &parts[1]).unwrap().backward().unwrap();
    let of = |var: &Var| second.get(var).unwrap().to_vec1::<f64>().unwrap();
    let third = second.get(&weights).unwrap().sum_all().unwrap().backward();
    assert!(third.unwrap_err().to_string().contains("no third derivatives"));
    [of(&weights), of(&ops)].concat()
}

#[test]
fn double_backward_is_exact() {
    if !in_child("double_backward_is_exact") {
        return;
    }
    let mut tested = 0;
    for seed in 0..40 {
        let mut r = Random::new(seed);
        let batch = 1 + r.below(3);
        let case = Case::new(random_graph(&mut r, batch).0, &mut r, batch, true);
        let (expected, apart) = case.differences(2e-2, 1.0);
        if apart > 1e-7 {
            continue;
        }
        let off =
            norm(&minus(&double_backward(&case), &expected[1])) / norm(&expected[1]).max(1e-3);
        assert!(off < 1e-8, "seed {seed}: {off:e}");
        tested += 1;
    }
    assert!(tested > 20, "{tested} graphs tested");
}

#[derive(Debug)]
struct Halved;

impl TensorFunction for Halved {
    fn name(&self) -> &'static str {
        "half of it"
    }
    fn output(&self, input: Shape) -> Result<Shape, String> {
        Ok(input)
    }
    fn weights(&self, _: Shape) -> usize {
        1
    }
    fn forward(&self, x: &Tensor, w: &Tensor, _: &FunctionPass) -> candle_core::Result<Tensor> {
        x.broadcast_mul(w)
    }
}

#[test]
fn what_it_cannot_do_is_said() {
    let mut b = GraphBuilder::new(1, 2, 2);
    let function = b.function(std::sync::Arc::new(Halved));
    let chain = vec![Primitive::Function { function, weight: 0 }];
    let state = b.state(vec![Term { input: vec![b.input()], chain, weight: Weight::One }]).unwrap();
    b.export(tetlo_kernels::Export::Pooled { states: vec![state], relu: false });
    let graph = b.finish().unwrap();
    let inputs = Inputs { batch: 1, images: &[1.0; 4], weights: &[0.5], ops: &[], running: None };
    let along = Moved { weights: &[1.0], ops: &[] };
    let how = How::default();
    let error = reference::second_derivatives(&graph, &inputs, how, &[vec![1.0]], along);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("half of it") && error.contains("second derivatives"), "{error}");

    let network = ReferenceNetwork::new(graph, false);
    let single =
        |shape: &[usize]| Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let (images, ops) = (single(&[1, 1, 2, 2]), single(&[1]));
    let weights = single(&[1]).to_dtype(candle_core::DType::F64).unwrap();
    let error = network.forward_with_key(&images, &weights, &ops, Mode::Train, 0);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("F32") && error.contains("the weights F64"), "{error}");
    let half = images.to_dtype(candle_core::DType::BF16).unwrap();
    let error = network.forward_with_key(
        &half,
        &half.flatten_all().unwrap(),
        &half.flatten_all().unwrap(),
        Mode::Train,
        0,
    );
    assert!(error.unwrap_err().to_string().contains("not BF16"));
    let error = network.forward_with_key(
        Var::from_tensor(&images).unwrap().as_tensor(),
        &ops,
        &ops,
        Mode::Train,
        0,
    );
    assert!(error.unwrap_err().to_string().contains("no gradient for its images"));
}
