//! Each estimator against numbers worked by hand, on a quadratic in two weights whose Hessian is not the
//! identity.
//!
//! Training images (2, 0) and (1, 1), F = B = 1: M = XᵀX/2 = (2.5 0.5; 0.5 0.5), with weight decay 0.5
//! H = (3 0.5; 0.5 1). Targets and A are 0, so θ* = 0; validation images are the unit vectors and their
//! targets (−2, −4), so the adjoint is a = (1, 2). ∇_A ⟨∇_θ L, v⟩ = −M·v, hence the part through the
//! weights is M·v with v in the place of H⁻¹·a = (0, 2).

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tetlo_core::Result;
use tetlo_core::kinds::{CheckProblem, Hypergradient};
use tetlo_core::multilevel::check::Arrays;
use tetlo_core::multilevel::reverse::{Adjoints, Source, Via, hypergradient};
use tetlo_core::registry::build;

/// The part through the weights by this estimator.
fn through(problem: &Value, estimator: &str, options: &Value) -> Vec<f64> {
    attempt(problem, estimator, options, None).unwrap().0
}

/// The same from a start, and whether a solution was kept for the next.
fn attempt(
    problem: &Value,
    estimator: &str,
    options: &Value,
    start: Option<Tensor>,
) -> Result<(Vec<f64>, bool)> {
    let matrix = |v: [f64; 4]| Tensor::from_slice(&v, (2, 2), &Device::Cpu).unwrap();
    let vector = |v: [f64; 2]| Tensor::from_slice(&v, 2, &Device::Cpu).unwrap();
    let unit = matrix([1.0, 0.0, 0.0, 1.0]);
    let arrays: Arrays = [
        ("A", vector([0.0, 0.0])),
        ("main/F", unit.clone()),
        ("main/B", unit.clone()),
        ("main/train", vector([0.0, 0.0])),
        ("main/valid", vector([-2.0, -4.0])),
        ("batch/train/x", matrix([2.0, 0.0, 1.0, 1.0])),
        ("batch/valid/x", unit),
        ("adam/main", vector([0.04, 0.04])),
    ]
    .map(|(name, array)| (name.to_owned(), array))
    .into();
    let mut all = json!({"levels": 2, "weight-decay": 0.5, "learning-rate": 0.2, "momentum": 0.0});
    all.as_object_mut().unwrap().extend(problem.as_object().unwrap().clone());
    let mut case = build::<dyn CheckProblem>("quadratic", &all).unwrap().case(2, &arrays).unwrap();
    case.warm.extend(start.map(|start| ((0, Source::Joint), start)));
    let estimator = build::<dyn Hypergradient>(estimator, options).unwrap();
    let all = [estimator.as_ref()];
    let found = hypergradient(&case.problem(), &case.point, &all, Adjoints::Joint)?;
    let part = found.contributions.iter().find(|c| c.via == Via::Update(0)).unwrap();
    Ok((part.gradient.to_vec1().unwrap(), !found.warm.is_empty()))
}

#[track_caller]
fn near(got: &[f64], expected: [f64; 2]) {
    let gap = (got[0] - expected[0]).abs().max((got[1] - expected[1]).abs());
    assert!(gap < 1e-9, "{got:?}, expected {expected:?}");
}

#[test]
fn t1_t2_has_the_identity_for_the_hessian() {
    near(&through(&json!({}), "t1-t2", &json!({})), [3.5, 1.5]);
}

#[test]
fn neumann_sums_powers() {
    // v = α·a = (0.2, 0.4).
    near(&through(&json!({}), "neumann", &json!({"terms": 0})), [0.7, 0.3]);
    // H·a = (4, 2.5); v = 0.2·(2a − 0.2·H·a) = (0.24, 0.7).
    near(&through(&json!({}), "neumann", &json!({"terms": 1})), [0.95, 0.47]);
    // α = 0.1: v = 0.1·(2a − 0.1·H·a) = (0.16, 0.375).
    let options = json!({"terms": 1, "step-size": 0.1});
    near(&through(&json!({}), "neumann", &options), [0.5875, 0.2675]);
    near(&through(&json!({}), "neumann", &json!({"terms": 300})), [1.0, 1.0]);
}

#[test]
fn conjugate_gradients_solve_two_unknowns_in_two_iterations() {
    // a·a/(a·H·a) = 5/9.
    let one = json!({"iterations": 1});
    near(&through(&json!({}), "conjugate-gradient", &one), [17.5 / 9.0, 7.5 / 9.0]);
    near(&through(&json!({}), "conjugate-gradient", &json!({"iterations": 2})), [1.0, 1.0]);
    // (H + 1)⁻¹·a = (1, 7.5)/7.75.
    let damped = json!({"iterations": 2, "damping": 1.0});
    near(&through(&json!({}), "conjugate-gradient", &damped), [6.25 / 7.75, 4.25 / 7.75]);
}

/// On a quadratic, σ times the distance of the two minimisations is a Neumann series.
#[test]
fn penalty_is_a_neumann_series_on_a_quadratic() {
    for sigma in [1.0, 100.0] {
        let options = json!({"sigma": sigma, "steps": 2});
        near(&through(&json!({}), "penalty", &options), [0.95, 0.47]);
    }
}

#[test]
fn unrolled_steps_are_a_neumann_series_at_a_solution() {
    for estimator in ["central-difference", "richardson"] {
        let of = |steps: usize, momentum: f64| {
            let problem = json!({"unroll-steps": steps, "momentum": momentum});
            through(&problem, estimator, &json!({}))
        };
        near(&of(1, 0.0), [0.7, 0.3]);
        near(&of(2, 0.0), [0.95, 0.47]);
        // The first step's gradient acts with 1 + μ: v = 0.2·(2.5·a − 0.2·H·a) = (0.34, 0.9).
        near(&of(2, 0.5), [1.3, 0.62]);
    }
}

/// At a gradient of 0 and a first moment of 0 Adam's step is η·(1 − β₁)·g/(c₁·(√v̂ + 1e-8)).
#[test]
fn adam_scales_by_its_second_moment() {
    let c1 = 1.0 - 0.9f64.powi(11);
    let c2 = 1.0 - 0.999f64.powi(11);
    let factor = 0.2 * 0.1 / (c1 * ((0.04 * 0.999 / c2).sqrt() + 1e-8));
    let expected = [3.5 * factor, 1.5 * factor];
    let problem = || json!({"optimizer": "adam", "unroll-steps": 1});
    near(&through(&problem(), "sama", &json!({})), expected);
    near(&through(&problem(), "central-difference", &json!({})), expected);
    // With SGD: the learning rate.
    near(&through(&json!({}), "sama", &json!({})), [0.7, 0.3]);
    // The others take the learning rate as a step size, not the moments.
    near(&through(&problem(), "t1-t2", &json!({})), [3.5, 1.5]);
}

/// What diverges says so, also where it overflows.
#[test]
fn divergence_is_an_error() {
    let problem = json!({"learning-rate": 0.2});
    for (estimator, options) in [
        ("neumann", json!({"terms": 60, "step-size": 2.0})),
        ("neumann", json!({"terms": 3000, "step-size": 50.0})),
        ("penalty", json!({"steps": 60, "step-size": 2.0})),
        ("penalty", json!({"steps": 400, "step-size": 1e4})),
    ] {
        let error = attempt(&problem, estimator, &options, None).unwrap_err();
        assert!(error.to_string().contains("step-size"), "{estimator} {options}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("eigenvalue")), "{estimator}");
    }
}

/// A start that is worse than none is left alone; a good one ends at once.
#[test]
fn conjugate_gradients_start_from_the_last_solution_if_it_helps() {
    let options = json!({"iterations": 1});
    let start = |v: [f64; 2]| Some(Tensor::from_slice(&v, 2, &Device::Cpu).unwrap());
    let cold = attempt(&json!({}), "conjugate-gradient", &options, None).unwrap();
    let bad = attempt(&json!({}), "conjugate-gradient", &options, start([1e3, -1e3])).unwrap();
    assert_eq!(cold.0, bad.0);
    // H⁻¹·a = (0, 2).
    let good = attempt(&json!({}), "conjugate-gradient", &options, start([0.0, 2.0])).unwrap();
    near(&good.0, [1.0, 1.0]);
    assert!(good.1, "a solution is kept");
    let never = json!({"iterations": 1, "warm-start": false});
    let unused = attempt(&json!({}), "conjugate-gradient", &never, start([0.0, 2.0])).unwrap();
    assert_eq!((unused.0, unused.1), (cold.0, false));
}
