//! The space `nas-bench-201`: networks and search steps against the committed `PyTorch` results,
//! and everything a user does with the space.

use crate::network::{
    Named, close, close_probe, filled, partial_channels, produced, safetensors, values,
};
use crate::tetlo::{fixture, tetlo_in};
use candle_core::Tensor;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use tetlo_engine::npz;

/// An architecture with each operation.
const MIXED: &str =
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|";

/// What is zero but for rounding in f64.
const ZERO: f64 = 1e-12;

fn index() -> Vec<Value> {
    let text = std::fs::read_to_string(fixture("nas-bench-201/index.json")).expect("an index");
    serde_json::from_str(&text).expect("JSON")
}

fn fixture_of(file: &str) -> String {
    fixture(&format!("nas-bench-201/{file}")).display().to_string()
}

fn expected(file: &str) -> Named {
    let file = safetensors(&fixture(&format!("nas-bench-201/{file}.output.safetensors")));
    file.iter().map(|(k, t)| (k.clone(), values(t))).collect()
}

fn config(channels: u64, cells: u64) -> String {
    format!(
        r#"version = 1
name = "n"
seeds = [0]
threads = 1
[[task]]
name = "t"
dataset = {{ plugin = "digits" }}
search-space = {{ plugin = "nas-bench-201", options = {{ channels = {channels}, cells = {cells} }} }}
[search]
epochs = 1
batch-size = 128
crop-padding = 1
[evaluate]
plugin = "retrain"
options = {{ channels = {channels}, cells = {cells}, epochs = 1, auxiliary-weight = 0.0, cutout = 0, crop-padding = 1 }}
[[method]]
name = "darts-1st"
preset = "darts-1st"
[[method]]
name = "darts-2nd"
preset = "darts-2nd"
"#
    )
}

/// Writes the config and the weights of a case: names and shapes from `--init`, values by the rule.
fn prepare(here: &Path, case: &Value, input: &str) {
    let number = |key: &str| case[key].as_u64().expect("a number");
    let text = config(number("channels"), number("cells"));
    let method = "[[method]]\nname = \"darts-2nd\"";
    let text = text.replace(method, &format!("{}{method}", partial_channels(case)));
    std::fs::write(here.join("c.toml"), text + &partial_channels(case)).expect("written");
    let is_step = case["kind"] == "step";
    // For the shape of its images.
    let images = if is_step {
        let arrays = npz::read(Path::new(input)).expect("an npz");
        let named = [("x", "train_x"), ("y", "train_y")];
        let named = named.map(|(name, from)| (name.to_owned(), arrays[from].clone()));
        std::fs::write(here.join("x.npz"), npz::to_bytes(&named).expect("bytes")).expect("written");
        "x.npz"
    } else {
        input
    };
    let mut arguments =
        vec!["network", "eval", "c.toml", "--init", "w.safetensors", "--input", images];
    if let Some(arch) = case["arch"].as_str() {
        arguments.extend(["--genotype", arch]);
    }
    tetlo_in(here, &arguments).code(0);
    let path = here.join("w.safetensors");
    let drawn = safetensors(&path);
    let momentum = drawn
        .keys()
        .filter(|n| is_step && !["running", "arch_", "betas_"].iter().any(|no| n.contains(no)))
        .map(|n| (format!("momentum/{n}"), drawn[n].clone()));
    let tensors: HashMap<String, Tensor> = drawn
        .iter()
        .map(|(n, t)| (n.clone(), t.clone()))
        .chain(momentum)
        .map(|(n, t)| (n.clone(), filled(&n, t.dims(), number("seed"))))
        .collect();
    candle_core::safetensors::save(&tensors, path).expect("written");
}

#[test]
fn networks_and_steps_equal_pytorch() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    for case in index() {
        let name = case["name"].as_str().expect("a name");
        let input = fixture_of(&format!("{name}.input.npz"));
        prepare(here, &case, &input);
        let runs: &[(&str, &[&str])] = if case["kind"] == "step" {
            &[
                (".order1", &["network", "step", "c.toml", "--method", "darts-1st"]),
                (".order2", &["network", "step", "c.toml", "--method", "darts-2nd"]),
            ]
        } else {
            &[("", &["network", "eval", "c.toml", "--grad"])]
        };
        for (order, command) in runs {
            let mut arguments = command.to_vec();
            arguments.extend(["--weights", "w.safetensors", "--input", &input]);
            arguments.extend(["--output", "o.npz"]);
            if let Some(arch) = case["arch"].as_str() {
                arguments.extend(["--genotype", arch]);
            }
            let ran = tetlo_in(here, &arguments).code(0);
            assert!(!ran.err().contains("not read"), "{}", ran.err());
            let (ours, theirs) =
                (produced(&here.join("o.npz")), expected(&format!("{name}{order}")));
            compare(&format!("{name}{order}"), &ours, &theirs);
        }
    }
}

fn compare(case: &str, ours: &Named, theirs: &Named) {
    // What PyTorch has beside our own results.
    let aside = ["loss/", "norm/", "implicit/", "probe/"];
    let mut compared = 0;
    for array in theirs.keys().filter(|k| !aside.iter().any(|a| k.starts_with(a))) {
        let zero = theirs[array].iter().all(|v| v.abs() < ZERO);
        if zero {
            assert!(ours[array].iter().all(|v| v.abs() < 1e-6), "{case}: {array} is not zero");
        } else {
            close(case, ours, theirs, array, 1e-4);
        }
        compared += 1;
    }
    assert!(compared >= 20, "{case}: {compared}");
    let mut probes = 0;
    for (kind, rows) in theirs.iter().filter_map(|(k, v)| Some((k.strip_prefix("probe/")?, v))) {
        let prefix = format!("{kind}/");
        let mut names: Vec<&String> = ours.keys().filter(|k| k.starts_with(&prefix)).collect();
        names.sort();
        assert_eq!(3 * names.len(), rows.len(), "{case}: {kind}");
        for (name, row) in names.into_iter().zip(rows.chunks(3)) {
            // A shift that the next normalisation takes out again has no gradient.
            if row[1] < ZERO {
                assert!(ours[name].iter().all(|v| v.abs() < 1e-6), "{case}: {name} is not zero");
            } else {
                close_probe(case, ours, row, vec![name], 1e-4);
            }
        }
        probes += 1;
    }
    assert!(probes > 0, "{case}: no probe");
}

#[test]
fn a_comparison_of_searches_and_random_search() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let mut text = config(4, 1);
    text.push_str(
        r#"transforms = [{ plugin = "exclude-operations" }]
regularizers = [{ plugin = "beta-decay" }]
stop-rule = { plugin = "darts-plus", options = { skips = 6 } }
selection = { plugin = "argmax" }
[[method]]
name = "tetlo"
preset = "tetlo-matched"
[[method]]
name = "tetlo-supernet"
preset = "tetlo"
auxiliary = { plugin = "supernet", options = { channels = 2, cells = 1 } }
[[method]]
name = "random"
preset = "random"
"#,
    );
    std::fs::write(here.join("c.toml"), text).expect("written");
    tetlo_in(here, &["config", "check", "c.toml"]).code(0);
    tetlo_in(here, &["compare", "c.toml"]).code(0);
    let trials = std::fs::read_dir(here.join("runs/n/trials")).expect("trials");
    let mut methods = vec![];
    for trial in trials {
        let trial = trial.expect("an entry").path();
        let read = |file: &str| std::fs::read_to_string(trial.join(file)).expect("a file");
        let result: Value = serde_json::from_str(&read("result.json")).expect("JSON");
        let genotype: Value = serde_json::from_str(&read("genotype.json")).expect("JSON");
        let arch = genotype["arch"].as_str().expect("a string");
        assert_eq!(read("genotype.txt").trim(), arch);
        assert_eq!(arch.matches('~').count(), 6, "{arch}");
        let skips = arch.matches("skip_connect").count();
        assert_eq!(result["skip_count"], skips, "{arch}");
        let method = result["method"].as_str().expect("a name").to_owned();
        assert!(method != "darts-2nd" || !arch.contains("none"), "{arch}");
        methods.push(method);
        // What the run's genotype is good for.
        let run = trial.display().to_string();
        tetlo_in(here, &["draw", &run, "--svg", "a.svg", "--dot", "a.dot"]).code(0);
        let dot = std::fs::read_to_string(here.join("a.dot")).expect("a drawing");
        assert_eq!(dot.matches(" -> s").count(), 6, "{dot}");
        let svg = std::fs::read_to_string(here.join("a.svg")).expect("a drawing");
        assert!(svg.contains(">cell</text>"), "{svg}");
        assert_eq!(tetlo_in(here, &["draw", &run]).code(0).out().trim(), arch);
    }
    methods.sort();
    assert_eq!(methods, ["darts-1st", "darts-2nd", "random", "tetlo", "tetlo-supernet"]);
}

#[test]
fn genotypes_as_text_are_retrained() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    std::fs::write(here.join("c.toml"), config(4, 1)).expect("written");
    std::fs::write(here.join("g.txt"), format!("{MIXED}\n")).expect("written");
    let of_file = tetlo_in(here, &["retrain", "g.txt", "--config", "c.toml", "--format", "json"]);
    let of_text = tetlo_in(here, &["retrain", MIXED, "--config", "c.toml", "--format", "json"]);
    let (of_file, of_text) = (of_file.code(0).json(), of_text.code(0).json());
    assert_eq!(of_file["test_accuracy"], of_text["test_accuracy"]);
    assert!(of_file["params"].as_u64().is_some_and(|p| p > 0), "{of_file}");
    for (text, part) in [
        ("|nor_conv_3x3~0|+|nor_conv_1x1~0|", "the edge from node 1 to 2 has 0 operations"),
        ("|nor_conv_3x3~1|", "node 1 cannot take input from node 1 (character 14)"),
        ("{\"normal\": [], \"normal_concat\": [2]}", "the cell `cell`"),
    ] {
        let ran = tetlo_in(here, &["retrain", text, "--config", "c.toml"]);
        assert_ne!(ran.0.status.code(), Some(0), "{text}");
        assert!(ran.err().contains(part), "{text}: {}", ran.err());
    }
}

#[test]
fn selections_read_arrays_of_the_space() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let alpha = [0f64, 0.0, 0.0, 0.0, 0.0].repeat(6);
    let mut alpha = [alpha.clone(), alpha].concat();
    for (edge, operation) in [3, 2, 4, 1, 3, 0].into_iter().enumerate() {
        alpha[5 * edge + operation] += 1.0;
    }
    let alpha = Tensor::from_vec(alpha, (2, 6, 5), &candle_core::Device::Cpu).expect("a tensor");
    let bytes = npz::to_bytes(&[("arch_parameters".to_owned(), alpha)]).expect("bytes");
    std::fs::write(here.join("a.npz"), bytes).expect("written");
    let eval = |name: &str, space: &str| {
        let files = ["--input", "a.npz", "--output", "g.jsonl"];
        let arguments = [&["plugins", "eval", name, "--space", space][..], &files].concat();
        tetlo_in(here, &arguments)
    };
    for name in ["argmax", "magnitude"] {
        eval(name, "nas-bench-201").code(0);
        let text = std::fs::read_to_string(here.join("g.jsonl")).expect("genotypes");
        let lines: Vec<Value> =
            text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        let none = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|";
        assert_eq!(lines, [json!({"arch": MIXED}), json!({"arch": none})]);
    }
    // Rules and spaces that do not fit name what does.
    let ran = eval("darts-top2", "nas-bench-201").code(2);
    assert!(
        ran.err().contains("`nas-bench-201`") && ran.err().contains("`argmax`"),
        "{}",
        ran.err()
    );
    let ran = eval("argmax", "darts").code(2);
    assert!(ran.err().contains("`darts`") && ran.err().contains("`darts-top2`"), "{}", ran.err());
}

#[test]
fn what_does_not_fit_is_a_config_error() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let good = config(4, 1);
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let selection = "preset = \"darts-1st\"\nselection = { plugin = \"darts-top2\" }";
    for (text, parts) in [
        (with("preset = \"darts-1st\"", selection), &["darts-top2", "`argmax`", "c.toml"][..]),
        (with("channels = 4, cells = 1 } }", "channels = 0, cells = 1 } }"), &["`channels`", "^"]),
        (with("channels = 4, cells = 1 } }", "channels = 4, layers = 1 } }"), &["layers", "^"]),
        (with("plugin = \"nas-bench-201\"", "plugin = \"nas-bench-21\""), &["did you mean"]),
    ] {
        std::fs::write(here.join("c.toml"), text).expect("written");
        let ran = tetlo_in(here, &["config", "check", "c.toml"]).code(2);
        for part in parts {
            assert!(ran.err().contains(part), "expected `{part}` in:\n{}", ran.err());
        }
    }
}

/// `network eval` shows the supernet that the method searches: without `none`, α has four columns.
#[test]
fn networks_are_those_of_the_method() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let text = config(4, 1) + "transforms = [{ plugin = \"exclude-operations\" }]\n";
    std::fs::write(here.join("c.toml"), text).expect("written");
    for (method, columns) in [("darts-1st", 5), ("darts-2nd", 4)] {
        let arguments =
            ["network", "eval", "c.toml", "--method", method, "--init", "w.safetensors"];
        tetlo_in(here, &arguments).code(0);
        let drawn = safetensors(&here.join("w.safetensors"));
        assert_eq!(drawn["arch_parameters"].dims(), [6, columns], "{method}");
    }
}
