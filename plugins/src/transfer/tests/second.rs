//! Second derivatives, which the estimator `exact` takes, against differences of the first.

use super::{Arrays, all_on, build, evaluate, normal, numbers, pair, tracked};
use candle_core::Tensor;
use serde_json::json;
use tetlo_core::kinds::TransferLoss;

const DOUBLE_BACKWARD: &str = "CANDLE_GRAD_DO_NOT_DETACH";

/// ⟨gradient in the auxiliary's features and in the parameters, fixed random numbers⟩.
fn directions(arrays: &Arrays) -> Arrays {
    let wanted = |(name, t): &(&String, &Tensor)| *name != "main" && t.dtype().is_float();
    let drawn = arrays.iter().filter(wanted).enumerate();
    drawn.map(|(i, (name, t))| (name.clone(), normal(t.dims(), 50 + i as u64))).collect()
}

fn check(name: &str, loss: &dyn TransferLoss, arrays: &Arrays) {
    let directions = directions(arrays);
    let along = |arrays: &Arrays| -> f64 {
        let found = evaluate(loss, arrays).unwrap().gradients;
        let of = |(name, v): (&String, &Tensor)| -> f64 {
            found[name].iter().zip(numbers(v)).map(|(g, v)| g * v).sum()
        };
        directions.iter().map(of).sum()
    };
    let (vars, value) = tracked(loss, arrays).unwrap();
    let first = value.backward().unwrap();
    let parts = directions.iter().filter_map(|(name, v)| {
        first.get(&vars[name]).map(|g| (g * v).unwrap().sum_all().unwrap())
    });
    let sum = parts.reduce(|a, b| (a + b).unwrap()).unwrap();
    let second = sum.backward().unwrap();
    for (array, var) in &vars {
        let got = second.get(var).map_or_else(|| vec![0.0; var.elem_count()], numbers);
        let h = 1e-6;
        let start = numbers(&arrays[array]);
        let expected: Vec<f64> = (0..start.len())
            .map(|i| {
                let at = |step: f64| {
                    let mut moved = start.clone();
                    moved[i] += step;
                    let moved = Tensor::from_vec(moved, var.dims(), var.device()).unwrap();
                    let mut arrays = arrays.clone();
                    arrays.insert(array.clone(), moved);
                    along(&arrays)
                };
                (at(h) - at(-h)) / (2.0 * h)
            })
            .collect();
        let size = expected.iter().fold(1e-2, |m: f64, e| m.max(e.abs()));
        for (got, expected) in got.iter().zip(&expected) {
            let error = (got - expected).abs() / size;
            assert!(error < 1e-6, "{name}, {array}: {got} for {expected}");
        }
    }
}

#[test]
fn second_derivatives() {
    let name = "transfer::tests::second::second_derivatives";
    if std::env::var_os(DOUBLE_BACKWARD).is_none() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(DOUBLE_BACKWARD, "1")
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && output.contains("1 passed"), "{output}");
        return;
    }
    for (name, loss, arrays) in all_on(4) {
        assert!(loss.twice_differentiable(), "{name}");
        check(&name, loss.as_ref(), &arrays);
    }
    let maps = pair(normal(&[3, 2, 2, 2], 1), normal(&[3, 3, 4, 2], 2));
    for power in [1.0, 1.5, 3.0] {
        let loss = build("attention", &json!({"power": power}));
        check(&format!("attention, p = {power}"), loss.as_ref(), &maps);
    }
}
