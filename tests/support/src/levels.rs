//! Multilevel optimizers, estimators, check problems.

use crate::Suite;
use crate::numbers::{finite, same, values};
use crate::report::{Check, Report, ensure};
use std::collections::BTreeSet;
use tetlo_core::kinds::{CheckProblem, Hypergradient, MultilevelOptimizer};
use tetlo_core::multilevel::check::{Arrays, CheckCase};
use tetlo_core::multilevel::reverse::{Adjoints, Via, hypergradient, objective_value};
use tetlo_core::registry::entries;

impl Suite for dyn MultilevelOptimizer {
    fn suite(optimizer: &Self, report: &mut Report<'_>) {
        report.check("stage graph", || {
            let graph = optimizer.graph()?;
            ensure!(optimizer.graph()? == graph, "two calls differ");
            for stage in 0..graph.stages.len() {
                graph.estimator(stage).build()?;
            }
            let names: BTreeSet<&str> = graph.stages.iter().map(|s| s.name.as_str()).collect();
            ensure!(names.len() == graph.stages.len(), "two stages share a name");
            ensure!(!names.contains(""), "a stage has no name");
            let aim = graph.objective.iter().any(|o| o.weight > 0.0);
            ensure!(aim, "no term of the objective has a weight");
            graph.validated()?;
            Ok(())
        });
        report.check("remarks", || {
            let remarks = optimizer.remarks();
            ensure!(remarks.iter().all(|r| !r.trim().is_empty()), "one is empty");
            ensure!(optimizer.remarks() == remarks, "two calls differ");
            Ok(())
        });
    }
}

impl Suite for dyn Hypergradient {
    fn suite(estimator: &Self, report: &mut Report<'_>) {
        report.check("bound", || {
            let Some(bound) = estimator.bound() else { return Ok(()) };
            ensure!(estimator.unrolls(), "claimed by an estimator that does not unroll");
            let good = |b: f64| b.is_finite() && b > 0.0;
            ensure!(good(bound.total) && good(bound.term), "{bound:?}");
            Ok(())
        });
        for entry in entries::<dyn CheckProblem>() {
            report.check(format_args!("on the check problem `{}`", entry.name), || {
                let problem = entry.build(&entry.defaults())?;
                let arrays = problem.arrays(0)?;
                let levels = problem.levels();
                levels
                    .into_iter()
                    .try_for_each(|k| estimates(estimator, &problem.case(k, &arrays)?))
            });
        }
    }
}

fn estimates(estimator: &dyn Hypergradient, case: &CheckCase) -> Check {
    let all = vec![estimator; case.graph.stages.len()];
    let run = || hypergradient(&case.problem(), &case.point, &all, Adjoints::Apart);
    let (first, second) = match run() {
        // Not every estimator runs in every process or on every network, if it says so.
        Err(e) if e.is_usage() => return Ok(()),
        first => (first?, run()?),
    };
    // Without a look through the steps there is none where no architecture stands in the objective.
    ensure!(!first.contributions.is_empty() || !estimator.unrolls(), "no term at all");
    for (a, b) in first.contributions.iter().zip(&second.contributions) {
        let name = a.name();
        same(name, &finite(name, &a.gradient)?, &values(&b.gradient)?)?;
        let direct = a.via == Via::Objective;
        ensure!(
            direct || estimator.unrolls(),
            "the term {name} of an estimator that does not unroll"
        );
    }
    Ok(())
}

impl Suite for dyn CheckProblem {
    fn suite(problem: &Self, report: &mut Report<'_>) {
        report.check("levels", || {
            let levels = problem.levels();
            ensure!(!levels.is_empty() && levels.iter().all(|k| *k >= 2), "{levels:?}");
            Ok(())
        });
        for levels in problem.levels() {
            report.check(format_args!("{levels} levels"), || poses(problem, levels));
        }
    }
}

fn poses(problem: &dyn CheckProblem, levels: usize) -> Check {
    let arrays = problem.arrays(0)?;
    let all = |arrays: &Arrays| -> Check<Vec<f64>> {
        Ok(arrays.values().map(values).collect::<Check<Vec<_>>>()?.concat())
    };
    let numbers = all(&arrays)?;
    same("the data of a seed", &numbers, &all(&problem.arrays(0)?)?)?;
    ensure!(numbers != all(&problem.arrays(1)?)?, "two seeds give the same data");
    ensure!(problem.has_arrays(levels, &arrays), "its own data are said to lack something");

    let case = problem.case(levels, &arrays)?;
    let stages = case.graph.clone().validated()?.stages.len();
    let counts = [
        case.networks.len(),
        case.architecture.len(),
        case.inner.len(),
        case.memory.len(),
        case.criteria.len(),
        case.parameters.len(),
        case.point.weights.len(),
    ];
    ensure!(
        counts.iter().all(|c| *c == stages),
        "{stages} stages, but {counts:?} of what they need"
    );
    let value = objective_value(&case.problem(), &case.point)?;
    ensure!(value.is_finite(), "the objective is {value}");

    for name in arrays.keys() {
        let mut fewer = arrays.clone();
        fewer.remove(name);
        // An array that these levels do not read may be missing.
        if let Err(e) = problem.case(levels, &fewer) {
            ensure!(e.to_string().contains(name.as_str()), "without `{name}` the error is: {e}");
        }
    }
    Ok(())
}
