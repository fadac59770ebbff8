//! `plugins new`: every kind in every language is written, built and tested as its README says; and
//! crates outside the repository, with a tetlo of their own.

use crate::tetlo::{root, tetlo_in};
use std::path::{Path, PathBuf};
use std::process::Command;
use tetlo_core::space::page::SpacePage;

/// What can be written: the kind, its flags, the languages it can have.
const FORMS: [(&str, &[&str]); 13] = [
    ("transfer-loss", &[]),
    ("transfer-loss", &["--candle"]),
    ("transfer-loss", &["--lang", "rust"]),
    ("transfer-loss", &["--lang", "c"]),
    ("transfer-loss", &["--lang", "python"]),
    ("transfer-loss", &["--lang", "python", "--torch"]),
    ("regularizer", &[]),
    ("stop-rule", &[]),
    ("selection", &[]),
    ("operation", &[]),
    ("optimizer", &[]),
    ("dataset", &[]),
    ("search-space", &[]),
];
