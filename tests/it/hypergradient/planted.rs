//! Bugs planted in estimators, networks and losses: `check hypergrad` must fail for each, and say where.

use super::{TERMS, case, close, in_child, row, sum};
use candle_core::Tensor;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tetlo_core::Result;
use tetlo_core::kinds::{CheckProblem, Hypergradient, Needs, TransferBatch, TransferLoss};
use tetlo_core::layout::{Init, Layout};
use tetlo_core::multilevel::check::CheckCase;
use tetlo_core::multilevel::reverse::{Adjoints, hypergradient};
use tetlo_core::multilevel::{ErrorBound, Limit, MixedProduct, StageOracle};
use tetlo_core::network::{Network, Output, Pass, Statistics};
use tetlo_core::optim::{add_scaled, norm};
use tetlo_core::registry::build;
use tetlo_core::rng::{Key, Purpose};
use tetlo_engine::check::{CheckReport, compare};

const IMPLICIT: [&str; 3] = ["main_through_W", "aux_through_W", "aux_direct"];

/// A central difference with a bug.
#[derive(Debug, Clone, Copy)]
enum Planted {
    /// `(p - n) / 2. * eps` in place of `(p - n) / (2. * eps)`.
    EpsilonSquared,
    /// n − p.
    Sign,
    /// The teacher's architecture is taken for a constant.
    NoDirectTerm,
    /// The configured estimator is not asked at all.
    Ignored,
    /// Several inner steps without (I − η·H).
    NoOwnHessian,
    /// SGD's momentum is not in the transpose of the inner steps. With its weight decay.
    NoMomentum(f64),
    /// An adaptive step is taken for one of SGD.
    AdamAsSgd,
    /// The learning rate is left out once more.
    RatesTwice,
    /// A Neumann series of I + α·H.
    NeumannSign,
    /// Conjugate gradients on the Hessian without this weight decay.
    NoDecay(f64),
}

fn difference(stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
    scaled_difference(stage, v, |eps| 1.0 / (2.0 * eps))
}

fn scaled_difference(
    stage: &StageOracle<'_>,
    v: &Tensor,
    factor: impl Fn(f64) -> f64,
) -> Result<MixedProduct> {
    let length = norm(v)?;
    if length == 0.0 {
        return Ok(stage.no_product());
    }
    let eps = 0.01 / length;
    let plus = add_scaled(stage.weights(), eps, v)?;
    let minus = add_scaled(stage.weights(), -eps, v)?;
    stage.context_difference(&plus, &minus)?.scaled(factor(eps))
}

/// (H + shift)⁻¹·b by conjugate gradients.
fn solved(stage: &StageOracle<'_>, b: &Tensor, shift: f64) -> Result<Tensor> {
    let dot = |x: &Tensor, y: &Tensor| -> Result<f64> { Ok((x * y)?.sum_all()?.to_scalar()?) };
    let (mut x, mut r) = (b.zeros_like()?, b.clone());
    let mut p = r.clone();
    for _ in 0..60 {
        let square = dot(&r, &r)?;
        if square < 1e-24 * dot(b, b)? {
            break;
        }
        let curved = add_scaled(&stage.hessian(&p, difference)?, shift, &p)?;
        let size = square / dot(&p, &curved)?;
        x = add_scaled(&x, size, &p)?;
        r = add_scaled(&r, -size, &curved)?;
        p = add_scaled(&r, dot(&r, &r)? / square, &p)?;
    }
    Ok(x)
}

impl Hypergradient for Planted {
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        match self {
            Self::Ignored => Ok(stage.no_product()),
            Self::EpsilonSquared => scaled_difference(stage, v, |eps| 1.0 / 2.0 * eps),
            Self::Sign => scaled_difference(stage, v, |eps| -1.0 / (2.0 * eps)),
            Self::NoDirectTerm => {
                let mut product = difference(stage, v)?;
                if !product.weights.is_empty() {
                    product.architecture.fill(None);
                }
                Ok(product)
            }
            Self::NoOwnHessian => Ok(MixedProduct { own: None, ..difference(stage, v)? }),
            _ => difference(stage, v),
        }
    }

    fn pull_back(&self, stage: &StageOracle<'_>, adjoint: &Tensor) -> Result<MixedProduct> {
        match self {
            Self::NoMomentum(decay) => {
                let plain = RefCell::new(adjoint.clone());
                stage.through_updates(adjoint, |at, _| {
                    let v = plain.borrow().clone();
                    let product = difference(at, &v)?;
                    if let Some(own) = &product.own {
                        let before = add_scaled(own, *decay, &v)?;
                        let before = add_scaled(&v, -stage.learning_rate(), &before)?;
                        plain.replace(before);
                    }
                    Ok(product)
                })
            }
            Self::AdamAsSgd => stage.through_updates(adjoint, |at, _| difference(at, adjoint)),
            Self::RatesTwice => stage
                .through_updates(adjoint, |at, v| self.mixed_product(at, v))?
                .scaled(1.0 / stage.learning_rate()),
            Self::NeumannSign => {
                let size = stage.learning_rate();
                let (mut power, mut sum) = (adjoint.clone(), adjoint.clone());
                for _ in 0..20 {
                    power = add_scaled(&power, size, &stage.hessian(&power, difference)?)?;
                    sum = add_scaled(&sum, 1.0, &power)?;
                }
                stage.through_solution(&(sum * size)?, difference)
            }
            Self::NoDecay(decay) => {
                stage.through_solution(&solved(stage, adjoint, -decay)?, difference)
            }
            _ => stage.through_updates(adjoint, |at, v| self.mixed_product(at, v)),
        }
    }

    fn limit(&self) -> Limit {
        match self {
            Self::NeumannSign | Self::NoDecay(_) => Limit::Solution,
            _ => Limit::Updates,
        }
    }

    fn bound(&self) -> Option<ErrorBound> {
        Some(ErrorBound { total: 2e-4, term: 1e-3 })
    }
}

/// The drawn case of a problem.
fn drawn(problem: &str, levels: usize, options: &Value) -> CheckCase {
    let problem = build::<dyn CheckProblem>(problem, options).unwrap();
    problem.case(levels, &problem.arrays(0).unwrap()).unwrap()
}

/// The terms (and the total) in which the check fails, each in a line of the failures.
fn missed(report: &CheckReport) -> Vec<String> {
    let rows = report.rows.iter().filter(|r| r.pass == Some(false));
    let missed: Vec<_> = rows.map(|r| (r.term.clone(), r.level)).collect();
    let failures = report.failures();
    for (term, level) in &missed {
        let named = format!("{level} levels, {term}: `planted`");
        assert!(failures.iter().any(|f| f.contains(&named)), "{named}: {failures:?}");
    }
    missed.into_iter().map(|(term, _)| term).collect()
}

fn checked(problem: &str, levels: usize, options: &Value, bug: Planted) -> CheckReport {
    compare(problem, levels, &drawn(problem, levels, options), &[("planted", &bug)]).unwrap()
}

#[test]
fn wrong_products_are_caught() {
    if !in_child("planted::wrong_products_are_caught", false) {
        return;
    }
    let caught = |bug: Planted, options: Value| {
        let report = checked("smooth", 3, &options, bug);
        let mut missed = missed(&report);
        missed.retain(|term| term != "total");
        (missed, report)
    };

    let (missed_terms, report) = caught(Planted::EpsilonSquared, json!({}));
    assert_eq!(missed_terms, IMPLICIT);
    // In the total of a search all looks well: the implicit terms are small.
    let of = |estimator: &dyn Hypergradient| {
        let case = case(3, &json!({}));
        hypergradient(&case.problem(), &case.point, &[estimator; 2], Adjoints::Joint).unwrap()
    };
    let right = build::<dyn Hypergradient>("central-difference", &Value::Null).unwrap();
    let (wrong, right) = (of(&Planted::EpsilonSquared), of(right.as_ref()));
    close("total", &sum(&wrong, 0, |_| true), &sum(&right, 0, |_| true), 0.03);
    for term in IMPLICIT {
        assert!(row(&report, 3, "planted", term).rel_error.unwrap() > 0.9);
    }
    assert_eq!(report.failures().iter().filter(|f| f.contains("aux_direct")).count(), 1);

    for options in [json!({}), json!({"eta-w": 0.5, "eta-v": 0.5, "gamma": 1.0})] {
        // Flipped twice, the path through both updates has its sign back.
        let (missed_terms, report) = caught(Planted::Sign, options.clone());
        assert_eq!(missed_terms, ["main_through_W", "aux_direct"]);
        let cosine = row(&report, 3, "planted", "aux_direct").cosine.unwrap();
        assert!((cosine + 1.0).abs() < 1e-6);

        let (missed_terms, report) = caught(Planted::NoDirectTerm, options.clone());
        assert_eq!(missed_terms, ["aux_direct"]);
        assert_eq!(row(&report, 3, "planted", "total").pass, Some(false));

        let (missed_terms, _) = caught(Planted::RatesTwice, options.clone());
        assert_eq!(missed_terms, IMPLICIT);

        let (missed_terms, report) = caught(Planted::Ignored, options);
        assert_eq!(missed_terms, IMPLICIT);
        assert_eq!(row(&report, 3, "planted", "total").ran, "first-order");
    }
}

/// At every level of every problem that has them.
#[test]
fn wrong_products_are_caught_at_every_level() {
    if !in_child("planted::wrong_products_are_caught_at_every_level", false) {
        return;
    }
    for (problem, levels) in
        [("smooth", 2), ("smooth", 4), ("quadratic", 4), ("as-run", 3), ("ridge", 2)]
    {
        for bug in [Planted::EpsilonSquared, Planted::Sign, Planted::RatesTwice] {
            let missed = missed(&checked(problem, levels, &json!({}), bug));
            assert!(missed.contains(&"main_through_W".into()), "{problem} {bug:?}: {missed:?}");
        }
        if levels > 2 {
            let missed = missed(&checked(problem, levels, &json!({}), Planted::NoDirectTerm));
            assert!(missed.contains(&"aux_direct".into()), "{problem}: {missed:?}");
        }
    }
}

#[test]
fn wrong_steps_are_caught() {
    if !in_child("planted::wrong_steps_are_caught", false) {
        return;
    }
    for (problem, levels, decay) in [("as-run", 2, 0.1), ("as-run", 4, 0.1), ("quadratic", 3, 0.3)]
    {
        for bug in [Planted::NoOwnHessian, Planted::NoMomentum(decay)] {
            let missed = missed(&checked(problem, levels, &json!({}), bug));
            assert!(missed.contains(&"main_through_W".into()), "{problem} {bug:?}: {missed:?}");
        }
        // The plant is nothing else than the momentum left out: without momentum it is right.
        let without = json!({"momentum": 0.0});
        if levels == 2 {
            let report = checked(problem, levels, &without, Planted::NoMomentum(decay));
            assert_eq!(report.failures(), Vec::<String>::new(), "{problem}");
        }
    }
    for options in [
        json!({"optimizer": "adam", "momentum": 0.0, "unroll-steps": 1}),
        json!({"optimizer": "adam", "momentum": 0.0}),
    ] {
        let missed = missed(&checked("quadratic", 2, &options, Planted::AdamAsSgd));
        assert_eq!(missed, ["total", "main_through_W"]);
    }
    let missed = missed(&checked("as-run", 3, &json!({"unroll-steps": 1}), Planted::AdamAsSgd));
    assert!(missed.contains(&"aux_direct".into()), "{missed:?}");
}

#[test]
fn wrong_solutions_are_caught() {
    if !in_child("planted::wrong_solutions_are_caught", false) {
        return;
    }
    for (problem, levels, decay) in
        [("quadratic", 2, 0.3), ("quadratic", 3, 0.3), ("ridge", 2, 0.1), ("logistic", 2, 0.05)]
    {
        for bug in [Planted::NeumannSign, Planted::NoDecay(decay)] {
            let missed = missed(&checked(problem, levels, &json!({}), bug));
            assert!(missed.contains(&"main_through_W".into()), "{problem} {bug:?}: {missed:?}");
        }
        // The plant is nothing else than the decay left out.
        let report = checked(problem, levels, &json!({}), Planted::NoDecay(0.0));
        assert_eq!(report.failures(), Vec::<String>::new(), "{problem}");
    }
}

/// What a network keeps from pass to pass.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kept {
    /// A running mean of the logits that every pass writes and reads.
    Used,
    /// A running mean that every pass writes and evaluation alone reads, as batch normalisation does.
    Evaluated,
}

/// A network with a state of its own.
#[derive(Debug)]
struct Leaky {
    network: Arc<dyn Network>,
    kept: Kept,
    buffers: Layout,
    mean: Mutex<f64>,
}

impl Network for Leaky {
    fn weights(&self) -> &Layout {
        self.network.weights()
    }

    fn buffers(&self) -> &Layout {
        &self.buffers
    }

    fn architecture(&self) -> &Layout {
        self.network.architecture()
    }

    fn multiply_adds(&self) -> u64 {
        self.network.multiply_adds()
    }

    fn forward(
        &self,
        weights: &Tensor,
        architecture: Option<&Tensor>,
        images: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<Output> {
        let output = self.network.forward(weights, architecture, images, pass)?;
        let mut mean = self.mean.lock().unwrap();
        if pass.statistics == Statistics::Batch {
            let now = output.logits.detach().mean_all()?.to_scalar::<f64>()?;
            *mean = 0.9 * *mean + 0.1 * now;
            if self.kept == Kept::Evaluated {
                return Ok(output);
            }
        }
        // A scale, since a shift of all logits changes no cross entropy.
        Ok(Output::new((output.logits * (1.0 + *mean))?, output.embedding))
    }
}

#[test]
fn running_statistics_that_a_pass_writes_are_caught() {
    if !in_child("planted::running_statistics_that_a_pass_writes_are_caught", false) {
        return;
    }
    let estimator = build::<dyn Hypergradient>("central-difference", &Value::Null).unwrap();
    for kept in [Kept::Used, Kept::Evaluated] {
        for stage in [0, 1] {
            let mut case = case(3, &json!({}));
            let mut buffers = Layout::new();
            buffers.push("mean", &[1], Init::Constant(0.0));
            let network = case.networks[stage].clone();
            case.networks[stage] =
                Arc::new(Leaky { network, kept, buffers, mean: Mutex::new(0.0) });
            let report = compare("smooth", 3, &case, &[("planted", estimator.as_ref())]).unwrap();
            let name = ["main", "aux"][stage];
            let named = format!("of stage `{name}` is not what it was before");
            let failures = report.failures();
            assert!(failures.iter().any(|f| f.contains(&named)), "{kept:?} {name}: {failures:?}");
        }
    }
}

/// A transfer loss that draws for itself in every pass.
#[derive(Debug)]
struct FreshDraws {
    loss: Box<dyn TransferLoss>,
    calls: AtomicU64,
}

impl TransferLoss for FreshDraws {
    fn needs(&self) -> Needs {
        self.loss.needs()
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let (main, aux) = batch.embeddings()?;
        let draws = Key::new(call, Purpose::Transfer).stream();
        self.loss.loss(&TransferBatch::of_embeddings(main, aux, draws)?)
    }
}

#[test]
fn fresh_quadruples_are_caught() {
    if !in_child("planted::fresh_quadruples_are_caught", false) {
        return;
    }
    for estimator in ["central-difference", "richardson"] {
        let estimator = build::<dyn Hypergradient>(estimator, &Value::Null).unwrap();
        let mut case = case(3, &json!({}));
        let qrs = json!({"sampler": "random", "quadruples": 12});
        let loss = build::<dyn TransferLoss>("qrs", &qrs).unwrap();
        let loss = FreshDraws { loss, calls: AtomicU64::new(0) };
        case.transfers.replace(1, 1, Box::new(loss));
        let report = compare("smooth", 3, &case, &[("planted", estimator.as_ref())]).unwrap();
        let failures = report.failures();
        let named = "the training loss of stage `aux` is not what it was before";
        assert!(failures.iter().any(|f| f.contains(named)), "{failures:?}");
        // And the numbers themselves are far off.
        let missed = missed(&report);
        assert!(missed.contains(&"aux_direct".into()), "{missed:?}");
        assert_eq!(row(&report, 3, "planted", TERMS[0]).pass, Some(true));
    }
}
