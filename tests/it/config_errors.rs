//! Bad input: a clear error with file, line, caret and hint; exit 2; nothing written.

use crate::tetlo::{TINY, tetlo_in};
use std::path::Path;

/// Runs `compare` on `text` and expects a usage error that says all of `parts`; nothing is written.
fn refused(text: &[u8], arguments: &[&str], parts: &[&str]) {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    std::fs::write(here.join("c.toml"), text).expect("written");
    let mut all = vec!["compare", "c.toml"];
    all.extend(arguments);
    let ran = tetlo_in(here, &all).code(2);
    for part in parts {
        assert!(ran.err().contains(part), "expected `{part}` in:\n{}", ran.err());
    }
    assert!(ran.out().is_empty(), "{}", ran.out());
    assert_eq!(files(here), ["c.toml"], "nothing is written");
}

fn files(directory: &Path) -> Vec<String> {
    let mut list: Vec<String> = std::fs::read_dir(directory)
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    list.sort();
    list
}

/// The config with one piece of text replaced.
fn with(from: &str, to: &str) -> Vec<u8> {
    assert!(TINY.contains(from), "{from}");
    TINY.replacen(from, to, 1).into_bytes()
}

#[test]
fn keys_names_and_values() {
    refused(&with("epochs = 1", "epoch = 1"), &[], &["c.toml", "epoch = 1", "^", "epochs"]);
    refused(
        &with("preset = \"tetlo\"", "preset = \"tetol\""),
        &[],
        &["c.toml", "^", "did you mean `tetlo`"],
    );
    refused(
        &with("plugin = \"darts\"", "plugin = \"dart\""),
        &[],
        &["c.toml", "^", "did you mean `darts`"],
    );
    refused(
        &with("plugin = \"digits\"", "plugin = \"digit\""),
        &[],
        &["^", "did you mean `digits`"],
    );
    refused(
        &with("epochs = 1", "epochs = \"one\""),
        &[],
        &["epochs = \"one\"", "^", "invalid type"],
    );
    refused(&with("epochs = 1", "epochs = 0"), &[], &["c.toml", "^", "epochs"]);
    refused(&with("batch-size = 64", "batch-size = -3"), &[], &["c.toml", "^"]);
    refused(&with("channels = 4, cells", "chanels = 4, cells"), &[], &["c.toml", "chanels", "^"]);
    refused(&with("channels = 4, cells", "channels = 0, cells"), &[], &["c.toml", "channels", "^"]);
    refused(&with("seeds = [0]", "seeds = []"), &[], &["c.toml", "seeds", "^"]);
    refused(&with("seeds = [0]", "seeds = [3, 3]"), &[], &["c.toml", "3", "^"]);
    refused(&with("name = \"tetlo\"", "name = \"random\""), &[], &["c.toml", "random", "^"]);
    refused(&with("device = \"cpu\"", "device = \"gpu\""), &[], &["c.toml", "device", "^"]);
}

#[test]
fn files_that_are_no_config() {
    refused(b"", &[], &["c.toml"]);
    refused(&[0xff, 0xfe, 0, 1, 2, 3], &[], &["c.toml", "UTF-8"]);
    refused(b"version = 1\nname = ", &[], &["c.toml", "^"]);
    let directory = tempfile::tempdir().expect("a folder");
    let ran = tetlo_in(directory.path(), &["compare", "missing.toml"]).code(2);
    assert!(ran.err().contains("missing.toml"), "{}", ran.err());
}

#[test]
fn what_this_build_or_machine_lacks() {
    refused(
        TINY.as_bytes(),
        &["--device", "cuda:0"],
        &["--device", "cuda:0", "^", "CUDA", "hint:"],
    );
    refused(
        &with("device = \"cpu\"", "device = \"cuda:0\""),
        &[],
        &["c.toml:4:10", "cuda:0", "^", "hint:"],
    );
    refused(TINY.as_bytes(), &["--device", "tpu"], &["--device", "unknown device `tpu`", "^"]);
    refused(&with("cutout = 0", "cutout = 16"), &[], &["c.toml:", "cutout = 16", "8 × 8", "^"]);
    refused(&with("channels = 4, cells", "channels = 5000, cells"), &[], &["c.toml:", "4096", "^"]);
    let npz = "plugin = \"npz\", options = { path = \"none.npz\" }";
    refused(&with("plugin = \"digits\"", npz), &[], &["c.toml:8:", "none.npz", "^", "hint:"]);
    refused(TINY.as_bytes(), &["--set", "search.epoch=1"], &["--set", "epoch"]);
    refused(TINY.as_bytes(), &["--set", "epochs"], &["--set"]);
}

#[test]
fn truncated_data_and_foreign_directories() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    std::fs::write(here.join("train.bin"), vec![1u8; 3073 * 3 - 1]).expect("written");
    std::fs::write(here.join("test.bin"), vec![1u8; 3073]).expect("written");
    let cifar =
        "plugin = \"cifar10\", options = { train = [\"train.bin\"], test = [\"test.bin\"] }";
    std::fs::write(here.join("c.toml"), with("plugin = \"digits\"", cifar)).expect("written");
    let ran = tetlo_in(here, &["compare", "c.toml"]).code(2);
    assert!(ran.err().contains("train.bin"), "{}", ran.err());
    assert_eq!(files(here), ["c.toml", "test.bin", "train.bin"]);

    std::fs::create_dir(here.join("mine")).expect("made");
    std::fs::write(here.join("mine/thesis.txt"), "do not touch").expect("written");
    std::fs::write(here.join("t.toml"), TINY).expect("written");
    let ran = tetlo_in(here, &["compare", "t.toml", "--out", "mine"]).code(2);
    assert!(ran.err().contains("mine exists and is not a comparison"), "{}", ran.err());
    assert_eq!(files(&here.join("mine")), ["thesis.txt"]);
}
