//! Properties: nothing panics, errors have a place, what loads can be written and loads again.

use super::super::{explain, load_bytes};
use super::BASE;
use proptest::prelude::*;
use std::path::Path;

/// Loads; an error has a hint and, unless it lies in a plugin, a place and a caret.
fn probe(bytes: &[u8], sets: &[String]) -> Result<(), TestCaseError> {
    match load_bytes("c.toml", bytes, Path::new("/home/me"), sets) {
        Ok(config) => {
            let text = config.to_toml().map_err(|e| TestCaseError::fail(e.to_string()))?;
            let again = load_bytes("r.toml", text.as_bytes(), Path::new("/"), &[])
                .map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
            prop_assert_eq!(again, config);
        }
        Err(e) => {
            let message = e.to_string();
            prop_assert!(message.lines().last().is_some_and(|l| l.contains('^')), "{}", message);
            let placed = ["c.toml:", "--set #", "tetlo-core/"];
            prop_assert!(placed.iter().any(|p| message.starts_with(p)), "{}", message);
            prop_assert!(e.hint().is_some_and(|h| !h.is_empty()), "{}", message);
        }
    }
    Ok(())
}

/// Pieces that hit keys, values and syntax.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "\"",
            "'",
            "=",
            "[",
            "]",
            "{",
            "}",
            ".",
            ",",
            "\n",
            "#",
            "[[method]]\n",
            "[search]\n",
            "epochs = 0",
            "plugin",
            "name",
            "test-tri",
            "-1",
            "1e999",
            "nan",
            "true",
            "1979-05-27",
            "options",
            "0x1",
            "\u{0}",
            "α",
            "\\",
            "preset = 'test-broken'\n",
            "{ plugin = 'test-both' }",
            "[search.x]\n",
            "library = 'x'\n",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        probe(&bytes, &[])?;
    }

    #[test]
    fn mutated_files(
        cuts in prop::collection::vec((0..BASE.len(), 0..12_usize, piece()), 1..4),
    ) {
        let mut text = BASE.as_bytes().to_vec();
        for (at, length, piece) in cuts {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, piece.bytes());
        }
        probe(&text, &[])?;
    }

    #[test]
    fn any_override(
        key in prop_oneof![
            prop::sample::select(vec![
                "threads", "seeds", "seeds.0", "method", "method.tri", "method.tri.preset",
                "method.tri.optimizer", "method.tri.optimizer.options", "task", "search",
                "method.tri.optimizer.options.lambda", "method.draws.search.epochs", "version",
                "method.tri.regularizers", "method.0.name", "evaluate.plugin", "search.momentum",
            ]).prop_map(str::to_owned),
            any::<String>(),
        ],
        value in prop_oneof![
            prop::sample::select(vec![
                "1", "0", "[]", "{}", "'x'", "test-tri", ".5", "[1, 2]", "true", "nan", "[{}]",
                "{name='tri'}", "[{name='a', preset='test-tri'}]", "{plugin='test-levels'}",
            ]).prop_map(str::to_owned),
            any::<String>(),
            any::<f64>().prop_map(|x| x.to_string()),
        ],
    ) {
        probe(BASE.as_bytes(), &[format!("{key}={value}")])?;
    }

    #[test]
    fn good_values_survive_being_written(
        lambda in 0.0..f64::MAX,
        small in any::<f32>().prop_filter("finite", |x| x.is_finite()),
        count in 0..=i64::MAX,
        seeds in prop::collection::btree_set(0..=i64::MAX, 1..5),
        rate in 0.0..1.0,
        path in "[^\u{0}]{1,20}",
    ) {
        let quoted = toml::Value::String(path).to_string();
        let sets = [
            format!("method.tri.optimizer.options.lambda={lambda:?}"),
            format!("method.tri.optimizer.options.small={small:?}"),
            format!("method.tri.transfer-loss.options.count={count}"),
            format!("method.tri.search.learning-rate={rate:?}"),
            format!("seeds={:?}", seeds.iter().collect::<Vec<_>>()),
            format!("task.data.dataset.options.path={quoted}"),
        ];
        let config = load_bytes("c.toml", BASE.as_bytes(), Path::new("/"), &sets);
        prop_assert!(config.is_ok(), "{:?}", config);
        probe(BASE.as_bytes(), &sets)?;
    }

    #[test]
    fn any_key_gets_an_answer(key in any::<String>()) {
        match explain(&key) {
            Ok(text) => prop_assert!(!text.trim().is_empty()),
            Err(e) => prop_assert!(!e.to_string().is_empty()),
        }
    }
}
