//! The command line.

mod bench;
mod new;

pub(crate) use bench::{
    BenchCommand, DerivedArgs, DerivedPhase, HypergradArgs, MeasureArgs, MethodArgs, OpsArgs,
    Phase, SupernetArgs,
};
pub(crate) use new::{Language, NewArgs, NewKind};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Compare neural architecture search methods honestly.
///
/// Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 comparison incomplete.
#[derive(Debug, Parser)]
#[command(name = "tetlo", version, propagate_version = true)]
pub(crate) struct Cli {
    /// Never show progress bars.
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
    /// Load no plugins from shared libraries or scripts.
    #[arg(long, global = true)]
    pub(crate) no_dynamic_plugins: bool,
    /// Load plugins from files and folders that every user of the machine can write.
    #[arg(long, global = true)]
    pub(crate) allow_unsafe_plugins: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How listings and checks are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON document on one line.
    Json,
}

/// `--format`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct FormatArg {
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
}

/// A config file and changes to it.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    /// The comparison's TOML file.
    pub(crate) config: PathBuf,
    /// Change a key: `--set search.epochs=1`, `--set method.tetlo.optimizer.options.lambda=0.5`.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// A config file, and which of its tasks and methods.
#[derive(Debug, Clone, Args)]
pub(crate) struct PickArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Name of the task (default: the first).
    #[arg(long)]
    pub(crate) task: Option<String>,
    /// Name of the method (default: the first).
    #[arg(long)]
    pub(crate) method: Option<String>,
    /// Seed (default: the first).
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// `cpu` or `cuda:N` (default: the config's).
    #[arg(long)]
    pub(crate) device: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a comparison: plan, search, retrain, statistics, report.
    Compare(CompareArgs),
    /// Run one search.
    Search(SearchArgs),
    /// Train a genotype's network from scratch and test it.
    Retrain(RetrainArgs),
    /// Print the result of a finished trial or comparison directory.
    Evaluate(EvaluateArgs),
    /// Write the trials of a comparison, and what they will take.
    Plan(PlanArgs),
    /// Run one trial of a planned comparison.
    RunTrial(RunTrialArgs),
    /// Write reports of a comparison.
    Report(ReportArgs),
    /// List, show and apply plugins.
    #[command(subcommand)]
    Plugins(PluginsCommand),
    /// Evaluate a network, or one search step, on given arrays.
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Check numbers against exact references.
    #[command(subcommand)]
    Check(CheckCommand),
    /// Measure speed.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Write, check and explain configurations.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// List and show data sets.
    #[command(subcommand)]
    Data(DataCommand),
    /// Draw the cells of a genotype.
    Draw(DrawArgs),
    /// Say what this machine offers.
    Doctor(FormatArg),
    /// Print a completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Output directory (default: `runs/NAME`).
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Trials at a time, each a process of its own when more than 1.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) jobs: u64,
    /// Continue where an earlier run stopped (the default for a directory of the same config).
    #[arg(long)]
    pub(crate) resume: bool,
    /// `cpu` or `cuda:N` (default: the config's).
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Check and plan, and run nothing.
    #[arg(long, hide = true)]
    pub(crate) prepare: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    #[command(flatten)]
    pub(crate) pick: PickArgs,
    /// Output directory (default: `runs/NAME-search/TRIAL`).
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RetrainArgs {
    /// A genotype (file, JSON, Python text or `|op~0|+…`), or a directory with a `genotype.json`.
    pub(crate) genotype: String,
    /// The TOML file with data, space and retraining protocol (default: the run's own `run.toml`).
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// Change a key of the config.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Name of the task (default: the first).
    #[arg(long)]
    pub(crate) task: Option<String>,
    /// Seed (default: the first).
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// A trial's or a comparison's directory.
    pub(crate) run: PathBuf,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Output directory; without it the plan is only printed.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct RunTrialArgs {
    /// The planned comparison's directory.
    pub(crate) directory: PathBuf,
    /// Index of the trial in `plan.jsonl`.
    #[arg(long)]
    pub(crate) index: usize,
    /// End when this process's parent ends.
    #[arg(long, hide = true)]
    pub(crate) child: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The comparison's directory.
    pub(crate) directory: PathBuf,
    /// Write the HTML page here.
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
    /// Write Markdown here.
    #[arg(long)]
    pub(crate) markdown: Option<PathBuf>,
    /// Write a LaTeX table here.
    #[arg(long)]
    pub(crate) latex: Option<PathBuf>,
    /// Write a row a trial here.
    #[arg(long)]
    pub(crate) csv: Option<PathBuf>,
    /// Write the summary here.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginsCommand {
    /// List all plugins.
    List {
        /// Only this kind, such as `transfer-loss`.
        #[arg(long)]
        kind: Option<String>,
        /// Only the plugins of this file: a shared library, a script, or a page of TOML.
        #[arg(long, value_name = "PATH")]
        library: Option<PathBuf>,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Show a plugin: options, defaults, schema.
    Show {
        /// NAME or KIND/NAME.
        name: String,
        /// The file that the plugin is in.
        #[arg(long, value_name = "PATH")]
        library: Option<PathBuf>,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Check all that tetlo asks of a plugin; exit code 1 where something fails.
    Check(PluginCheckArgs),
    /// Write a folder to start a plugin from: source, test, README, CI file, example config.
    New(NewArgs),
    /// Apply a transfer loss, a selection or a stopping rule to given arrays.
    ///
    /// A transfer loss takes the embeddings `main` and `aux`, and what else it needs of `labels`,
    /// `main_logits`, `aux_logits`, and feature maps, N × C × H × W: `main_maps`, `aux_maps`, or from
    /// the finest `main_maps_0`, `main_maps_1` and so on. One that reads logits alone, or maps alone,
    /// also finds them as `main` and `aux`. Its own parameters are read by name (`projector.weight`), or
    /// drawn with seed 0. The result holds `loss`, `grad_NAME` of every array of floats, and the
    /// parameters used.
    Eval {
        /// NAME (a transfer loss, selection or stopping rule) or KIND/NAME.
        name: String,
        /// Arrays (npz), or a trace (jsonl) for a stopping rule.
        #[arg(long)]
        input: PathBuf,
        /// Result: an npz for a transfer loss, else a JSON line a row.
        #[arg(long)]
        output: PathBuf,
        /// Options as TOML: `--options 'sampler = "all"'`.
        #[arg(long, default_value = "")]
        options: String,
        /// The space a selection works in.
        #[arg(long, default_value = "darts")]
        space: String,
        /// The file that the plugin is in.
        #[arg(long, value_name = "PATH")]
        library: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PluginCheckArgs {
    /// NAME, KIND/NAME, a shared library, a script, a page of TOML, or a folder of `plugins new`.
    #[arg(value_name = "NAME|PATH")]
    pub(crate) plugin: String,
    /// Only plugins of this kind.
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Options as TOML: `--options 'sampler = "all"'` (default: the defaults).
    #[arg(long, default_value = "")]
    pub(crate) options: String,
    /// Seconds that one check may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub(crate) time_limit: f64,
    #[command(flatten)]
    pub(crate) format: FormatArg,
    /// Make the checks, and tell another process of them.
    #[arg(long, hide = true)]
    pub(crate) child: bool,
}

/// A config with weights and arrays.
#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    #[command(flatten)]
    pub(crate) pick: PickArgs,
    /// Weights, running statistics and architecture parameters by the authors' names.
    #[arg(long)]
    pub(crate) weights: Option<PathBuf>,
    /// Input arrays (npz).
    #[arg(long)]
    pub(crate) input: Option<PathBuf>,
    /// Output arrays (npz).
    #[arg(long)]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Logits, embedding, loss and gradients of the supernet or a derived network in train mode.
    Eval {
        #[command(flatten)]
        network: NetworkArgs,
        /// Also the gradients of weights and architecture parameters.
        #[arg(long)]
        grad: bool,
        /// The derived network of this genotype (file, JSON, Python text or `|op~0|+…`) instead of the supernet.
        #[arg(long)]
        genotype: Option<String>,
        /// Write freshly initialised weights here.
        #[arg(long)]
        init: Option<PathBuf>,
    },
    /// One complete search step of a method.
    Step {
        #[command(flatten)]
        network: NetworkArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CheckCommand {
    /// Every estimator at every level against an exact hypergradient.
    ///
    /// Without a config on built-in problems. With one on a method's own stages, losses, optimisers and
    /// images, with networks of few channels in f64: made smooth, where a missed bound is a failure, and
    /// as they are, where the distance to the exact derivative is a finding.
    Hypergrad(Box<HypergradCheckArgs>),
}

#[derive(Debug, Args)]
pub(crate) struct HypergradCheckArgs {
    /// Check a method of this config.
    pub(crate) config: Option<PathBuf>,
    /// Name of the method (default: the first with stages).
    #[arg(long, requires = "config")]
    pub(crate) method: Option<String>,
    /// Name of the task (default: the first).
    #[arg(long, requires = "config")]
    pub(crate) task: Option<String>,
    /// Images a batch, such as `4,32`.
    #[arg(long, requires = "config", value_delimiter = ',', num_args = 1.., default_value = "8",
          value_parser = clap::value_parser!(u64).range(2..=4096))]
    pub(crate) batch_size: Vec<u64>,
    /// The option `epsilon` of estimators that have it, such as `0.1,0.01,0.001` (default: their own).
    #[arg(long, requires = "config", value_delimiter = ',', num_args = 1..)]
    pub(crate) epsilon: Vec<f64>,
    /// Only these registered estimators, beside the method's own (default: all).
    #[arg(long, requires = "config", value_delimiter = ',', num_args = 1..)]
    pub(crate) estimator: Vec<String>,
    /// Change a key of the config.
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    pub(crate) set: Vec<String>,
    /// Check problem (default: all).
    #[arg(long, conflicts_with = "config")]
    pub(crate) problem: Option<String>,
    /// The problem's arrays (npz).
    #[arg(long, conflicts_with = "config")]
    pub(crate) input: Option<PathBuf>,
    /// Gradients and terms (npz).
    #[arg(long, conflicts_with = "config")]
    pub(crate) output: Option<PathBuf>,
    /// Options as TOML: `--options 'levels = 3, gamma = 0'`.
    #[arg(long, default_value = "", conflicts_with = "config")]
    pub(crate) options: String,
    /// Seed of the arrays where no input is given (default: 0), or of the method (default: the config's
    /// first).
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Write the arrays that were used.
    #[arg(long, conflicts_with = "config")]
    pub(crate) dump: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print a complete config to start from.
    Init {
        /// The preset it compares with random search.
        #[arg(default_value = "tetlo")]
        preset: String,
    },
    /// Check a config and say what in it is without effect.
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Print the JSON schema of the config.
    Schema,
    /// Explain a key.
    Explain {
        /// Such as `search.batch-size` or `transfer-loss.qrs.temperature`.
        key: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// List data sets.
    List(FormatArg),
    /// Load a data set and describe it.
    Show {
        /// Its plugin.
        name: String,
        /// Options as TOML.
        #[arg(long, default_value = "")]
        options: String,
        #[command(flatten)]
        format: FormatArg,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DrawArgs {
    /// A genotype (file, JSON, Python text or `|op~0|+…`), or a directory with a `genotype.json`.
    #[arg(required_unless_present = "graph")]
    pub(crate) genotype: Option<String>,
    /// Draw the stage graph of a method in this config instead.
    #[arg(long, value_name = "CONFIG", conflicts_with = "genotype")]
    pub(crate) graph: Option<PathBuf>,
    /// The method (default: the first with stages).
    #[arg(long, requires = "graph")]
    pub(crate) method: Option<String>,
    /// Change a key of the config.
    #[arg(long, value_name = "KEY=VALUE", requires = "graph")]
    pub(crate) set: Vec<String>,
    /// Write an SVG picture here.
    #[arg(long)]
    pub(crate) svg: Option<PathBuf>,
    /// Write Graphviz text here.
    #[arg(long)]
    pub(crate) dot: Option<PathBuf>,
}
