//! `check hypergrad CONFIG`: real supernets of tiny width.

use super::in_child;
use crate::tetlo::{TINY, tetlo_in};
use candle_core::Tensor;
use serde_json::Value;
use std::path::Path;
use tetlo_core::Result;
use tetlo_core::config::load_bytes;
use tetlo_core::kinds::{Dataset, Hypergradient, SearchSpace};
use tetlo_core::multilevel::{ErrorBound, MixedProduct, StageOracle};
use tetlo_engine::check::{Axes, composition};

/// Half of the exact product: a planted bug.
#[derive(Debug)]
struct Half;

impl Hypergradient for Half {
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        stage.exact_product(v)?.scaled(0.5)
    }

    fn bound(&self) -> Option<ErrorBound> {
        Some(ErrorBound { total: 1e-2, term: 1e-2 })
    }
}

fn exact_holds(preset: &str, levels: usize) {
    let toml = TINY.replace("preset = \"tetlo\"", &format!("preset = \"{preset}\""));
    let config = load_bytes("t.toml", toml.as_bytes(), Path::new("/"), &[]).unwrap();
    let method = config.methods.iter().find(|m| m.name == "tetlo").unwrap();
    let space = config.tasks[0].search_space.build::<dyn SearchSpace>().unwrap().spec();
    let dataset: Box<dyn Dataset> = config.tasks[0].dataset.as_ref().unwrap().build().unwrap();
    let axes = Axes {
        batch_sizes: vec![4],
        epsilons: vec![],
        estimators: vec!["exact".into(), "central-difference".into()],
    };
    let data = dataset.load().unwrap();
    let report = composition(method, &space, &data, 1, &axes, &[("half", &Half)]).unwrap();
    // Differences of J through the whole update do not contradict the reference.
    assert_eq!(report.reference, Vec::<String>::new(), "{preset}");
    assert_eq!((report.notes.len(), report.skipped.len()), (0, 0), "{preset}");
    let rows = |estimator: &str, smooth: bool| {
        let rows = report
            .rows
            .iter()
            .filter(move |r| r.estimator == estimator && r.problem.ends_with("(smooth)") == smooth);
        rows.map(|r| (r.term.as_str(), r.rel_error.unwrap(), r.pass)).collect::<Vec<_>>()
    };
    assert!(report.rows.iter().all(|r| r.level == levels && r.batch == Some(4)));
    let exact = rows("exact", true);
    assert_eq!(exact.len(), 2 * levels - 1, "{preset}: a row a term, and the total");
    assert!(exact.iter().all(|(_, e, pass)| *e < 1e-9 && *pass == Some(true)), "{exact:?}");
    let near = rows("central-difference", true);
    assert!(near.iter().all(|(.., pass)| *pass == Some(true)), "{near:?}");
    // On the networks as they are nothing is claimed, and differences are far from the derivative.
    let kinks = rows("central-difference", false);
    assert!(kinks.iter().all(|(.., pass)| pass.is_none()), "{kinks:?}");
    assert!(kinks.iter().any(|(term, e, _)| *term == "main_through_W" && *e > 0.1), "{kinks:?}");
    let half = rows("half", true);
    for (term, error, pass) in half {
        let mixed = term != "main_direct";
        assert_eq!(pass, Some(!mixed), "{preset}: {term} is off by {error:e}");
    }
    let failures = report.failures();
    assert_eq!(failures.len(), exact.len() - 1, "{failures:?}");
    assert!(failures.iter().all(|f| f.contains("`half`")), "{failures:?}");
}

#[test]
fn exact_holds_on_darts() {
    if in_child("composition::exact_holds_on_darts", true) {
        exact_holds("darts-2nd", 2);
    }
}

#[test]
fn exact_holds_on_tetlo() {
    if in_child("composition::exact_holds_on_tetlo", true) {
        exact_holds("tetlo", 3);
    }
}

/// A row for each batch size and ε, and errors in the user's words.
#[test]
fn from_the_command_line() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let toml = TINY.replace("preset = \"tetlo\"", "preset = \"darts-2nd\"");
    std::fs::write(here.join("t.toml"), toml).unwrap();
    let check = |more: &[&str]| tetlo_in(here, &[&["check", "hypergrad"], more].concat());
    let axes = ["--batch-size", "2,4", "--epsilon", "1,0.01", "--format", "json"];
    let only = ["--estimator", "central-difference"];
    let ran = check(&[&["t.toml", "--method", "tetlo"], &axes[..], &only[..]].concat()).code(0);
    let rows = ran.json();
    let rows = rows.as_array().unwrap();
    for batch in [2, 4] {
        for (kind, epsilons) in [("smooth", &[0.001, 1.0, 0.01][..]), ("as it is", &[1.0, 0.01])] {
            let of = |r: &&Value| {
                r["problem"] == format!("tetlo ({kind})")
                    && r["batch"] == batch
                    && r["estimator"] == "central-difference"
                    && r["term"] == "main_through_W"
            };
            let found: Vec<&Value> = rows.iter().filter(of).collect();
            let seen: Vec<f64> = found.iter().map(|r| r["epsilon"].as_f64().unwrap()).collect();
            assert_eq!(seen, epsilons, "batch {batch}, {kind}");
            // Only near the limit is a bound claimed.
            let claims = found.iter().filter(|r| r["pass"] == true).count();
            assert_eq!(claims, usize::from(kind == "smooth"));
            assert_eq!(found.iter().filter(|r| r["pass"].is_null()).count(), 2);
        }
    }
    let own = rows.iter().filter(|r| r["estimator"] == "own: central-difference").count();
    assert_eq!(own, 2 * 2 * 3, "batches, networks, terms");

    let wrong = |more: &[&str], word: &str| {
        let error = check(more).code(2).err();
        assert!(error.contains(word), "{error}");
    };
    wrong(&["t.toml", "--method", "random"], "black-box");
    wrong(&["t.toml", "--method", "tetla"], "did you mean `tetlo`");
    wrong(&["t.toml", "--method", "tetlo", "--estimator", "exakt"], "did you mean `exact`");
    wrong(&["t.toml", "--method", "tetlo", "--batch-size", "4000"], "batches of 4000");
    wrong(&["t.toml", "--method", "tetlo", "--batch-size", "1"], "batch-size");
    wrong(&["t.toml", "--method", "tetlo", "--epsilon", "0"], "`epsilon` must be above 0");
    wrong(&["t.toml", "--problem", "smooth"], "--problem");
    wrong(&["--batch-size", "8"], "CONFIG");
}
