//! Whole comparisons.

use crate::tetlo::{TINY, command, tetlo_in};
use serde_json::Value;
use std::path::Path;

/// `summary.json` without what may differ between runs: times and memory.
fn stable(directory: &Path) -> String {
    let text = std::fs::read_to_string(directory.join("summary.json")).expect("a summary");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    for method in value["methods"].as_array_mut().expect("methods") {
        for key in ["search_seconds", "retrain_seconds", "peak_memory_bytes"] {
            assert!(method.as_object_mut().expect("an object").remove(key).is_some(), "{key}");
        }
    }
    value.to_string()
}

#[test]
fn a_comparison_from_config_to_report() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    std::fs::write(here.join("tiny.toml"), TINY).expect("written");
    let ran = tetlo_in(here, &["compare", "tiny.toml", "--set", "threads=1"]).code(0);
    for name in ["darts-1st", "tetlo", "random"] {
        assert!(ran.out().contains(name), "{}", ran.out());
    }
    let out = here.join("runs/tiny");
    for file in
        ["compare.toml", "plan.jsonl", "summary.json", "report.html", "report.md", "results.csv"]
    {
        assert!(out.join(file).exists(), "{file}");
    }
    let trials: Vec<_> = std::fs::read_dir(out.join("trials")).expect("trials").collect();
    assert_eq!(trials.len(), 3);
    for trial in trials {
        let trial = trial.expect("an entry").path();
        for file in [
            "run.toml",
            "provenance.json",
            "events.jsonl",
            "genotype.json",
            "genotype.txt",
            "log.jsonl",
            "result.json",
        ] {
            assert!(trial.join(file).exists(), "{} in {}", file, trial.display());
        }
        let text = std::fs::read_to_string(trial.join("result.json")).expect("a result");
        let result: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(result["schema"], "tetlo.result/1");
        assert_eq!(result["metric"]["split"], "test");
        assert!(result["retrain"]["test_accuracy"].as_f64().is_some_and(|a| a > 0.05));
        assert!(result["params"].as_u64().is_some_and(|p| p > 0));
        if result["method"] != "random" {
            assert!(trial.join("alpha.npz").exists());
        }
    }

    // Finished trials are left alone: the same command again only writes reports.
    let before = stable(&out);
    let again = tetlo_in(here, &["compare", "tiny.toml"]).code(0);
    assert!(!again.err().contains("epoch"), "{}", again.err());
    assert_eq!(stable(&out), before);

    // Two threads, another directory: the same bytes.
    let other = ["compare", "tiny.toml", "--set", "threads=2", "--out", "two"];
    tetlo_in(here, &other).code(0);
    assert_eq!(stable(&here.join("two")), before);

    // Child processes, two at a time: the same bytes.
    tetlo_in(here, &["compare", "tiny.toml", "--jobs", "2", "--out", "jobs"]).code(0);
    assert_eq!(stable(&here.join("jobs")), before);

    // Another config into the same directory is refused, and the difference named.
    let ran = tetlo_in(here, &["compare", "tiny.toml", "--set", "search.batch-size=32"]).code(2);
    assert!(ran.err().contains("search.batch-size"), "{}", ran.err());
    assert_eq!(stable(&out), before);

    // The reports of a finished directory.
    let directory = out.display().to_string();
    tetlo_in(
        here,
        &["report", &directory, "--latex", "t.tex", "--csv", "t.csv", "--json", "s.json"],
    )
    .code(0);
    assert!(std::fs::read_to_string(here.join("t.tex")).expect("LaTeX").contains("tetlo"));
    assert_eq!(std::fs::read_to_string(here.join("t.csv")).expect("CSV").lines().count(), 4);
    let evaluated = tetlo_in(here, &["evaluate", &directory, "--format", "json"]).code(0);
    assert_eq!(evaluated.json()["schema"], "tetlo.summary/1");
}

/// Two losses × two columns, and a method for both rows.
const MATRIX: &str = r#"version = 1
name = "matrix"
seeds = [0, 1]
method = [
  { name = "kd", preset = "tetlo-matched", transfer-loss.plugin = "kd", heat-map = { row = "kd", column = "TETLO" } },
  { name = "hint", preset = "tetlo-matched", transfer-loss.plugin = "hint", heat-map = { row = "hint", column = "TETLO" } },
  { name = "plain", preset = "darts-1st", heat-map = { row = "*", column = "no transfer" } },
]

[[task]]
name = "digits"
dataset = { plugin = "digits" }
search-space = { plugin = "darts", options = { channels = 4, cells = 3 } }

[search]
epochs = 1
batch-size = 64
train-portion = 0.1
crop-padding = 0
flip = false

[evaluate]
plugin = "retrain"
options = { epochs = 1, batch-size = 64, channels = 4, cells = 3, drop-path = 0.0, auxiliary-weight = 0.0, cutout = 0, crop-padding = 0, flip = false }
"#;

#[test]
fn a_matrix_of_losses_becomes_a_heat_map() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    std::fs::write(here.join("matrix.toml"), MATRIX).expect("written");
    tetlo_in(here, &["compare", "matrix.toml"]).code(0);
    let read = |name: &str| std::fs::read_to_string(here.join(name)).expect(name);
    let markdown = read("runs/matrix/report.md");
    let summary: Value = serde_json::from_str(&read("runs/matrix/summary.json")).expect("JSON");
    let mean = |i: usize| summary["methods"][i]["test_accuracy"]["mean"].as_f64().expect("a mean");
    let row = |name: &str| {
        let start = format!("| {name} | {:.4} ±", mean(usize::from(name == "hint")));
        let found = markdown.lines().find(|l| l.starts_with(&start) && l.matches('|').count() == 4);
        found.unwrap_or_else(|| panic!("`{start}` is not in\n{markdown}"))
    };
    let every = format!("| {:.4} ±", mean(2));
    for name in ["kd", "hint"] {
        assert!(row(name).contains(&every), "{}", row(name));
        assert_eq!(row(name).matches(", 2 seeds |").count(), 2);
    }
    assert!(read("runs/matrix/report.html").contains("rowspan=\"2\" title=\"plain\""));

    // Another place is another picture of the same trials: nothing runs again.
    let moved = ["compare", "matrix.toml", "--set", "method.hint.heat-map.row=FitNets"];
    let again = tetlo_in(here, &moved).code(0);
    assert!(!again.err().contains("epoch"), "{}", again.err());
    tetlo_in(here, &["report", "runs/matrix", "--markdown", "again.md"]).code(0);
    assert!(read("again.md").contains("\n| FitNets | "), "{}", read("again.md"));

    // Two methods in one cell.
    let clash = ["config", "check", "matrix.toml", "--set", "method.hint.heat-map.row=kd"];
    let refused = tetlo_in(here, &clash).code(2);
    assert!(refused.err().contains("stand in one cell of the heat map"), "{}", refused.err());
}

#[test]
fn plan_run_trial_and_a_single_search() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    std::fs::write(here.join("tiny.toml"), TINY).expect("written");
    let plan =
        tetlo_in(here, &["plan", "tiny.toml", "--out", "planned", "--format", "json"]).code(0);
    assert_eq!(plan.json().as_array().map(Vec::len), Some(3));
    let ran = tetlo_in(here, &["run-trial", "planned", "--index", "2"]).code(0);
    assert_eq!(ran.json()["method"], "random");
    let out_of_range = tetlo_in(here, &["run-trial", "planned", "--index", "3"]).code(2);
    assert!(out_of_range.err().contains("3 trials"), "{}", out_of_range.err());

    let search = ["search", "tiny.toml", "--method", "darts-1st", "--out", "one"];
    let found = tetlo_in(here, &search).code(0);
    assert!(found.out().starts_with("Genotype(normal=["), "{}", found.out());
    let retrain = ["retrain", "one", "--config", "tiny.toml", "--format", "json"];
    let trained = tetlo_in(here, &retrain).code(0).json();
    assert!(trained["test_accuracy"].as_f64().is_some());
    tetlo_in(here, &["draw", "one", "--svg", "cell.svg", "--dot", "cell.dot"]).code(0);
    assert!(std::fs::read_to_string(here.join("cell.svg")).expect("SVG").starts_with("<svg"));
    let unknown =
        tetlo_in(here, &["search", "tiny.toml", "--method", "darts-1", "--out", "x"]).code(2);
    assert!(unknown.err().contains("did you mean `darts-1st`?"), "{}", unknown.err());
    assert!(!here.join("x").exists());
}

#[test]
fn a_loss_from_outside_the_plugins_and_threads_from_the_environment() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let own = TINY.replace(
        "preset = \"tetlo\"",
        "preset = \"tetlo\"\ntransfer-loss = { plugin = \"mean-norm\" }",
    );
    std::fs::write(here.join("own.toml"), own).expect("written");
    let search = ["search", "own.toml", "--method", "tetlo", "--out", "one"];
    let mut command = command(here, &search);
    let output = command.env("TETLO_THREADS", "1").output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events = std::fs::read_to_string(here.join("one/events.jsonl")).expect("events");
    assert!(events.contains("hypergrad/through_W/norm"), "the transfer has its own terms");
    for (name, value) in
        [("TETLO_THREADS", "many"), ("TETLO_THREADS", "100000"), ("TETLO_SIMD", "sse")]
    {
        let mut command = crate::tetlo::command(here, &search);
        let bad = command.env(name, value).output().expect("the binary starts");
        assert_eq!(bad.status.code(), Some(2), "{name}={value}");
        assert!(String::from_utf8_lossy(&bad.stderr).contains(name));
    }
}

#[test]
fn a_trial_that_diverges_is_recorded_and_the_comparison_goes_on() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    std::fs::write(here.join("tiny.toml"), TINY).expect("written");
    let arguments = [
        "compare",
        "tiny.toml",
        "--set",
        "method.darts-1st.search.learning-rate=1e30",
        "--set",
        "method.darts-1st.search.gradient-clip=0",
    ];
    let ran = tetlo_in(here, &arguments).code(3);
    assert!(ran.err().contains("is not finite at step"), "{}", ran.err());
    assert!(ran.err().contains("1 of 3 trials have no result"), "{}", ran.err());
    let out = here.join("runs/tiny");
    let text = std::fs::read_to_string(out.join("summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(summary["methods"][0]["failed"], 1);
    assert_eq!(summary["methods"][2]["n"], 1);
    let failures: Vec<_> = std::fs::read_dir(out.join("trials"))
        .expect("trials")
        .map(|t| t.expect("an entry").path().join("failure-0.json"))
        .filter(|f| f.exists())
        .collect();
    assert_eq!(failures.len(), 1);
    let failure = std::fs::read_to_string(&failures[0]).expect("a failure");
    let failure: Value = serde_json::from_str(&failure).expect("JSON");
    assert_eq!(failure["schema"], "tetlo.failure/1");
    assert!(failure["step"].is_u64() && failure["level"] == "main", "{failure}");
    // The failed trial is tried again, the others are left alone.
    let again = tetlo_in(here, &arguments).code(3);
    assert!(!again.err().contains("retrain epoch"), "{}", again.err());
}

/// The plan's estimate against what the process took, for a search that needs more memory than its
/// evaluation, and the other way round.
#[test]
fn memory_is_as_planned() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let text = TINY.replace("batch-size = 64", "batch-size = 128");
    std::fs::write(here.join("tiny.toml"), text).expect("written");
    let wide = "task.digits.search-space.options.channels=16";
    let wide_evaluation = "evaluate.options.channels=48";
    // All three methods search differently, but are evaluated alike.
    for (out, set, trials) in [("search", wide, 3), ("evaluation", wide_evaluation, 1)] {
        let arguments = ["plan", "tiny.toml", "--set", set, "--out", out, "--format", "json"];
        let plan = tetlo_in(here, &arguments).code(0).json();
        for (index, planned) in plan.as_array().expect("a list").iter().take(trials).enumerate() {
            let index = index.to_string();
            let ran = tetlo_in(here, &["run-trial", out, "--index", &index]).code(0).json();
            let taken = ran["peak_memory_bytes"].as_f64().expect("a number");
            let estimate = planned["memory_bytes"].as_f64().expect("a number");
            assert!(planned["passes"].as_u64() > Some(0));
            let ratio = estimate / taken;
            assert!(
                (0.8..1.2).contains(&ratio),
                "{out}, trial {index}: {:.0} MiB planned, {:.0} MiB taken",
                estimate / f64::from(1 << 20),
                taken / f64::from(1 << 20)
            );
        }
    }
}
