//! Transfer losses through the command line, and on networks.

use crate::plugins::{cases, relative, toml_of};
use crate::tetlo::{Ran, fixture, tetlo_in};
use candle_core::{Device, Tensor};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tetlo_core::config;
use tetlo_core::kinds::{
    Auxiliary, AuxiliarySite, Progress, Relaxation, SearchSpace, TransferLoss,
};
use tetlo_core::multilevel::{Batch, Batches};
use tetlo_core::network::{ImageShape, Network, Output, Pass};
use tetlo_core::optim::norm;
use tetlo_core::registry;
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::{SpaceSpec, initial_values};
use tetlo_engine::method::Method;
use tetlo_engine::npz;
use tetlo_engine::record::Silent;

#[test]
fn a_transfer_loss_on_arrays() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let draws = |n: usize, d: usize, f: fn(f64) -> f64| {
        let values: Vec<f64> = (0..n * d).map(|i| f(i as f64 + 1.0)).collect();
        Tensor::from_vec(values, (n, d), &Device::Cpu).expect("a matrix")
    };
    let arrays = [
        ("main".to_owned(), draws(6, 4, f64::sin)),
        ("aux".to_owned(), draws(6, 3, |v| (1.7 * v).cos())),
    ];
    std::fs::write(here.join("in.npz"), npz::to_bytes(&arrays).expect("npz")).expect("written");
    let eval = |options: &str| {
        let arguments = [
            "plugins",
            "eval",
            "qrs",
            "--input",
            "in.npz",
            "--output",
            "out.npz",
            "--options",
            options,
        ];
        tetlo_in(here, &arguments).code(0);
        npz::read(&here.join("out.npz")).expect("an npz")
    };
    let size = |t: &Tensor| {
        t.abs().and_then(|t| t.sum_all()).and_then(|t| t.to_scalar::<f64>()).expect("a number")
    };
    let soft = eval("sampler = \"all\"");
    assert!(size(&soft["grad_main"]) > 0.0 && size(&soft["grad_aux"]) > 0.0);
    let hard = eval("sampler = \"all\", target = \"hard\"");
    assert!(size(&hard["grad_main"]) == 0.0 && size(&hard["grad_aux"]) > 0.0);
    for (options, part) in [("sampler = \"al\"", "al"), ("temprature = 1", "temprature")] {
        let arguments = [
            "plugins",
            "eval",
            "qrs",
            "--input",
            "in.npz",
            "--output",
            "no.npz",
            "--options",
            options,
        ];
        let ran = tetlo_in(here, &arguments).code(2);
        assert!(ran.err().contains(part) && ran.err().contains('^'), "{}", ran.err());
    }
    let missing = ["plugins", "eval", "qrs", "--input", "none.npz", "--output", "no.npz"];
    assert!(tetlo_in(here, &missing).0.status.code().is_some_and(|c| c != 0));
    assert!(!here.join("no.npz").exists());
}

/// The committed `PyTorch` results of the transfer losses, through the command line.
#[test]
fn transfer_losses_equal_pytorch() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    for case in cases("transfer") {
        let text = |key: &str| case[key].as_str().expect("a text").to_owned();
        let (name, plugin) = (text("name"), text("plugin"));
        let stored = npz::read(&fixture(&format!("transfer/{}", text("file")))).expect("an npz");
        let of_case: Vec<(String, Tensor)> = stored
            .iter()
            .filter_map(|(k, t)| Some((k.strip_prefix(&format!("{name}/"))?.to_owned(), t.clone())))
            .collect();
        let (input, results): (Vec<_>, Vec<_>) =
            of_case.into_iter().partition(|(k, _)| k != "loss" && !k.starts_with("grad_"));
        assert!(results.len() >= 3, "{name}");
        std::fs::write(here.join("i.npz"), npz::to_bytes(&input).expect("npz")).expect("written");
        let options = toml_of(&case["options"]);
        let arguments = [
            "plugins",
            "eval",
            &plugin,
            "--input",
            "i.npz",
            "--output",
            "o.npz",
            "--options",
            &options,
        ];
        tetlo_in(here, &arguments).code(0);
        let ours = npz::read(&here.join("o.npz")).expect("an npz");
        for (array, expected) in results {
            if array == "grad_main" && case["main_detached"] == true {
                continue; // ours passes the teacher's gradient on: it is what carries knowledge back
            }
            let error = relative(&ours[&array], &expected);
            assert!(error <= 1e-9, "{name}: {array} is off by {error:e}");
        }
    }
}

/// `plugins eval` on arrays of this name and shape, filled with sines.
fn evaluate(plugin: &str, options: &str, arrays: &[(&str, &[usize])]) -> (Ran, PathBuf, TempDir) {
    let directory = tempfile::tempdir().expect("a folder");
    let filled = |(i, (name, shape)): (usize, &(&str, &[usize]))| {
        let values: Vec<f64> =
            (0..shape.iter().product()).map(|j| (1.3 * j as f64 + i as f64).sin()).collect();
        let tensor = Tensor::from_vec(values, *shape, &Device::Cpu);
        ((*name).to_owned(), tensor.expect("an array"))
    };
    let arrays: Vec<_> = arrays.iter().enumerate().map(filled).collect();
    let bytes = npz::to_bytes(&arrays).expect("npz");
    std::fs::write(directory.path().join("i.npz"), bytes).expect("written");
    let arguments = ["plugins", "eval", plugin, "--input", "i.npz", "--output", "o.npz"];
    let arguments = [arguments.as_slice(), &["--options", options]].concat();
    let ran = tetlo_in(directory.path(), &arguments);
    (ran, directory.path().join("o.npz"), directory)
}

#[test]
fn a_transfer_loss_takes_what_it_needs() {
    let names = |plugin: &str, options: &str, arrays: &[(&str, &[usize])]| {
        let (ran, output, _directory) = evaluate(plugin, options, arrays);
        ran.code(0);
        npz::read(&output).expect("an npz").into_keys().collect::<Vec<_>>().join(" ")
    };
    let logits: [(&str, &[usize]); 2] = [("main_logits", &[4, 3]), ("aux_logits", &[4, 3])];
    assert_eq!(names("kd", "", &logits), "grad_aux_logits grad_main_logits loss");
    let maps: [(&str, &[usize]); 2] = [("main", &[2, 3, 4, 4]), ("aux", &[2, 2, 2, 2])];
    assert_eq!(names("attention", "", &maps), "grad_aux grad_main loss");
    let maps: [(&str, &[usize]); 2] = [("main_maps", &[2, 3, 4, 4]), ("aux_maps_0", &[2, 2, 2, 2])];
    assert_eq!(names("attention", "", &maps), "grad_aux_maps_0 grad_main_maps loss");
    // Arrays that the loss does not look at have a gradient of zero; a projector is drawn.
    let more: [(&str, &[usize]); 3] =
        [("main", &[4, 3]), ("aux", &[4, 2]), ("aux_logits", &[4, 3])];
    assert_eq!(
        names("hint", "", &more),
        "grad_aux grad_aux_logits grad_main grad_projector.weight loss projector.weight"
    );
}

#[test]
fn a_drawn_projector_can_be_given_back() {
    let shapes: [(&str, &[usize]); 2] = [("main", &[4, 3]), ("aux", &[4, 2])];
    let (ran, output, directory) = evaluate("hint", "", &shapes);
    ran.code(0);
    let first = npz::read(&output).expect("an npz");
    let mut input: Vec<_> =
        npz::read(&directory.path().join("i.npz")).expect("an npz").into_iter().collect();
    input.push(("projector.weight".to_owned(), first["projector.weight"].clone()));
    std::fs::write(directory.path().join("i.npz"), npz::to_bytes(&input).expect("npz"))
        .expect("written");
    let again = ["plugins", "eval", "hint", "--input", "i.npz", "--output", "o.npz"];
    tetlo_in(directory.path(), &again).code(0);
    let second = npz::read(&output).expect("an npz");
    for (name, array) in &first {
        assert!(relative(array, &second[name]) == 0.0, "{name}");
    }
}

#[test]
fn arrays_that_do_not_fit_a_transfer_loss_are_named() {
    type Arrays<'a> = [(&'a str, &'a [usize]); 2];
    let of = |main: &'static [usize], aux: &'static [usize]| -> Arrays<'static> {
        [("main", main), ("aux", aux)]
    };
    for (plugin, arrays, parts) in [
        ("pkt", of(&[1, 3], &[1, 3]), ["at least 2 images", "got 1"]),
        ("kd", of(&[1, 3], &[1, 3]), ["at least 2 images", "got 1"]),
        ("pkt", of(&[3, 3], &[2, 3]), ["3 of the main", "2 of the auxiliary"]),
        ("pkt", of(&[3, 3, 1], &[3, 3]), ["embedding must be a matrix", "[3, 3, 1]"]),
        ("attention", of(&[3, 3], &[3, 3]), ["four dimensions", "[3, 3]"]),
        (
            "kd",
            [("main", &[3, 3]), ("labels", &[3])],
            ["`aux_logits` or `aux`", "found: labels, main"],
        ),
        ("mistake-weights", of(&[3, 3], &[3, 3]), ["mistake-weights", "needs the labels"]),
    ] {
        let (ran, output, _directory) = evaluate(plugin, "", &arrays);
        let error = ran.err();
        for part in parts {
            assert!(error.contains(part), "{plugin}: `{part}` is not in\n{error}");
        }
        assert!(ran.0.status.code().is_some_and(|c| c == 1 || c == 2) && !output.exists());
    }
    let arrays: [(&str, &[usize]); 3] =
        [("main", &[4, 3]), ("aux", &[4, 2]), ("projector.weight", &[2, 3])];
    let (ran, ..) = evaluate("hint", "", &arrays);
    let error = ran.code(2).err();
    assert!(error.contains("`projector.weight` has shape [2, 3], expected [3, 2]"), "{error}");
}

#[test]
fn features_that_are_no_numbers_are_an_error() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    for (plugin, bad) in [("pkt", f64::NAN), ("qrs", f64::INFINITY), ("pseudo-label", f64::NAN)] {
        let matrix = |value: f64| {
            let values = [[value, 2.0], [3.0, 5.0], [4.0, 1.0]];
            Tensor::new(&values, &Device::Cpu).expect("a matrix")
        };
        let arrays = [("main".to_owned(), matrix(1.0)), ("aux".to_owned(), matrix(bad))];
        std::fs::write(here.join("i.npz"), npz::to_bytes(&arrays).expect("npz")).expect("written");
        let arguments = ["plugins", "eval", plugin, "--input", "i.npz", "--output", "o.npz"];
        let error = tetlo_in(here, &arguments).code(1).err();
        assert!(error.contains("i.npz: the array `aux` has a value that is not"), "{error}");
        assert!(!here.join("o.npz").exists());
    }
}

#[test]
fn a_loss_shows_its_formula_and_an_example() {
    let shown = tetlo_in(Path::new("."), &["plugins", "show", "rkd-angle"]).code(0).out();
    for part in ["Park et al.", "mean_{i, j, k}", "transfer-loss = { plugin = \"rkd-angle\" }"] {
        assert!(shown.contains(part), "`{part}` is not in\n{shown}");
    }
}

const IMAGE: ImageShape = ImageShape { channels: 3, height: 16, width: 16 };

fn images(n: usize, seed: u64) -> Tensor {
    let mut draws = Key::new(seed, Purpose::Problem).stream();
    let values: Vec<f32> = (0..n * 3 * 256).map(|_| draws.normal() as f32).collect();
    Tensor::from_vec(values, (n, 3, 16, 16), &Device::Cpu).expect("images")
}

fn darts() -> SpaceSpec {
    let options = json!({"channels": 4, "cells": 3});
    let space = registry::build::<dyn SearchSpace>("darts", &options).expect("a space");
    space.spec().validated().expect("a valid space")
}

/// TETLO with this transfer loss, on a small space and a small auxiliary.
fn tetlo_with(loss: &str) -> Method {
    let text = format!(
        "version = 1\nname = \"t\"\nseeds = [0]\n[[task]]\nname = \"t\"\n\
         dataset = {{ plugin = \"digits\" }}\nsearch-space = {{ plugin = \"darts\" }}\n\
         [[method]]\nname = \"m\"\npreset = \"tetlo\"\ntransfer-loss = {loss}\n\
         auxiliary = {{ plugin = \"resnet\", options = {{ depth = 8, width = 4 }} }}\n\
         [evaluate]\nplugin = \"retrain\"\n"
    );
    let config = config::load("t", &text, Path::new("."), &[]).expect("a config");
    Method::new(&config.methods[0], darts(), IMAGE, 4, 0).expect("a method")
}

/// Every transfer loss runs in a TETLO step, and gives α what it says it does: in particular one on
/// feature maps, whose gradient goes through maps that the kernels give out.
#[test]
fn every_transfer_loss_moves_the_architecture_through_networks() {
    let batch = |seed: u64| Batch { images: images(6, seed), labels: vec![0, 1, 2, 3, 1, 0] };
    let mut losses: Vec<String> = registry::entries::<dyn TransferLoss>()
        .iter()
        .map(|e| format!("{{ plugin = \"{}\" }}", e.name))
        .collect();
    for (name, options) in [
        ("hint", "features = \"map\", map = 1"),
        ("similarity-preserving", "features = \"map\", maps = \"last\""),
    ] {
        losses.push(format!("{{ plugin = \"{name}\", options = {{ {options} }} }}"));
    }
    for loss in &losses {
        let method = tetlo_with(loss);
        let transfer = method.graph.uses_transfer_batch().then(|| batch(2));
        let batches = Batches { train: batch(0), valid: batch(1), transfer };
        let mut state = method.initial_state().expect("a state");
        let at = Progress { epoch: 0, epochs: 50, step: 0 };
        let step = method.step(&mut state, &batches, at, &mut Silent).expect(loss);
        let gradient = step.gradient.expect("a hypergradient");
        let direct = gradient.contributions.iter().filter(|c| c.name() == "aux_direct");
        let size: f64 = direct.map(|c| norm(&c.gradient).expect("a norm")).sum();
        assert!(size.is_finite(), "{loss}: {size}");
        assert_eq!(size > 0.0, !loss.contains("none"), "{loss}: {size}");
    }
}

fn run(network: &dyn Network) -> Output {
    let key = Key::new(1, Purpose::Weights);
    let (weights, _, architecture) = initial_values(network, key).expect("values");
    let pass = Pass::train(key);
    network.forward(&weights, architecture.as_ref(), &images(5, 3), &pass).expect("an output")
}

#[test]
fn maps_are_those_that_the_embedding_is_pooled_from() {
    let space = darts();
    let softmax = registry::build::<dyn Relaxation>("softmax", &json!(null)).expect("built in");
    let softmax: Arc<dyn Relaxation> = Arc::from(softmax);
    let supernet = |maps: bool| -> Arc<dyn Network> {
        let network = space.supernet(IMAGE, 4, softmax.clone()).expect("it fits");
        Arc::new(if maps { network.with_maps().expect("maps") } else { network })
    };
    let options = json!({"depth": 20, "width": 4});
    let resnet = registry::build::<dyn Auxiliary>("resnet", &options).expect("built in");
    let resnet = |maps: bool| {
        let site = AuxiliarySite::new(IMAGE, 4, &space).with_maps(maps);
        resnet.network(&site).expect("it fits")
    };
    for (with, without, shapes) in [
        (supernet(true), supernet(false), [[5, 16, 16, 16], [5, 32, 8, 8], [5, 64, 4, 4]]),
        (resnet(true), resnet(false), [[5, 4, 16, 16], [5, 8, 8, 8], [5, 16, 4, 4]]),
    ] {
        let (with, without) = (run(with.as_ref()), run(without.as_ref()));
        assert!(without.maps.is_empty());
        let found: Vec<_> = with.maps.iter().map(|m| m.dims4().expect("a map")).collect();
        assert_eq!(found, shapes.map(|[n, c, h, w]| (n, c, h, w)));
        let bits = |t: &Tensor| -> Vec<u32> {
            let flat: Vec<f32> = t.flatten_all().and_then(|t| t.to_vec1()).expect("numbers");
            flat.into_iter().map(f32::to_bits).collect()
        };
        assert_eq!(bits(&with.logits), bits(&without.logits), "maps change nothing else");
        let pooled = with.maps[2].flatten_from(2).and_then(|m| m.mean(2)).expect("pooled");
        let error = relative(&pooled, &with.embedding);
        assert!(error < 1e-6, "{error:e}");
    }
}
