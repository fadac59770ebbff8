//! Against `PyTorch` in double precision: `tests/fixtures/scripts/kernels.py` describes the files.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::PathBuf;

use common::{Data, Expected, Places, differences, run};
use safetensors::{Dtype, SafeTensors};
use tetlo_kernels::reference::{self, Inputs};
use tetlo_kernels::{
    AvgPool2x2, Export, Graph, GraphBuilder, Map, Network, Primitive, Term, Weight, simd_paths,
};

/// The same chain as in the script, on `c` channels, with its parameters in the same order.
fn chain(name: &str, p: &mut Places, c: usize) -> Vec<Primitive> {
    use Primitive::{AvgPool, MaxPool, Relu};
    // The script makes a convolution's parameters before those of its norm, as these vectors do.
    let separable = |p: &mut Places, kernel, stride| {
        let mut chain = Vec::new();
        for stride in [stride, 1] {
            let convs = [Relu, p.depthwise(c, kernel, stride, 1), p.pointwise(c, c, 1)];
            chain.extend(convs);
            chain.push(p.norm(c));
        }
        chain
    };
    let affine = |p: &mut Places, channels| {
        p.affine = true;
        p.norm(channels)
    };
    match name {
        "identity" => vec![],
        "relu" => vec![Relu],
        "factorized-reduce" => vec![Relu, p.reduce(c, 5), p.norm(5)],
        "relu-conv-bn" => vec![Relu, p.pointwise(c, 4, 1), affine(p, 4)],
        "sep-conv-3x3" => separable(p, 3, 1),
        "sep-conv-5x5-stride-2" => separable(p, 5, 2),
        "dil-conv-3x3" => vec![Relu, p.depthwise(c, 3, 1, 2), p.pointwise(c, 3, 1), p.norm(3)],
        "dil-conv-5x5-stride-2" => {
            vec![Relu, p.depthwise(c, 5, 2, 2), p.pointwise(c, 4, 1), p.norm(4)]
        }
        "max-pool-bn" => vec![MaxPool { stride: 1 }, p.norm(c)],
        "max-pool-stride-2" => vec![MaxPool { stride: 2 }],
        "avg-pool" => vec![AvgPool { stride: 1 }],
        "avg-pool-2" => vec![Primitive::Map(Map::AvgPool2x2(AvgPool2x2))],
        "bn" => vec![affine(p, c)],
        "avg-pool-bn-stride-2" => vec![AvgPool { stride: 2 }, affine(p, c)],
        "conv-3x3-bn" => vec![p.dense(c, 18, 3, 1), affine(p, 18)],
        "residual-stride-2" => {
            vec![Relu, p.dense(c, 5, 3, 2), p.norm(5), Relu, p.dense(5, 5, 3, 1), p.norm(5)]
        }
        "shortcut" => vec![p.pointwise(c, 5, 2), p.norm(5)],
        _ => panic!("unknown fixture {name}"),
    }
}

struct Fixture(Vec<u8>);

impl Fixture {
    fn get(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F64);
        let values =
            tensor.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
        (tensor.shape().to_vec(), values.collect())
    }
    fn values(&self, name: &str) -> Vec<f64> {
        self.get(name).1
    }
}

fn graph(name: &str, c: usize, (h, w): (usize, usize)) -> Graph {
    let mut b = GraphBuilder::new(2, h, w);
    let mut p = Places::default();
    let first = p.pointwise(2, c, 1);
    let images = b.input();
    let below =
        b.state(vec![Term { input: vec![images], chain: vec![first], weight: Weight::One }]);
    let chain = chain(name, &mut p, c);
    let term = Term { input: vec![below.unwrap()], chain, weight: Weight::Shared(0) };
    let state = b.state(vec![term]).unwrap();
    b.export(Export::Map { states: vec![state], relu: false });
    b.finish().unwrap()
}

fn near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() < 1e-11 * e.abs().max(1.0), "{what}: {f} for {e}");
    }
}

#[test]
fn pytorch() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/kernels");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 21);
    for file in files {
        let stem = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let (name, evaluate) = match stem.strip_suffix("-eval") {
            Some(name) => (name, true),
            None => (&*stem, false),
        };
        let fixture = Fixture(std::fs::read(&file).unwrap());
        let (shape, images) = fixture.get("images");
        let (weights, ops) = (fixture.values("weights"), fixture.values("ops"));
        let (statistics, gradient) = (fixture.values("statistics"), fixture.values("gradient"));
        let channels = match name {
            "relu-conv-bn" | "bn" => 17,
            "residual-stride-2" | "shortcut" => 4,
            _ => 3,
        };
        let graph = graph(name, channels, (shape[2], shape[3]));
        assert_eq!(graph.weights(), weights.len(), "{stem}");
        let inputs = Inputs {
            batch: shape[0],
            images: &images,
            weights: &weights,
            ops: &ops,
            running: evaluate.then_some(&*statistics),
        };
        let forward = reference::forward(&graph, &inputs);
        let gradients =
            reference::backward(&graph, &inputs, &forward, std::slice::from_ref(&gradient));
        let expected = Expected {
            margin: 0.0,
            exports: vec![fixture.values("output")],
            statistics: if evaluate { vec![] } else { statistics.clone() },
            weights: fixture.values("weights_gradient"),
            ops: fixture.values("ops_gradient"),
        };
        near(&forward.exports[0], &expected.exports[0], &stem);
        near(&gradients.weights, &expected.weights, &stem);
        near(&gradients.ops, &expected.ops, &stem);
        if !evaluate {
            near(&forward.statistics, &expected.statistics, &stem);
        }

        let narrow = |v: &[f64]| v.iter().map(|v| *v as f32).collect::<Vec<_>>();
        let data = Data {
            batch: shape[0],
            images: narrow(&images),
            weights: narrow(&weights),
            ops: narrow(&ops),
            running: if evaluate { narrow(&statistics) } else { vec![0.0] },
            exports: vec![narrow(&gradient)],
        };
        for simd in simd_paths() {
            let network = Network::with_simd(graph.clone(), simd).unwrap();
            let found = differences(&run(&network, &data, evaluate), &expected);
            assert!(found.iter().all(|d| *d < 2e-6), "{stem}, {simd}: {found:?}");
        }
    }
}
