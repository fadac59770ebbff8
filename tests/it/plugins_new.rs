//! `plugins new`: every kind in every language is written, built and tested as its README says; and
//! crates outside the repository with a tetlo of their own.
#![expect(clippy::print_stderr, reason = "says what is skipped")]

use crate::qrs_again::equals_the_built_in;
use crate::tetlo::{Ran, TINY, root, tetlo_in};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What can be written: the folder, and the arguments.
const FORMS: [(&str, &[&str]); 13] = [
    ("own-loss", &["transfer-loss"]),
    ("candle-loss", &["transfer-loss", "--lang", "rust", "--candle"]),
    ("loss-in-c", &["transfer-loss", "--lang", "c"]),
    ("loss-in-python", &["transfer-loss", "--lang", "python"]),
    ("loss-in-torch", &["transfer-loss", "--lang", "python", "--torch"]),
    ("own-regularizer", &["regularizer"]),
    ("own-rule", &["stop-rule"]),
    ("own-selection", &["selection"]),
    ("own-operation", &["operation"]),
    ("own-optimizer", &["optimizer"]),
    ("stripes", &["dataset"]),
    ("own-space", &["search-space"]),
    // The name that templates have.
    ("my-loss", &["transfer-loss", "--lang", "c"]),
];

/// Those of them that are crates.
const CRATES: [&str; 8] = [
    "own-loss",
    "candle-loss",
    "own-regularizer",
    "own-rule",
    "own-selection",
    "own-operation",
    "own-optimizer",
    "stripes",
];

/// Crates in which `qrs` is written again.
const QRS: [&str; 2] = ["qrs-rust", "qrs-candle"];

/// Writes the folder of this name.
fn write(here: &Path, name: &str) -> PathBuf {
    let (_, arguments) = FORMS.iter().find(|(form, _)| *form == name).expect("a form");
    let all = [&["plugins", "new", arguments[0], name], &arguments[1..]].concat();
    let told = tetlo_in(here, &all).code(0).out();
    assert!(told.contains("compare.toml") && told.contains(&format!("cd {name}")), "{told}");
    here.join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn folders_are_complete() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    for (name, _) in FORMS {
        let folder = write(here, name);
        for file in ["README.md", "compare.toml", ".gitignore", ".github/workflows/ci.yml"] {
            assert!(folder.join(file).is_file(), "{name} has no {file}");
        }
        for path in files(&folder) {
            let text = read(&path);
            let left = ["@", "my-plugin", "my_plugin", "MyPlugin", "MyLoss"]
                .into_iter()
                .filter(|mark| text.contains(*mark))
                .filter(|mark| *mark != "@" || text.contains("@P") || text.contains("@K"));
            assert_eq!(left.collect::<Vec<_>>(), [""; 0], "{}", path.display());
            assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{}", path.display());
        }
    }
    // The author's file of a loss is short.
    for file in [
        "own-loss/src/own_loss.rs",
        "candle-loss/src/candle_loss.rs",
        "loss-in-c/loss_in_c.c",
        "loss-in-python/loss_in_python.py",
        "loss-in-torch/loss_in_torch.py",
    ] {
        let text = read(&here.join(file));
        let comment = |line: &&str| {
            ["", "//", "/*", "#"].contains(line)
                || ["//", "/*", "# "].iter().any(|c| line.starts_with(c))
        };
        let lines = text.lines().map(str::trim).filter(|line| !comment(line)).count();
        assert!(lines <= 30, "{file} has {lines} lines");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    std::fs::create_dir(here.join("taken")).expect("a folder");
    for (arguments, part) in [
        (&["transfer-loss", "taken"][..], "is here already"),
        (&["transfer-loss", "qrs"], "taken by tetlo-plugins (transfer-loss)"),
        (&["transfer-loss", "My-Loss"], "lower-case words"),
        (&["transfer-loss", "../x"], "lower-case words"),
        (&["transfer-loss", "3d"], "lower-case words"),
        (&["transfer-loss", "lambda"], "take two words"),
        (&["transfer-loss", "serde"], "take two words"),
        (&["operation", "sep_conv_3x3"], "taken by tetlo-search-spaces (operation)"),
        (&["regularizer", "r", "--lang", "c"], "written in rust; c and python are for a transfer"),
        (&["search-space", "s", "--lang", "rust"], "a page of TOML"),
        (&["transfer-loss", "l", "--torch"], "`--lang python`"),
        (&["dataset", "d", "--candle"], "`--candle` goes with"),
        (&["transfer-loss", "l", "--tetlo", "taken"], "does not hold tetlo's source"),
        (&["relaxation", "r"], "possible values"),
    ] {
        let error = tetlo_in(here, &[&["plugins", "new"], arguments].concat()).code(2).err();
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    assert_eq!(std::fs::read_dir(here).expect("a folder").count(), 1, "nothing is written");
}

/// Runs a program of the system; `None` where it is not there.
fn system(folder: &Path, program: &str, arguments: &[&str]) -> Option<String> {
    let ran = Command::new(program).args(arguments).current_dir(folder).output().ok()?;
    Some(Ran(ran).code(0).out())
}

/// The comparison of a folder: two methods, a trial each.
fn compares(folder: &Path, name: &str) {
    compares_with(Path::new(env!("CARGO_BIN_EXE_tetlo-under-test")), folder, name);
}

/// The same with another tetlo.
fn compares_with(tetlo: &Path, folder: &Path, name: &str) {
    let compare = ["compare", "compare.toml", "--no-progress"];
    system(folder, &tetlo.display().to_string(), &compare).expect("the binary");
    let summary = read(&folder.join(format!("runs/{name}/summary.json")));
    let summary: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
    let done: Vec<_> = summary["methods"].as_array().into_iter().flatten().collect();
    assert!(done.len() == 2 && done.iter().all(|m| m["n"] == 1), "{summary}");
}

#[test]
fn a_loss_in_c_is_made_checked_and_compared() {
    let directory = tempfile::tempdir().expect("a folder");
    for name in ["loss-in-c", "my-loss"] {
        let folder = write(directory.path(), name);
        if system(&folder, "make", &[]).is_none() {
            eprintln!("skipped: no `make`");
            return;
        }
        let tested = system(&folder, "make", &["test"]).expect("make");
        assert!(tested.contains("largest error"), "{tested}");
    }
    let folder = directory.path().join("loss-in-c");
    tetlo_in(&folder, &["plugins", "check", "./libloss_in_c.so"]).code(0);
    compares(&folder, "loss-in-c");
}

#[test]
fn a_loss_in_python_is_checked_and_compared() {
    let directory = tempfile::tempdir().expect("a folder");
    for (name, module) in [("loss-in-python", "numpy"), ("loss-in-torch", "torch")] {
        let import = Command::new("python3").args(["-c", &format!("import {module}")]).output();
        if !import.is_ok_and(|o| o.status.success()) {
            eprintln!("skipped: `python3` has no {module}");
            continue;
        }
        let folder = write(directory.path(), name);
        let file = format!("{}.py", name.replace('-', "_"));
        system(&folder, "python3", &[&format!("test_{file}")]).expect("python3");
        tetlo_in(&folder, &["plugins", "check", &file]).code(0);
        compares(&folder, name);
    }
}

#[test]
fn a_page_is_checked_and_compared() {
    let directory = tempfile::tempdir().expect("a folder");
    let folder = write(directory.path(), "own-space");
    tetlo_in(&folder, &["plugins", "check", "own-space.toml"]).code(0);
    compares(&folder, "own-space");
}

/// A workspace of all crates that `plugins new` writes and of a crate with the sources of this very
/// package, as a researcher's: outside the repository, with tetlo's crates by path.
fn workspace(here: &Path) {
    for name in CRATES {
        write(here, name);
    }
    // `qrs` again, in plain Rust and by the built-in's own source, as shared libraries.
    for name in QRS {
        let (from, to) = (root().join("tests/plugins").join(name), here.join(name));
        for file in files(&from) {
            let copy = to.join(file.strip_prefix(&from).expect("below the folder"));
            std::fs::create_dir_all(copy.parent().expect("a folder")).expect("made");
            let text = read(&file).replace("TETLO", &root().display().to_string());
            std::fs::write(copy, text).expect("written");
        }
    }
    let own = here.join("researcher");
    std::fs::create_dir_all(own.join("src")).expect("a folder");
    let sources = root().join("tests/src");
    for file in ["lib.rs", "operation.rs"] {
        std::fs::copy(sources.join(file), own.join("src").join(file)).expect("copied");
    }
    let main = read(&sources.join("bin/tetlo-under-test.rs")).replace("tetlo_tests", "researcher");
    std::fs::write(own.join("src/main.rs"), main).expect("written");
    let path = |folder: &str| format!("{{ path = \"{}\" }}", root().join(folder).display());
    let manifest = format!(
        "[package]\nname = \"researcher\"\nversion = \"0.2.0\"\nedition = \"2024\"\n\n\
         [dependencies]\ncandle-core = \"0.11.1\"\ncandle-nn = \"0.11.1\"\nschemars = \"1.2\"\n\
         serde = \"1.0\"\ntetlo = {}\ntetlo-core = {}\ntetlo-plugins = {}\n\
         tetlo-search-spaces = {}\n",
        path("cli"),
        path("core"),
        path("plugins"),
        path("search-spaces")
    );
    std::fs::write(own.join("Cargo.toml"), manifest).expect("written");
    // The repository's versions and settings, so that nothing of a registry is built again.
    let manifest = read(&root().join("Cargo.toml"));
    let profiles = manifest.find("[profile.dev]").expect("profiles");
    let packages =
        ["core", "engine", "loader", "plugin", "plugins", "search-spaces", "test-support"];
    let quickly = |package: String| format!("[profile.dev.package.{package}]\nopt-level = 0\n");
    let own = packages.map(|p| quickly(format!("tetlo-{p}"))).join("\n") + &quickly("tetlo".into());
    let text = format!(
        "[workspace]\nresolver = \"3\"\nmembers = [\"*\"]\n\n{}\n{own}",
        &manifest[profiles..]
    );
    std::fs::write(here.join("Cargo.toml"), text).expect("written");
    std::fs::copy(root().join("Cargo.lock"), here.join("Cargo.lock")).expect("copied");
}

/// Runs cargo on the workspace, in the target folder of this very test.
fn cargo(here: &Path, arguments: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let ran = Command::new(cargo)
        .args(arguments)
        .current_dir(here)
        .env("CARGO_TARGET_DIR", target())
        .output()
        .expect("cargo runs");
    let ran = Ran(ran).code(0);
    ran.out() + &ran.err()
}

/// The target folder that holds the tested binary.
fn target() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_tetlo-under-test"));
    binary.parent().and_then(Path::parent).expect("target/debug/tetlo-under-test").to_path_buf()
}

/// The library that a folder's `compare.toml` names, as it was built here.
fn use_built_library(folder: &Path) {
    let file = folder.join("compare.toml");
    let built = target().join("debug").display().to_string();
    let text = read(&file).replace("target/release", &built);
    assert!(text.contains(&built), "{text}");
    std::fs::write(&file, text).expect("written");
}

#[test]
fn crates_outside_the_repository_pass_their_tests_and_are_plugins() {
    // The same folder every time, so that the target folder does not grow.
    let mut hash = DefaultHasher::new();
    target().hash(&mut hash);
    let here = std::env::temp_dir().join(format!("tetlo-crates-{:016x}", hash.finish()));
    let here = here.as_path();
    let _ = std::fs::remove_dir_all(here);
    std::fs::create_dir(here).expect("a folder");
    workspace(here);
    let tested = cargo(here, &["test", "--offline", "--workspace", "--tests"]);
    assert_eq!(tested.matches("1 passed; 0 failed").count(), CRATES.len(), "{tested}");
    assert!(!tested.contains("warning"), "{tested}");
    cargo(here, &["build", "--offline", "--workspace"]);
    let clippy = ["clippy", "--offline", "--workspace", "--all-targets", "--", "-D", "warnings"];
    cargo(here, &clippy);
    for (name, kind) in [
        ("own-loss", "transfer-loss"),
        ("candle-loss", "transfer-loss"),
        ("own-regularizer", "regularizer"),
        ("own-rule", "stop-rule"),
        ("own-selection", "selection"),
    ] {
        let library = target().join(format!("debug/lib{}.so", name.replace('-', "_")));
        let library = library.display().to_string();
        let list = ["plugins", "list", "--library", &library, "--format", "json"];
        let list = tetlo_in(here, &list).code(0).json();
        let listed = (&list[0]["kind"], &list[0]["name"], &list[0]["tier"]);
        assert!(listed.0 == kind && listed.1 == name && listed.2 == "shared-library", "{list}");
        tetlo_in(here, &["plugins", "check", &library]).code(0);
        use_built_library(&here.join(name));
        compares(&here.join(name), name);
    }
    for (name, plugin) in [
        ("own-operation", "own_operation"),
        ("own-optimizer", "own-optimizer"),
        ("stripes", "stripes"),
    ] {
        let (folder, binary) = (here.join(name), target().join(format!("debug/{name}-tetlo")));
        let shown = system(&folder, &binary.display().to_string(), &["plugins", "show", plugin]);
        assert!(shown.is_some_and(|text| text.contains(&format!("from {name} 0.1.0"))), "{name}");
        compares_with(&binary, &folder, name);
    }
    for (krate, name) in QRS.into_iter().zip(["qrs-rust", "qrs"]) {
        let library = target().join(format!("debug/lib{}.so", krate.replace('-', "_")));
        equals_the_built_in(here, &library.display().to_string(), name);
    }
    // A panic in a library is an error of the host, which lives on.
    let library = target().join("debug/libqrs_rust.so").display().to_string();
    let eval = ["plugins", "eval", "panics", "--library", &library];
    let files = ["--input", "in.npz", "--output", "none.npz"];
    let error = tetlo_in(here, &[&eval[..], &files].concat()).code(1).err();
    assert!(error.contains("plugin `panics`: it panicked: range"), "{error}");
    // What cannot cross the border says so.
    let library = target().join("debug/libqrs_candle.so").display().to_string();
    let hint = ["plugins", "eval", "hint", "--library", &library];
    let error = tetlo_in(here, &[&hint[..], &files].concat()).code(2).err();
    assert!(error.contains("`hint` does not support being loaded: it has parameters"), "{error}");
    a_researchers_own_tetlo(&here.join("researcher"));
    std::fs::remove_dir_all(here).expect("removed");
}

/// The binary knows its own plugins beside the built-in ones, and searches with them.
fn a_researchers_own_tetlo(folder: &Path) {
    let binary = target().join("debug/researcher");
    let tetlo = |arguments: &[&str]| {
        system(folder, &binary.display().to_string(), arguments).expect("the binary")
    };
    let list: serde_json::Value =
        serde_json::from_str(&tetlo(&["plugins", "list", "--format", "json"])).expect("JSON");
    let version = |kind: &str, name: &str| {
        let mut list = list.as_array().into_iter().flatten();
        let found = list.find(|p| p["kind"] == kind && p["name"] == name);
        found.map(|p| (p["version"].clone(), p["tier"].clone()))
    };
    for (kind, name) in
        [("operation", "se_conv_3x3"), ("search-space", "gated"), ("transfer-loss", "mean-norm")]
    {
        assert_eq!(version(kind, name), Some(("0.2.0".into(), "linked".into())), "{name}");
    }
    assert!(version("transfer-loss", "qrs").is_some(), "a built-in");
    assert!(tetlo(&["plugins", "show", "gated"]).contains("from researcher 0.2.0"));
    let config = TINY.replace("plugin = \"darts\"", "plugin = \"gated\"").replace(
        "preset = \"tetlo\"",
        "preset = \"tetlo\"\ntransfer-loss = { plugin = \"mean-norm\" }",
    );
    std::fs::write(folder.join("t.toml"), config).expect("written");
    tetlo(&["search", "t.toml", "--method", "tetlo", "--out", "found", "--no-progress"]);
    let genotype = read(&folder.join("found/genotype.json"));
    assert!(genotype.contains("reduce_concat"), "{genotype}");
}

/// Templates are formatted as rustfmt does it without settings.
#[test]
fn sources_are_formatted() {
    let directory = tempfile::tempdir().expect("a folder");
    std::fs::write(directory.path().join("rustfmt.toml"), "edition = \"2024\"\n").expect("written");
    for (_, arguments) in FORMS.iter().filter(|(name, _)| CRATES.contains(name)) {
        let name = if arguments[0] == "transfer-loss" { "my-loss" } else { "my-plugin" };
        let here = directory.path().join(arguments.join(""));
        std::fs::create_dir(&here).expect("a folder");
        let all = [&["plugins", "new", arguments[0], name], &arguments[1..]].concat();
        tetlo_in(&here, &all).code(0);
        let sources = files(&here).into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs"));
        let sources: Vec<String> = sources.map(|path| path.display().to_string()).collect();
        let check = [vec!["--check"], sources.iter().map(String::as_str).collect()].concat();
        if system(&here, "rustfmt", &check).is_none() {
            eprintln!("skipped: no `rustfmt`");
        }
    }
}

/// Every example of the guide is what `plugins new` writes.
#[test]
fn the_guide_shows_what_is_written() {
    let directory = tempfile::tempdir().expect("a folder");
    let mut written = vec![];
    for (name, kind, flags) in [
        ("my-loss", "transfer-loss", &["--lang", "c"][..]),
        ("my-loss", "transfer-loss", &[]),
        ("my-loss", "transfer-loss", &["--candle"]),
        ("my-loss", "transfer-loss", &["--lang", "python"]),
        ("my-loss", "transfer-loss", &["--lang", "python", "--torch"]),
        // Its `main` is that of a crate called `my_loss`.
        ("my-loss", "dataset", &[]),
        ("my-space", "search-space", &[]),
    ] {
        let here = directory.path().join(written.len().to_string());
        std::fs::create_dir(&here).expect("a folder");
        tetlo_in(&here, &[&["plugins", "new", kind, name], flags].concat()).code(0);
        written.extend(files(&here).iter().map(|path| read(path)));
    }
    let guide = read(&root().join("docs/write-a-plugin.md"));
    let blocks: Vec<&str> = guide.split("```").skip(1).step_by(2).collect();
    let of_files = |block: &&&str| {
        let of_a_file = ["c\n", "rust\n", "python\n", "toml\n#"];
        of_a_file.iter().any(|start| block.starts_with(start))
    };
    let shown: Vec<&str> = blocks
        .iter()
        .filter(of_files)
        .map(|block| block.split_once('\n').map_or("", |(_, text)| text))
        .collect();
    assert_eq!(shown.len(), 7, "three files in Rust, two in Python, one in C, a page");
    for text in shown {
        assert!(written.iter().any(|file| file == text), "the guide shows another text:\n{text}");
    }
}
