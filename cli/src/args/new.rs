//! Arguments of `plugins new`.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Its kind.
    #[arg(value_enum)]
    pub(crate) kind: NewKind,
    /// Its name in a config: lower-case words joined by `-` (of an operation: by `_`). Also the folder's.
    pub(crate) name: String,
    /// The language (default: rust; a search space is a page of TOML).
    #[arg(long, value_enum)]
    pub(crate) lang: Option<Language>,
    /// Let PyTorch differentiate (`--lang python`).
    #[arg(long)]
    pub(crate) torch: bool,
    /// Let candle differentiate (a transfer loss in Rust).
    #[arg(long)]
    pub(crate) candle: bool,
    /// Folder with tetlo's source, which a crate is to depend on (default: where this tetlo was built,
    /// else its version in the registry).
    #[arg(long, value_name = "PATH")]
    pub(crate) tetlo: Option<PathBuf>,
}

/// Kinds that a folder can be written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NewKind {
    TransferLoss,
    Regularizer,
    StopRule,
    Selection,
    Operation,
    #[value(alias = "multilevel-optimizer")]
    Optimizer,
    Dataset,
    SearchSpace,
}

/// Languages of plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    Rust,
    C,
    Python,
}
