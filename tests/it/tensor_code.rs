//! A space with an operation of tensor code, through the commands.

use crate::tetlo::{TINY, tetlo_in};
use candle_core::{Device, Tensor};
use std::path::Path;
use tetlo_core::rng::{Key, Purpose};
use tetlo_engine::npz;

fn config(here: &Path) {
    let text = TINY.replace("plugin = \"darts\"", "plugin = \"gated\"");
    let method = "[[method]]\nname = \"tetlo\"";
    let second = format!("[[method]]\nname = \"darts-2nd\"\npreset = \"darts-2nd\"\n\n{method}");
    let text = text.replacen(method, &second, 1);
    assert!(text.contains("darts-2nd") && text.contains("gated"));
    std::fs::write(here.join("c.toml"), text).expect("written");
}

fn batches(here: &Path) {
    let mut draws = Key::new(3, Purpose::Problem).stream();
    let mut arrays = Vec::new();
    for split in ["train", "val"] {
        let x: Vec<f32> = (0..6 * 64).map(|_| draws.normal() as f32).collect();
        let y: Vec<i64> = (0..6).map(|i| i % 10).collect();
        let x = Tensor::from_vec(x, (6, 1, 8, 8), &Device::Cpu).expect("images");
        let y = Tensor::from_vec(y, 6, &Device::Cpu).expect("labels");
        arrays.push((format!("{split}_x"), x.clone()));
        arrays.push((format!("{split}_y"), y.clone()));
        if split == "train" {
            arrays.push(("x".to_owned(), x));
            arrays.push(("y".to_owned(), y));
        }
    }
    let bytes = npz::to_bytes(&arrays).expect("an npz");
    std::fs::write(here.join("i.npz"), bytes).expect("written");
}

#[test]
fn steps_of_every_kind() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    config(here);
    batches(here);
    let eval = ["network", "eval", "c.toml", "--init", "w.safetensors", "--input", "i.npz"];
    tetlo_in(here, &eval).code(0);
    let weights = candle_core::safetensors::load(here.join("w.safetensors"), &Device::Cpu);
    let before = weights.expect("weights");
    let gate = "cells.2._ops.1._ops.3.se.1.weight";
    assert_eq!(before[gate].dims(), [4, 16]);
    for method in ["darts-1st", "darts-2nd", "tetlo"] {
        let step = ["network", "step", "c.toml", "--method", method, "--weights", "w.safetensors"];
        let step = [&step[..], &["--input", "i.npz", "--output", "o.npz"]].concat();
        tetlo_in(here, &step).code(0);
        let out = npz::read(&here.join("o.npz")).expect("an npz");
        let values = |name: &str| -> Vec<f32> {
            let array = out.get(name).unwrap_or_else(|| panic!("{method}: no {name}"));
            let flat = array.to_dtype(candle_core::DType::F32).and_then(|t| t.flatten_all());
            flat.and_then(|t| t.to_vec1()).expect("numbers")
        };
        // Every edge's column of the operation moves, and so do its weights.
        let of_alphas = values("arch_grad/alphas_normal");
        assert_eq!(of_alphas.len(), 5 * 4, "{method}");
        assert!(of_alphas.iter().all(|v| v.is_finite()), "{method}");
        assert!(of_alphas.chunks(4).all(|row| row[3] != 0.0), "{method}: {of_alphas:?}");
        let old: Vec<f32> = before[gate].flatten_all().and_then(|t| t.to_vec1()).expect("numbers");
        let moved = values(&format!("after/{gate}"))
            .iter()
            .zip(&old)
            .filter(|(a, b)| a.to_bits() != b.to_bits())
            .count();
        assert!(moved * 2 > old.len(), "{method}: {moved} weights of {} moved", old.len());
    }
}

/// Search, selection, derived network with drop-path, retraining.
#[test]
fn a_whole_comparison() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    config(here);
    let run = ["compare", "c.toml", "--out", "out", "--no-progress"];
    let small = ["--set", "task.digits.search-space.options.channels=2"];
    let run = [&run[..], &small, &["--set", "search.batch-size=256"]].concat();
    tetlo_in(here, &run).code(0);
    let summary = std::fs::read_to_string(here.join("out/summary.json")).expect("a summary");
    let summary: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
    let methods = summary["methods"].as_array().expect("methods");
    assert_eq!(methods.len(), 4);
    assert!(methods.iter().all(|m| m["n"] == 1 && m["failed"] == 0), "{summary}");
}
