//! Properties of the reverse pass on random graphs and steps.

use super::{case, close, in_child};
use candle_core::Tensor;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};
use std::sync::Arc;
use tetlo_core::kinds::{CheckProblem, Hypergradient, TransferLoss};
use tetlo_core::multilevel::check::CheckCase;
use tetlo_core::multilevel::reverse::{Adjoints, hypergradient, objective_value};
use tetlo_core::multilevel::{LossTerm, Objective, TransferLosses};
use tetlo_core::optim::{Adam, Inner, InnerState, add_scaled};
use tetlo_core::registry::build;
use tetlo_core::rng::{Key, Purpose};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(5),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// A graph of so many stages: each later one learns from the one before it and, where `extra` says
/// so, from the first too; the objective stands on the last stage and on those of `validated`.
fn graph(stages: usize, extra: [bool; 3], validated: [bool; 3]) -> CheckCase {
    let mut case = case(4, &json!({"eta-w": 0.3, "eta-v": 0.3, "eta-v3": 0.3}));
    let mut graph = case.graph.clone();
    while graph.stages.len() < stages {
        let i = graph.stages.len();
        let mut stage = graph.stages[2].clone();
        stage.name = format!("stage-{i}");
        stage.loss[1] = LossTerm::transfer(i - 1, 0.7);
        graph.stages.push(stage);
        case.networks.push(Arc::clone(&case.networks[1]));
        case.criteria.push(Arc::clone(&case.criteria[1]));
        case.architecture.push(None);
        case.parameters.push(vec![]);
        case.inner.push(case.inner[1]);
        case.memory.push(InnerState::default());
        let weights = (&case.point.weights[1] * 0.8).unwrap();
        case.point.weights.push(weights);
    }
    graph.stages.truncate(stages);
    for (i, extra) in extra.into_iter().enumerate() {
        if extra && i + 2 < stages {
            graph.stages[i + 2].loss.push(LossTerm::transfer(0, 0.5));
        }
    }
    let on = |s: &usize| s + 1 == stages || validated[*s];
    graph.objective =
        (0..stages).filter(on).map(|stage| Objective { stage, weight: 0.9 }).collect();
    let qrs = || build::<dyn TransferLoss>("qrs", &json!({"sampler": "all", "temperature": 0.5}));
    case.transfers = TransferLosses::build(&graph, qrs).unwrap();
    case.graph = graph.validated().unwrap();
    case.point.weights.truncate(stages);
    case.networks.truncate(stages);
    case.criteria.truncate(stages);
    case.architecture.truncate(stages);
    case.parameters.truncate(stages);
    case.inner.truncate(stages);
    case.memory.truncate(stages);
    case
}

/// 3k + 1 passes for k stages and one for each further term of the objective; the terms sum to the
/// total, and both ways of keeping adjoints give it.
#[test]
fn passes_and_sums_of_random_graphs() {
    if !in_child("properties::passes_and_sums_of_random_graphs", false) {
        return;
    }
    let estimator = build::<dyn Hypergradient>("central-difference", &Value::Null).unwrap();
    proptest!(config(40), |(
        stages in 1usize..5,
        extra in any::<[bool; 3]>(),
        validated in any::<[bool; 3]>(),
    )| {
        let case = graph(stages, extra, validated);
        let all = vec![estimator.as_ref(); stages];
        let by = |adjoints| hypergradient(&case.problem(), &case.point, &all, adjoints).unwrap();
        let (joint, apart) = (by(Adjoints::Joint), by(Adjoints::Apart));
        prop_assert_eq!(joint.passes, 3 * stages + case.graph.objective.len());
        for found in [&joint, &apart] {
            let total = super::sum(found, 0, |_| true);
            let mut sum = vec![0.0; total.len()];
            for c in &found.contributions {
                let part: Vec<f64> = c.gradient.to_vec1().unwrap();
                for (s, p) in sum.iter_mut().zip(part) {
                    *s += p;
                }
            }
            close("terms", &sum, &total, 1e-13);
        }
        close("apart", &super::sum(&apart, 0, |_| true), &super::sum(&joint, 0, |_| true), 1e-4);
    });
}

/// d/dt J(A + t·direction), of fourth order.
fn slope(case: &CheckCase, direction: &Tensor) -> f64 {
    let at = |t: f64| {
        let mut point = case.point.clone();
        point.architecture[0] = add_scaled(&point.architecture[0], t, direction).unwrap();
        objective_value(&case.problem(), &point).unwrap()
    };
    let h = 2e-3;
    (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
}

/// Any number of steps, by SGD with any momentum and weight decay or by Adam.
#[test]
fn steps_are_differentiated_as_they_are_made() {
    if !in_child("properties::steps_are_differentiated_as_they_are_made", false) {
        return;
    }
    let estimator = build::<dyn Hypergradient>("richardson", &Value::Null).unwrap();
    proptest!(config(40), |(
        seed in 0u64..1000,
        levels in 2usize..5,
        steps in 1usize..6,
        momentum in 0.0f64..0.95,
        decay in 0.0f64..0.5,
        rate in 0.01f64..0.3,
        betas in (0.5f64..0.95, 0.9f64..0.9995),
        adam in any::<[bool; 3]>(),
    )| {
        let options = json!({
            "learning-rate": rate, "momentum": momentum, "weight-decay": decay,
            "unroll-steps": steps,
        });
        let problem = build::<dyn CheckProblem>("as-run", &options).unwrap();
        let mut case = problem.case(levels, &problem.arrays(seed).unwrap()).unwrap();
        for (stage, adam) in adam.into_iter().take(levels - 1).enumerate() {
            if !adam {
                continue;
            }
            let weights = &case.point.weights[stage];
            let (first, second) = ((weights * 0.05).unwrap(), (weights.sqr().unwrap() + 0.02).unwrap());
            case.memory[stage] =
                InnerState { first: Some(first), second: Some(second), steps: 1 + seed as u32 % 7 };
            case.inner[stage] = Inner::Adam(Adam {
                learning_rate: rate / 5.0,
                beta1: betas.0,
                beta2: betas.1,
                weight_decay: decay,
            });
        }
        let all = vec![estimator.as_ref(); case.graph.stages.len()];
        let found = hypergradient(&case.problem(), &case.point, &all, Adjoints::Joint).unwrap();
        let total = found.sum(0, |_| true).unwrap().unwrap();
        let length = super::length(&total.to_vec1::<f64>().unwrap());
        let along = slope(&case, &(&total / length).unwrap());
        close("along itself", &[along], &[length], 1e-6);
        let mut stream = Key::new(seed, Purpose::Sample).stream();
        let other: Vec<f64> = (0..total.elem_count()).map(|_| stream.normal()).collect();
        let other = Tensor::from_vec(other, total.shape(), total.device()).unwrap();
        let expected: f64 = (&total * &other).unwrap().sum_all().unwrap().to_scalar().unwrap();
        let gap = (slope(&case, &other) - expected).abs();
        prop_assert!(gap <= 1e-6 * length, "{gap:e} of {length:e}");
    });
}
