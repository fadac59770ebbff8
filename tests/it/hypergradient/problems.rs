//! The built-in problems: on many arrays, against PyTorch, and what they refuse.

use super::{close, in_child, values};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use tetlo_core::kinds::{CheckProblem, Hypergradient};
use tetlo_core::multilevel::check::Arrays;
use tetlo_core::registry::build;
use tetlo_engine::check::{compare, run};
use tetlo_engine::npz;

/// The committed cases: problem, options, arrays with expected values.
fn fixtures() -> Vec<(String, String, Value, Arrays)> {
    let folder =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hypergrad-problems");
    let index = std::fs::read_to_string(folder.join("index.json")).unwrap();
    let index: Vec<Value> = serde_json::from_str(&index).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let case = |e: Value| {
        let arrays = npz::read(&folder.join(text(&e["file"]))).unwrap();
        (text(&e["name"]), text(&e["problem"]), e["options"].clone(), arrays)
    };
    index.into_iter().map(case).collect()
}

/// J, the derivative of the inner steps and that of the solutions; and finite K of the estimators
/// that iterate, each computed there by another program.
#[test]
fn problems_are_those_of_pytorch() {
    if !in_child("problems::problems_are_those_of_pytorch", true) {
        return;
    }
    let cases = fixtures();
    assert!(cases.len() >= 12);
    for (name, problem, options, arrays) in cases {
        let report = run(&problem, &options, Some(arrays.clone()), 0).unwrap();
        assert_eq!(report.failures(), Vec::<String>::new(), "{name}");
        let got = |part: &str| values(&report.outputs, part);
        close(&format!("{name}, J"), &got("J"), &values(&arrays, "J"), 1e-12);
        close(&name, &got("exact/grad/A"), &values(&arrays, "unrolled/grad/A"), 1e-9);
        close(&name, &got("richardson/grad/A"), &values(&arrays, "unrolled/grad/A"), 1e-8);
        let levels = options["levels"].as_u64().unwrap_or(2) as usize;
        let plugin = build::<dyn CheckProblem>(&problem, &options).unwrap();
        let Some(known) = plugin.known(levels, &arrays).unwrap() else { continue };
        let implicit = values(&arrays, "implicit/grad/A");
        close(&name, &known.to_vec1::<f64>().unwrap(), &implicit, 1e-9);
        let case = plugin.case(levels, &arrays).unwrap();
        for (part, estimator, options) in [
            ("neumann-3", "neumann", json!({"terms": 3, "products": "exact"})),
            ("cg-2", "conjugate-gradient", json!({"iterations": 2, "products": "exact"})),
            ("penalty-4", "penalty", json!({"sigma": 50.0, "steps": 4})),
            ("t1-t2", "t1-t2", json!({"products": "exact"})),
            ("sama", "sama", json!({"products": "exact"})),
        ] {
            let built = build::<dyn Hypergradient>(estimator, &options).unwrap();
            let report = compare(&problem, levels, &case, &[(part, built.as_ref())]).unwrap();
            let got = values(&report.outputs, &format!("{part}/grad/A"));
            close(
                &format!("{name}, {part}"),
                &got,
                &values(&arrays, &format!("{part}/grad/A")),
                1e-8,
            );
        }
    }
}

/// Every estimator within what it claims, whatever the arrays.
#[test]
fn bounds_hold_on_other_arrays() {
    if !in_child("problems::bounds_hold_on_other_arrays", true) {
        return;
    }
    for seed in 1..=2 {
        for problem in ["quadratic", "ridge", "logistic", "as-run", "smooth"] {
            let report = run(problem, &Value::Null, None, seed).unwrap();
            assert_eq!(report.failures(), Vec::<String>::new(), "{problem}, seed {seed}");
            assert!(report.skipped.is_empty());
        }
        for (problem, options) in [
            ("quadratic", json!({"optimizer": "adam", "momentum": 0.0, "learning-rate": 0.1})),
            ("ridge", json!({"optimizer": "adam", "learning-rate": 0.1})),
            ("logistic", json!({"optimizer": "adam", "learning-rate": 0.2})),
            ("smooth", json!({"optimizer": "adam", "unroll-steps": 2})),
        ] {
            let report = run(problem, &options, None, seed).unwrap();
            assert_eq!(report.failures(), Vec::<String>::new(), "{problem}, seed {seed}");
        }
    }
}

#[test]
fn wrong_arrays_are_named() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F64, &Device::Cpu).unwrap();
    for (problem, name, array, message) in [
        ("quadratic", "main/B", None, "the array `main/B` is missing"),
        (
            "quadratic",
            "aux/F",
            Some(zeros(&[4, 4])),
            "the array `aux/F` has shape [4, 4], expected [5, 4]",
        ),
        (
            "quadratic",
            "aux/valid",
            Some(zeros(&[3])),
            "the array `aux/valid` has shape [3], expected [8]",
        ),
        ("ridge", "A", Some(zeros(&[3])), "the array `A` has shape [3], expected [12]"),
        (
            "ridge",
            "batch/train/x",
            Some(zeros(&[3])),
            "the array `batch/train/x` has shape [3], not a matrix",
        ),
        ("logistic", "batch/valid/y", None, "the array `batch/valid/y` is missing"),
        (
            "logistic",
            "batch/valid/y",
            Some((zeros(&[10]) + 3.0).unwrap()),
            "the array `batch/valid/y` has label 3, expected 0 to 2",
        ),
        ("as-run", "A", None, "the array `A` is missing"),
    ] {
        let plugin = build::<dyn CheckProblem>(problem, &Value::Null).unwrap();
        let levels = *plugin.levels().get(1).unwrap_or(&2);
        let mut arrays = plugin.arrays(0).unwrap();
        match array {
            Some(array) => arrays.insert(name.into(), array),
            None => arrays.remove(name),
        };
        assert_eq!(plugin.case(levels, &arrays).unwrap_err().to_string(), message, "{problem}");
    }
    let second = json!({"optimizer": "adam", "momentum": 0.0});
    let plugin = build::<dyn CheckProblem>("quadratic", &second).unwrap();
    let mut arrays = plugin.arrays(0).unwrap();
    arrays.insert("adam/main".into(), zeros(&[4]));
    let error = plugin.case(2, &arrays).unwrap_err().to_string();
    assert_eq!(error, "Adam's second moments must be above 0");
    for (problem, options, part) in [
        ("quadratic", json!({"levels": 5}), "`levels` must be 2, 3 or 4, got 5"),
        ("quadratic", json!({"optimizer": "adam"}), "`momentum` is read by"),
        ("ridge", json!({"learning-rate": 0.0}), "`learning-rate` must be above 0, got 0"),
        ("logistic", json!({"weight-decay": 0.0}), "`weight-decay` must be above 0"),
        ("logistic", json!({"classes": 1}), "`classes` must be at least 2, got 1"),
    ] {
        let error = build::<dyn CheckProblem>(problem, &options).unwrap_err().to_string();
        assert!(error.contains(part), "{problem}: {error}");
    }
}
