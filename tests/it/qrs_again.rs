//! `qrs` written again in other languages is the built-in's equal: values, gradients, and the cell that a
//! whole search finds.

use crate::native::{has_cc, has_python, library, source};
use crate::tetlo::{TINY, command, tetlo_in};
use candle_core::{Device, Tensor};
use serde_json::Value;
use std::path::Path;
use tetlo_core::rng::{Key, Purpose};
use tetlo_engine::npz;

/// Largest relative difference of values and gradients.
const TOLERANCE: f64 = 1e-6;

fn write_arrays(path: &Path, images: usize, widths: (usize, usize)) {
    let mut draws = Key::new(images as u64, Purpose::Problem).stream();
    let mut array = |width: usize| {
        let values: Vec<f64> = (0..images * width).map(|_| draws.normal()).collect();
        Tensor::from_vec(values, (images, width), &Device::Cpu).expect("a tensor")
    };
    let arrays = [("main".to_owned(), array(widths.0)), ("aux".to_owned(), array(widths.1))];
    std::fs::write(path, npz::to_bytes(&arrays).expect("bytes")).expect("written");
}

fn values(file: &Path, name: &str) -> Vec<f64> {
    let arrays = npz::read(file).expect("a result");
    arrays[name].flatten_all().expect("flat").to_vec1().expect("f64")
}

fn genotype(out: &Path, method: &str) -> String {
    let plan = std::fs::read_to_string(out.join("plan.jsonl")).expect("a plan");
    let lines = plan.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    let line = lines.into_iter().find(|l| l["method"] == method).expect("a trial of the method");
    let trial = out.join("trials").join(line["trial_id"].as_str().expect("an id"));
    std::fs::read_to_string(trial.join("genotype.txt")).expect("a genotype")
}

/// Holds the plugin of this name, in this file of `here`, against the built-in.
#[track_caller]
pub(crate) fn equals_the_built_in(here: &Path, file: &str, name: &str) {
    for (images, widths, temperature) in [(2, (3, 5), 0.1), (7, (4, 4), 0.5), (64, (48, 96), 0.1)] {
        write_arrays(&here.join("in.npz"), images, widths);
        let options = format!("temperature = {temperature}");
        let common = ["--input", "in.npz", "--options", &options, "--output"];
        let built_in = [&["plugins", "eval", "qrs"][..], &common, &["a.npz"]].concat();
        tetlo_in(here, &built_in).code(0);
        let again =
            [&["plugins", "eval", name, "--library", file][..], &common, &["b.npz"]].concat();
        tetlo_in(here, &again).code(0);
        for array in ["loss", "grad_main", "grad_aux"] {
            let (a, b) = (values(&here.join("a.npz"), array), values(&here.join("b.npz"), array));
            assert_eq!(a.len(), b.len(), "{name}: {array}");
            let scale = a.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() <= TOLERANCE * scale, "{name}: {array}: {a} and {b}");
            }
        }
    }
    let (head, rest) = TINY.split_once("[[method]]").expect("methods");
    let (_, evaluate) = rest.split_once("[evaluate]").expect("an evaluator");
    let method = |name: &str, loss: &str| {
        format!("[[method]]\nname = \"{name}\"\npreset = \"tetlo\"\ntransfer-loss = {loss}\n\n")
    };
    let again = format!("{{ plugin = \"{name}\", library = \"{file}\" }}");
    let methods = method("built-in", "{ plugin = \"qrs\" }") + &method("again", &again);
    std::fs::write(here.join("q.toml"), format!("{head}{methods}[evaluate]{evaluate}"))
        .expect("written");
    let out = format!("out-{name}");
    let ran = command(here, &["compare", "q.toml", "--out", &out, "--set", "search.epochs=2"])
        .output()
        .expect("it starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let out = here.join(out);
    assert_eq!(genotype(&out, "built-in"), genotype(&out, "again"), "{name}");
}

#[test]
fn in_c() {
    if !has_cc("qrs_again::in_c") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    library(folder.path(), "libqrs.so", &source("qrs.c"), &[]);
    equals_the_built_in(folder.path(), "libqrs.so", "qrs-c");
}

#[test]
fn in_python() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("qrs.py"), source("qrs.py")).expect("written");
    for (name, module) in [("qrs-numpy", "numpy"), ("qrs-torch", "torch")] {
        if has_python("qrs_again::in_python", &format!("numpy, {module}")) {
            equals_the_built_in(folder.path(), "qrs.py", name);
        }
    }
}
