//! Every error: its place, its words, its hint.

use super::super::load_bytes;
use super::{BASE, bad, changed};
use std::path::Path;

/// Checks an error: the text it begins with, the piece of the line that its carets mark, and a
/// piece of the hint.
#[track_caller]
fn check(text: &str, sets: &[&str], head: &str, marked: &str, hint: &str) {
    let (message, got_hint) = bad(text, sets);
    assert!(message.starts_with(head), "expected `{head}` in:\n{message}");
    assert_eq!(under_carets(&message), marked, "{message}");
    assert!(got_hint.contains(hint), "expected `{hint}` in: {got_hint}");
}

fn under_carets(message: &str) -> String {
    let lines: Vec<&str> = message.lines().collect();
    let [.., line, carets] = lines.as_slice() else { panic!("no snippet: {message}") };
    line.chars().zip(carets.chars()).filter(|(_, c)| *c == '^').map(|(l, _)| l).collect()
}

#[test]
fn misspelt_keys_at_every_depth() {
    let text = changed("seeds = ", "seds = ");
    check(&text, &[], "c.toml:3:1: unknown key `seds`", "seds", "did you mean `seeds`?");
    let text = changed("epochs = 3", "epcohs = 3");
    check(&text, &[], "c.toml:11:1: unknown key `epcohs`", "epcohs", "did you mean `epochs`?");
    let text = changed("search-space =", "searchspace =");
    check(&text, &[], "c.toml:8:1: unknown key `searchspace`", "searchspace", "`search-space`");
    let text = changed("plugin = \"test-retrain\"", "plugim = \"test-retrain\"");
    check(&text, &[], "c.toml:22:1: unknown key `plugim`", "plugim", "`plugin`");
    let text = changed("preset = \"test-tri\"", "preset = \"test-tri\"\nsearch = { flop = true }");
    check(&text, &[], "c.toml:16:12: unknown key `flop`", "flop", "`flip`");
    let text = changed("name = \"data\"", "name = \"data\"\nwholly-other = 1");
    check(&text, &[], "c.toml:7:1: unknown key", "wholly-other", "tetlo config explain task");
    let text = changed("seeds =", "wholly-other = 1\nseeds =");
    check(&text, &[], "c.toml:3:1: unknown key", "wholly-other", "tetlo config schema");
}

#[test]
fn misspelt_options() {
    let text = changed("options = { epochs = 5 }", "options = { epoch = 5 }");
    let head = "c.toml:23:13: options of `test-retrain`: unknown key `epoch`, expected `epochs`";
    check(&text, &[], head, "epoch", "did you mean `epochs`?");
    let text = changed("options = { epochs = 5 }", "[evaluate.options]\nlearning = 5");
    let head = "c.toml:24:1: options of `test-retrain`: unknown key `learning`";
    check(&text, &[], head, "learning", "`tetlo plugins show test-retrain`");
    let text = changed("\"test-space\"", "\"test-space\", options = { c = 1 }");
    let head = "c.toml:8:53: options of `test-space`: unknown key `c`, there are no keys here";
    check(&text, &[], head, "c", "tetlo plugins show test-space");
    // Inside a table of the options.
    let inner = "optimizer = { plugin = 'test-levels', options = { inner = { rat = 1 } } }";
    let text = changed("preset = \"test-tri\"", &format!("preset = \"test-tri\"\n{inner}"));
    check(&text, &[], "c.toml:16:61: options of `test-levels`: unknown key `rat`", "rat", "`rate`");
    // Options beside `plugin`.
    let text = changed("options = { epochs = 5 }", "epochs = 5");
    check(&text, &[], "c.toml:23:1: unknown key `epochs`", "epochs", "`options = { … }`");
}

#[test]
fn unknown_names() {
    let text = changed("\"test-space\"", "\"test-spaec\"");
    let head = "c.toml:8:27: unknown search-space `test-spaec`";
    check(&text, &[], head, "\"test-spaec\"", "did you mean `test-space`?");
    let text = changed("\"test-space\"", "\"elsewhere\"");
    let hint = "`tetlo plugins list --kind search-space` shows the choices";
    check(&text, &[], "c.toml:8:27: unknown search-space `elsewhere`", "\"elsewhere\"", hint);
    let text = changed("preset = \"test-tri\"", "preset = \"test-tir\"");
    let head = "c.toml:15:10: unknown preset `test-tir`";
    check(&text, &[], head, "\"test-tir\"", "did you mean `test-tri`? `tetlo plugins list --kind");
    let text = changed("preset = \"test-tri\"", "optimizer.plugin = 'test-randon'");
    let head = "c.toml:15:20: unknown multilevel-optimizer or black-box-search `test-randon`";
    check(&text, &[], head, "'test-randon'", "did you mean `test-random`?");
    let text = changed("preset = \"test-tri\"", "optimizer.plugin = 'test-both'");
    let head = "c.toml:15:20: `test-both` is the name of a multilevel-optimizer and of a black-box";
    check(&text, &[], head, "'test-both'", "another name");
    let text =
        changed("preset = \"test-tri\"", "preset = \"test-tri\"\nauxiliary.plugin = 'test-twice'");
    let head = "c.toml:16:20: two plugins of kind auxiliary are called `test-twice`";
    check(&text, &[], head, "'test-twice'", "link only one");
}

#[test]
fn wrong_types() {
    let text = changed("epochs = 3", "epochs = \"three\"");
    let head = "c.toml:11:10: invalid type: string \"three\", expected a whole number";
    check(&text, &[], head, "\"three\"", "tetlo config explain search.epochs");
    let text = changed("epochs = 3", "batch-size = -1");
    check(&text, &[], "c.toml:11:14: invalid value: integer `-1`", "-1", "search.batch-size");
    let text = changed("seeds = [0, 1]", "seeds = 3");
    let head = "c.toml:3:9: invalid type: integer `3`, expected an array";
    check(&text, &[], head, "3", "tetlo config explain seeds");
    let text = changed("seeds = [0, 1]", "seeds = [0, -1]");
    check(&text, &[], "c.toml:3:13: invalid value: integer `-1`", "-1", "explain seeds");
    let text = changed("{ plugin = \"test-space\" }", "\"test-space\"");
    let head = "c.toml:8:16: invalid type: string \"test-space\", expected a table `{ plugin";
    check(&text, &[], head, "\"test-space\"", "explain task.search-space");
    let text = changed("version = 1", "version = \"1\"");
    check(&text, &[], "c.toml:1:11: invalid type: string", "\"1\"", "explain version");
    let text = changed("[[task]]", "[task]");
    check(&text, &[], "c.toml:5:1: invalid type: table, expected an array", "[task]", "task");
    let text = changed("options = { epochs = 5 }", "options = 5");
    let head = "c.toml:23:11: invalid type: integer `5`, expected a table of options";
    check(&text, &[], head, "5", "explain evaluate.options");
}

#[test]
fn wrong_types_and_values_of_options() {
    let options = |o: &str| changed("{ epochs = 5 }", o);
    let head = "c.toml:23:22: options of `test-retrain`: invalid type: string \"x\"";
    let hint = "`tetlo config explain evaluator.test-retrain.epochs` says what it takes";
    check(&options("{ epochs = 'x' }"), &[], head, "'x'", hint);
    let levels = |o: &str| {
        let line = format!("optimizer = {{ plugin = 'test-levels', options = {{ {o} }} }}");
        changed("preset = \"test-tri\"", &format!("preset = \"test-tri\"\n{line}"))
    };
    // The plugin's own check: the caret stands under the value of the key it names.
    let head = "c.toml:16:60: options of `test-levels`: `lambda` must be at least 0, not -1";
    check(
        &levels("lambda = -1"),
        &[],
        head,
        "-1",
        "explain multilevel-optimizer.test-levels.lambda",
    );
    let head = "c.toml:16:68: options of `test-levels`: `inner.rate` must be at most 1, not 2";
    check(&levels("inner = { rate = 2 }"), &[], head, "2", "test-levels.inner");
    let head = "c.toml:16:61: options of `test-levels`: unknown variant `summ`";
    check(&levels("combine = 'summ'"), &[], head, "'summ'", "did you mean `sum`?");
    // A name that the plugin looks up itself: its own hint.
    let head = "c.toml:16:63: options of `test-levels`: unknown hypergradient `exakt`";
    check(&levels("estimator = 'exakt'"), &[], head, "'exakt'", "did you mean `exact`?");
    for number in ["inf", "nan", "-inf"] {
        let (message, _) = bad(&levels(&format!("lambda = {number}")), &[]);
        assert!(message.contains("c.toml:16:60: an option must be a finite number"), "{message}");
    }
    let head = "c.toml:16:60: floating-point number overflowed";
    check(&levels("lambda = 1e999"), &[], head, "1e999", "explain method.optimizer");
    // A key that is required is missing: the plugin is to blame where it has no options.
    let text = changed(", options = { path = \"data.npz\" }", "");
    let head = "c.toml:7:22: options of `test-data`: `path` is missing";
    check(&text, &[], head, "\"test-data\"", "give the file's `path`");
}

#[test]
fn values_out_of_range() {
    let search = |line: &str| changed("epochs = 3", line);
    let cases = [
        ("epochs = 0", "c.toml:11:10: `epochs` must be at least 1, not 0", "0"),
        ("batch-size = 1", "c.toml:11:14: `batch-size` must be at least 2", "1"),
        ("train-portion = 1.0", "c.toml:11:17: `train-portion` must be between 0 and 1", "1.0"),
        ("learning-rate = -0.1", "c.toml:11:17: `learning-rate` must be finite", "-0.1"),
        ("weight-decay = inf", "c.toml:11:16: `weight-decay` must be finite", "inf"),
        ("momentum = 1", "c.toml:11:12: `momentum` must be at least 0 and below 1, not 1", "1"),
        ("arch-beta1 = nan", "c.toml:11:14: `arch-beta1` must be", "nan"),
    ];
    for (line, head, marked) in cases {
        check(&search(line), &[], head, marked, "tetlo config explain search.");
    }
    // A method's own value.
    let text = changed("preset = \"test-tri\"", "preset = \"test-tri\"\nsearch.epochs = 0");
    check(&text, &[], "c.toml:16:17: `epochs` must be at least 1", "0", "search.epochs");
    let text = changed("seeds =", "threads = 5000\nseeds =");
    check(&text, &[], "c.toml:3:11: `threads` must be at most 4096", "5000", "all cores");
    for device in ["gpu", "cuda", "cuda:", "cuda:x", "cuda:+1", "CPU", "cuda:99999999999"] {
        let text = changed("seeds =", &format!("device = \"{device}\"\nseeds ="));
        let head = format!("c.toml:3:10: unknown device `{device}`");
        check(&text, &[], &head, &format!("\"{device}\""), "`cuda:0`");
    }
}

#[test]
fn missing_keys() {
    for (line, key, marked) in [
        ("version = 1\n", "version", "n"),
        ("name = \"base\"\n", "name", "v"),
        ("seeds = [0, 1]\n", "seeds", "v"),
    ] {
        let head = format!("c.toml:1:1: missing key `{key}`");
        check(&changed(line, ""), &[], &head, marked, key);
    }
    let text = changed("search-space = { plugin = \"test-space\" }\n", "");
    let head = "c.toml:5:1: missing key `search-space`";
    check(&text, &[], head, "[[task]]", "tetlo config explain task.search-space");
    let text = changed("{ plugin = \"test-space\" }", "{}");
    check(&text, &[], "c.toml:8:16: missing key `plugin`", "{}", "tetlo plugins list");
    let text = changed("preset = \"test-tri\"\n", "");
    let head = "c.toml:13:1: the method `tri` has no `optimizer`";
    check(&text, &[], head, "[[method]]", "`tetlo plugins list --kind method`");
    let text = changed("[evaluate]\nplugin = \"test-retrain\"\noptions = { epochs = 5 }\n", "");
    let head = "c.toml:5:1: nothing evaluates the task `data`";
    check(&text, &[], head, "[[task]]", "`tetlo plugins list --kind evaluator`");
    let text =
        changed("dataset = { plugin = \"test-data\", options = { path = \"data.npz\" } }\n", "");
    let head = "c.toml:5:1: the task `data` has no `dataset`, but the method `tri` trains";
    check(&text, &[], head, "[[task]]", "tetlo plugins list --kind dataset");
    let text = changed("preset = \"test-tri\"", "optimizer = { plugin = \"test-levels\" }");
    let head =
        "c.toml:13:1: the method `tri` has no `relaxation`, which the optimizer `test-levels`";
    check(&text, &[], head, "[[method]]", "tetlo plugins list --kind relaxation");
    let start = BASE.find("[[method]]").unwrap();
    let text = format!("{}[evaluate]\nplugin = 'test-retrain'\n", &BASE[..start]);
    check(&text, &[], "c.toml:1:1: missing key `method`", "v", "write `[[method]]`");
    let text = format!("method = []\n{text}");
    check(&text, &[], "c.toml:1:10: there is no method", "[]", "write `[[method]]`");
    let text = "version = 1\nname = 'x'\nseeds = [1]\n";
    check(text, &[], "c.toml:1:1: missing key `task`", "v", "write `[[task]]`");
}

#[test]
fn files_that_are_no_configuration() {
    for text in ["", "\n\n", "# nothing here\n", "\u{feff}"] {
        let (message, hint) = bad(text, &[]);
        assert!(message.starts_with("c.toml:1:1: the configuration is empty"), "{message}");
        assert!(hint.contains("tetlo config init"));
    }
    check("a b", &[], "c.toml:1:3: key with no value, expected `=`", "b", "TOML");
    check("x = 1\nx = 2\n", &[], "c.toml:2:1: duplicate key", "x", "TOML");
    let load = |bytes: &[u8]| load_bytes("c.toml", bytes, Path::new("/"), &[]).unwrap_err();
    let e = load(b"version = 1\nname = \"\xff\xfe\"\n");
    let message = e.to_string();
    assert!(message.starts_with("c.toml:2:9: byte 20 (0xff) is not UTF-8 text"), "{message}");
    assert_eq!(under_carets(&message), "\u{fffd}");
    assert!(e.hint().unwrap().contains("TOML"));
    let e = load(b"\x7fELF\x02\x01\x01\0\0\0\0");
    assert!(e.to_string().starts_with("c.toml:1:1: byte 0 (0x7f) is not UTF-8 text"), "{e}");
    assert!(!e.to_string().contains('\0'), "{e:?}");
    assert!(load_bytes("c.toml", BASE.as_bytes(), Path::new("/"), &[]).is_ok());
}

#[test]
fn seeds_and_names() {
    let text = changed("seeds = [0, 1]", "seeds = []");
    check(&text, &[], "c.toml:3:9: there are no seeds", "[]", "seeds = [0, 1, 2]");
    let text = changed("seeds = [0, 1]", "seeds = [0, 7, 7]");
    check(&text, &[], "c.toml:3:16: the seed 7 is given twice", "7", "another number");
    let text = changed("seeds = [0, 1]", "seeds = [9223372036854775808]");
    check(
        &text,
        &[],
        "c.toml:3:10: the seed 9223372036854775808",
        "9223372036854775808",
        "at most",
    );
    let text = changed("name = \"draws\"", "name = \"tri\"");
    check(&text, &[], "c.toml:18:8: two methods are called `tri`", "\"tri\"", "by name");
    let task = "[[task]]\nname = \"data\"\nsearch-space.plugin = \"test-space\"\n\n[search]";
    let text = changed("[search]", task);
    check(&text, &[], "c.toml:11:8: two tasks are called `data`", "\"data\"", "by name");
    for name in ["", "a/b", "../up", ".hidden", "-flag", "a b", "é", "a\\n"] {
        let text = changed("name = \"tri\"", &format!("name = \"{name}\""));
        let (message, hint) = bad(&text, &[]);
        assert!(message.starts_with("c.toml:14:8: "), "{message}");
        assert!(hint.contains("names become file names"), "{hint}");
        let text = changed("name = \"base\"", &format!("name = \"{name}\""));
        assert!(bad(&text, &[]).0.starts_with("c.toml:2:8: "));
    }
    let text = changed("name = \"tri\"", &format!("name = \"{}\"", "x".repeat(101)));
    assert!(bad(&text, &[]).0.contains("longer than 100"));
}

#[test]
fn another_version_is_reported_before_its_keys() {
    let text = format!("version = 2\nnew-key = 1\n{}", &BASE["version = 1\n".len()..]);
    let head = "c.toml:1:11: version 2 of the configuration is unknown";
    check(&text, &[], head, "2", "`version = 1`");
    check(BASE, &["version=3"], "--set #1, column 9: version 3", "3", "`version = 1`");
}

#[test]
fn libraries_only_where_they_can_be_loaded() {
    let text = changed("\"test-space\"", "\"mine\", library = \"libmine.so\"");
    let head = "c.toml:8:45: a search-space cannot be loaded from a library; only a regularizer, \
                selection, stop-rule, transfer-loss can";
    check(&text, &[], head, "\"libmine.so\"", "tetlo_cli::main()");
    let loss = |l: &str| {
        let line = format!("preset = \"test-tri\"\ntransfer-loss = {{ plugin = 'mine', {l} }}");
        changed("preset = \"test-tri\"", &line)
    };
    check(&loss("library = ''"), &[], "c.toml:16:46: `library` is empty", "''", "path");
    let nan = loss("library = 'l.so', options = { x = nan }");
    check(&nan, &[], "c.toml:16:70: an option must be a finite", "nan", "leave the option out");
}

#[test]
fn keys_that_do_nothing() {
    let text = changed(
        "preset = \"test-draws\"",
        "preset = \"test-draws\"\ntransfer-loss.plugin = 'test-loss'",
    );
    let (message, hint) = bad(&text, &[]);
    let head =
        "c.toml:20:1: `transfer-loss` does nothing here: `test-random` is a black-box search";
    assert!(message.starts_with(head), "{message}");
    assert!(hint.contains("leave `transfer-loss` out"));
}

#[test]
fn errors_in_presets_name_the_presets_file() {
    let preset = |name: &str| changed("\"test-tri\"", &format!("\"{name}\""));
    let head = "tetlo-core/presets/broken.toml:2:51: options of `test-levels`: unknown key `lamda`";
    check(&preset("test-broken"), &[], head, "lamda", "did you mean `lambda`?");
    check(&preset("test-garbled"), &[], "tetlo-core/garbled.toml:1:5: ", "=", "TOML");
    let head = "tetlo-core/named.toml:1:8: a preset has no `name`";
    check(&preset("test-named"), &[], head, "'x'", "body of a `[[method]]` table");
}

#[test]
fn overrides_are_reported_by_number() {
    let head = "--set #2, column 8: unknown key `epcohs`";
    check(BASE, &["threads=2", "search.epcohs=1"], head, "epcohs", "did you mean `epochs`?");
    let head = "--set #1, column 30: options of `test-levels`: unknown key `lamda`";
    check(BASE, &["method.tri.optimizer.options.lamda=1"], head, "lamda", "`lambda`");
    let set = "method.tri.optimizer.options.lambda = -1";
    check(BASE, &[set], "--set #1, column 39: options of `test-levels`: `lambda`", "-1", "explain");
    let head = "--set #1, column 15: invalid type: string \"many\", expected a whole number";
    check(BASE, &["search.epochs=many"], head, "many", "tetlo config explain search.epochs");
    check(BASE, &["seeds=[1,1]"], "--set #1, column 10: the seed 1 is given twice", "1", "number");
    check(BASE, &["search.epochs=0"], "--set #1, column 15: `epochs` must", "0", "explain");
    let head = "--set #1, column 8: `method` has no element `trii`";
    check(BASE, &["method.trii.search.epochs=1"], head, "trii", "did you mean `tri`?");
    check(BASE, &["task.x.name=a"], "--set #1, column 6: `task` has no element", "x", "`data`");
    check(
        BASE,
        &["seeds.5=1"],
        "--set #1, column 7: `seeds` has no element `5`",
        "5",
        "2 elements",
    );
    check(BASE, &["name.x=1"], "--set #1, column 6: `name` holds a string", "x", "set `name`");
    let head = "--set #1, column 12: missing key `plugin`";
    check(BASE, &["method.tri.stop-rule.options.x=1"], head, "stop-rule", "`tetlo plugins list`");
}

#[test]
fn overrides_that_cannot_be_read() {
    check(BASE, &["threads"], "--set #1, column 1: expected `KEY=VALUE`", "threads", "--set");
    check(BASE, &["=1"], "--set #1, column 1: no key", "=1", "--set search.epochs=1");
    check(BASE, &["threads="], "--set #1, column 9: no value", "", "an empty string");
    check(BASE, &["a b=1"], "--set #1, column ", "b", "--set search.epochs=1");
    check(BASE, &["seeds=[1,"], "--set #1, column ", "", "the value is TOML");
    let (message, hint) = bad(BASE, &["name=two words"]);
    assert!(message.starts_with("--set #1, column "), "{message}");
    assert!(hint.contains("quotes"));
    // No second key can be smuggled in.
    assert!(bad(BASE, &["threads=1\nname='x'"]).0.starts_with("--set #1, column "));
}
