//! The rules of ARCHITECTURE.md that a program can check.

use crate::tetlo::root;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's packages, with the workspace packages each depends on (not for its tests).
fn packages() -> BTreeMap<String, Vec<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let name = |v: &Value| v["name"].as_str().unwrap_or_default().to_owned();
    packages
        .iter()
        .map(|p| {
            let dependencies = p["dependencies"].as_array().expect("a list of dependencies");
            let normal =
                dependencies.iter().filter(|d| d["kind"].is_null() && !d["path"].is_null());
            (name(p), normal.map(name).collect())
        })
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let packages = packages();
    let allowed = |package: &str| -> &[&str] {
        match package {
            "tetlo-kernels" | "tetlo-plugin" => &[],
            "tetlo-core" => &["tetlo-kernels", "tetlo-plugin"],
            "tetlo-loader" => &["tetlo-core", "tetlo-plugin"],
            "tetlo-engine" | "tetlo-plugins" | "tetlo-search-spaces" => {
                &["tetlo-core", "tetlo-kernels"]
            }
            "tetlo-test-support" => &["tetlo-core", "tetlo-kernels"],
            _ => &[
                "tetlo",
                "tetlo-core",
                "tetlo-engine",
                "tetlo-kernels",
                "tetlo-loader",
                "tetlo-plugin",
                "tetlo-plugins",
                "tetlo-search-spaces",
                "tetlo-test-support",
            ],
        }
    };
    assert!(packages.len() >= 8, "{packages:?}");
    for (package, dependencies) in &packages {
        for d in dependencies {
            assert!(allowed(package).contains(&d.as_str()), "{package} must not depend on {d}");
        }
    }
}

fn sources(folder: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, list: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && path.file_name().is_some_and(|n| n == "tests") {
                continue; // unit tests of a module
            }
            if path.is_dir() {
                walk(&path, list);
            } else if path.extension().is_some_and(|e| e == "rs") {
                list.push(path);
            }
        }
    }
    let mut list = Vec::new();
    walk(&root().join(folder), &mut list);
    list
}

/// The lines of a source file that are neither comments nor unit tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a source file");
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_engine_alone_writes_files_and_the_console_alone_prints() {
    let writes = ["fs::write(", "File::create(", "fs::create_dir", "OpenOptions", "fs::rename("];
    let prints = ["println!", "eprintln!", "print!(", "dbg!("];
    for folder in [
        "core/src",
        "core/engine/src",
        "core/kernels/src",
        "core/loader/src",
        "core/plugin/src",
        "plugins/src",
        "search-spaces/src",
        "cli/src",
    ] {
        for path in sources(folder) {
            let code = code(&path);
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            let writers = [
                "core/engine/src/store.rs",
                "core/engine/src/memory.rs",
                "core/loader/src/process/child.rs", // the Python helper, into a folder that goes again
            ];
            let writer = writers.contains(&name.as_str());
            for w in writes {
                assert!(writer || !code.contains(w), "{name} uses {w}");
            }
            for p in prints {
                assert!(name == "cli/src/console.rs" || !code.contains(p), "{name} uses {p}");
            }
        }
    }
}

#[test]
fn no_plugin_is_named_outside_its_crate() {
    let names =
        ["\"qrs\"", "\"tetlo\"", "\"darts-2nd\"", "\"resnet\"", "\"softmax\"", "\"retrain\""];
    for folder in ["core/src", "core/engine/src", "core/loader/src", "core/plugin/src"] {
        for path in sources(folder) {
            let code = code(&path);
            for name in names {
                // "retrain" is also the name of a phase in records.
                let phase = name == "\"retrain\"" && path.starts_with(root().join("core/engine"));
                // "tetlo" is also the program, which tells its version to processes.
                let program = name == "\"tetlo\"" && path.starts_with(root().join("core/loader"));
                assert!(
                    phase || program || !code.contains(name),
                    "{} names {name}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn source_files_stay_short() {
    for folder in ["core", "plugins", "search-spaces", "cli", "tests"] {
        for path in sources(folder) {
            let lines = std::fs::read_to_string(&path).expect("a source file").lines().count();
            assert!(lines <= 700, "{} has {lines} lines", path.display());
        }
    }
}
