//! `network eval` and `network step` against the committed `PyTorch` results.

use crate::tetlo::{command, fixture, tetlo_in};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;
use tetlo_engine::npz;

pub(crate) type Named = BTreeMap<String, Vec<f64>>;

pub(crate) fn values(t: &Tensor) -> Vec<f64> {
    let flat = t.to_dtype(DType::F64).and_then(|t| t.flatten_all());
    flat.and_then(|t| t.to_vec1()).expect("numbers")
}

pub(crate) fn safetensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).expect("a safetensors file")
}

fn expected(name: &str) -> Named {
    let file = safetensors(&fixture(&format!("network/{name}")));
    file.iter().map(|(k, t)| (k.clone(), values(t))).collect()
}

pub(crate) fn produced(path: &Path) -> Named {
    npz::read(path).expect("an npz").iter().map(|(k, t)| (k.clone(), values(t))).collect()
}

fn index(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture(&format!("network/{name}"))).expect("an index");
    serde_json::from_str(&text).expect("JSON")
}

/// Element i of the array called `name`, as tests/fixtures/scripts/fixture_io.py fills it.
pub(crate) fn filled(name: &str, shape: &[usize], seed: u64) -> Tensor {
    filled_between(name, shape, limits(name, shape), seed)
}

/// The same with bounds of its own.
pub(crate) fn filled_between(
    name: &str,
    shape: &[usize],
    (low, high): (f64, f64),
    seed: u64,
) -> Tensor {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    let start = hash.wrapping_add((seed + 1).wrapping_mul(GOLDEN));
    let list: Vec<f32> = (1..=shape.iter().product::<usize>() as u64)
        .map(|i| {
            let mut z = start.wrapping_add(i.wrapping_mul(GOLDEN));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let u = ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1u32 << 24);
            (low + (high - low) * u) as f32
        })
        .collect();
    Tensor::from_vec(list, shape, &Device::Cpu).expect("a tensor")
}

/// The bounds of `limits` in tests/fixtures/scripts/darts_reference.py.
fn limits(name: &str, shape: &[usize]) -> (f64, f64) {
    let last = name.rsplit('.').next().unwrap_or(name);
    let half = if name.starts_with("momentum/") {
        0.05
    } else if ["alphas_", "betas_", "arch_parameters"].iter().any(|n| name.starts_with(n)) {
        0.5 * 3f64.sqrt()
    } else if last == "running_var" || (last == "weight" && shape.len() == 1) {
        return (0.5, 1.5);
    } else if shape.len() == 1 {
        0.5
    } else {
        (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt()
    };
    (-half, half)
}

/// Largest difference, relative to the largest expected value.
#[track_caller]
pub(crate) fn close(case: &str, ours: &Named, theirs: &Named, name: &str, bound: f64) {
    let (got, expected) =
        (ours.get(name).unwrap_or_else(|| panic!("{case}: {name} is missing")), &theirs[name]);
    assert_eq!(got.len(), expected.len(), "{case}: {name}");
    let largest = |v: &mut dyn Iterator<Item = f64>| v.fold(0.0, |a: f64, b| a.max(b.abs()));
    let scale = largest(&mut expected.iter().copied());
    let off = largest(&mut got.iter().zip(expected).map(|(a, b)| a - b));
    assert!(off <= bound * scale.max(1e-12), "{case}: {name} is off by {:e}", off / scale);
}

/// Three numbers that pin an array down: sum, norm, Σ aᵢ·cos(0.7·i + 0.3).
pub(crate) fn probe(a: &[f64]) -> [f64; 3] {
    let cosines = a.iter().enumerate().map(|(i, v)| v * (0.7 * i as f64 + 0.3).cos());
    [a.iter().sum(), a.iter().map(|v| v * v).sum::<f64>().sqrt(), cosines.sum()]
}

/// Compares all arrays below `prefix` with the rows of a probe (names in ascending byte order).
pub(crate) fn close_probe(
    case: &str,
    ours: &Named,
    theirs: &[f64],
    mut names: Vec<&String>,
    bound: f64,
) {
    names.sort();
    assert_eq!(names.len() * 3, theirs.len(), "{case}: rows of the probe");
    for (name, row) in names.into_iter().zip(theirs.chunks(3)) {
        let a = &ours[name];
        let scale = row[1].max(1e-9) * (a.len() as f64).sqrt();
        for (got, expected) in probe(a).iter().zip(row) {
            let off = (got - expected).abs() / scale;
            assert!(off <= bound, "{case}: the probe of {name} is off by {off:e}");
        }
    }
}

fn config(case: &Value) -> String {
    let number = |key: &str| case[key].as_u64().expect("a number");
    let (channels, cells) = (number("channels"), number("cells"));
    let auxiliary = if case["auxiliary"] == true { 0.4 } else { 0.0 };
    let mut text = format!(
        r#"version = 1
name = "n"
seeds = [0]
[[task]]
name = "t"
dataset = {{ plugin = "digits" }}
search-space = {{ plugin = "darts", options = {{ channels = {channels}, cells = {cells} }} }}
[evaluate]
plugin = "retrain"
options = {{ channels = {channels}, cells = {cells}, auxiliary-weight = {auxiliary:?} }}
"#
    );
    if case["factor"].is_u64() {
        text.push_str("[[method]]\nname = \"partial\"\npreset = \"pc-darts\"\n");
        text.push_str(&partial_channels(case));
    }
    for method in ["darts-1st", "darts-2nd"] {
        let _ = writeln!(text, "[[method]]\nname = \"{method}\"\npreset = \"{method}\"");
    }
    text
}

/// The transform of a case with partial channels.
pub(crate) fn partial_channels(case: &Value) -> String {
    let Some(factor) = case["factor"].as_u64() else { return String::new() };
    format!(
        "transforms = [{{ plugin = \"partial-channels\", options = {{ factor = {factor} }} }}]\n"
    )
}

/// Weights of a case that are not stored: names and shapes from `--init`, values by the rule.
fn fill_weights(here: &Path, case: &Value, extra: &[&str]) {
    let mut arguments = vec!["network", "eval", "c.toml", "--init", "w.safetensors"];
    let input = fixture(&format!("network/{}.input.npz", case["name"].as_str().expect("a name")));
    let input = input.display().to_string();
    arguments.extend(["--input", &input]);
    arguments.extend(extra);
    tetlo_in(here, &arguments).code(0);
    let seed = case["seed"].as_u64().expect("a seed");
    let path = here.join("w.safetensors");
    let tensors: HashMap<String, Tensor> = safetensors(&path)
        .into_iter()
        .map(|(name, t)| (name.clone(), filled(&name, t.dims(), seed)))
        .collect();
    candle_core::safetensors::save(&tensors, path).expect("written");
}

#[test]
fn evaluations_equal_pytorch() {
    let first = filled("x", &[3], 0);
    // `x` has one dimension here, so its bounds are ±0.5; the fixtures' own example is ±1.5.
    let first: Vec<f64> = values(&first).iter().map(|v| v * 3.0).collect();
    for (got, expected) in first.iter().zip([0.925_580_26, 0.429_970_8, 0.984_328_15]) {
        assert!((got - expected).abs() < 1e-6, "{first:?}");
    }
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let genotype = fixture("network/darts_v2.genotype.json").display().to_string();
    for case in index("index.json") {
        let name = case["name"].as_str().expect("a name");
        std::fs::write(here.join("c.toml"), config(&case)).expect("written");
        let extra = if case["kind"] == "derived" { vec!["--genotype", &genotype] } else { vec![] };
        let weights = if case["stored"] == true {
            fixture(&format!("network/{name}.safetensors")).display().to_string()
        } else {
            fill_weights(here, &case, &extra);
            "w.safetensors".to_owned()
        };
        let input = fixture(&format!("network/{name}.input.npz")).display().to_string();
        let mut arguments = vec![
            "network",
            "eval",
            "c.toml",
            "--grad",
            "--weights",
            &weights,
            "--input",
            &input,
            "--output",
            "o.npz",
        ];
        arguments.extend(&extra);
        tetlo_in(here, &arguments).code(0);
        let ours = produced(&here.join("o.npz"));
        let theirs = expected(&format!("{name}.output.safetensors"));
        let mut compared = 0;
        for array in theirs.keys().filter(|k| !k.starts_with("probe/")) {
            if array.ends_with("num_batches_tracked") {
                continue;
            }
            close(name, &ours, &theirs, array, 1e-4);
            compared += 1;
        }
        assert!(compared > 50, "{name}: {compared}");
        if let Some(rows) = theirs.get("probe/grad") {
            let names: Vec<&String> = ours.keys().filter(|k| k.starts_with("grad/")).collect();
            close_probe(name, &ours, rows, names, 1e-4);
        }
        if let Some(rows) = theirs.get("probe/buffer") {
            let names: Vec<&String> = ours.keys().filter(|k| k.starts_with("buffer/")).collect();
            close_probe(name, &ours, rows, names, 1e-4);
        }
    }
}

#[test]
fn search_steps_equal_pytorch() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let weights = fixture("network/step.safetensors").display().to_string();
    for case in index("step_index.json") {
        let name = case["name"].as_str().expect("a name");
        std::fs::write(here.join("c.toml"), config(&case)).expect("written");
        let input = fixture(&format!("network/{name}.input.npz")).display().to_string();
        for (order, method) in [("1", "darts-1st"), ("2", "darts-2nd")] {
            let arguments = [
                "network",
                "step",
                "c.toml",
                "--method",
                method,
                "--weights",
                &weights,
                "--input",
                &input,
                "--output",
                "o.npz",
            ];
            tetlo_in(here, &arguments).code(0);
            let ours = produced(&here.join("o.npz"));
            let theirs = expected(&format!("{name}.order{order}.output.safetensors"));
            let label = format!("{name}, order {order}");
            let mut compared = 0;
            for array in theirs.keys() {
                if array.starts_with("arch_grad/") || array.starts_with("after/") {
                    close(&label, &ours, &theirs, array, 2e-4);
                    compared += 1;
                }
            }
            assert!(compared > 50, "{label}: {compared}");
        }
    }
}

/// Each instruction set of the machine: the numbers of the default within rounding, and the same bytes
/// on any number of threads.
#[test]
fn search_steps_on_every_instruction_set() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let weights = fixture("network/step.safetensors").display().to_string();
    let case = &index("step_index.json")[0];
    std::fs::write(here.join("c.toml"), config(case)).expect("written");
    let input = fixture("network/step.input.npz").display().to_string();
    let step = |simd: &str, threads: &str| {
        let method = ["network", "step", "c.toml", "--method", "darts-2nd"];
        let files = ["--weights", &weights, "--input", &input, "--output", "o.npz"];
        let mut command = command(here, &[&method[..], &files[..]].concat());
        command.env("TETLO_SIMD", simd).env("TETLO_THREADS", threads);
        let output = command.output().expect("the binary starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let file = npz::read(&here.join("o.npz")).expect("an npz");
        let named: Named = file.iter().map(|(k, t)| (k.clone(), values(t))).collect();
        named
    };
    let paths = tetlo_kernels::simd_paths();
    assert!(paths.contains(&"portable"));
    let fastest = step(paths[0], "1");
    for simd in paths {
        let one = step(simd, "1");
        assert_eq!(one, step(simd, "2"), "{simd}: 1 and 2 threads");
        for name in one.keys().filter(|n| n.starts_with("arch_grad/") || n.starts_with("after/")) {
            close(simd, &one, &fastest, name, 2e-4);
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let case = &index("step_index.json")[0];
    std::fs::write(here.join("c.toml"), config(case)).expect("written");
    let empty: HashMap<String, Tensor> =
        HashMap::from([("classifier.weight".to_owned(), filled("x", &[10, 8], 0))]);
    candle_core::safetensors::save(&empty, here.join("w.safetensors")).expect("written");
    let input = fixture("network/step.input.npz").display().to_string();
    let step = |weights: &str, input: &str| {
        let arguments = [
            "network",
            "step",
            "c.toml",
            "--weights",
            weights,
            "--input",
            input,
            "--output",
            "o.npz",
        ];
        tetlo_in(here, &arguments).code(2).err()
    };
    assert!(step("w.safetensors", &input).contains("`stem.0.weight` is missing"));
    assert!(step("none.safetensors", &input).contains("none.safetensors"));
    std::fs::write(here.join("bad.npz"), b"not an npz").expect("written");
    assert!(step("w.safetensors", "bad.npz").contains("bad.npz"));
    assert!(!here.join("o.npz").exists());
}
