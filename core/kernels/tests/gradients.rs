//! Gradients past candle's sums are candle's.

mod common;

use candle_core::{Tensor, Var};
use common::{Data, Random, dense_graph, flat, loss, vector};
use tetlo_kernels::{Mode, Network, backward};

fn close(a: &[f32], b: &[f32]) -> bool {
    let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * largest)
}

#[test]
fn of_variables_read_once_twice_and_elsewhere() {
    let network = Network::new(dense_graph(16, 20, 12, 9));
    let graph = network.graph();
    let mut r = Random::new(5);
    let (first, mut second) = (Data::random(graph, &mut r, 3), Data::random(graph, &mut r, 3));
    second.weights.clone_from(&first.weights);
    let weights = Var::from_tensor(&flat(&first.weights)).unwrap();
    let ops = flat(&first.ops);
    let pass = |data: &Data, weights: &Tensor| {
        let out = network.forward(&data.images(graph), weights, &ops, Mode::Train).unwrap();
        loss(&out.exports, &data.exports)
    };
    let squares = || weights.sqr().unwrap().sum_all().unwrap();
    let once = || pass(&first, &weights);
    let twice = || (once() + pass(&second, &weights)).unwrap();
    let elsewhere = || (twice() + squares()).unwrap();
    let derived = || pass(&first, &(weights.as_tensor() * 0.5).unwrap());
    let both = || (derived() + once()).unwrap();
    let cases: [(&str, &dyn Fn() -> Tensor); 5] = [
        ("once", &once),
        ("twice", &twice),
        ("elsewhere", &elsewhere),
        ("derived", &derived),
        ("both", &both),
    ];
    for (name, case) in cases {
        let of = |gradients: candle_core::backprop::GradStore| {
            vector(gradients.get(&weights).expect("a gradient"))
        };
        let (candle, ours) = (of(case().backward().unwrap()), of(backward(&case()).unwrap()));
        assert!(candle.iter().any(|v| *v != 0.0));
        assert!(close(&ours, &candle), "{name}");
        // Nothing is left behind for a later pass.
        assert!(close(&of(case().backward().unwrap()), &candle), "{name}, afterwards");
    }
}
