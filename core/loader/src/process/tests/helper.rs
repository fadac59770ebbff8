//! The Python helper: its own tests, and scripts written with it. They need NumPy.

use super::{draws, embeddings, factory, loss, script, value_of};
use crate::process::manifests;
use candle_core::{Device, Tensor, Var};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::Command;
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{Progress, Regularizer, Seen, Stop, StopRule, Trace, TransferBatch};
use tetlo_core::registry::Factory;

/// Does the `python3` of PATH have this module? If not, says that the test skips.
fn has(module: &str) -> bool {
    let found = Command::new("python3").args(["-c", &format!("import {module}")]).output();
    let has = found.is_ok_and(|output| output.status.success());
    if !has {
        let line = format!("skipped: the python3 of PATH has no {module}\n");
        // Written to the stream itself: the harness would hide a print.
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    has
}

/// Runs a script that imports the helper from beside it; its standard output.
fn run(text: &str, arguments: &[&str]) -> String {
    let (folder, command) = script(text, "");
    std::fs::write(folder.path().join("tetlo_plugin.py"), tetlo_plugin::PYTHON).unwrap();
    let file = &command.program_and_arguments[1];
    let output = Command::new("python3").arg(file).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_helper_passes_its_own_tests() {
    if has("numpy") {
        let said = run(include_str!("helper_test.py"), &[]);
        assert!(said.ends_with("all passed\n"), "{said}");
    }
}

#[test]
fn the_helper_draws_our_numbers() {
    if !has("numpy") {
        return;
    }
    let text = r"
import json, sys
import tetlo_plugin as tetlo
for state in json.loads(sys.argv[1]):
    s = tetlo.Stream(state)
    print(json.dumps([[s.next_u32() for _ in range(3)], [s.next_u64() for _ in range(2)],
                      [s.uniform() for _ in range(5)], [s.below(n) for n in (1, 7, 3_000_000_000)],
                      [s.below(3_000_000_000) for _ in range(3000)], s.permutation(50), s.normal()]))
";
    let mut used = draws();
    used.below(5);
    let mut wrapping = draws().state();
    wrapping[2] = u32::MAX - 1;
    let said = run(text, &[&json!([draws().state(), used.state(), wrapping]).to_string()]);
    let lines: Vec<Value> = said.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for (mut s, line) in [draws(), used].into_iter().zip(&lines) {
        let expected = json!([
            (0..3).map(|_| s.next_u32()).collect::<Vec<_>>(),
            (0..2).map(|_| s.next_u64()).collect::<Vec<_>>(),
            (0..5).map(|_| s.uniform()).collect::<Vec<_>>(),
            ([1, 7, 3_000_000_000].map(|n| s.below(n))),
            (0..3000).map(|_| s.below(3_000_000_000)).collect::<Vec<_>>(),
            s.permutation(50),
            s.normal()
        ]);
        assert_eq!(line, &expected);
    }
    assert_ne!(lines[2], lines[0]);
}

const LOSS: &str = r#"
import numpy as np
import tetlo_plugin as tetlo

print("imported")

@tetlo.transfer_loss("gap", summary="squared gap of the means", version="0.2.0", invariances=["order"],
                     options={"scale": tetlo.number(1.0, above=0, about="Factor of the loss."),
                              "mode": tetlo.choice("good", ["good", "raise", "shape", "none"])})
def gap(batch, options):
    print("called")
    if options["mode"] == "raise":
        raise ValueError("no gap\ntoday")
    if options["mode"] == "none":
        return 1.0, {"main": None}
    gap = batch.main.mean() - batch.aux.mean()
    slope = 2 * options["scale"] * gap
    main = np.full(batch.main.shape, slope / batch.main.size)
    aux = np.full(batch.aux.shape, -slope / batch.aux.size)
    return options["scale"] * gap**2, {"main": main, "aux": aux.T if options["mode"] == "shape" else aux}

@tetlo.regularizer("decay", summary="half of the squares")
def decay(alphas, progress, options):
    factor = progress.fraction
    return factor * sum((a**2).sum() for a in alphas) / 2, [factor * a for a in alphas]

@tetlo.stop_rule("late", summary="stops", options={"epoch": tetlo.integer(2, minimum=1)})
def late(trace, options):
    if len(trace["genotype_per_epoch"]) > options["epoch"]:
        return np.int64(options["epoch"]), 0

if __name__ == "__main__":
    tetlo.serve()
"#;

#[test]
fn a_script_with_numpy_is_a_plugin() {
    if !has("numpy") {
        return;
    }
    let (_folder, command) = script(LOSS, "");
    let (list, built_with) = manifests(&command).unwrap();
    assert_eq!(list.len(), 3);
    assert_eq!((list[0].name.as_str(), list[0].version.as_str()), ("gap", "0.2.0"));
    assert!(built_with.starts_with("Python 3.") && built_with.contains("NumPy "), "{built_with}");
    let loss = loss(&command, "gap");
    let (main, aux) = embeddings();
    let value = value_of(&*loss, &main, &aux).unwrap();
    let gap = 2.75 / 6.0 - 5.5;
    assert!((f64::from(value.to_scalar::<f32>().unwrap()) - gap * gap).abs() < 1e-5);
    let gradients = value.backward().unwrap();
    let of_main: Vec<f32> = gradients.get(&main).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert!(of_main.iter().all(|g| (f64::from(*g) - gap / 3.0).abs() < 1e-5), "{of_main:?}");
    let of_aux: Vec<f32> = gradients.get(&aux).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert!(of_aux.iter().all(|g| (f64::from(*g) + gap / 6.0).abs() < 1e-5), "{of_aux:?}");
}

#[test]
fn mistakes_in_a_script_are_told_with_their_line() {
    if !has("numpy") {
        return;
    }
    let (_folder, command) = script(LOSS, "");
    let made = factory(&command, "transfer-loss", "gap");
    for (mode, text) in [
        ("raise", "ValueError: no gap today (peer.py, line 13)"),
        ("shape", "the gradient in `aux` has shape (4, 3), `aux` (3, 4)"),
        ("none", "no gradient in `aux` (None says that it is zero)"),
    ] {
        let loss: Box<dyn tetlo_core::kinds::TransferLoss> =
            made.build(&json!({"mode": mode})).unwrap();
        let (main, aux) = embeddings();
        let text = format!("plugin `gap`: {text}");
        for _ in 0..2 {
            assert_eq!(value_of(&*loss, &main, &aux).unwrap_err().to_string(), text);
        }
    }
}

#[test]
fn rules_and_regularisers_in_a_script() {
    if !has("numpy") {
        return;
    }
    let (_folder, command) = script(LOSS, "");
    let plugin: Box<dyn Regularizer> =
        factory(&command, "regularizer", "decay").build(&json!({})).unwrap();
    let alphas = [[[1f32, 2.0]], [[3.0, 4.0]]].map(|a| Var::new(&a, &Device::Cpu).unwrap());
    let tensors = alphas.each_ref().map(|a| a.as_tensor().clone());
    let progress = Progress { epoch: 2, epochs: 5, step: 30 };
    let value = plugin.penalty(&tensors, progress).unwrap();
    assert!((value.to_scalar::<f32>().unwrap() - 7.5).abs() < 1e-6);
    let gradients = value.backward().unwrap();
    let second: Vec<Vec<f32>> = gradients.get(&alphas[1]).unwrap().to_vec2().unwrap();
    assert_eq!(second, [[1.5, 2.0]]);

    let plugin: Box<dyn StopRule> =
        factory(&command, "stop-rule", "late").build(&json!({})).unwrap();
    let stop = |epochs| {
        let genotypes = vec![Genotype::parse("|none~0|").unwrap(); epochs];
        plugin.stop(&Trace { genotypes, epochs: 9, ..Trace::default() }).unwrap()
    };
    assert_eq!(stop(2), None);
    assert_eq!(stop(3), Some(Stop { stop_epoch: 2, return_epoch: 0 }));
}

#[test]
fn a_script_with_pytorch_is_a_plugin() {
    if !has("numpy") || !has("torch") {
        return;
    }
    let text = r#"
import tetlo_plugin as tetlo

@tetlo.transfer_loss("kd", summary="cross entropy of logits, and of maps", needs=["logits", "maps", "labels"],
                     dtypes=["f32", "f64"], autograd="torch")
def kd(batch, options):
    p = batch.main_logits.softmax(1)
    maps = sum(((a - b) ** 2).mean() for a, b in zip(batch.main_maps, batch.aux_maps))
    chosen = batch.aux_logits[range(batch.n), batch.labels].sum()
    return -(p * batch.aux_logits.log_softmax(1)).sum(1).mean() + maps + 0.5 * chosen

@tetlo.regularizer("torch-decay", summary="half of the squares", autograd="torch")
def torch_decay(alphas, progress, options):
    return sum((a**2).sum() for a in alphas) / 2

tetlo.serve()
"#;
    let (_folder, command) = script(text, "");
    let loss = loss(&command, "kd");
    let device = Device::Cpu;
    let logits = [[0f64, 1.0, 2.0], [1.0, 0.5, -1.0]];
    let variable = |t: &Tensor| Var::from_tensor(t).unwrap();
    let main_logits = variable(&Tensor::new(&logits, &device).unwrap());
    let aux_logits = variable(&Tensor::zeros((2, 3), candle_core::DType::F64, &device).unwrap());
    let map = Tensor::arange(0f64, 16.0, &device).unwrap().reshape((2, 2, 2, 2)).unwrap();
    let (main_map, aux_map) = (variable(&map), variable(&(&map * 0.0).unwrap()));
    let mut main = Seen::logits(main_logits.as_tensor().clone());
    main.maps = vec![main_map.as_tensor().clone()];
    let mut aux = Seen::logits(aux_logits.as_tensor().clone());
    aux.maps = vec![aux_map.as_tensor().clone()];
    let batch = TransferBatch::new(main, aux, draws()).unwrap().with_labels(Some(&[2, 0]));
    let value = loss.loss(&batch).unwrap();
    // ln 3 of equal scores, and the mean of the squares of 0 to 15.
    let squares: f64 = (0..16).map(|i| f64::from(i * i)).sum::<f64>() / 16.0;
    let expected = 3f64.ln() + squares;
    assert!((value.to_scalar::<f64>().unwrap() - expected).abs() < 1e-12);
    let gradients = value.backward().unwrap();
    let of_aux: Vec<Vec<f64>> = gradients.get(&aux_logits).unwrap().to_vec2().unwrap();
    for (i, row) in logits.iter().enumerate() {
        let sum: f64 = row.iter().map(|l| l.exp()).sum();
        for (c, logit) in row.iter().enumerate() {
            let label = if (i, c) == (0, 2) || (i, c) == (1, 0) { 0.5 } else { 0.0 };
            let expected = (1.0 / 3.0 - logit.exp() / sum) / 2.0 + label;
            assert!((of_aux[i][c] - expected).abs() < 1e-12, "{of_aux:?}");
        }
    }
    // Equal scores of the auxiliary model leave nothing to the main model's logits.
    let of_main = gradients.get(&main_logits).unwrap().abs().unwrap().max_all().unwrap();
    assert!(of_main.to_scalar::<f64>().unwrap() < 1e-12);
    let of_map: Vec<f64> =
        gradients.get(&main_map).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert!((of_map[5] - 10.0 / 16.0).abs() < 1e-12, "{of_map:?}");

    let plugin: Box<dyn Regularizer> =
        factory(&command, "regularizer", "torch-decay").build(&json!({})).unwrap();
    let alpha = Var::new(&[[1f64, 2.0]], &device).unwrap();
    let progress = Progress { epoch: 0, epochs: 1, step: 0 };
    let value = plugin.penalty(&[alpha.as_tensor().clone()], progress).unwrap();
    let gradient: Vec<Vec<f64>> = value.backward().unwrap().get(&alpha).unwrap().to_vec2().unwrap();
    assert_eq!(gradient, [[1.0, 2.0]]);
}

#[test]
fn what_lies_beside_the_script_is_not_there_as_in_a_trial() {
    let (folder, command) = script("import tetlo_plugin, beside", "");
    std::fs::write(folder.path().join("beside.py"), "").unwrap();
    std::fs::write(folder.path().join("tetlo_plugin.py"), "raise SystemExit('an own one')")
        .unwrap();
    let error = manifests(&command).unwrap_err().to_string();
    assert!(error.contains("No module named 'beside'"), "{error}");
}
