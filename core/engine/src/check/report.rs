//! Running the estimators and writing down what they are worth.

use super::reference;
use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use tetlo_core::kinds::{CheckProblem, Hypergradient};
use tetlo_core::multilevel::check::{Arrays, CheckCase};
use tetlo_core::multilevel::reverse::{Adjoints, HyperGradient, hypergradient};
use tetlo_core::multilevel::{ErrorBound, Evaluated, MixedProduct, StageOracle};
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
}

impl CheckReport {
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
    let built = entries
        .iter()
        .map(|e| Ok((e.name, (e.build)(&Value::Null).map_err(|error| error.in_plugin(e.name))?)))
        .collect::<Result<Vec<_>>>()?;
    let estimators: Vec<_> = built.iter().map(|(name, e)| (*name, e.as_ref())).collect();

    let mut report = CheckReport::default();
    let output_level =
        if levels.contains(&OUTPUT_LEVEL) { Some(OUTPUT_LEVEL) } else { levels.last().copied() };
    for level in levels {
        let case = plugin.case(level, &arrays)?;
        let of_level = compare(problem, level, &case, &estimators)?;
        report.rows.extend(of_level.rows);
        report.skipped.extend(of_level.skipped);
        report.reference.extend(of_level.reference);
        if output_level == Some(level) {
            report.outputs = of_level.outputs;
        }
    }
    report.arrays = arrays;
    Ok(report)
}

/// Compares these estimators on one case of a problem.
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
    let reference = reference::hypergradient_of(case)?;
    let disagreements = reference::disagreements(case, &reference)?;
    let exact = Terms::of(case, level, &reference)?;
    let mut report = CheckReport {
        reference: disagreements
            .iter()
            .map(|d| format!("{problem}, {level} levels: {d}"))
            .collect(),
        ..CheckReport::default()
    };
    let objective = Tensor::new(reference.objective, &Device::Cpu)?;
    report.outputs.insert("J".into(), objective);
    for (name, estimator) in estimators {
        match Estimate::by(case, *estimator) {
            Ok(estimate) => {
                let terms = Terms::of(case, level, &estimate.apart)?;
                report.rows.extend(rows(problem, level, name, &estimate, &terms, &exact)?);
                terms.write(case, name, &mut report.outputs)?;
            }
            Err(Error::Unsupported { plugin, what }) => report.skipped.push(Skipped {
                level,
                estimator: (*name).to_owned(),
                reason: Error::Unsupported { plugin, what }.to_string(),
            }),
            Err(error) => return Err(error.in_plugin(*name)),
        }
    }
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
            let (_, sum) = terms.iter_mut().find(|(n, _)| *n == name).ok_or_else(|| {
                Error::Invalid(format!("a term `{name}` with {level} levels is not expected"))
            })?;
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

/// Both runs of an estimator.
struct Estimate {
    /// With one adjoint, as a search with `combine = "sum"` runs it.
    joint: HyperGradient,
    /// With G_m and G_a apart, as the other modes do.
    apart: HyperGradient,
    ran: Ran,
    bound: Option<ErrorBound>,
}

impl Estimate {
    fn by(case: &CheckCase, estimator: &dyn Hypergradient) -> Result<Self> {
        let observer = Observer::new(estimator);
        let of = |adjoints| hypergradient(&case.problem(), &case.point, &observer, adjoints);
        let (joint, apart) = (of(Adjoints::Joint)?, of(Adjoints::Apart)?);
        let ran = observer.ran(&apart);
        Ok(Self { joint, apart, ran, bound: estimator.bound() })
    }
}

/// Watches an estimator at work.
#[derive(Debug)]
struct Observer<'a> {
    inner: &'a dyn Hypergradient,
    asked: AtomicUsize,
    differences: AtomicUsize,
    double_backward: AtomicUsize,
}

/// What an estimator was seen to do.
enum Ran {
    /// Second derivatives were evaluated in this way.
    Evaluated(Evaluated),
    /// The inner updates were unrolled, but there was nothing to pull back through them.
    NothingAsked,
    /// The inner updates were not unrolled.
    NotUnrolled,
}

impl<'a> Observer<'a> {
    fn new(inner: &'a dyn Hypergradient) -> Self {
        let zero = || AtomicUsize::new(0);
        Self { inner, asked: zero(), differences: zero(), double_backward: zero() }
    }

    fn ran(&self, gradient: &HyperGradient) -> Ran {
        let read = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        if gradient.training_losses.is_empty() {
            Ran::NotUnrolled
        } else if read(&self.asked) == 0 {
            Ran::NothingAsked
        } else {
            Ran::Evaluated(Evaluated {
                differences: read(&self.differences),
                double_backward: read(&self.double_backward),
            })
        }
    }
}

impl Hypergradient for Observer<'_> {
    fn unrolls(&self) -> bool {
        self.inner.unrolls()
    }

    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        let product = self.inner.mixed_product(stage, v)?;
        let Evaluated { differences, double_backward } = stage.evaluated();
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.differences.fetch_add(differences, Ordering::Relaxed);
        self.double_backward.fetch_add(double_backward, Ordering::Relaxed);
        Ok(product)
    }

    fn bound(&self) -> Option<ErrorBound> {
        self.inner.bound()
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
    let ran = match &estimate.ran {
        Ran::NotUnrolled => Evaluated::default().method().unwrap_or(estimator),
        Ran::NothingAsked => estimator,
        Ran::Evaluated(evaluated) => evaluated.method().unwrap_or(estimator),
    };
    let direct_share = estimate.apart.direct_share()?;
    let row = |term: &str, figures: &Figures, passes: usize, bound: Option<f64>| Row {
        problem: problem.to_owned(),
        level,
        term: term.to_owned(),
        estimator: estimator.to_owned(),
        ran: ran.to_owned(),
        cosine: figures.cosine,
        rel_error: figures.rel_error,
        norm_ratio: figures.norm_ratio,
        passes,
        direct_share,
        pass: bound.map(|bound| figures.rel_error.is_some_and(|e| e <= bound)),
    };
    // The two runs differ in how adjoints are summed: the total must hold in both.
    let joint = estimate.joint.sum(0, |_| true)?;
    let joint = joint.map(|t| t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>());
    let joint = joint.transpose()?.unwrap_or_else(|| vec![0.0; exact.total.len()]);
    let total = Figures::of(&joint, &exact.total).worse(Figures::of(&terms.total, &exact.total));
    let mut rows =
        vec![row("total", &total, estimate.joint.passes, estimate.bound.map(|b| b.total))];
    for ((name, values), (_, expected)) in terms.terms.iter().zip(&exact.terms) {
        let figures = Figures::of(values, expected);
        rows.push(row(name, &figures, estimate.apart.passes, estimate.bound.map(|b| b.term)));
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
