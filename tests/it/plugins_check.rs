//! `plugins check` through the binary.

use crate::native::{LOSS, has_cc, has_python, library, source};
use crate::tetlo::{Ran, tetlo_in};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use tetlo_core::kinds::TransferLoss;
use tetlo_core::registry::entries;

/// The rows of a check that went well.
fn rows(arguments: &[&str]) -> Vec<Value> {
    let all = [&["plugins", "check", "--format", "json"], arguments].concat();
    let json = tetlo_in(Path::new("."), &all).code(0).json();
    json.as_array().expect("a list of rows").clone()
}

fn row<'a>(rows: &'a [Value], check: &str) -> &'a Value {
    rows.iter()
        .find(|r| r["check"] == check)
        .unwrap_or_else(|| panic!("no row `{check}`: {rows:?}"))
}

#[test]
fn every_linked_transfer_loss_passes() {
    for entry in entries::<dyn TransferLoss>() {
        let rows = rows(&[&format!("transfer-loss/{}", entry.name)]);
        for r in &rows {
            assert_eq!(r["kind"], "transfer-loss");
            assert_eq!(r["name"], entry.name);
            assert_ne!(r["outcome"], "FAILED");
            assert!(r["milliseconds"].as_f64().is_some_and(|ms| ms >= 0.0), "{r}");
        }
        let text = |check| row(&rows, check)["detail"].as_str().unwrap_or_default().to_owned();
        assert!(text("loads").starts_with("linked, from tetlo"), "{}", text("loads"));
        let line = format!("transfer-loss = {{ plugin = \"{}\" }}", entry.name);
        assert_eq!(text("example"), line);
        assert!(text("speed").contains("ms a call with gradients: 64 images"), "{}", text("speed"));
        assert_eq!(row(&rows, "overhead")["outcome"], "skipped");
        for check in ["options schema", "defaults", "NaN", "wrong shapes", "what it needs"] {
            assert_eq!(row(&rows, check)["outcome"], "ok");
        }
    }
}

#[test]
fn other_kinds_have_their_examples() {
    for (plugin, example) in [
        ("dataset/digits", "dataset = { plugin = \"digits\" }"),
        ("selection/argmax", "selection = { plugin = \"argmax\" }"),
        ("stop-rule/darts-plus", "stop-rule = { plugin = \"darts-plus\" }"),
        ("regularizer/beta-decay", "regularizers = [{ plugin = \"beta-decay\" }]"),
        ("black-box-search/random", "optimizer = { plugin = \"random\" }"),
        (
            "hypergradient/first-order",
            "optimizer = { plugin = \"tetlo\", options = { estimator = { plugin = \"first-order\" } } }",
        ),
        ("evaluator/retrain", "evaluate = { plugin = \"retrain\" }"),
    ] {
        assert_eq!(row(&rows(&[plugin]), "example")["detail"], example);
    }
    let needs_a_file = rows(&["dataset/npz"]);
    assert_eq!(row(&needs_a_file, "example")["outcome"], "skipped");
    assert_eq!(row(&needs_a_file, "a missing file")["outcome"], "ok");
}

#[test]
fn options_are_the_ones_checked() {
    let all = rows(&["qrs", "--options", "sampler = \"all\", temperature = 0.2"]);
    assert_eq!(row(&all, "invariance: order of the images")["outcome"], "ok");
    let example = row(&all, "example")["detail"].as_str().expect("a line");
    assert!(example.contains("sampler = \"all\", quadruples = 0, temperature = 0.2"), "{example}");
    let default = rows(&["qrs"]);
    assert!(!default.iter().any(|r| r["check"] == "invariance: order of the images"));
}

#[test]
fn the_table_is_for_people() {
    let ran = tetlo_in(Path::new("."), &["plugins", "check", "stop-rule/darts-plus"]).code(0);
    let out = ran.out();
    let mut lines = out.lines();
    assert!(lines.next().is_some_and(|l| l.starts_with("stop-rule `darts-plus`: ")), "{out}");
    assert!(out.contains("check                   ") && out.contains("options schema"), "{out}");
    let last = out.lines().last().expect("a summary");
    assert!(last.contains(" checks: ") && last.contains(" 0 failed, "), "{last}");
    assert!(ran.err().is_empty(), "{}", ran.err());
}

#[test]
fn what_is_not_there_is_usage() {
    let here = Path::new(".");
    for (arguments, part) in [
        (&["qr"] as &[&str], "did you mean `qrs`?"),
        (&["transfer-loss/qr"], "no plugin is called `transfer-loss/qr`"),
        (&["./no-such-file.so"], "there is no file or folder `./no-such-file.so`"),
        (&["nosuch.py"], "there is no file or folder `nosuch.py`"),
        (&["no/such/folder"], "there is no file or folder `no/such/folder`"),
        (&["qrs", "--kind", "stop-rule"], "`qrs` is no stop-rule; it is a transfer-loss"),
        (&["qrs", "--options", "samplr = 1"], "unknown field `samplr`"),
        (&["qrs", "--time-limit", "0"], "`--time-limit` must be from 0.001"),
        (&["tetlo-matched"], "check those"),
    ] {
        let all = [&["plugins", "check"], arguments].concat();
        let ran = tetlo_in(here, &all).code(2);
        assert!(ran.err().contains(part), "{arguments:?}: {}", ran.err());
        assert!(ran.out().is_empty(), "{}", ran.out());
    }
}

#[test]
fn folders_without_a_built_plugin_say_how_to_build_it() {
    for (file, part) in [
        ("Cargo.toml", "build it first: `cargo build --release`"),
        ("Makefile", "build it first: `make`"),
        ("README.md", "expected is a shared library, a script or a page"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("mine")).expect("a folder");
        std::fs::write(folder.path().join("mine").join(file), "").expect("written");
        let ran = tetlo_in(folder.path(), &["plugins", "check", "mine"]).code(2);
        assert!(ran.err().contains(part), "{}", ran.err());
    }
}

/// Runs the checks of the binary's own loss that misbehaves in this way.
fn misbehaving(how: &str, limit: &str) -> Ran {
    let how = format!("how = \"{how}\"");
    let arguments = ["plugins", "check", "misbehaves", "--options", &how, "--time-limit", limit];
    tetlo_in(Path::new("."), &arguments)
}

#[test]
fn a_loss_that_ends_or_stops_its_process_is_named() {
    for (how, limit, reason) in [
        ("segfault", "60", "killed by signal 11 (segmentation fault)"),
        ("abort", "60", "killed by signal 6 (abort)"),
        ("exit", "60", "exit status 1"), // of the guard, which turns 0 into it
        ("hang", "2", "no end within 2 s"),
    ] {
        let began = Instant::now();
        let ran = misbehaving(how, limit).code(1);
        let expected = format!("error: transfer-loss `misbehaves`: first call: {reason}");
        assert!(ran.err().contains(&expected), "{}", ran.err());
        assert!(ran.out().contains("defaults") && ran.out().contains(reason), "{}", ran.out());
        assert!(ran.out().ends_with("; the rest did not run\n"), "{}", ran.out());
        assert!(began.elapsed() < Duration::from_secs(50), "{how}");
    }
}

#[test]
fn panics_and_wrong_numbers_are_failed_rows_and_the_rest_runs() {
    for (how, reason) in [("panic", "panicked: as asked"), ("wrong", "the gradient of aux is not")]
    {
        let ran = misbehaving(how, "60").code(1);
        assert!(ran.err().contains(reason), "{}", ran.err());
        assert!(!ran.out().contains("the rest did not run"), "{}", ran.out());
        assert!(ran.out().contains("  example  "), "{}", ran.out());
    }
}

/// What a plugin prints does not get between the rows.
#[test]
fn what_a_plugin_prints_goes_to_standard_error() {
    let ran = misbehaving("print", "60").code(0);
    assert!(ran.err().contains("a loss that talks"), "{}", ran.err());
    assert!(!ran.out().contains("a loss that talks"), "{}", ran.out());
    assert!(ran.out().contains(" 0 failed, "), "{}", ran.out());
}

/// A detail of a row of a check that may fail.
#[track_caller]
fn detail(ran: &Ran, check: &str) -> String {
    let json = ran.json();
    row(json.as_array().expect("a list of rows"), check)["detail"].as_str().unwrap_or("").to_owned()
}

#[test]
fn shared_libraries() {
    if !has_cc("shared_libraries") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let checked = |at: &str| tetlo_in(here, &["plugins", "check", "--format", "json", at]);
    library(here, "good.so", LOSS, &[]);
    // The folder stands for the one library in it.
    for at in ["good.so", "."] {
        let ran = checked(at).code(0);
        let loads = detail(&ran, "loads");
        assert!(loads.starts_with("shared library ") && loads.contains("SHA-256 "), "{loads}");
        assert!(loads.contains("version 0.3.0, built with "), "{loads}");
        let example = detail(&ran, "example");
        assert!(
            example.starts_with("transfer-loss = { plugin = \"gap\", library = \"/"),
            "{example}"
        );
        assert!(detail(&ran, "overhead").contains(" % of a search step of "), "{}", ran.out());
    }

    for (name, place, text, error) in [
        ("crash.so", "IN LOSS", "if (b->n == 16) raise(SIGSEGV);", "killed by signal 11 (seg"),
        ("gradient.so", "IN LOSS", "if (ga) ga[0] *= 1.01;", "the gradient of aux is not"),
        ("nan.so", "IN LOSS", "out->loss = NAN;", "first call: "),
        ("order.so", "IN LOSS", "out->loss *= 1 + 1e-3 * m[0];", "gradient"),
        (
            "free.so",
            "IN DESCRIPTOR",
            ".properties = TETLO_INVARIANT_SHIFT",
            "a shift of main changes",
        ),
        ("mute.so", "IN DESCRIPTOR", ".properties = TETLO_DETACHED_MAIN", ""),
    ] {
        library(here, name, &LOSS.replace(&format!("/* {place} */"), text), &[]);
        let ran = checked(name).code(i32::from(!error.is_empty()));
        assert!(ran.err().contains(error), "{name}: {}", ran.err());
    }
    let talks = LOSS.replace("/* IN LOSS */", "printf(\"a loss in C\"); fflush(stdout);");
    library(here, "talks.so", &talks, &[]);
    let ran = checked("talks.so").code(0);
    assert!(ran.err().contains("a loss in C"), "{}", ran.err());

    std::fs::write(here.join("text.so"), "hello\n").expect("written");
    let ran = checked("text.so").code(1);
    assert!(detail(&ran, "loads").contains("no ELF header"), "{}", ran.out());
    assert!(ran.err().contains("error: text.so: loads: "), "{}", ran.err());
}

#[test]
fn scripts() {
    if !has_python("plugins_check::scripts", "numpy") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let mut script = source("qrs.py");
    if !has_python("plugins_check::scripts (the loss by PyTorch)", "torch") {
        let from = script.find("@tetlo.transfer_loss(\"qrs-torch\"").expect("the loss by PyTorch");
        let to = script.find("if __name__").expect("the end");
        script.replace_range(from..to, "");
    }
    std::fs::write(here.join("qrs.py"), script).expect("written");
    let ran = tetlo_in(here, &["plugins", "check", "--format", "json", "qrs.py"]);
    for r in ran.json().as_array().expect("a list of rows") {
        // How long a call takes depends on what else the machine does.
        assert!(r["outcome"] != "FAILED" || r["check"] == "overhead", "{r}");
    }
    assert!(detail(&ran, "loads").contains("run as `python3 {library}`"), "{}", ran.out());
    assert!(detail(&ran, "overhead").contains(" ms a call beside the author's code"));

    let hang = "import tetlo_plugin as tetlo\n\n\
                @tetlo.transfer_loss('hangs', summary='never ends', version='0.1.0')\n\
                def hangs(batch, options):\n    while True:\n        pass\n\n\
                if __name__ == '__main__':\n    tetlo.serve()\n";
    std::fs::write(here.join("hang.py"), hang).expect("written");
    let began = Instant::now();
    let ran = tetlo_in(here, &["plugins", "check", "hang.py", "--time-limit", "5"]).code(1);
    assert!(ran.err().contains("no answer within 4.5 s"), "{}", ran.err());
    assert!(began.elapsed() < Duration::from_mins(1));
}
