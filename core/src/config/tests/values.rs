//! What is read: defaults, merging, overrides, paths, identity.

use super::super::{
    CompareConfig, OptimizerKind, PluginConfig, SearchConfig, difference, preset, presets,
};
use super::{BASE, changed, good};
use crate::kinds::{Dataset, MultilevelOptimizer, TransferLoss};
use serde_json::json;
use std::path::{Path, PathBuf};

#[test]
fn everything_is_resolved() {
    let config = good(BASE, &[]);
    assert_eq!((config.version, config.name.as_str(), config.threads), (1, "base", 0));
    assert_eq!((config.device.as_str(), config.seeds.as_slice()), ("cpu", &[0, 1][..]));
    let task = &config.tasks[0];
    let data = task.dataset.as_ref().unwrap();
    assert_eq!(data.kind, "dataset");
    let expected = json!({"path": "/home/me/data.npz", "more": [], "mask": null, "limit": 100});
    assert_eq!(data.options, expected);
    assert_eq!(task.evaluate.options, json!({"epochs": 5}));
    assert_eq!(config.evaluate.as_ref(), Some(&task.evaluate));

    let [tri, draws] = config.methods.as_slice() else { panic!("two methods") };
    assert_eq!(tri.optimizer_kind, OptimizerKind::MultilevelOptimizer);
    assert_eq!(tri.optimizer.options["lambda"], 2.0);
    assert_eq!(tri.optimizer.options["combine"], "norm-matched");
    assert_eq!(tri.optimizer.options["inner"], json!({"rate": 0.5}));
    assert_eq!(tri.transfer_loss.as_ref().unwrap().options["temperature"], 0.5);
    // The file's epochs, the preset's momentum and batch size, DARTS's rate.
    let search =
        SearchConfig { epochs: 3, momentum: 0.8, batch_size: 32, ..SearchConfig::default() };
    assert_eq!(tri.search, search);
    assert_eq!(draws.optimizer_kind, OptimizerKind::BlackBoxSearch);
    assert_eq!(draws.search, SearchConfig { epochs: 3, ..SearchConfig::default() });
    assert!(draws.relaxation.is_none() && draws.selection.is_none());
    assert!(tri.optimizer.build::<dyn MultilevelOptimizer>().is_ok());
}

#[test]
fn keys_beside_a_preset_replace_its_keys_whole() {
    let own =
        "preset = \"test-tri\"\noptimizer = { plugin = \"test-levels\" }\nsearch = { epochs = 9 }";
    let config = good(&changed("preset = \"test-tri\"", own), &[]);
    let tri = &config.methods[0];
    assert_eq!(tri.optimizer.options["lambda"], 1.0);
    assert_eq!(tri.transfer_loss.as_ref().unwrap().options["temperature"], 0.5);
    // `search` alone is merged by key: method, preset, file.
    let search =
        SearchConfig { epochs: 9, momentum: 0.8, batch_size: 32, ..SearchConfig::default() };
    assert_eq!(tri.search, search);
    assert_eq!(config.methods[1].search.epochs, 3);
}

fn tri(sets: &[&str]) -> super::super::MethodConfig {
    good(BASE, sets).methods.swap_remove(0)
}

#[test]
fn overrides_reach_every_key() {
    let config =
        good(BASE, &["threads=2", "seeds=[4]", "device=cuda:1", "name=other", "task.data.name=x"]);
    assert_eq!((config.threads, config.seeds.as_slice()), (2, &[4][..]));
    assert_eq!((config.device.as_str(), config.name.as_str()), ("cuda:1", "other"));
    assert_eq!(config.tasks[0].name, "x");
    let config = good(BASE, &["task.data.dataset.options.path=other/x.npz", "seeds.1=8"]);
    assert_eq!(config.tasks[0].dataset.as_ref().unwrap().options["path"], "/home/me/other/x.npz");
    assert_eq!(config.seeds, [0, 8]);
    // Into what only the preset has: one option changes.
    let method = tri(&["method.tri.optimizer.options.lambda=.5"]);
    assert_eq!(method.optimizer.options["lambda"], 0.5);
    assert_eq!(method.optimizer.options["combine"], "norm-matched");
    let method = tri(&["method.tri.optimizer.options.inner.rate=0.25"]);
    assert_eq!(method.optimizer.options["inner"], json!({"rate": 0.25}));
    // A whole key.
    let method = tri(&["method.tri.optimizer={plugin='test-levels'}"]);
    assert_eq!(method.optimizer.options["combine"], "sum");
    // A key that is written nowhere yet; elements of it.
    let method = tri(&[
        "method.tri.regularizers=[{plugin='test-penalty'}]",
        "method.tri.regularizers.0.options.weight=7",
    ]);
    assert_eq!(method.regularizers[0].options, json!({"weight": 7.0}));
    // The last one wins.
    assert_eq!(good(BASE, &["threads=1", "threads=3"]).threads, 3);
}

#[test]
fn overrides_of_the_search_protocol() {
    let config = good(BASE, &["search.epochs=1"]);
    assert!(config.methods.iter().all(|m| m.search.epochs == 1));
    let config = good(BASE, &["method.tri.search.epochs=2"]);
    assert_eq!((config.methods[0].search.epochs, config.methods[1].search.epochs), (2, 3));
    let without = changed("[search]\nepochs = 3\n", "");
    let config = good(&without, &["search.epochs=7"]);
    assert!(config.methods.iter().all(|m| m.search.epochs == 7));
}

#[test]
fn a_preset_can_be_chosen_by_an_override() {
    // Whatever the order: the preset comes first.
    let sets = ["method.draws.search.epochs=4", "method.draws.preset=test-tri"];
    let method = good(BASE, &sets).methods.swap_remove(1);
    assert_eq!(method.preset.as_deref(), Some("test-tri"));
    assert_eq!(method.optimizer.plugin, "test-levels");
    assert_eq!((method.search.epochs, method.search.batch_size), (4, 32));
    let method = tri(&["method.tri={name='tri', preset='test-draws'}"]);
    assert_eq!(method.optimizer.plugin, "test-random");
}

#[test]
fn names_with_dots_are_found() {
    let text = changed("name = \"tri\"", "name = \"tri.v1.2\"");
    for set in ["method.tri.v1.2.search.epochs=8", "method.\"tri.v1.2\".search.epochs=8"] {
        assert_eq!(good(&text, &[set]).methods[0].search.epochs, 8);
    }
}

#[test]
fn words_and_numbers_of_overrides() {
    let path = |value: &str| {
        let config = good(BASE, &[&format!("task.data.dataset.options.path={value}")]);
        config.tasks[0].dataset.as_ref().unwrap().options["path"].clone()
    };
    assert_eq!(path("/a/b.npz"), "/a/b.npz");
    assert_eq!(path("2024/b.npz"), "/home/me/2024/b.npz");
    assert_eq!(path("'with = sign'"), "/home/me/with = sign");
    assert_eq!(path("../b.npz"), "/home/me/../b.npz");
    let lambda = |value: &str| {
        tri(&[&format!("method.tri.optimizer.options.lambda={value}")]).optimizer.options["lambda"]
            .as_f64()
    };
    for (text, value) in [("5.", 5.0), ("+.25", 0.25), (" 1e-3 ", 1e-3), ("3", 3.0)] {
        assert_eq!(lambda(text), Some(value), "{text}");
    }
}

#[test]
fn paths_are_relative_to_the_file() {
    let options = "{ path = \"a.npz\", more = [\"/abs/b\", \"c\"], mask = \"d\" }";
    let text = changed("{ path = \"data.npz\" }", options);
    let config = good(&text, &[]);
    let data = config.tasks[0].dataset.as_ref().unwrap();
    assert_eq!(data.options["path"], "/home/me/a.npz");
    assert_eq!(data.options["more"], json!(["/abs/b", "/home/me/c"]));
    assert_eq!(data.options["mask"], "/home/me/d");
    assert_eq!(data.identity(), json!({"plugin": "test-data", "options": {"limit": 100}}));
    // A relative directory is one of the current directory.
    let config = super::super::load("c.toml", BASE, Path::new("sub"), &[]).unwrap();
    let path =
        config.tasks[0].dataset.as_ref().unwrap().options["path"].as_str().unwrap().to_owned();
    assert_eq!(PathBuf::from(path), std::env::current_dir().unwrap().join("sub/data.npz"));
}

#[test]
fn libraries_keep_their_options_and_path() {
    let loss = "preset = \"test-tri\"\n\
                transfer-loss = { plugin = \"mine\", library = \"l/m.so\", options = { x = [1, 2.5] } }";
    let config = good(&changed("preset = \"test-tri\"", loss), &[]);
    let loss = config.methods[0].transfer_loss.as_ref().unwrap();
    let library = loss.code.as_ref().map(|code| code.file.as_path());
    assert_eq!(library, Some(Path::new("/home/me/l/m.so")));
    assert_eq!(loss.options, json!({"x": [1, 2.5]}));
    let identity =
        json!({"plugin": "mine", "options": {"x": [1, 2.5]}, "sha256": null, "command": []});
    assert_eq!(loss.identity(), identity);
    assert!(loss.build::<dyn TransferLoss>().unwrap_err().to_string().contains("was not loaded"));
    assert_eq!(again(&config), config);
}

/// Written and read again.
fn again(config: &CompareConfig) -> CompareConfig {
    let text = config.to_toml().unwrap();
    let directory = Path::new("/somewhere/else");
    super::super::load("r.toml", &text, directory, &[]).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn the_resolved_configuration_loads_back() {
    let config = good(BASE, &[]);
    assert_eq!(again(&config), config);
    let config = good(
        BASE,
        &[
            "method.tri.regularizers=[{plugin='test-penalty'},{plugin='test-penalty',options={weight=2}}]",
            "method.tri.optimizer.options.lambda=1e-300",
            "method.tri.optimizer.options.limit=0.1",
            "method.tri.optimizer.options.small=0.3",
            "method.tri.transfer-loss.options.count=9223372036854775807",
            "task.data.evaluate={plugin='test-retrain',options={epochs=1}}",
            "seeds=[9223372036854775807]",
        ],
    );
    assert_eq!(again(&config), config);
    assert!(config.to_toml().unwrap().contains("learning-rate-min = 0.001"));
}

#[test]
fn what_is_serialised_has_the_files_keys() {
    let old = serde_json::to_value(good(BASE, &[])).unwrap();
    let sets = [
        "method.tri.optimizer.options.lambda=0.5",
        "search.epochs=1",
        "task.data.dataset.options.limit=3",
    ];
    let new = serde_json::to_value(good(BASE, &sets)).unwrap();
    let expected = [
        "task.data.dataset.options.limit",
        "method.tri.optimizer.options.lambda",
        "method.tri.search.epochs",
        "method.draws.search.epochs",
    ];
    assert_eq!(difference(&old, &new), expected);
}

#[test]
fn plugin_configs_can_be_made_without_a_file() {
    let made = PluginConfig::new::<dyn MultilevelOptimizer>(
        "test-levels",
        &json!({"lambda": 2, "inner": {}, "limit": null}),
    )
    .unwrap();
    assert_eq!(made.options["inner"], json!({"rate": 0.5}));
    assert_eq!(made.options["lambda"], 2.0);
    assert!(PluginConfig::new::<dyn TransferLoss>("test-loss", &json!(null)).is_ok());
    let e = PluginConfig::new::<dyn TransferLoss>("test-loss", &json!({"temprature": 1}));
    assert!(e.unwrap_err().to_string().contains("`temprature`"));
    assert!(PluginConfig::new::<dyn Dataset>("test-loss", &json!({})).is_err());
}

#[test]
fn presets_are_listed() {
    let names: Vec<&str> = presets().iter().map(|p| p.name).collect();
    assert!(names.is_sorted() && names.contains(&"test-tri"));
    let tri = preset("test-tri").unwrap();
    assert_eq!((tri.file, tri.origin.0), ("presets/tri.toml", "tetlo-core"));
    assert!(preset("test-tir").unwrap_err().hint().unwrap().contains("`test-tri`"));
}

#[test]
fn options_of_one_plugin_from_a_command_line() {
    let read = |text: &str| {
        super::super::plugin::<dyn Dataset>(
            "test-data",
            "--options",
            text,
            Path::new("/home/me"),
            None,
        )
    };
    // Lines, or one line with commas.
    for text in ["path = \"a\"\nlimit = 2", "path = \"a\", limit = 2"] {
        let options = read(text).unwrap().options;
        assert_eq!(options, json!({"path": "/home/me/a", "more": [], "mask": null, "limit": 2}));
    }
    let e = read("path = 'a'\nlimt = 2").unwrap_err();
    assert!(e.to_string().starts_with("--options:2:1: options of `test-data`: unknown key `limt`"));
    assert_eq!(e.hint().as_deref(), Some("did you mean `limit`?"));
    assert!(read("").unwrap_err().to_string().contains("`path` is missing"));
}

#[test]
fn identities_hold_what_decides_a_result() {
    let config = good(BASE, &[]);
    let moved = super::super::load("c.toml", BASE, Path::new("/elsewhere"), &[]).unwrap();
    assert_ne!(config.tasks[0], moved.tasks[0]);
    assert_eq!(config.tasks[0].identity(), moved.tasks[0].identity());
    let same = good(BASE, &["threads=2", "device=cuda:0", "method.draws.search.epochs=9"]);
    assert_eq!(config.methods[0].identity(), same.methods[0].identity());
    assert_ne!(config.methods[1].identity(), same.methods[1].identity());
    for set in [
        "method.tri.name=x",
        "method.tri.optimizer.options.lambda=3",
        "method.tri.transfer-loss.options.temperature=3",
        "method.tri.regularizers=[{plugin='test-penalty'}]",
        "method.tri.search.momentum=0.1",
    ] {
        assert_ne!(tri(&[set]).identity(), config.methods[0].identity(), "{set}");
    }
}
