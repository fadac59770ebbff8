//! `plugins`, `config`, `data`, `check`, `doctor`: listings and evaluations from outside.

use crate::tetlo::{TINY, fixture, tetlo_in};
use serde_json::Value;
use std::path::Path;
use tetlo_engine::npz;

#[test]
fn listings_are_json_arrays() {
    let here = Path::new(".");
    let list = tetlo_in(here, &["plugins", "list", "--format", "json"]).code(0).json();
    let list = list.as_array().expect("a list");
    for (kind, name) in [
        ("transfer-loss", "qrs"),
        ("transfer-loss", "mean-norm"),
        ("operation", "se_conv_3x3"),
        ("method", "tetlo"),
        ("search-space", "darts"),
        ("dataset", "fashion-mnist-5k"),
        ("operation", "sep_conv_3x3"),
        ("hypergradient", "central-difference"),
    ] {
        let found = list.iter().find(|l| l["kind"] == kind && l["name"] == name);
        let found = found.unwrap_or_else(|| panic!("{kind} {name} is missing"));
        for key in ["summary", "tier", "version"] {
            assert!(found[key].as_str().is_some_and(|s| !s.is_empty()), "{key} of {name}");
        }
    }
    let losses = ["plugins", "list", "--kind", "transfer-loss", "--format", "json"];
    let losses = tetlo_in(here, &losses).code(0).json();
    assert!(losses.as_array().expect("a list").iter().all(|l| l["kind"] == "transfer-loss"));
    tetlo_in(here, &["plugins", "list", "--kind", "loss"]).code(2);
    let shown = tetlo_in(here, &["plugins", "show", "qrs"]).code(0).out();
    assert!(shown.contains("temperature") && shown.contains("`disjoint`"), "{shown}");
    let unknown = tetlo_in(here, &["plugins", "show", "qr"]).code(2);
    assert!(unknown.err().contains("did you mean `qrs`"), "{}", unknown.err());
    let sets = tetlo_in(here, &["data", "list", "--format", "json"]).code(0).json();
    assert!(sets.as_array().is_some_and(|l| l.len() >= 6));
    let digits = tetlo_in(here, &["data", "show", "digits", "--format", "json"]).code(0).json();
    assert_eq!((digits["train"].as_u64(), digits["test"].as_u64()), (Some(1437), Some(360)));
    assert_eq!(tetlo_in(here, &["doctor", "--format", "json"]).code(0).json()["cuda"], Value::Null);
}

#[test]
fn every_preset_is_a_good_config_and_the_schema_is_json() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let list = tetlo_in(here, &["plugins", "list", "--kind", "method", "--format", "json"]);
    for preset in list.code(0).json().as_array().expect("a list") {
        let name = preset["name"].as_str().expect("a name");
        let config = tetlo_in(here, &["config", "init", name]).code(0).out();
        std::fs::write(here.join("c.toml"), config).expect("written");
        let check = tetlo_in(here, &["config", "check", "c.toml", "--format", "json"]).code(0);
        assert_eq!(check.json()["ok"], true);
    }
    assert!(tetlo_in(here, &["config", "schema"]).code(0).json().is_object());
    let about = tetlo_in(here, &["config", "explain", "search.batch-size"]).code(0).out();
    assert!(about.contains("64"), "{about}");
    std::fs::write(here.join("t.toml"), TINY).expect("written");
    let inert = [
        "config",
        "check",
        "t.toml",
        "--set",
        "method.tetlo.optimizer.options.combine=\"norm-matched\"",
    ];
    let remarks = tetlo_in(here, &inert).code(0).out();
    assert!(remarks.contains("remark: tetlo:") && remarks.contains("no effect"), "{remarks}");
}

#[test]
fn a_transfer_that_carries_nothing_is_said() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    std::fs::write(here.join("t.toml"), TINY).expect("written");
    let hard = "method.tetlo.transfer-loss.options.target=\"hard\"";
    let check = ["config", "check", "t.toml", "--set", hard];
    let remarks = tetlo_in(here, &check).code(0).out();
    assert!(remarks.contains("gives its teacher `main` no gradient"), "{remarks}");
    let gamma = "method.tetlo.optimizer.options.gamma=0";
    let neither = ["config", "check", "t.toml", "--set", hard, "--set", gamma];
    let error = tetlo_in(here, &neither).code(2).err();
    assert!(error.contains("gamma = 0") && error.contains("t.toml:"), "{error}");
}

#[test]
fn completions_and_manual() {
    let here = Path::new(".");
    assert!(tetlo_in(here, &["completions", "bash"]).code(0).out().contains("compare"));
    assert!(tetlo_in(here, &["man"]).code(0).out().starts_with(".ie"));
    assert!(tetlo_in(here, &["--help"]).code(0).out().contains("Exit codes"));
    tetlo_in(here, &["no-such-command"]).code(2);
}

#[test]
fn hypergradients_hold_their_bounds() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let rows = tetlo_in(here, &["check", "hypergrad", "--format", "json"]).code(0).json();
    let rows = rows.as_array().expect("rows");
    for estimator in
        ["first-order", "central-difference", "exact", "richardson", "neumann", "penalty"]
    {
        assert!(rows.iter().any(|r| r["estimator"] == estimator), "{estimator}");
    }
    for r in rows {
        let claims = !["first-order", "sama", "t1-t2"].iter().any(|e| r["estimator"] == **e);
        assert_eq!(r["pass"].as_bool(), claims.then_some(true), "{r}");
    }
    let bad = ["check", "hypergrad", "--problem", "smooth", "--options", "levls = 3"];
    assert!(tetlo_in(here, &bad).code(2).err().contains("levls"));
}

/// ‖a − b‖ / ‖b‖ (‖a‖ where b is zero).
pub(crate) fn relative(a: &candle_core::Tensor, b: &candle_core::Tensor) -> f64 {
    let flat = |t: &candle_core::Tensor| -> Vec<f64> {
        let t = t.to_dtype(candle_core::DType::F64).and_then(|t| t.flatten_all());
        t.and_then(|t| t.to_vec1()).expect("numbers")
    };
    let (a, b) = (flat(a), flat(b));
    assert_eq!(a.len(), b.len());
    let length = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = length(&mut a.iter().zip(&b).map(|(x, y)| x - y));
    let scale = length(&mut b.iter().copied());
    if scale > 0.0 { difference / scale } else { difference }
}

/// The index of a folder of fixtures.
pub(crate) fn cases(folder: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture(&format!("{folder}/index.json"))).expect("an index");
    let index: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    assert!(index.len() > 5, "{}", index.len());
    index
}

/// Options as `--options` takes them.
pub(crate) fn toml_of(options: &Value) -> String {
    let object = options.as_object().expect("a table of options");
    let lines: Vec<String> = object.iter().map(|(k, v)| format!("{k} = {v}")).collect();
    lines.join("\n")
}

/// The committed `PyTorch` results of the smooth problem (exact by double backward, and the same
/// central differences), through the command line.
#[test]
fn hypergradients_equal_pytorch() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    for case in cases("hypergrad") {
        let input = fixture(&format!("hypergrad/{}", case["file"].as_str().expect("a file")));
        let options = toml_of(&case["options"]);
        let arguments = [
            "check",
            "hypergrad",
            "--problem",
            "smooth",
            "--output",
            "o.npz",
            "--input",
            &input.display().to_string(),
            "--options",
            &options,
        ];
        tetlo_in(here, &arguments).code(0);
        let (ours, theirs) =
            (npz::read(&here.join("o.npz")).expect("an npz"), npz::read(&input).expect("an npz"));
        let mut compared = 0;
        for (name, expected) in &theirs {
            let bound = match name.split('/').next() {
                Some("exact") => 1e-9,
                Some("central-difference") => 1e-7,
                Some("first-order") => 1e-10,
                _ if name == "J" => 1e-12,
                _ => continue,
            };
            let Some(got) = ours.get(name) else {
                // Two levels have no auxiliary terms; PyTorch's are zero there.
                assert!(case["options"]["levels"] == 2 && name.contains("/aux_"), "{name}");
                continue;
            };
            let error = relative(got, expected);
            assert!(error <= bound, "{}: {name} is off by {error:e}", case["name"]);
            compared += 1;
        }
        assert!(compared >= 5, "{}", case["name"]);
    }
}
