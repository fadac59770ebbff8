//! Transfer losses by name: against PyTorch (`tests/fixtures/scripts/transfer.py`, f64) and by hand.

use candle_core::{Device, Tensor, Var};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use tetlo_core::kinds::{Seen, TransferBatch, TransferLoss};
use tetlo_core::registry;
use tetlo_core::rng::{Key, Purpose};

type Arrays = HashMap<String, (Vec<usize>, Vec<f64>)>;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/transfer")
}

fn arrays(file: &str) -> Arrays {
    let reader = BufReader::new(File::open(folder().join(file)).unwrap());
    let mut archive = npyz::npz::NpzArchive::new(reader).unwrap();
    let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    let mut arrays = Arrays::new();
    for name in names {
        let array = archive.by_name(&name).unwrap().unwrap();
        let shape = array.shape().iter().map(|d| *d as usize).collect();
        arrays.insert(name, (shape, array.into_vec().unwrap()));
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
    let mut files: HashMap<String, Arrays> = HashMap::new();
    for case in &cases {
        let text = |key: &str| case[key].as_str().unwrap().to_owned();
        let (name, file) = (text("name"), text("file"));
        let data = files.entry(file.clone()).or_insert_with(|| arrays(&file));
        let array = |key: &str| &data[&format!("{name}/{key}")];
        let var = |key: &str| {
            let (shape, values) = array(key);
            let tensor = Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).unwrap();
            Var::from_tensor(&tensor).unwrap()
        };
        let loss = registry::build::<dyn TransferLoss>(&text("plugin"), &case["options"]).unwrap();
        let (main, aux) = (var("main"), var("aux"));
        let teacher =
            if case["main_detached"] == true { main.detach() } else { main.as_tensor().clone() };
        let draws = Key::new(0, Purpose::Transfer).stream();
        let seen = |t: &Tensor| match loss.needs() {
            needs if needs.logits => Seen::logits(t.clone()),
            _ => Seen::embedding(t.clone()),
        };
        let batch = TransferBatch::new(seen(&teacher), seen(&aux), draws).unwrap();
        let value = loss.loss(&batch).unwrap();
        let error = relative_error(&[value.to_scalar().unwrap()], &array("loss").1);
        assert!(error < 1e-12, "{name}: loss is off by {error:e}");
        let gradients = value.backward().unwrap();
        for (key, var) in [("grad_main", &main), ("grad_aux", &aux)] {
            let got: Vec<f64> = match gradients.get(var) {
                Some(g) => g.flatten_all().unwrap().to_vec1().unwrap(),
                None => vec![0.0; var.elem_count()],
            };
            let error = relative_error(&got, &array(key).1);
            assert!(error < 1e-11, "{name}: {key} is off by {error:e}");
        }
    }
    for plugin in ["qrs", "kd"] {
        assert!(cases.iter().any(|c| c["plugin"] == plugin), "no case for {plugin}");
    }
}

#[test]
fn the_example_by_hand() {
    let loss = registry::build::<dyn TransferLoss>("similarity-mse", &Value::Null).unwrap();
    // The mean of all rows is 0. Cosines of (1, 0), (0, 1), (−1, −1): 0, −√½, −√½; of 2, −1, −1:
    // −1, −1, 1. Each difference stands twice among nine entries.
    let main = Tensor::new(&[[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], &Device::Cpu).unwrap();
    let aux = Tensor::new(&[[2f64], [-1.0], [-1.0]], &Device::Cpu).unwrap();
    let batch =
        TransferBatch::of_embeddings(&main, &aux, Key::new(0, Purpose::Transfer).stream()).unwrap();
    let value: f64 = loss.loss(&batch).unwrap().to_scalar().unwrap();
    let root = 0.5f64.sqrt();
    let expected = 2.0 * (1.0 + (1.0 - root).powi(2) + (1.0 + root).powi(2)) / 9.0;
    assert!((value - expected).abs() < 1e-9, "{value} for {expected}");
}
