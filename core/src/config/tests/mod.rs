//! Tests of the whole way from text to configuration.

mod errors;
mod heat_map;
mod plugins;
mod properties;
mod reference;
mod values;

use super::{CompareConfig, load};
use crate::{Error, Result};
use std::path::Path;

/// A small configuration; line numbers in the tests count its lines.
const BASE: &str = r#"version = 1
name = "base"
seeds = [0, 1]

[[task]]
name = "data"
dataset = { plugin = "test-data", options = { path = "data.npz" } }
search-space = { plugin = "test-space" }

[search]
epochs = 3

[[method]]
name = "tri"
preset = "test-tri"

[[method]]
name = "draws"
preset = "test-draws"

[evaluate]
plugin = "test-retrain"
options = { epochs = 5 }
"#;

/// [`BASE`] with one piece of text replaced, which must be there.
fn changed(from: &str, to: &str) -> String {
    assert!(BASE.contains(from), "`{from}`");
    BASE.replacen(from, to, 1)
}

fn read(text: &str, sets: &[&str]) -> Result<CompareConfig> {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    load("c.toml", text, Path::new("/home/me"), &sets)
}

fn good(text: &str, sets: &[&str]) -> CompareConfig {
    read(text, sets).unwrap_or_else(|e| panic!("{e}\n{:?}", e.hint()))
}

/// The message and hint of an error, which must be a usage error.
fn bad(text: &str, sets: &[&str]) -> (String, String) {
    let e = read(text, sets).expect_err("an error");
    assert!(matches!(e, Error::Config { .. }), "{e:?}");
    let hint = e.hint().unwrap_or_default();
    assert!(!hint.is_empty(), "no hint: {e}");
    (e.to_string(), hint)
}
