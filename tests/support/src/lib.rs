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
//! options than the defaults, [`every`] runs over all registered plugins of a kind.
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

pub use report::Report;

use serde_json::Value;
use tetlo_core::kinds::{
    Auxiliary, BlackBoxSearch, CheckProblem, Dataset, Evaluator, Hypergradient,
    MultilevelOptimizer, Operation, Regularizer, Relaxation, SearchSpace, Selection, StopRule,
    SupernetTransform, TransferLoss,
};
use tetlo_core::registry::{Entry, Kind, entries, find};

/// A kind of plugin with a conformance suite.
pub trait Suite: Kind {
    /// What joins the words of a name.
    const JOINT: char = '-';

    /// Checks a plugin's behaviour.
    fn suite(plugin: &Self, report: &mut Report);

    /// Checks a plugin whose path options all name a file that does not exist.
    fn without_files(_plugin: &Self, _report: &mut Report) {}
}

/// Checks an entry's description and options, and its behaviour with the default options.
///
/// # Errors
/// Everything that failed, a line each.
pub fn check<T: Suite + ?Sized>(entry: &Entry<T>) -> Result<(), String> {
    let mut report = Report::new(T::NAME, entry.name);
    options::check(entry, &mut report);
    if options::needs_files(entry) {
        options::without_files(entry, &mut report);
    } else {
        behaves(entry, &entry.defaults(), &mut report);
    }
    report.finish()
}

/// Checks an entry's behaviour with these options, an object as in a resolved config.
///
/// # Errors
/// Everything that failed, a line each.
pub fn check_with<T: Suite + ?Sized>(entry: &Entry<T>, options: &Value) -> Result<(), String> {
    let mut report = Report::new(T::NAME, entry.name);
    behaves(entry, options, &mut report);
    report.finish()
}

fn behaves<T: Suite + ?Sized>(entry: &Entry<T>, options: &Value, report: &mut Report) {
    let mut built = None;
    report.check("building it", || {
        built = Some(entry.build(options)?);
        Ok(())
    });
    if let Some(plugin) = built {
        T::suite(&plugin, report);
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
    )+};
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
