//! Against `PyTorch` in f64 (`tests/fixtures/scripts/transfer.py`).

use super::{Arrays, build, evaluate, numbers};
use candle_core::{Device, Tensor};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/transfer")
}

fn read(file: &str) -> Arrays {
    let reader = BufReader::new(File::open(folder().join(file)).unwrap());
    let mut archive = npyz::npz::NpzArchive::new(reader).unwrap();
    let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    let mut arrays = Arrays::new();
    for name in names {
        let array = archive.by_name(&name).unwrap().unwrap();
        let shape: Vec<usize> = array.shape().iter().map(|d| *d as usize).collect();
        let tensor = if name.ends_with("/labels") {
            Tensor::from_vec(array.into_vec::<i64>().unwrap(), shape, &Device::Cpu)
        } else {
            Tensor::from_vec(array.into_vec::<f64>().unwrap(), shape, &Device::Cpu)
        };
        arrays.insert(name, tensor.unwrap());
    }
    arrays
}

/// Largest difference over the largest expected value (at least 1e-12, for gradients that are 0).
fn relative_error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1e-12, |m: f64, w| m.max(w.abs()));
    got.iter().zip(want).fold(0.0, |m: f64, (g, w)| m.max((g - w).abs())) / largest
}

#[test]
fn losses_and_gradients_equal_pytorch() {
    let index = std::fs::read_to_string(folder().join("index.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&index).unwrap();
    let mut files: BTreeMap<String, Arrays> = BTreeMap::new();
    for case in &cases {
        let text = |key: &str| case[key].as_str().unwrap().to_owned();
        let (name, file) = (text("name"), text("file"));
        let stored = files.entry(file.clone()).or_insert_with(|| read(&file));
        let of_case: Arrays = stored
            .iter()
            .filter_map(|(k, t)| {
                let array = k.strip_prefix(&format!("{name}/"))?;
                Some((array.to_owned(), t.clone()))
            })
            .collect();
        let is_input = |name: &str| name != "loss" && !name.starts_with("grad_");
        let inputs: Arrays = of_case.clone().into_iter().filter(|(k, _)| is_input(k)).collect();
        let got = evaluate(build(&text("plugin"), &case["options"]).as_ref(), &inputs).unwrap();
        let error = relative_error(&[got.loss], &numbers(&of_case["loss"]));
        assert!(error < 1e-12, "{name}: loss is off by {error:e}");
        assert!(got.gradients.len() >= 2, "{name}");
        for (array, gradient) in &got.gradients {
            if array == "main" && case["main_detached"] == true {
                continue; // ours passes the teacher's gradient on: it carries knowledge back
            }
            let want = numbers(&of_case[&format!("grad_{array}")]);
            let error = relative_error(gradient, &want);
            assert!(error < 1e-10, "{name}: the gradient of {array} is off by {error:e}");
        }
    }
    let tested: BTreeSet<&str> = cases.iter().filter_map(|c| c["plugin"].as_str()).collect();
    assert_eq!(tested.len(), 13, "{tested:?}");
}
