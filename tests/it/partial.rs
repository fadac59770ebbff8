//! Partial channels and edge normalisation (PC-DARTS), alone and under TETLO.

use crate::tetlo::{TINY, command, tetlo_in};
use candle_core::{Device, Tensor};
use serde_json::Value;
use tetlo_engine::npz;

/// PC-DARTS on the tiny comparison, as it is and with TETLO in place of its optimizer.
fn methods() -> String {
    let head = TINY.split("[[method]]").next().expect("a head");
    let small = "search = { batch-size = 64, epochs = 2 }";
    format!(
        "{head}[[method]]\nname = \"pc\"\npreset = \"pc-darts\"\n\
         optimizer = {{ plugin = \"darts\", options = {{ order = 1, warmup-epochs = 1 }} }}\n{small}\n\
         [[method]]\nname = \"tetlo-pc\"\npreset = \"pc-darts\"\noptimizer = {{ plugin = \"tetlo\" }}\n\
         transfer-loss = {{ plugin = \"qrs\" }}\n\
         auxiliary = {{ plugin = \"resnet\", options = {{ depth = 8 }} }}\n{small}\n\
         regularizers = [{{ plugin = \"beta-decay\" }}]\n\
         [evaluate]\nplugin = \"retrain\"\noptions = {{ epochs = 1, channels = 4, cells = 3, \
         auxiliary-weight = 0.0, \
         cutout = 0 }}\n"
    )
}

#[test]
fn searches_train_both_parameters_the_same_on_any_number_of_threads() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    std::fs::write(here.join("c.toml"), methods()).expect("written");
    tetlo_in(here, &["config", "check", "c.toml"]).code(0);
    for method in ["pc", "tetlo-pc"] {
        let search = |threads: &str, out: &str| {
            let arguments = ["search", "c.toml", "--method", method, "--out", out];
            let mut command = command(here, &arguments);
            let output = command.env("TETLO_THREADS", threads).output().expect("it starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let history = npz::read(&here.join(out).join("alpha.npz")).expect("a history");
            let numbers = |(name, t): (&String, &Tensor)| {
                (
                    name.clone(),
                    t.dims().to_vec(),
                    t.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                )
            };
            history.iter().map(|(name, t)| numbers((name, t))).collect::<Vec<_>>()
        };
        let one = search("1", &format!("{method}-1"));
        let shapes: Vec<_> = one.iter().map(|(n, shape, _)| (n.as_str(), shape.clone())).collect();
        for (name, shape) in [
            ("alphas_normal", vec![2, 14, 8]),
            ("alphas_reduce", vec![2, 14, 8]),
            ("betas_normal", vec![2, 14]),
            ("betas_reduce", vec![2, 14]),
        ] {
            assert!(shapes.contains(&(name, shape)), "{shapes:?}");
        }
        // Frozen in the first epoch of `pc`, trained in the second: compare the two epochs.
        for (name, _, values) in &one {
            let (first, second) = values.split_at(values.len() / 2);
            assert!(first.iter().zip(second).all(|(a, b)| a.to_bits() != b.to_bits()), "{name}");
        }
        assert_eq!(search("2", &format!("{method}-2")), one, "{method}: 1 and 2 threads");
    }
}

#[test]
fn channels_that_do_not_divide_are_refused() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let wrong = methods().replacen("channels = 4", "channels = 6", 1);
    std::fs::write(here.join("c.toml"), wrong).expect("written");
    let error = tetlo_in(here, &["config", "check", "c.toml"]).code(2).err();
    assert!(error.contains("`factor = 4`") && error.contains("6 channels"), "{error}");
}

#[test]
fn selections_read_betas() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    // Two genotypes: α alike; β leaves the choice alone in the first, and takes the last edge into
    // each node in the second.
    let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu);
    let alphas = zeros(&[2, 14, 8]).expect("a tensor");
    let last = [1usize, 4, 8, 13];
    let betas: Vec<f32> =
        (0..28).map(|i| if i >= 14 && last.contains(&(i - 14)) { 2.0 } else { 0.0 }).collect();
    let betas = Tensor::from_vec(betas, (2, 14), &Device::Cpu).expect("a tensor");
    let arrays = ["alphas_normal", "alphas_reduce"].map(|n| (n.to_owned(), alphas.clone()));
    let weights = ["betas_normal", "betas_reduce"].map(|n| (n.to_owned(), betas.clone()));
    let bytes = npz::to_bytes(&[arrays, weights].concat()).expect("an npz");
    std::fs::write(here.join("i.npz"), bytes).expect("written");
    let eval = ["plugins", "eval", "darts-top2", "--input", "i.npz", "--output", "o.jsonl"];
    tetlo_in(here, &eval).code(0);
    let text = std::fs::read_to_string(here.join("o.jsonl")).expect("genotypes");
    let sources = |line: &str| {
        let genotype: Value = serde_json::from_str(line).expect("JSON");
        let edges = genotype["normal"].as_array().expect("edges").clone();
        edges.iter().map(|e| e[1].as_u64().expect("a state")).collect::<Vec<_>>()
    };
    let found: Vec<_> = text.lines().map(sources).collect();
    assert_eq!(found, [vec![0, 1, 0, 1, 0, 1, 0, 1], vec![1, 0, 2, 0, 3, 0, 4, 0]]);
}

#[test]
fn what_would_train_nothing_is_said() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let frozen = methods().replace("warmup-epochs = 1 }", "warmup-epochs = 15 }");
    std::fs::write(here.join("c.toml"), frozen).expect("written");
    let said = tetlo_in(here, &["config", "check", "c.toml"]).code(0).out();
    assert!(
        said.contains("pc: `warmup-epochs = 15` leaves none of the search's 2 epochs"),
        "{said}"
    );
    let second = "[[method]]\nname = \"tetlo-pc\"";
    let twice = "{ plugin = \"partial-channels\", options = { factor = 2 } }";
    let text = methods().replace(second, &format!("transforms = [{twice}, {twice}]\n{second}"));
    std::fs::write(here.join("c.toml"), text).expect("written");
    let error = tetlo_in(here, &["config", "check", "c.toml"]).code(2).err();
    assert!(error.contains("a method takes one transform"), "{error}");
}
