//! Conformance suites for tetlo plugins: what every plugin of a kind must hold.
//!
//! A plugin outside tetlo is tested in three lines:
//! ```no_run
//! # mod my_plugins {}
//! use my_plugins as _;
//! #[test]
//! fn conforms() {
//!     tetlo_test_support::transfer_loss("my-loss");
//! }
//! ```
//! A suite builds the plugin with its default options, goes through everything it checks, and panics
//! with the list of what failed. [`check`] returns that list instead, [`check_with`] takes other
//! options than the defaults, [`every`] runs over all registered plugins of a kind. [`rows`] and
//! [`run`] give every check as a row, which is what `tetlo plugins check` prints.
//!
//! Suites of kinds that work on a space use the registered search spaces (link in
//! `tetlo_search_spaces`, or your own), without any a small one of this crate.

mod alpha;
mod cells;
mod dataset;
mod evaluator;
mod fused;
mod levels;
mod network;
mod numbers;
mod operation;
mod options;
mod report;
mod space;
mod transfer;

pub use report::{Event, Outcome, Report, Row};
pub use transfer::{Speed, median, speed};

use report::failures;
use serde_json::Value;
use tetlo_core::kinds::{
    Auxiliary, BlackBoxSearch, CheckProblem, Dataset, Evaluator, Hypergradient,
    MultilevelOptimizer, Operation, Regularizer, Relaxation, SearchSpace, Selection, StopRule,
    SupernetTransform, TransferLoss,
};
use tetlo_core::registry::catalog::Plugin;
use tetlo_core::registry::{Entry, Kind, entries, find, loaded};

/// A kind of plugin with a conformance suite.
pub trait Suite: Kind {
    /// What joins the words of a name.
    const JOINT: char = '-';

    /// Checks a plugin's behaviour.
    fn suite(plugin: &Self, report: &mut Report<'_>);

    /// Checks a plugin whose path options all name a file that does not exist.
    fn without_files(_plugin: &Self, _report: &mut Report<'_>) {}
}

/// Checks an entry's description and options, and its behaviour with the default options.
///
/// # Errors
/// Everything that failed, a line each.
pub fn check<T: Suite + ?Sized>(entry: &Entry<T>) -> Result<(), String> {
    failures(&name(entry), &rows(entry, None, &mut |_| {}))
}

/// Checks an entry's behaviour with these options, an object as in a resolved config.
///
/// # Errors
/// Everything that failed, a line each.
pub fn check_with<T: Suite + ?Sized>(entry: &Entry<T>, options: &Value) -> Result<(), String> {
    let mut silent = |_: Event<'_>| {};
    let mut report = Report::new(&mut silent);
    behaves(entry, options, &mut report);
    failures(&name(entry), &report.into_rows())
}

/// Checks an entry's description and options, and its behaviour with these options (`None`: the
/// defaults): every check as a row. `tell` hears of each before and after it, so that one that ends
/// the process can be named.
pub fn rows<T: Suite + ?Sized>(
    entry: &Entry<T>,
    options: Option<&Value>,
    tell: &mut dyn FnMut(Event<'_>),
) -> Vec<Row> {
    let mut report = Report::new(tell);
    options::check(entry, &mut report);
    match options {
        None if options::needs_files(entry) => options::without_files(entry, &mut report),
        None => behaves(entry, &entry.defaults(), &mut report),
        Some(options) => behaves(entry, options, &mut report),
    }
    report.into_rows()
}

fn name<T: Kind + ?Sized>(entry: &Entry<T>) -> String {
    format!("{} `{}`", T::NAME, entry.name)
}

fn behaves<T: Suite + ?Sized>(entry: &Entry<T>, options: &Value, report: &mut Report<'_>) {
    let mut built = None;
    report.check("building it", || {
        built = Some(entry.build(options)?);
        Ok(())
    });
    match built {
        Some(plugin) => T::suite(&plugin, report),
        None => report.skip("behaviour", "it cannot be built"),
    }
}

/// Runs the suite of a kind over every registered plugin.
///
/// # Panics
/// With everything that failed, or if no plugin of the kind is linked in.
#[track_caller]
pub fn every<T: Suite + ?Sized>() {
    let list = entries::<T>();
    assert!(!list.is_empty(), "no plugin of kind {} is linked in", T::NAME);
    let failures: Vec<String> = list
        .iter()
        .filter_map(|e| find::<T>(e.name).map_err(|e| e.to_string()).and_then(check).err())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The entry of a plugin in the catalog.
///
/// # Errors
/// The plugin is of another kind, or its name stands for several.
pub fn entry<T: Kind + ?Sized>(plugin: &Plugin) -> tetlo_core::Result<&'static Entry<T>> {
    let unknown = || tetlo_core::Error::UnknownPlugin {
        kind: T::NAME,
        name: plugin.name.to_owned(),
        known: entries::<T>().iter().map(|e| e.name).collect(),
    };
    match plugin.code {
        _ if plugin.kind != T::NAME => Err(unknown()),
        Some(code) => loaded::find::<T>(code, plugin.name).ok_or_else(unknown),
        None => find::<T>(plugin.name),
    }
}

#[track_caller]
fn one<T: Suite + ?Sized>(name: &str) {
    let result = find::<T>(name).map_err(|e| e.to_string()).and_then(check);
    assert!(result.is_ok(), "{}", result.err().unwrap_or_default());
}

macro_rules! suites {
    ($($(#[$doc:meta])+ $function:ident: $kind:ident;)+) => {$(
        $(#[$doc])+
        ///
        /// # Panics
        /// With everything that failed.
        #[track_caller]
        pub fn $function(name: &str) {
            one::<dyn $kind>(name);
        }
    )+

    /// [`rows`] of a plugin of any kind, linked or loaded.
    ///
    /// # Errors
    /// There is no such plugin.
    pub fn run(
        plugin: &Plugin,
        options: Option<&Value>,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> tetlo_core::Result<Vec<Row>> {
        match plugin.kind {
            $(<dyn $kind as Kind>::NAME => Ok(rows(entry::<dyn $kind>(plugin)?, options, tell)),)+
            other => Err(tetlo_core::Error::Invalid(format!("there is no kind `{other}`"))),
        }
    }};
}

suites! {
    /// Checks the auxiliary model `name`: shapes, batch statistics, a gradient that reaches every
    /// weight and agrees with differences.
    auxiliary: Auxiliary;
    /// Checks the black-box search `name`: its proposals are in the space and repeat with their draws.
    black_box_search: BlackBoxSearch;
    /// Checks the check problem `name`: its arrays repeat, its cases fit together.
    check_problem: CheckProblem;
    /// Checks the data set `name`: it fits together and loads twice the same; one that reads files
    /// names the file that is missing.
    dataset: Dataset;
    /// Checks the evaluator `name`: metric and split named, errors of the host passed on.
    evaluator: Evaluator;
    /// Checks the estimator `name`: its bound, and finite terms on every check problem.
    hypergradient: Hypergradient;
    /// Checks the optimizer `name`: a valid stage graph with an estimator that exists.
    multilevel_optimizer: MultilevelOptimizer;
    /// Checks the operation `name` at both strides: shape, parameters, normalisation, gradient; and in
    /// a cell, fused against one primitive after another, on every instruction set of the machine.
    operation: Operation;
    /// Checks the regulariser `name`: a scalar whose gradient agrees with differences.
    regularizer: Regularizer;
    /// Checks the relaxation `name`: shape kept, finite, a gradient that agrees with differences.
    relaxation: Relaxation;
    /// Checks the search space `name`: description, samples, texts of genotypes, both networks.
    search_space: SearchSpace;
    /// Checks the selection `name`: genotypes that are in the space, misfits refused.
    selection: Selection;
    /// Checks the stopping rule `name`: epochs that have happened.
    stop_rule: StopRule;
    /// Checks the transform `name`: its result is a space, and the supernet builds.
    supernet_transform: SupernetTransform;
    /// Checks the transfer loss `name`: gradients in all it sees and in its own parameters against
    /// differences, determinism, f32 beside f64, what it refuses.
    transfer_loss: TransferLoss;
}
