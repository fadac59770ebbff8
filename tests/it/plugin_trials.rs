//! Comparisons with code that is not linked in: what fails fails alone, and nothing is lost.

use crate::native::{LOSS, has_cc, has_python, library, source};
use crate::tetlo::{TINY, command, tetlo_in};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A config of `random` and methods with these transfer losses, by name.
fn config(losses: &[(&str, &str)]) -> String {
    let (head, rest) = TINY.split_once("[[method]]").expect("methods");
    let (_, evaluate) = rest.split_once("[evaluate]").expect("an evaluator");
    let mut text = head.to_owned();
    for (name, loss) in losses {
        let method = ["[[method]]\nname = \"", name, "\"\npreset = \"tetlo\"\n"].concat();
        text += &[&method, "transfer-loss = ", loss, "\n\n"].concat();
    }
    format!("{text}[[method]]\nname = \"random\"\npreset = \"random\"\n\n[evaluate]{evaluate}")
}

/// The directory of a method's trial.
#[track_caller]
fn trial(out: &Path, method: &str) -> PathBuf {
    let plan = std::fs::read_to_string(out.join("plan.jsonl")).expect("a plan");
    let lines = plan.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    let line = lines.into_iter().find(|l| l["method"] == method).expect("a trial of the method");
    out.join("trials").join(line["trial_id"].as_str().expect("an id"))
}

#[track_caller]
fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

/// A loss that does `what` at its third call with gradients.
fn late(what: &str) -> String {
    LOSS.replace("/* IN LOSS */", &format!("static int calls; if (++calls > 20) {{ {what} }}"))
}

#[test]
fn a_plugin_that_dies_or_fails_takes_its_own_trial_only() {
    if !has_cc("a_plugin_that_dies_or_fails_takes_its_own_trial_only") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    library(here, "dies.so", &late("volatile int *p = NULL; *p = 1;"), &[]);
    library(here, "fails.so", &late("return tetlo_fail(err, len, \"it is Monday\");"), &[]);
    library(here, "nan.so", &late("out->loss = NAN;"), &[]);
    library(here, "nangrad.so", &late("if (ga) ga[0] = INFINITY;"), &[]);
    library(here, "exits.so", &late("_exit(7);"), &[]);
    library(here, "leaves.so", &late("exit(0);"), &[]);
    library(here, "vanishes.so", &late("_exit(0);"), &[]);
    library(here, "rounds.so", &late("fesetround(FE_UPWARD);"), &[]);
    library(here, "beyond.so", &late("if (ga) ga[b->n * b->aux.shape[1]] = 1;"), &[]);
    library(here, "huge.so", &late("out->loss = 1e300;"), &[]);
    library(here, "steep.so", &late("if (gm) gm[0] = 1e300;"), &[]);
    let names = [
        "dies", "fails", "nan", "nangrad", "exits", "leaves", "vanishes", "rounds", "beyond",
        "huge", "steep",
    ];
    let losses = names.map(|n| (n, format!("{{ plugin = \"gap\", library = \"{n}.so\" }}")));
    let losses: Vec<(&str, &str)> = losses.iter().map(|(n, l)| (*n, l.as_str())).collect();
    std::fs::write(here.join("c.toml"), config(&losses)).expect("written");
    let ran = tetlo_in(here, &["compare", "c.toml", "--out", "out"]).code(3);
    let out = here.join("out");
    for (method, parts) in [
        ("dies", &["killed by signal 11 (segmentation fault)", "`gap`"][..]),
        ("fails", &["`gap`", "it is Monday"]),
        ("nan", &["`gap`", "NaN"]),
        ("nangrad", &["`gap`", "gradient in `aux` is not finite"]),
        ("exits", &["exit status 7"]),
        ("leaves", &["exit status 1"]),
        ("vanishes", &["exit status 0"]),
        ("rounds", &["`gap`", "changed the floating-point mode"]),
        ("beyond", &["`gap`", "wrote past the end of its gradient in `aux`"]),
        ("huge", &["`gap`", "returned the value"]),
        ("steep", &["`gap`", "gradient in `main` is not finite"]),
    ] {
        let failure = json(&trial(&out, method).join("failure-0.json"));
        let error = failure["error"].as_str().expect("a text");
        for part in parts {
            assert!(error.contains(part), "{method}: `{part}` is not in: {error}");
        }
        let signal = (method == "dies").then_some(11);
        assert_eq!(failure["signal"].as_i64(), signal, "{failure}");
        assert!(ran.err().contains(method), "{}", ran.err());
        assert!(!trial(&out, method).join("result.json").exists());
    }
    assert!(trial(&out, "random").join("result.json").exists());
    // The record says which code ran.
    let plugins = &json(&trial(&out, "fails").join("provenance.json"))["plugins"];
    let kept = std::fs::read(here.join("fails.so")).expect("read");
    assert_eq!(plugins[0]["sha256"], tetlo_loader::hash(&kept));
    assert_eq!(plugins[0]["version"], "0.3.0");
    assert_eq!(plugins[0]["tier"], "shared-library");
}

#[test]
fn a_script_that_hangs_or_raises_takes_its_own_trial_only() {
    if !has_python("a_script_that_hangs_or_raises_takes_its_own_trial_only", "numpy") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let script = |name: &str, late: &str| {
        let text = format!(
            "import time\nimport numpy as np\nimport tetlo_plugin as tetlo\n\ncalls = 0\n\n\n\
             @tetlo.transfer_loss(\"{name}\", summary=\"misbehaves\")\n\
             def loss(batch, options):\n    global calls\n    calls += 1\n    if calls > 20:\n        {late}\n    \
             print(\"call\", calls)\n    gap = batch.main.mean() - batch.aux.mean()\n    \
             return gap**2, {{\"main\": np.full_like(batch.main, 2 * gap / batch.main.size), \
             \"aux\": np.full_like(batch.aux, -2 * gap / batch.aux.size)}}\n\n\n\
             if __name__ == \"__main__\":\n    tetlo.serve()\n"
        );
        std::fs::write(here.join(format!("{name}.py")), text).expect("written");
    };
    script("hangs", "time.sleep(1000)");
    script("raises", "raise KeyError(\"no such image\")");
    script("shapes", "return 0.0, {\"main\": np.zeros(3), \"aux\": None}");
    let losses = [
        ("hangs", "{ plugin = \"hangs\", library = \"hangs.py\", time-limit = 3 }"),
        (
            "raises",
            "{ plugin = \"process\", options = { command = [\"python3\", \"raises.py\"] } }",
        ),
        (
            "shapes",
            "{ plugin = \"shapes\", library = \"shapes.py\", command = [\"python3\", \"-B\", \"{library}\"] }",
        ),
    ];
    std::fs::write(here.join("c.toml"), config(&losses)).expect("written");
    let began = Instant::now();
    tetlo_in(here, &["compare", "c.toml", "--out", "out"]).code(3);
    assert!(began.elapsed() < Duration::from_mins(3));
    let out = here.join("out");
    for (method, parts) in [
        ("hangs", &["`hangs`", "no answer within 3 s", "time-limit"][..]),
        ("raises", &["`raises`", "KeyError", "no such image", "line"]),
        ("shapes", &["`shapes`", "main"]),
    ] {
        let failure = json(&trial(&out, method).join("failure-0.json"));
        let error = failure["error"].as_str().expect("a text");
        for part in parts {
            assert!(error.contains(part), "{method}: `{part}` is not in: {error}");
        }
        // What the script prints is kept.
        let log = std::fs::read_to_string(trial(&out, method).join("log.jsonl")).expect("a log");
        assert!(log.contains(&format!("{method}: call 1")), "{log}");
    }
    assert!(trial(&out, "random").join("result.json").exists());
}

#[test]
fn a_library_replaced_while_it_is_in_use_is_not_what_runs() {
    if !has_cc("a_library_replaced_while_it_is_in_use_is_not_what_runs") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let file = library(here, "slow.so", &LOSS.replace("/* IN LOSS */", "usleep(1000);"), &[]);
    std::fs::write(
        here.join("c.toml"),
        config(&[("mine", "{ plugin = \"gap\", library = \"slow.so\" }")]),
    )
    .expect("written");
    let mut running = command(here, &["compare", "c.toml", "--out", "out"]);
    let mut running = running.stderr(std::process::Stdio::null()).spawn().expect("it starts");
    let began = Instant::now();
    while !here.join("out/trials").exists() {
        assert!(began.elapsed() < Duration::from_mins(2), "no trial has begun");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Rewriting a loaded file in place is what kills a process.
    let before = std::fs::read(&file).expect("read");
    std::fs::write(&file, vec![0; before.len()]).expect("written");
    assert!(running.wait().expect("it ends").success());
    let out = here.join("out");
    let id = trial(&out, "mine");
    assert!(id.join("result.json").exists());

    // The comparison goes on with what it keeps, or not at all.
    let kept = out.join("plugins").join(format!("{}.so", tetlo_loader::hash(&before)));
    assert_eq!(std::fs::read(&kept).expect("it is kept"), before);
    std::fs::remove_file(id.join("result.json")).expect("removed");
    let mut spoilt = before.clone();
    *spoilt.last_mut().expect("bytes") ^= 1;
    std::fs::write(&kept, spoilt).expect("written");
    let index = if id == trial(&out, "mine") { "0" } else { "1" };
    let ran = tetlo_in(here, &["run-trial", "out", "--index", index]).code(2);
    assert!(ran.err().contains("has changed") && ran.err().contains("SHA-256"), "{}", ran.err());

    // Another library is another comparison.
    library(here, "slow.so", LOSS, &[]);
    let other = tetlo_in(here, &["compare", "c.toml", "--out", "out"]).code(2);
    assert!(other.err().contains("method.mine.transfer-loss.sha256"), "{}", other.err());
}

#[test]
fn threads_are_those_of_the_command_that_runs() {
    if !has_cc("threads_are_those_of_the_command_that_runs") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    library(here, "gap.so", LOSS, &[]);
    let loss = "{ plugin = \"gap\", library = \"gap.so\" }";
    std::fs::write(here.join("c.toml"), config(&[("mine", loss)])).expect("written");
    tetlo_in(here, &["plan", "c.toml", "--out", "out", "--set", "threads=1"]).code(0);
    tetlo_in(here, &["compare", "c.toml", "--out", "out", "--set", "threads=2"]).code(0);
    let provenance = json(&trial(&here.join("out"), "mine").join("provenance.json"));
    assert_eq!(provenance["threads"], 2);
}

#[test]
fn a_comparison_can_be_moved_and_gone_on_with_elsewhere() {
    if !has_cc("a_comparison_can_be_moved_and_gone_on_with_elsewhere") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let file = library(here, "gap.so", LOSS, &[]);
    std::fs::write(
        here.join("c.toml"),
        config(&[("mine", "{ plugin = \"gap\", library = \"gap.so\" }")]),
    )
    .expect("written");
    tetlo_in(here, &["plan", "c.toml", "--out", "out"]).code(0);
    std::fs::rename(here.join("out"), here.join("moved")).expect("moved");
    std::fs::remove_file(file).expect("removed");
    tetlo_in(here, &["run-trial", "moved", "--index", "0"]).code(0);
    let run = trial(&here.join("moved"), "mine").join("run.toml");
    let text = std::fs::read_to_string(&run).expect("read");
    assert!(text.contains("library = \"../../plugins/"), "{text}");
    // The run's own config is complete.
    let run = run.display().to_string();
    tetlo_in(here, &["config", "check", &run]).code(0);
    tetlo_in(here, &["plan", &run]).code(0);
}

#[test]
fn the_same_trial_has_the_same_name_however_its_plugin_is_named() {
    if !has_cc("the_same_trial_has_the_same_name_however_its_plugin_is_named") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    library(here, "gap.so", LOSS, &[]);
    let id = |loss: &str, extra: &str, path: &str| {
        let text = config(&[("mine", loss)]).replace("[search]", &format!("{extra}\n[search]"));
        std::fs::write(here.join("c.toml"), text).expect("written");
        let mut plan = command(here, &["plan", "c.toml", "--format", "json"]);
        let plan = plan.env("TETLO_PLUGIN_PATH", path).output().expect("it starts");
        assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
        let list: Value = serde_json::from_slice(&plan.stdout).expect("JSON");
        list[0]["trial_id"].as_str().expect("an id").to_owned()
    };
    let first = id("{ plugin = \"gap\", library = \"gap.so\" }", "", "");
    assert_eq!(first, id("{ plugin = \"gap\" }", "", "gap.so"));
    assert_eq!(first, id("{ plugin = \"gap\" }", "[plugins]\nload = [\"gap.so\"]", ""));
    std::fs::create_dir(here.join("deeper")).expect("made");
    std::fs::copy(here.join("gap.so"), here.join("deeper/renamed.so")).expect("copied");
    assert_eq!(first, id("{ plugin = \"gap\", library = \"deeper/renamed.so\" }", "", ""));
    library(here, "gap.so", &LOSS.replace("2.0 /", "2.5 /"), &[]);
    assert_ne!(first, id("{ plugin = \"gap\", library = \"gap.so\" }", "", ""));

    if !has_python("the_same_trial_has_the_same_name (scripts)", "numpy") {
        return;
    }
    std::fs::write(here.join("qrs.py"), source("qrs.py")).expect("written");
    let script = |keys: &str| {
        id(&format!("{{ plugin = \"qrs-numpy\", library = \"qrs.py\"{keys} }}"), "", "")
    };
    let first = script("");
    assert_eq!(first, script(", time-limit = 7"));
    assert_eq!(first, script(", command = [\"python3\", \"{library}\"]"));
    assert_eq!(first, script(", options = { temperature = 0.1 }"));
    assert_ne!(first, script(", options = { temperature = 0.2 }"));
    assert_ne!(first, script(", command = [\"python3\", \"-B\", \"{library}\"]"));
    let process = "{ plugin = \"process\", options = { command = [\"python3\", \"qrs.py\"], \
                   name = \"qrs-numpy\" } }";
    assert_eq!(first, id(process, "", ""));
    assert_eq!(first, id("{ plugin = \"qrs-numpy\" }", "[plugins]\nload = [\"qrs.py\"]", ""));
}

#[test]
fn keys_about_a_file_are_checked_where_they_stand() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    for (loss, parts) in [
        (
            "{ plugin = \"gap\", library = \"absent.so\" }",
            &["c.toml:", "absent.so", "cannot be found"][..],
        ),
        ("{ plugin = \"qrs\", command = [\"x\"] }", &["`command` is read beside `library` only"]),
        ("{ plugin = \"qrs\", time-limit = 3 }", &["`time-limit` is read beside `library` only"]),
        (
            "{ plugin = \"g\", library = \"g.py\", command = [\"python3\"] }",
            &["has no `{library}`"],
        ),
        ("{ plugin = \"g\", library = \"g.py\", time-limit = 0 }", &["`time-limit` must be"]),
        (
            "{ plugin = \"g\", library = \"g.py\", sha256 = \"abc\" }",
            &["not 64 hexadecimal digits"],
        ),
        ("{ plugin = \"g\", library = \"g.toml\" }", &["cannot be loaded from a page of TOML"]),
        ("{ plugin = \"process\" }", &["needs the option `command`"]),
        ("{ plugin = \"process\", options = { command = [] } }", &["the command is empty"]),
        ("{ plugin = \"process\", options = { comand = [\"x\"] } }", &["comand"]),
        (
            "{ plugin = \"process\", options = { command = [\"python3\", \"absent.py\"] } }",
            &["c.toml:", "no part of the command", "is a file"],
        ),
    ] {
        std::fs::write(here.join("c.toml"), config(&[("mine", loss)])).expect("written");
        let error = tetlo_in(here, &["compare", "c.toml", "--out", "out"]).code(2).err();
        for part in parts {
            assert!(error.contains(part), "{loss}: `{part}` is not in\n{error}");
        }
        assert!(!here.join("out").exists(), "{loss}: something was written");
    }
    // Kinds that cannot be loaded say how to link them in.
    let text = TINY.replace(
        "dataset = { plugin = \"digits\" }",
        "dataset = { plugin = \"d\", library = \"d.so\" }",
    );
    std::fs::write(here.join("c.toml"), text).expect("written");
    let error = tetlo_in(here, &["compare", "c.toml"]).code(2).err();
    assert!(
        error.contains("a dataset cannot be loaded") && error.contains("tetlo_cli::main()"),
        "{error}"
    );
}
