//! Running the estimators and writing down what they are worth.

use super::candidate::{Built, Candidate, Held};
use super::reference::{self, Extrapolated};
use super::trust;
use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use serde_json::Value;
use std::time::Instant;
use tetlo_core::kinds::{CheckProblem, Hypergradient};
use tetlo_core::multilevel::check::{Arrays, CheckCase};
use tetlo_core::multilevel::reverse::{Adjoints, HyperGradient, hypergradient};
use tetlo_core::multilevel::{ErrorBound, Evaluated, Limit};
use tetlo_core::registry;
use tetlo_core::{Error, Result};

/// One estimator, level and term against the exact derivative.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The check problem.
    pub problem: String,
    /// Number of levels.
    pub level: usize,
    /// `total`, or one term of it.
    pub term: String,
    /// The estimator's registered name.
    pub estimator: String,
    /// Images a batch, where that is varied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// The estimator's option `epsilon`, where that is varied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// What was seen to run: by the second derivatives that were really evaluated.
    pub ran: String,
    /// Cosine to the exact derivative; null where either is zero.
    pub cosine: Option<f64>,
    /// ‖estimate − exact‖ / ‖exact‖; 0 where both are zero, null where only the exact one is.
    pub rel_error: Option<f64>,
    /// ‖estimate‖ / ‖exact‖; null where the exact derivative is zero.
    pub norm_ratio: Option<f64>,
    /// Forward and backward passes: of `total` with joint adjoints, of a term with the parts apart.
    pub passes: usize,
    /// Seconds these took.
    pub seconds: f64,
    /// ‖direct term‖ / ‖all of the transferred part‖, as estimated.
    pub direct_share: Option<f64>,
    /// Within the bound that the estimator claims; null where it claims none.
    pub pass: Option<bool>,
}

/// An estimator that did not run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Skipped {
    /// Number of levels.
    pub level: usize,
    /// The estimator.
    pub estimator: String,
    /// Why.
    pub reason: String,
}

/// What `tetlo check hypergrad` found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// The comparisons, by level, estimator and term.
    pub rows: Vec<Row>,
    /// Estimators that cannot run on the problem or in this process.
    pub skipped: Vec<Skipped>,
    /// `J`, `<estimator>/grad/A` and `<estimator>/term/<name>` of the level asked for (of 3 where
    /// several were run).
    pub outputs: Arrays,
    /// The problem's data, as given or as drawn.
    pub arrays: Arrays,
    /// Why the reference itself cannot be trusted; empty unless something is broken.
    pub reference: Vec<String>,
    /// What was left out or done otherwise, and why.
    pub notes: Vec<String>,
}

impl CheckReport {
    /// Adds a note that is not there yet.
    pub(super) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Adds what was found with batches of a size.
    pub(super) fn take(&mut self, other: Self, batch: usize) {
        let rows = other.rows.into_iter().map(|row| Row { batch: Some(batch), ..row });
        self.rows.extend(rows);
        let of_batch = |line: String| format!("batches of {batch}: {line}");
        self.reference.extend(other.reference.into_iter().map(of_batch));
        for skipped in other.skipped {
            if !self.skipped.contains(&skipped) {
                self.skipped.push(skipped);
            }
        }
        for note in other.notes {
            self.note(note);
        }
    }

    /// What missed its bound, one line each; nothing: the check has passed.
    pub fn failures(&self) -> Vec<String> {
        let missed = self.rows.iter().filter(|r| r.pass == Some(false)).map(|r| {
            let error = r.rel_error.map_or_else(|| "infinite".to_owned(), |e| format!("{e:.1e}"));
            format!(
                "{}, {} levels, {}: `{}` has a relative error of {error}",
                r.problem, r.level, r.term, r.estimator
            )
        });
        self.reference.iter().cloned().chain(missed).collect()
    }
}

/// The level whose arrays are written where none was asked for.
const OUTPUT_LEVEL: usize = 3;

/// Runs every registered estimator on a check problem, at each of its levels. The arrays are drawn
/// from `seed` where none are given.
///
/// # Errors
/// The problem or its options are unknown, an array is missing or has a wrong shape, or a value is
/// not finite.
pub fn run(
    problem: &str,
    options: &Value,
    arrays: Option<Arrays>,
    seed: u64,
) -> Result<CheckReport> {
    let plugin = registry::build::<dyn CheckProblem>(problem, options)?;
    let mut levels = plugin.levels();
    let arrays = match arrays {
        Some(arrays) => {
            // One level is meant; of several, those that the arrays are for.
            if levels.len() > 1 {
                let lowest = levels[0];
                levels.retain(|l| *l == lowest || plugin.has_arrays(*l, &arrays));
            }
            arrays
        }
        None => plugin.arrays(seed)?,
    };
    let entries = registry::entries::<dyn Hypergradient>();
    let built: Vec<Built> = entries.into_iter().map(Built::usual).collect::<Result<_>>()?;

    let mut report = CheckReport::default();
    let output_level =
        if levels.contains(&OUTPUT_LEVEL) { Some(OUTPUT_LEVEL) } else { levels.last().copied() };
    for level in levels {
        let case = plugin.case(level, &arrays)?;
        let estimators: Vec<_> = built.iter().map(|b| (b.name, b.estimator.as_ref())).collect();
        let of_level = compare(problem, level, &case, &estimators)?;
        report.rows.extend(of_level.rows);
        report.skipped.extend(of_level.skipped);
        report.reference.extend(of_level.reference);
        if let Some(known) = plugin.known(level, &arrays)? {
            report.reference.extend(contradicted(problem, level, &case, &known)?);
        }
        if output_level == Some(level) {
            report.outputs = of_level.outputs;
        }
    }
    report.arrays = arrays;
    Ok(report)
}

/// A line if the reference of the solutions is not the derivative that the problem knows.
fn contradicted(
    problem: &str,
    level: usize,
    case: &CheckCase,
    known: &Tensor,
) -> Result<Option<String>> {
    /// Of the reference's extrapolation and its linear solves.
    const BOUND: f64 = 1e-7;
    let reference = Terms::of(case, level, &reference::of_solutions(case)?)?;
    let known = known.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let error = Figures::of(&reference.total, &known).rel_error;
    Ok((!error.is_some_and(|e| e <= BOUND)).then(|| {
        format!(
            "{problem}, {level} levels: the reference itself: the derivative of the inner problems' \
             solutions is off by {} of what the problem knows",
            error.map_or_else(|| "infinitely much".to_owned(), |e| format!("{e:.1e}"))
        )
    }))
}

/// Compares these estimators on one case of a problem: each with the derivative that it converges to.
/// Estimators of the solutions' derivative run only where the case stands at the solutions.
///
/// # Errors
/// A loss or gradient is not finite, or an estimator fails (one that answers
/// [`Error::Unsupported`] is skipped).
pub fn compare(
    problem: &str,
    level: usize,
    case: &CheckCase,
    estimators: &[(&str, &dyn Hypergradient)],
) -> Result<CheckReport> {
    /// So long a move of the architecture that softmax(A) is far from linear.
    const LARGEST: f64 = 0.25;
    let list: Vec<_> = estimators.iter().map(|(name, e)| Candidate::of(case, name, *e)).collect();
    let held = Held { reference: &Extrapolated, proven: Some(LARGEST), claims: true };
    against(problem, level, case, &list, held)
}

/// Compares these estimators with what they are `held` against.
pub(super) fn against(
    problem: &str,
    level: usize,
    case: &CheckCase,
    estimators: &[Candidate<'_>],
    held: Held<'_>,
) -> Result<CheckReport> {
    let before = trust::Said::now(case)?;
    let updates = reference::of_updates(case, held.reference)?;
    let mut doubts: Vec<String> =
        trust::other_steps(case, updates.objective)?.into_iter().collect();
    if let Some(largest) = held.proven {
        let found = reference::disagreements(case, &updates, largest)?;
        doubts.extend(found.iter().map(ToString::to_string));
        doubts.extend(trust::unsolved(case)?);
        doubts.extend(trust::wrong_rates(case, &updates)?);
    }
    let exact_updates = Terms::of(case, level, &updates)?;
    let exact_solutions = if case.solved {
        Some(Terms::of(case, level, &reference::of_solutions(case)?)?)
    } else {
        None
    };
    let mut report = CheckReport::default();
    let objective = Tensor::new(updates.objective, &Device::Cpu)?;
    report.outputs.insert("J".into(), objective);
    for candidate in estimators {
        let name = &candidate.name;
        let (exact, claims) = match (candidate.limit(), &exact_solutions) {
            (Limit::Updates, _) | (Limit::Neither, None) => (&exact_updates, held.claims),
            (_, Some(solutions)) => (solutions, held.claims),
            // It is not meant to be that derivative.
            (Limit::Solution, None) if candidate.own => (&exact_updates, false),
            (Limit::Solution, None) => continue,
        };
        match Estimate::by(case, candidate, claims) {
            Ok(estimate) => {
                let terms = Terms::of(case, level, &estimate.apart)?;
                let of = rows(problem, level, name, &estimate, &terms, exact)?;
                let of = of.into_iter().map(|row| Row { epsilon: candidate.epsilon, ..row });
                report.rows.extend(of);
                terms.write(case, name, &mut report.outputs)?;
            }
            Err(Error::Unsupported { plugin, what }) => report.skipped.push(Skipped {
                level,
                estimator: name.clone(),
                reason: Error::Unsupported { plugin, what }.to_string(),
            }),
            Err(error) => return Err(error.in_plugin(name)),
        }
    }
    doubts.extend(before.changed(&trust::Said::now(case)?));
    let doubts = doubts.into_iter().map(|d| format!("{problem}, {level} levels: {d}"));
    report.reference.extend(doubts);
    Ok(report)
}

/// The terms of the main architecture's hypergradient, by name, and their total.
struct Terms {
    total: Vec<f64>,
    terms: Vec<(&'static str, Vec<f64>)>,
}

impl Terms {
    /// Those of a bilevel problem; the others come with a transfer.
    const MAIN: [&'static str; 2] = ["main_direct", "main_through_W"];
    const TRANSFERRED: [&'static str; 2] = ["aux_through_W", "aux_direct"];

    fn of(case: &CheckCase, level: usize, gradient: &HyperGradient) -> Result<Self> {
        let zeros = vec![0.0; case.point.architecture[0].elem_count()];
        let values = |t: &Tensor| -> Result<Vec<f64>> {
            Ok(t.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
        };
        let mut names = Self::MAIN.to_vec();
        if level > 2 {
            names.extend(Self::TRANSFERRED);
        }
        let mut terms: Vec<_> = names.into_iter().map(|name| (name, zeros.clone())).collect();
        for contribution in gradient.contributions.iter().filter(|c| c.group == 0) {
            let name = contribution.name();
            let place = terms.iter().position(|(n, _)| *n == name).unwrap_or(terms.len());
            if place == terms.len() {
                terms.push((name, zeros.clone()));
            }
            let sum = &mut terms[place].1;
            for (sum, value) in sum.iter_mut().zip(values(&contribution.gradient)?) {
                *sum += value;
            }
        }
        let total = gradient.sum(0, |_| true)?.map_or_else(|| Ok(zeros), |t| values(&t))?;
        Ok(Self { total, terms })
    }

    /// Under the names of the interchange file.
    fn write(&self, case: &CheckCase, estimator: &str, outputs: &mut Arrays) -> Result<()> {
        let layout = case.networks[0].architecture();
        let (name, shape) = match layout.entries() {
            [only] => (only.name.as_str(), only.shape.clone()),
            _ => ("A", vec![layout.len()]),
        };
        let tensor = |values: &[f64]| Tensor::from_slice(values, shape.clone(), &Device::Cpu);
        outputs.insert(format!("{estimator}/grad/{name}"), tensor(&self.total)?);
        for (term, values) in &self.terms {
            outputs.insert(format!("{estimator}/term/{term}"), tensor(values)?);
        }
        Ok(())
    }
}

/// Both runs of an estimator, and the seconds of each.
struct Estimate {
    /// With one adjoint, as a search with `combine = "sum"` runs it.
    joint: HyperGradient,
    joint_seconds: f64,
    /// With G_m and G_a apart, as the other modes do.
    apart: HyperGradient,
    apart_seconds: f64,
    bound: Option<ErrorBound>,
}

impl Estimate {
    fn by(case: &CheckCase, candidate: &Candidate<'_>, claims: bool) -> Result<Self> {
        let of = |adjoints| -> Result<(HyperGradient, f64)> {
            let start = Instant::now();
            let found = hypergradient(&case.problem(), &case.point, &candidate.stages, adjoints)?;
            Ok((found, start.elapsed().as_secs_f64()))
        };
        let (joint, joint_seconds) = of(Adjoints::Joint)?;
        let (apart, apart_seconds) = of(Adjoints::Apart)?;
        // Every inner step's product has its own error.
        let steps = case.graph.stages.iter().map(|s| s.unroll_steps).max().unwrap_or(1) as f64;
        let bound = candidate.bound().filter(|_| claims);
        let bound = bound.map(|b| ErrorBound { total: b.total * steps, term: b.term * steps });
        Ok(Self { joint, joint_seconds, apart, apart_seconds, bound })
    }

    /// What was seen to run.
    fn ran(&self, estimator: &str) -> String {
        let evaluated = self.apart.evaluated;
        // Unrolled, but there was nothing to pull back through the inner steps.
        let nothing_asked =
            !self.apart.training_losses.is_empty() && evaluated == Evaluated::default();
        if nothing_asked { estimator.to_owned() } else { evaluated.method() }
    }
}

fn rows(
    problem: &str,
    level: usize,
    estimator: &str,
    estimate: &Estimate,
    terms: &Terms,
    exact: &Terms,
) -> Result<Vec<Row>> {
    let ran = estimate.ran(estimator);
    let direct_share = estimate.apart.direct_share()?;
    let row = |term: &str, figures: &Figures, run: (usize, f64), bound: Option<f64>| Row {
        problem: problem.to_owned(),
        level,
        term: term.to_owned(),
        estimator: estimator.to_owned(),
        batch: None,
        epsilon: None,
        ran: ran.clone(),
        cosine: figures.cosine,
        rel_error: figures.rel_error,
        norm_ratio: figures.norm_ratio,
        passes: run.0,
        seconds: run.1,
        direct_share,
        pass: bound.map(|bound| figures.rel_error.is_some_and(|e| e <= bound)),
    };
    // The two runs differ in how adjoints are summed: the total must hold in both.
    let joint = estimate.joint.sum(0, |_| true)?;
    let joint = joint.map(|t| t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>());
    let joint = joint.transpose()?.unwrap_or_else(|| vec![0.0; exact.total.len()]);
    let total = Figures::of(&joint, &exact.total).worse(Figures::of(&terms.total, &exact.total));
    let joint = (estimate.joint.passes, estimate.joint_seconds);
    let apart = (estimate.apart.passes, estimate.apart_seconds);
    let mut rows = vec![row("total", &total, joint, estimate.bound.map(|b| b.total))];
    let zeros = vec![0.0; exact.total.len()];
    let names = exact.terms.iter().chain(&terms.terms).map(|(name, _)| *name);
    let mut seen = vec![];
    for name in names {
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        let of = |list: &'_ [(&'static str, Vec<f64>)]| {
            list.iter().find(|(n, _)| *n == name).map_or_else(|| zeros.clone(), |(_, v)| v.clone())
        };
        let figures = Figures::of(&of(&terms.terms), &of(&exact.terms));
        rows.push(row(name, &figures, apart, estimate.bound.map(|b| b.term)));
    }
    Ok(rows)
}

/// How near an estimate is.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    cosine: Option<f64>,
    rel_error: Option<f64>,
    norm_ratio: Option<f64>,
}

impl Figures {
    fn of(estimate: &[f64], exact: &[f64]) -> Self {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let length = |a: &[f64]| dot(a, a).sqrt();
        let difference: Vec<f64> = estimate.iter().zip(exact).map(|(e, x)| e - x).collect();
        let (of_estimate, of_exact) = (length(estimate), length(exact));
        let nonzero = of_exact > 0.0;
        Self {
            cosine: (nonzero && of_estimate > 0.0)
                .then(|| dot(estimate, exact) / (of_estimate * of_exact)),
            rel_error: if nonzero {
                Some(length(&difference) / of_exact).filter(|e| e.is_finite())
            } else {
                estimate.iter().chain(exact).all(|v| *v == 0.0).then_some(0.0)
            },
            norm_ratio: nonzero.then(|| of_estimate / of_exact),
        }
    }

    /// The one with the larger error.
    fn worse(self, other: Self) -> Self {
        let error = |f: &Self| f.rel_error.unwrap_or(f64::INFINITY);
        if error(&other) > error(&self) { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        // ‖(3, 4) − (3, 0)‖/3 = 4/3, cosine 9/15, ratio 5/3.
        let f = Figures::of(&[3.0, 4.0], &[3.0, 0.0]);
        assert!((f.rel_error.unwrap() - 4.0 / 3.0).abs() < 1e-15);
        assert!((f.cosine.unwrap() - 0.6).abs() < 1e-15);
        assert!((f.norm_ratio.unwrap() - 5.0 / 3.0).abs() < 1e-15);
        let zero = Figures::of(&[0.0], &[0.0]);
        assert_eq!(zero, Figures { cosine: None, rel_error: Some(0.0), norm_ratio: None });
        let infinite = Figures::of(&[1.0], &[0.0]);
        assert_eq!(infinite.rel_error, None);
        assert_eq!(Figures::of(&[f64::NAN], &[1.0]).rel_error, None);
        assert_eq!(Figures::of(&[f64::NAN], &[0.0]).rel_error, None);
        assert_eq!(infinite.worse(zero), infinite);
        assert_eq!(zero.worse(infinite), infinite);
    }
}
