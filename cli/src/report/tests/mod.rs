//! A made-up comparison to render, and what its renderings must hold.

mod heat_map;

use super::load::Report;
use super::table::{Look, render};
use super::{csv, html, latex, markdown, notes};
use serde_json::{Value, json};
use std::path::Path;
use tetlo_core::genotype::Genotype;
use tetlo_core::rng::{Key, Purpose};
use tetlo_engine::summary::{Outcome, Trial, TrialName, summarize};

const CELLS: [&str; 3] = [
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), \
     ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=range(2, 6), \
     reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), \
     ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=range(2, 6))",
    "Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_5x5', 2), ('dil_conv_5x5', 0), \
     ('avg_pool_3x3', 3), ('sep_conv_3x3', 1), ('dil_conv_3x3', 4), ('skip_connect', 0)], normal_concat=range(2, 6), \
     reduce=[('max_pool_3x3', 1), ('sep_conv_5x5', 0), ('avg_pool_3x3', 0), ('dil_conv_5x5', 2), ('skip_connect', 3), \
     ('max_pool_3x3', 0), ('sep_conv_3x3', 4), ('skip_connect', 3)], reduce_concat=range(2, 6))",
    "Genotype(normal=[('skip_connect', 0), ('skip_connect', 1), ('skip_connect', 0), ('skip_connect', 1), \
     ('skip_connect', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=range(2, 6), \
     reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('max_pool_3x3', 0), \
     ('skip_connect', 2), ('skip_connect', 2), ('skip_connect', 3)], reduce_concat=range(2, 6))",
];
const HOSTILE: &str = "<b>a</b> & \"b\"|_x_, c";

/// Which comparison to make up.
struct Example {
    seeds: u64,
    synthetic: bool,
    methods: Vec<&'static str>,
    /// This method's last seed fails, the one before is missing.
    broken: Option<&'static str>,
    /// Row and column in the heat map, for as many methods as there are places.
    places: Vec<(&'static str, &'static str)>,
}

impl Example {
    fn plain() -> Self {
        let methods = vec!["first-order", "second-order", "with transfer", "chance"];
        Self { seeds: 3, synthetic: false, methods, broken: None, places: vec![] }
    }

    /// Writes the comparison's directory.
    fn write(&self, dir: &Path) {
        let write = |path: &Path, text: String| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let mut config = String::from(
            "version = 1\nname = \"made up\"\nseeds = [0, 1, 2]\n\n[[task]]\nname = \"clothes\"\n\
                      dataset = { plugin = \"small-images\", options = { note = \"a < b\" } }\n\
                      search-space = { plugin = \"cells\" }\n",
        );
        for (method, (row, column)) in self.methods.iter().zip(&self.places) {
            let quoted = |text: &str| toml::Value::String(text.into()).to_string();
            let [method, row, column] = [method, row, column].map(|text| quoted(text));
            let place = [" }\n", &column, ", column = ", &row, "\nheat-map = { row = ", &method];
            config.push_str("[[method]]\nname = ");
            config.extend(place.into_iter().rev());
        }
        write(&dir.join("compare.toml"), config);
        let mut plan = String::new();
        let mut trials = vec![];
        for seed in 0..self.seeds {
            for (m, method) in self.methods.iter().enumerate() {
                let name = TrialName {
                    trial_id: format!("{:016x}", 0x5eed_0000 + seed * 16 + m as u64),
                    method: (*method).into(),
                    task: "clothes".into(),
                    seed,
                };
                plan += &serde_json::to_string(&name).unwrap();
                plan.push('\n');
                let folder = dir.join("trials").join(&name.trial_id);
                let broken = self.broken == Some(method);
                let outcome = if broken && seed + 1 == self.seeds {
                    let failure = json!({
                        "schema": "tetlo.failure/1", "trial_id": name.trial_id, "step": 41, "level": "main",
                        "error": "training loss <nan> is not finite", "signal": null
                    });
                    write(&folder.join("failure-1.json"), json!({"schema": "old"}).to_string());
                    write(&folder.join("failure-12.json"), failure.to_string());
                    Outcome::Failed(serde_json::from_value(failure).unwrap())
                } else if broken && seed + 2 == self.seeds {
                    Outcome::Missing
                } else {
                    let result = result(&name, m);
                    write(&folder.join("result.json"), result.to_string());
                    Outcome::Finished(serde_json::from_value(result).unwrap())
                };
                write(&folder.join("events.jsonl"), events(seed, m));
                let dataset = json!({"name": "small-images", "notice": "MIT, somebody & others", "synthetic": self.synthetic});
                write(&folder.join("provenance.json"), json!({"dataset": dataset}).to_string());
                trials.push(Trial { name, outcome });
            }
        }
        write(&dir.join("plan.jsonl"), plan);
        let summary = summarize("made up", &trials).unwrap();
        write(&dir.join("summary.json"), serde_json::to_string_pretty(&summary).unwrap());
    }

    fn load(&self) -> Report {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path());
        Report::load(dir.path()).unwrap()
    }
}

fn result(name: &TrialName, method: usize) -> Value {
    let genotype = Genotype::parse(CELLS[(name.seed as usize + method) % 3]).unwrap();
    let accuracy = 0.83
        + (0.012 + 0.001 * name.seed as f64) * method as f64
        + 0.004 * (name.seed * name.seed) as f64;
    json!({
        "schema": "tetlo.result/1", "trial_id": name.trial_id, "method": name.method, "task": name.task,
        "seed": name.seed,
        "metric": {"name": "test_accuracy", "higher_is_better": true, "split": "test"},
        "genotype": genotype.to_json(),
        "search": {"seconds": 41.5 + method as f64, "epochs": 6, "best_val_accuracy": accuracy - 0.05},
        "retrain": {"val_accuracy": null, "test_accuracy": accuracy, "seconds": 30.25},
        "value": accuracy, "params": 51_234 + 1000 * name.seed, "macs": 4_100_000,
        "skip_count": genotype.skip_count(), "peak_memory_bytes": 367_001_600
    })
}

fn events(seed: u64, method: usize) -> String {
    let mut noise = Key::new(seed, Purpose::Problem).role(method as u32).stream();
    let mut out = String::new();
    let mut event = |step: usize, epoch: usize, name: &str, value: f64| {
        let phase = name.split('/').next().unwrap();
        let event =
            json!({"step": step, "epoch": epoch, "phase": phase, "name": name, "value": value});
        out += &event.to_string();
        out.push('\n');
    };
    for epoch in 0..6 {
        let t = epoch as f64;
        let mut jitter = |size: f64| size * noise.normal();
        let loss = 2.3 * (-0.25 * t - 0.05 * method as f64).exp() + jitter(0.04);
        event(31 * (epoch + 1), epoch, "search/train/loss", loss);
        event(
            31 * (epoch + 1),
            epoch,
            "search/val/accuracy",
            0.8 - 0.6 * (-0.5 * t).exp() + jitter(0.01),
        );
        event(
            31 * (epoch + 1),
            epoch,
            "search/skip_count",
            (t * (3 - method.min(3)) as f64 / 3.0).round(),
        );
        if method == 2 {
            event(
                31 * (epoch + 1),
                epoch,
                "hypergrad/transfer/norm",
                10f64.powf(-1.0 - t + jitter(0.1)),
            );
        }
    }
    for step in 0..40 {
        let t = step as f64 / 10.0;
        event(
            step,
            step / 8,
            "retrain/train/loss",
            1.9 * (-0.5 * t).exp() + 0.04 * noise.normal().abs(),
        );
    }
    for epoch in 0..5 {
        event(
            8 * (epoch + 1),
            epoch,
            "retrain/test/accuracy",
            0.85 - 0.3 * (-0.9 * epoch as f64).exp(),
        );
    }
    // A killed process's last words.
    out + "{\"step\": 9"
}

/// Tags open and close in order, attributes are quoted, text holds no bare `<`.
fn well_formed(markup: &str) {
    const VOID: [&str; 2] = ["meta", "!DOCTYPE"];
    let mut open: Vec<&str> = vec![];
    let mut rest = markup;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        if open.last().is_some_and(|t| ["script", "style"].contains(t)) && !rest.starts_with('/') {
            continue;
        }
        let end = rest.find('>').expect("a tag ends");
        let tag = &rest[..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes in <{tag}>");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes what was opened last");
        } else {
            let name = tag.split([' ', '/']).next().unwrap();
            assert!(name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!'), "<{tag}>");
            if !tag.ends_with('/') && !VOID.contains(&name) {
                open.push(name);
            }
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?} stay open");
}

fn text(report: &Report) -> String {
    let notes: Vec<_> = notes(report).iter().map(|n| format!("{}: {}", n.title, n.text)).collect();
    notes.join("\n")
}

#[test]
fn the_page_holds_everything_and_needs_nothing() {
    let report = Example::plain().load();
    let page = html(&report);
    well_formed(&page);
    // No address that a browser would follow (the namespace of inline SVG is only a name).
    let without_namespace = page.replace("http://www.w3.org/2000/svg", "");
    for part in ["http:", "https:", "src=", "href=", "url(", "@import"] {
        assert!(!without_namespace.contains(part), "{part}");
    }
    // Two cells for each of 12 trials; a chart for each of 6 quantities.
    assert_eq!(page.matches("class=\"cell\"").count(), 24);
    assert_eq!(page.matches("<figure class=\"chart\">").count(), 6);
    for name in
        ["search/train/loss", "search/val/accuracy", "search/skip_count", "retrain/train/loss"]
    {
        assert!(page.contains(&format!("<code>{name}</code>")), "{name}");
    }
    // 0.83, 0.834, 0.846: mean 0.83666…, squares 0.0000444… + 0.00000711… + 0.0000871…, /2.
    assert!(page.contains("0.8367 ± 0.0083"));
    for part in [
        "52.2 k",
        "4.10 M",
        "350 MiB",
        "41.5",
        "30.2",
        "test accuracy",
        "data small-images",
        "a &lt; b",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(html(&Example::plain().load()), page);
}

#[test]
fn hostile_names_stay_text() {
    let methods = vec![HOSTILE, "b\\{}$%#^~", "='1'\n2"];
    let report = Example { methods, broken: Some(HOSTILE), ..Example::plain() }.load();
    let page = html(&report);
    well_formed(&page);
    assert!(!page.contains("<b>a</b>"));
    assert!(page.contains("&lt;b&gt;a&lt;/b&gt; &amp; &quot;b&quot;|_x_, c"));
    let text = markdown(&report);
    assert!(text.contains("| &lt;b&gt;a&lt;/b&gt; &amp; \"b\"\\|\\_x\\_, c |"), "{text}");
    let tex = latex(&report);
    assert!(
        tex.contains(
            "\\textless{}b\\textgreater{}a\\textless{}/b\\textgreater{} \\& \"b\"|\\_x\\_, c &"
        ),
        "{tex}"
    );
    assert!(
        tex.contains("b\\textbackslash{}\\{\\}\\$\\%\\#\\textasciicircum{}\\textasciitilde{} &"),
        "{tex}"
    );
    let rows = csv(&report);
    assert!(rows.contains("clothes,\"<b>a</b> & \"\"b\"\"|_x_, c\",0,"), "{rows}");
}

#[test]
fn notes_say_what_three_seeds_cannot_show() {
    let text = text(&Example::plain().load());
    assert!(
        text.contains("Seeds: Every method has 3 finished seeds a task; with so few"),
        "{text}"
    );
    assert!(
        text.contains("With 3 seeds in common the smallest two-sided p of the signed-rank test is 0.25 (1 after Holm over 6 pairs)"),
        "{text}"
    );
    assert!(text.contains("test accuracy is computed on the test split, once"), "{text}");
    assert!(
        !text.contains("Synthetic") && !text.contains("Failed") && !text.contains("Budget"),
        "{text}"
    );
}

#[test]
fn notes_name_failures_missing_trials_and_synthetic_data() {
    let example = Example { synthetic: true, broken: Some("chance"), ..Example::plain() };
    let report = example.load();
    let text = text(&report);
    assert!(text.contains("1 of 12 trials failed and is left out, which may flatter the method: chance seed 2 on clothes (training loss <nan> is not finite)."), "{text}");
    assert!(text.contains("1 of 12 trials has not finished: chance seed 1 on clothes."), "{text}");
    assert!(
        text.contains("Methods have between 1 and 3 finished seeds a task; a single run"),
        "{text}"
    );
    assert!(text.contains("The data set small-images is made by a program"), "{text}");
    let page = html(&report);
    well_formed(&page);
    assert!(page.contains("small-images <strong>(synthetic)</strong>"));
    assert!(
        page.contains("failed: training loss &lt;nan&gt; is not finite (step 41 and level main)")
    );
    assert!(page.contains("10 of 12 trials finished"));
    assert!(latex(&report).contains("1 trial failed and is not included."));
    let rows = csv(&report);
    assert_eq!(rows.lines().count(), 13);
    assert!(rows.contains(",missing,,"));
    assert!(rows.lines().all(|l| l.contains('"') || l.matches(',').count() == 19), "{rows}");
}

#[test]
fn six_seeds_can_be_significant() {
    let example = Example { seeds: 6, methods: vec!["a", "b"], ..Example::plain() };
    let text = text(&example.load());
    // All six differences are negative: W = 0, p = 2/64.
    assert!(
        text.contains("Significant by the signed-rank test after Holm: a below b (p = 0.031)."),
        "{text}"
    );
}

#[test]
fn forms_for_papers_and_terminals() {
    let report = Example { methods: vec!["first-order", "chance"], ..Example::plain() }.load();
    let plain = render(&report.summary, Look::PLAIN);
    let expected = [
        " method          test accuracy   n   params     MACs   skips   search s   retrain s    memory",
        "──────────────────────────────────────────────────────────────────────────────────────────────",
        " first-order   0.8367 ± 0.0083   3   52.2 k   4.10 M     3.7       41.5        30.2   350 MiB",
        " chance        0.8497 ± 0.0093   3   52.2 k   4.10 M     3.7       42.5        30.2   350 MiB",
    ];
    let expected = expected.join("\n");
    assert_eq!(plain, expected, "\n{plain}");
    let coloured = render(&report.summary, Look { colour: true, width: Some(120) });
    assert!(coloured.contains("\u{1b}["));
    let mut bare = String::new();
    let mut escape = false;
    for c in coloured.chars() {
        match c {
            '\u{1b}' => escape = true,
            'm' if escape => escape = false,
            _ if escape => {}
            c => bare.push(c),
        }
    }
    let bare: Vec<&str> = bare.lines().map(str::trim_end).collect();
    assert_eq!(bare.join("\n"), plain);
    let narrow = render(&report.summary, Look { colour: false, width: Some(60) });
    assert!(narrow.lines().all(|l| l.chars().count() <= 60), "{narrow}");

    let text = markdown(&report);
    for line in [
        "# made up",
        "| Method | test accuracy (test split) | 95 % interval | n | failed | Parameters | Multiply-adds | Skips | Search s | Retrain s | Peak memory |",
        "| chance | 0.8497 ± 0.0093 | 0.8420 – 0.8600 | 3 | 0 | 52.2 k | 4.10 M | 3.7 | 42.5 | 30.2 | 350 MiB |",
        "| first-order | chance | 3 | \u{2212}0.0130 | wilcoxon | 0 | 0.250 | 0.250 | \u{2212}1 (rank-biserial) | with 3 unequal pairs no two-sided p below 0.25 is possible |",
        // Differences −0.012, −0.013, −0.014: t = −0.013 √3 / 0.001, p = 1 − |t|/√(2 + t²), d = −13.
        "| first-order | chance | 3 | \u{2212}0.0130 | paired-t | \u{2212}22.52 | 0.002 | 0.002 | \u{2212}13 (cohen-dz) | 3 pairs cannot show that differences are normal |",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    let tex = latex(&report);
    assert!(
        tex.contains(
            "    chance & $0.8497 \\pm 0.0093$ & 3 & 52.2\\,k & 4.10\\,M & 3.7 & 42.5 & 30.2 \\\\\n"
        ),
        "{tex}"
    );
    assert_eq!(tex.matches("\\begin{").count(), tex.matches("\\end{").count());
}

#[test]
fn unfinished_comparisons_can_be_read_and_broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let example = Example { broken: Some("chance"), ..Example::plain() };
    example.write(dir.path());
    let whole = Report::load(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join("summary.json")).unwrap();
    assert_eq!(Report::load(dir.path()).unwrap().summary, whole.summary);

    let events =
        dir.path().join("trials").join(&whole.trials[0].trial.name.trial_id).join("events.jsonl");
    std::fs::write(&events, "{}\n").unwrap();
    let error = format!("{:#}", Report::load(dir.path()).unwrap_err());
    assert!(error.contains("events.jsonl`, line 1: missing field `step`"), "{error}");
    std::fs::remove_file(&events).unwrap();

    let result = events.with_file_name("result.json");
    let text = std::fs::read_to_string(&result).unwrap();
    std::fs::write(&result, text.replace("tetlo.result/1", "tetlo.result/9")).unwrap();
    let error = format!("{:#}", Report::load(dir.path()).unwrap_err());
    assert!(
        error.contains("result.json` has schema `tetlo.result/9`, expected `tetlo.result/1`"),
        "{error}"
    );

    let error = format!("{:#}", Report::load(&dir.path().join("nowhere")).unwrap_err());
    assert!(error.contains("nowhere` is not a directory"), "{error}");
}

#[test]
fn pictures_are_well_formed() {
    for text in CELLS {
        let picture = crate::draw::svg(&Genotype::parse(text).unwrap());
        well_formed(&picture);
        assert_eq!(picture.matches("<g class=\"op ").count(), 16);
        assert!(picture.contains(">normal cell</text>") && picture.contains(">reduce cell</text>"));
    }
    let text = r#"{"a<b": [["x&y", 0], ["skip_connect", 1]], "a<b_concat": [2]}"#;
    let picture = crate::draw::svg(&Genotype::parse(text).unwrap());
    well_formed(&picture);
    assert!(picture.contains(">x&amp;y</text>") && picture.contains(">a&lt;b cell</text>"));
}
