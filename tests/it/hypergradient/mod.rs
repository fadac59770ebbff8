//! `check hypergrad`: the estimators against the exact total derivative, against PyTorch, and with
//! planted bugs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod composition;
mod planted;
mod problems;
mod properties;
mod random;

use candle_core::Tensor;
use serde_json::{Value, json};
use std::process::Command;
use tetlo_core::kinds::{CheckProblem, Hypergradient, TransferLoss};
use tetlo_core::multilevel::check::{Arrays, CheckCase};
use tetlo_core::multilevel::reverse::{
    Adjoints, Contribution, HyperGradient, hypergradient, objective_value,
};
use tetlo_core::multilevel::{Combine, Control};
use tetlo_core::optim::{Inner, add_scaled};
use tetlo_core::registry::build;
use tetlo_core::{Error, Result};
use tetlo_engine::check::{CheckReport, Row, compare, run};
use tetlo_engine::npz;
use tetlo_plugins as _;

const SWITCH: &str = "CANDLE_GRAD_DO_NOT_DETACH";
const TERMS: [&str; 4] = ["main_direct", "main_through_W", "aux_through_W", "aux_direct"];

/// Runs a test of this folder again in a process of its own, with candle's switch for second derivatives on or
/// off, and on one thread: such small products lose time to more. True in that process.
fn in_child(test: &str, second_derivatives: bool) -> bool {
    const CHILD: &str = "TETLO_TEST_CHILD";
    if std::env::var(CHILD).is_ok_and(|running| running == test) {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(format!("hypergradient::{test}"));
    command.args(["--exact", "--nocapture"]).env(CHILD, test).env_remove(SWITCH);
    command.env("RAYON_NUM_THREADS", "1");
    if second_derivatives {
        command.env(SWITCH, "1");
    }
    let output = command.output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && out.contains("1 passed");
    assert!(passed, "{out}{}", String::from_utf8_lossy(&output.stderr));
    false
}

fn row<'a>(report: &'a CheckReport, level: usize, estimator: &str, term: &str) -> &'a Row {
    let wanted = |r: &&Row| r.level == level && r.estimator == estimator && r.term == term;
    report.rows.iter().find(wanted).unwrap()
}

fn values(arrays: &Arrays, name: &str) -> Vec<f64> {
    let array = arrays.get(name).unwrap_or_else(|| panic!("no array `{name}`"));
    array.flatten_all().unwrap().to_vec1().unwrap()
}

fn length(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// ‖a − b‖ ≤ bound·‖b‖.
#[track_caller]
fn close(what: &str, a: &[f64], b: &[f64], bound: f64) {
    assert_eq!(a.len(), b.len(), "{what}");
    let difference: Vec<f64> = a.iter().zip(b).map(|(x, y)| x - y).collect();
    let error = length(&difference);
    assert!(error <= bound * length(b), "{what}: {error:e} of {:e}", length(b));
}

/// The committed cases: name, options, arrays with expected values.
fn fixtures() -> Vec<(String, Value, Arrays)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hypergrad");
    let index = std::fs::read_to_string(folder.join("index.json")).unwrap();
    let index: Vec<Value> = serde_json::from_str(&index).unwrap();
    let case = |entry: Value| {
        let arrays = npz::read(&folder.join(entry["file"].as_str().unwrap())).unwrap();
        (entry["name"].as_str().unwrap().to_owned(), entry["options"].clone(), arrays)
    };
    index.into_iter().map(case).collect()
}

fn names_of(levels: &Value) -> &'static [&'static str] {
    if levels == 2 { &TERMS[..2] } else { &TERMS }
}

#[test]
fn estimates_are_those_of_pytorch() {
    if !in_child("estimates_are_those_of_pytorch", false) {
        return;
    }
    let cases = fixtures();
    assert!(cases.len() >= 20);
    for (name, options, arrays) in cases {
        let report = run("smooth", &options, Some(arrays.clone()), 0).unwrap();
        assert_eq!(report.failures(), Vec::<String>::new(), "{name}");
        let (got, what) = (&report.outputs, |part: &str| format!("{name}, {part}"));
        close(&what("J"), &values(got, "J"), &values(&arrays, "J"), 1e-12);
        let mut parts = vec!["grad/A".to_owned()];
        parts.extend(names_of(&options["levels"]).iter().map(|term| format!("term/{term}")));
        for part in parts {
            let estimate = values(got, &format!("central-difference/{part}"));
            let same = values(&arrays, &format!("central-difference/{part}"));
            close(&what(&part), &estimate, &same, 1e-8);
            let exact = values(&arrays, &format!("exact/{part}"));
            close(&what(&part), &estimate, &exact, if part == "grad/A" { 2e-4 } else { 1e-3 });
        }
        let first = values(got, "first-order/grad/A");
        close(&what("first order"), &first, &values(&arrays, "first-order/grad/A"), 1e-12);
        // Its only term, since V' depends on A through its loss alone.
        close(&what("first order"), &values(got, "first-order/term/main_direct"), &first, 0.0);
        assert!(report.rows.iter().all(|r| r.pass.is_none() == (r.estimator == "first-order")));
    }
}

#[test]
fn exact_is_that_of_pytorch() {
    if !in_child("exact_is_that_of_pytorch", true) {
        return;
    }
    for (name, options, arrays) in fixtures() {
        let report = run("smooth", &options, Some(arrays.clone()), 0).unwrap();
        assert_eq!(report.failures(), Vec::<String>::new(), "{name}");
        for term in names_of(&options["levels"]) {
            let part = format!("exact/term/{term}");
            close(&name, &values(&report.outputs, &part), &values(&arrays, &part), 1e-10);
        }
        let total = values(&report.outputs, "exact/grad/A");
        close(&name, &total, &values(&arrays, "exact/grad/A"), 1e-10);
    }
}

#[test]
fn bounds_hold_with_every_switch() {
    if !in_child("bounds_hold_with_every_switch", true) {
        return;
    }
    let mut cases = vec![];
    for eta in [0.025, 0.5] {
        for gamma in [0.0, 1.0] {
            for switch in [
                json!({}),
                json!({"momentum": 0.9, "weight-decay": 0.1}),
                json!({"direct-term": false}),
                json!({"aux-ce": 0.0}),
                json!({"target": "hard"}),
                json!({"target": "hard-forward"}),
                json!({"lambda": 0.0, "lambda3": 0.0, "gamma2": 0.0}),
            ] {
                let mut options = json!({
                    "eta-w": eta, "eta-v": eta, "eta-v3": eta, "gamma": gamma,
                });
                options.as_object_mut().unwrap().extend(switch.as_object().unwrap().clone());
                cases.push(options);
            }
        }
    }
    for (seed, options) in cases.iter().enumerate() {
        let report = run("smooth", options, None, seed as u64).unwrap();
        assert_eq!(report.failures(), Vec::<String>::new(), "{options}");
        assert!(report.skipped.is_empty());
        // Four estimators; total and 2, 4, 4 terms at 2, 3, 4 levels.
        assert_eq!(report.rows.len(), 4 * (3 + 5 + 5));
        for r in &report.rows {
            assert_eq!(r.ran, r.estimator);
            let claims = r.estimator != "first-order";
            assert_eq!(r.pass, claims.then_some(true), "{options}: {r:?}");
        }
        let outputs = &report.outputs;
        for estimator in ["central-difference", "exact", "richardson"] {
            // Signed terms: they sum to the total, which leaves the direct one out if told to.
            let mut sum = vec![0.0; 24];
            for term in TERMS {
                let counts = term != "aux_direct" || options["direct-term"] != false;
                for (s, v) in
                    sum.iter_mut().zip(values(outputs, &format!("{estimator}/term/{term}")))
                {
                    *s += if counts { v } else { 0.0 };
                }
            }
            close("sum", &values(outputs, &format!("{estimator}/grad/A")), &sum, 1e-14);
        }
    }
}

/// The drawn case of the smooth problem.
fn case(levels: usize, options: &Value) -> CheckCase {
    let problem = build::<dyn CheckProblem>("smooth", options).unwrap();
    problem.case(levels, &problem.arrays(0).unwrap()).unwrap()
}

#[test]
fn hard_targets_transfer_nothing() {
    for gamma in [0.0, 1.0] {
        let options = json!({"target": "hard", "gamma": gamma});
        let report = run("smooth", &options, None, 1).unwrap();
        for term in ["aux_through_W", "aux_direct"] {
            let estimate = values(&report.outputs, &format!("central-difference/term/{term}"));
            assert!(estimate.iter().all(|v| *v == 0.0), "{term}: {estimate:?}");
            let r = row(&report, 3, "central-difference", term);
            assert_eq!((r.rel_error, r.cosine, r.norm_ratio), (Some(0.0), None, None));
        }
    }
}

#[test]
fn without_an_objective_there_is_no_gradient() {
    let report = run("smooth", &json!({"levels": 2, "gamma": 0.0}), None, 0).unwrap();
    assert_eq!(values(&report.outputs, "J"), [0.0]);
    assert_eq!(values(&report.outputs, "central-difference/grad/A"), [0.0; 24]);
    let total = row(&report, 2, "central-difference", "total");
    assert_eq!((total.rel_error, total.cosine, total.pass), (Some(0.0), None, Some(true)));
}

/// k stages: 3k + 1 passes, and one for each further term of the objective.
#[test]
fn passes() {
    let report = run("smooth", &json!({}), None, 0).unwrap();
    let of =
        |level: usize, estimator: &str, term: &str| row(&report, level, estimator, term).passes;
    assert_eq!(of(2, "central-difference", "total"), 4);
    assert_eq!(of(3, "central-difference", "total"), 8);
    assert_eq!(of(3, "central-difference", "aux_direct"), 10);
    assert_eq!(of(4, "central-difference", "total"), 12);
    for level in [2, 3, 4] {
        assert_eq!(of(level, "first-order", "total"), 1);
    }
}

/// Fresh draws in V+ and V− would give errors of a hundred and more; so would a placebo that is
/// permuted anew.
#[test]
fn passes_of_a_step_share_their_draws() {
    if !in_child("passes_of_a_step_share_their_draws", false) {
        return;
    }
    let estimator = build::<dyn Hypergradient>("central-difference", &Value::Null).unwrap();
    for control in [Control::None, Control::Shuffled] {
        for sampler in ["random", "disjoint", "stratified"] {
            let mut case = case(4, &json!({"eta-w": 0.5, "eta-v": 0.5, "eta-v3": 0.5}));
            case.graph.control = control;
            let qrs = json!({"sampler": sampler, "quadruples": 12});
            for stage in [1, 2] {
                case.transfers.replace(stage, 1, build::<dyn TransferLoss>("qrs", &qrs).unwrap());
            }
            let report =
                compare("smooth", 4, &case, &[("central-difference", estimator.as_ref())]).unwrap();
            assert_eq!(report.failures(), Vec::<String>::new(), "{control:?}, {sampler}");
            let total = row(&report, 4, "central-difference", "aux_direct");
            assert!(total.norm_ratio.is_some(), "{control:?}, {sampler}");
        }
    }
}

#[test]
fn exact_refuses_where_it_would_be_wrong() {
    if !in_child("exact_refuses_where_it_would_be_wrong", false) {
        return;
    }
    let report = run("smooth", &json!({"levels": 3}), None, 0).unwrap();
    assert!(report.rows.iter().all(|r| r.estimator != "exact"));
    let [skipped] = report.skipped.as_slice() else { panic!("{:?}", report.skipped) };
    assert_eq!(skipped.estimator, "exact");
    assert!(skipped.reason.contains(SWITCH), "{}", skipped.reason);
}

#[test]
fn drawn_arrays_can_be_given_back() {
    let options = json!({"momentum": 0.5});
    let drawn = run("smooth", &options, None, 7).unwrap();
    let given = run("smooth", &options, Some(drawn.arrays.clone()), 8).unwrap();
    let rows = |report: &CheckReport| -> Vec<Row> {
        report.rows.iter().map(|r| Row { seconds: 0.0, ..r.clone() }).collect()
    };
    assert_eq!(rows(&drawn), rows(&given));
    assert_ne!(rows(&drawn), rows(&run("smooth", &options, None, 8).unwrap()));
    let bytes = |a: &Arrays, name: &str| -> Vec<u64> {
        values(a, name).into_iter().map(f64::to_bits).collect()
    };
    for name in drawn.outputs.keys() {
        assert_eq!(bytes(&drawn.outputs, name), bytes(&given.outputs, name), "{name}");
    }
}

#[test]
fn levels_follow_the_arrays() {
    let mut arrays = run("smooth", &json!({"levels": 2}), None, 0).unwrap().arrays;
    let levels = |arrays: &Arrays, options: Value| -> Result<Vec<usize>> {
        let report = run("smooth", &options, Some(arrays.clone()), 0)?;
        let mut levels: Vec<usize> = report.rows.iter().map(|r| r.level).collect();
        levels.dedup();
        Ok(levels)
    };
    assert_eq!(levels(&arrays, json!({})).unwrap(), [2, 3, 4]);
    arrays.retain(|name, _| !name.starts_with("aux3/"));
    assert_eq!(levels(&arrays, json!({})).unwrap(), [2, 3]);
    let error = levels(&arrays, json!({"levels": 4})).unwrap_err();
    assert_eq!(error.to_string(), "the array `aux3/V1` is missing");
    arrays.remove("aux/c1");
    let error = levels(&arrays, json!({})).unwrap_err();
    assert_eq!(error.to_string(), "the array `aux/c1` is missing");
    assert!(matches!(run("smooth", &json!({"lamda": 1}), None, 0), Err(Error::Plugin { .. })));
}

fn by_central_difference(case: &CheckCase) -> HyperGradient {
    let estimator = build::<dyn Hypergradient>("central-difference", &Value::Null).unwrap();
    let all = vec![estimator.as_ref(); case.graph.stages.len()];
    hypergradient(&case.problem(), &case.point, &all, Adjoints::Apart).unwrap()
}

/// Sum of the contributions that `keep` selects.
fn sum(gradient: &HyperGradient, group: usize, keep: impl Fn(&Contribution) -> bool) -> Vec<f64> {
    gradient.sum(group, keep).unwrap().unwrap().to_vec1().unwrap()
}

/// λ(∇²_{A,W}CE·h_W − h_A) is the usual G_a without η_w·η_v and η_v; G_m keeps its rates.
#[test]
fn no_lr_factors_leaves_out_the_rates() {
    let (eta_w, eta_v) = (0.05, 0.2);
    let mut case = case(3, &json!({"eta-w": eta_w, "eta-v": eta_v}));
    let usual = by_central_difference(&case);
    case.graph.combine = Combine::NoLrFactors;
    let without = by_central_difference(&case);
    for (term, factor) in [
        ("main_direct", 1.0),
        ("main_through_W", 1.0),
        ("aux_through_W", 1.0 / (eta_w * eta_v)),
        ("aux_direct", 1.0 / eta_v),
    ] {
        let expected: Vec<f64> =
            sum(&usual, 0, |c| c.name() == term).iter().map(|v| factor * v).collect();
        close(term, &sum(&without, 0, |c| c.name() == term), &expected, 1e-8);
    }
    // With a rate of 0 G_m is first order, G_a is not.
    case.inner[0] = Inner::plain(0.0);
    let still = by_central_difference(&case);
    assert!(length(&sum(&still, 0, |c| c.name() == "aux_through_W")) > 0.0);
}

/// A searched auxiliary descends J itself, whatever `combine` says.
#[test]
fn a_searched_auxiliary_gets_its_own_gradient() {
    let mut case = case(3, &json!({"eta-w": 0.5, "eta-v": 0.5}));
    case.networks[1] = case.networks[0].clone();
    case.architecture[1] = Some(1);
    let shifted = |t: &Tensor| ((t * 0.7).unwrap() + 0.1).unwrap();
    case.point.weights[1] = shifted(&case.point.weights[0]);
    case.point.architecture.push(shifted(&case.point.architecture[0]));
    let slope = |group: usize, direction: &Tensor| {
        let at = |t: f64| {
            let mut point = case.point.clone();
            point.architecture[group] =
                add_scaled(&point.architecture[group], t, direction).unwrap();
            objective_value(&case.problem(), &point).unwrap()
        };
        // Fourth order: error h⁴.
        let h = 1e-3;
        (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
    };
    let gradient = by_central_difference(&case);
    for group in [0, 1] {
        let total = gradient.sum(group, |_| true).unwrap().unwrap();
        let expected = total.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        close("along itself", &[slope(group, &total)], &[expected], 2e-4);
    }
    let expected = sum(&gradient, 1, |_| true);
    case.graph.combine = Combine::NoLrFactors;
    close("without rates", &sum(&by_central_difference(&case), 1, |_| true), &expected, 1e-12);
}
