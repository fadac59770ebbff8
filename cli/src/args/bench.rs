//! Arguments of `bench`.

use super::Format;
use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Time the supernet of a space in a search step of a method.
    Supernet(SupernetArgs),
    /// Time a training step of a derived network, or of an auxiliary model.
    Derived(DerivedArgs),
    /// Time each operation of a space alone, forward and backward.
    Ops(OpsArgs),
    /// Time the estimators of the hypergradient on a supernet.
    Hypergrad(HypergradArgs),
}

/// What part of a search step is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Phase {
    /// A forward pass in train mode and its loss, no gradients.
    Fwd,
    /// Forward, backward and SGD of the main model.
    Weight,
    /// A whole search step: architecture and weights of every stage, with its records.
    Step,
}

/// What part of a training step is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DerivedPhase {
    /// A forward pass in train mode and its loss, no gradients.
    Fwd,
    /// Forward, backward, SGD and running statistics.
    #[value(alias = "weight")]
    Step,
}

/// A number that must be at least `LEAST`.
fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if n >= LEAST => Ok(n),
        Ok(n) => Err(format!("must be at least {LEAST}, got {n}")),
        Err(_) => Err("expected a whole number".to_owned()),
    }
}

/// A probability below 1.
fn probability(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(p) if (0.0..1.0).contains(&p) => Ok(p),
        _ => Err("must be at least 0 and less than 1".to_owned()),
    }
}

/// How often, where and on what.
#[derive(Debug, Args)]
pub(crate) struct MeasureArgs {
    /// Side of the images.
    #[arg(long, default_value = "32", value_parser = at_least::<1>)]
    pub(crate) image: usize,
    /// Images a batch.
    #[arg(long, default_value = "8", value_parser = at_least::<2>)]
    pub(crate) batch: usize,
    /// Threads; 0: all.
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Timed steps (one more warms up).
    #[arg(long, default_value = "5", value_parser = at_least::<1>)]
    pub(crate) steps: usize,
    /// `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// How to print.
    #[arg(long, value_enum, default_value = "json")]
    pub(crate) format: Format,
}

/// A space at a size.
#[derive(Debug, Args)]
pub(crate) struct SizeArgs {
    /// The space.
    #[arg(long, default_value = "darts")]
    pub(crate) space: String,
    /// Initial channels.
    #[arg(long, default_value = "16", value_parser = at_least::<1>)]
    pub(crate) channels: usize,
    /// Number of cells, as the space's option `cells` counts them.
    #[arg(long, alias = "cells", default_value = "8", value_parser = at_least::<1>)]
    pub(crate) layers: usize,
}

/// A method on a space.
#[derive(Debug, Args)]
pub(crate) struct MethodArgs {
    #[command(flatten)]
    pub(crate) size: SizeArgs,
    /// Preset of the method (default: `darts-1st` or `darts-2nd`, by `--order`).
    #[arg(long, value_name = "PRESET")]
    pub(crate) method: Option<String>,
    /// Order of the architecture gradient: the option of the method's optimizer.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) order: Option<u8>,
    /// Change a key of the method, such as `auxiliary.options.depth=20`.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SupernetArgs {
    #[command(flatten)]
    pub(crate) method: MethodArgs,
    /// What is timed.
    #[arg(long, value_enum, default_value = "step")]
    pub(crate) phase: Phase,
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DerivedArgs {
    #[command(flatten)]
    pub(crate) size: SizeArgs,
    /// A genotype: `DARTS_V2` (published), a file, JSON or Python text, or a run's directory.
    #[arg(long, default_value = "DARTS_V2")]
    pub(crate) genotype: String,
    /// An auxiliary model instead: NAME, or NAME-DEPTH such as `resnet-20`.
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<String>,
    /// Options of the auxiliary model as TOML.
    #[arg(long, default_value = "", requires = "network")]
    pub(crate) options: String,
    /// Probability with which a path is dropped.
    #[arg(long, default_value = "0", value_parser = probability, conflicts_with = "network")]
    pub(crate) drop_path: f64,
    /// Train with the auxiliary head (loss weight 0.4).
    #[arg(long, conflicts_with = "network")]
    pub(crate) auxiliary_head: bool,
    /// What is timed.
    #[arg(long, value_enum, default_value = "step")]
    pub(crate) phase: DerivedPhase,
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
}

#[derive(Debug, Args)]
pub(crate) struct OpsArgs {
    /// The space whose operations are timed.
    #[arg(long, default_value = "darts")]
    pub(crate) space: String,
    /// Channels in and out.
    #[arg(long, default_value = "16", value_parser = at_least::<1>)]
    pub(crate) channels: usize,
    /// 1 or 2 (default: both).
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) stride: Option<u8>,
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
}

#[derive(Debug, Args)]
pub(crate) struct HypergradArgs {
    #[command(flatten)]
    pub(crate) method: MethodArgs,
    /// Only this estimator (default: all).
    #[arg(long)]
    pub(crate) estimator: Option<String>,
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
}
