//! The reverse pass over a stage graph: one function for every number of levels.
//!
//! Each stage i trains its weights by T_i steps of its inner optimiser, θ_i → θ'_i, on its loss
//! L_i(θ_i; θ'_<i, A). With the objective J = Σ_o w_o·CE(θ'_o, A; valid), the adjoint
//! a_i = ∂J/∂θ'_i of each stage, from the top, is pulled back through its training by the stage's
//! estimator; for one step of SGD that is one mixed product:
//!
//! ∂J/∂(θ'_j, A) += −η_i · ∇_(θ'_j, A) ⟨∇_θi L_i, a_i⟩   for j < i.
//!
//! The product is linear in a_i, so adjoints are summed before it, never after: k stages of one step
//! need 3k + 1 passes and one for each further term of the objective (METHODS.md §1.2: `DARTS` 4,
//! `TETLO` 8).

use super::graph::Combine;
use super::oracle::{Point, Problem, WarmStarts};
use super::stage::{InnerStep, MixedProduct, Shared, StageOracle, Training, accumulate};
use super::{Evaluated, Hypergradient, Limit};
use crate::optim::norm;
use crate::{Error, Result};
use candle_core::Tensor;

/// Which part of the objective a contribution comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The first stage's own validation loss: G_m.
    Main,
    /// Validation losses of later stages, reached through the transfer: G_a.
    Transfer,
    /// Both, summed before the mixed products.
    Joint,
}

/// The last link of the path by which a contribution reaches the architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// The architecture stands in the objective itself.
    Objective,
    /// The architecture stands in the loss whose step this stage made.
    Update(usize),
}

/// One term of the hypergradient, with its sign: the terms sum to the total.
#[derive(Debug, Clone)]
pub struct Contribution {
    /// Where it comes from.
    pub source: Source,
    /// Its last link.
    pub via: Via,
    /// The group of architecture parameters it belongs to (0: the main model's).
    pub group: usize,
    /// The gradient.
    pub gradient: Tensor,
}

impl Contribution {
    /// Does it reach the main architecture directly through a later stage's loss? (`direct-term`)
    pub fn is_direct(&self) -> bool {
        self.group == 0 && matches!(self.via, Via::Update(stage) if stage > 0)
    }

    /// The name in records and in `tetlo check hypergrad` (METHODS.md §1.4).
    pub fn name(&self) -> &'static str {
        match (self.source, self.via, self.group) {
            (_, _, 1..) => "aux_architecture",
            (Source::Main | Source::Joint, Via::Objective, _) => "main_direct",
            (Source::Main, Via::Update(0), _) => "main_through_W",
            (Source::Joint, Via::Update(0), _) => "through_W",
            (Source::Transfer, Via::Update(0), _) => "aux_through_W",
            (Source::Transfer, Via::Objective, _) => "transferred_direct",
            _ => "aux_direct",
        }
    }
}

/// The hypergradient of a stage graph, term by term.
#[derive(Debug, Clone)]
pub struct HyperGradient {
    /// The terms.
    pub contributions: Vec<Contribution>,
    /// The objective J at the updated parameters; at first order the part of it that an architecture
    /// stands in, at the present ones.
    pub objective: f64,
    /// Stage and unweighted value of each term of the objective that was computed.
    pub validation_losses: Vec<(usize, f64)>,
    /// Loss of each stage before its update (empty at first order).
    pub training_losses: Vec<f64>,
    /// Forward and backward passes it took.
    pub passes: usize,
    /// What its estimators evaluated.
    pub evaluated: Evaluated,
    /// What its estimators keep for the next architecture step.
    pub warm: WarmStarts,
    pub(super) direct_term: bool,
    pub(super) transfer_reaches: bool,
}

impl HyperGradient {
    /// Sum of the contributions to a group that `keep` selects; terms that the graph's `direct-term`
    /// leaves out are never part of it.
    pub fn sum(
        &self,
        group: usize,
        keep: impl Fn(&Contribution) -> bool,
    ) -> Result<Option<Tensor>> {
        let mut total = None;
        for c in &self.contributions {
            let counts = self.direct_term || !c.is_direct();
            if c.group == group && counts && keep(c) {
                accumulate(&mut total, &c.gradient, 1.0)?;
            }
        }
        Ok(total)
    }

    /// Can the transferred part reach the main architecture at all? `false` is a matter of the config,
    /// not of this step's numbers: first order, hard targets, λ = 0.
    pub fn transfer_reaches(&self) -> bool {
        self.transfer_reaches
    }

    /// ‖direct term‖ / ‖G_a‖, where the two are known apart.
    pub fn direct_share(&self) -> Result<Option<f64>> {
        let (mut direct, mut all) = (None, None);
        for c in self.contributions.iter().filter(|c| c.group == 0) {
            if c.source == Source::Transfer {
                accumulate(&mut all, &c.gradient, 1.0)?;
                if c.is_direct() {
                    accumulate(&mut direct, &c.gradient, 1.0)?;
                }
            }
        }
        Ok(match (direct, all) {
            (Some(d), Some(a)) => {
                let a = norm(&a)?;
                (a > 0.0).then_some(norm(&d)? / a)
            }
            _ => None,
        })
    }
}

/// How the reverse pass keeps adjoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adjoints {
    /// One sum: fewest passes.
    Joint,
    /// G_m and G_a apart.
    Apart,
}

/// One adjoint for each stage, from one source.
struct Adjoint {
    source: Source,
    of_stage: Vec<Option<Tensor>>,
    /// Pull back by −1 in place of −η (`no-lr-factors`).
    without_rates: bool,
    /// Has a later stage's adjoint been pulled back into this stage's?
    pulled: Vec<bool>,
}

impl Adjoint {
    fn new(source: Source, stages: usize, without_rates: bool) -> Self {
        Self { source, of_stage: vec![None; stages], without_rates, pulled: vec![false; stages] }
    }
}

/// The gradient of the objective in all architecture parameters; `estimators` has one a stage.
///
/// # Errors
/// A loss or gradient is not finite, or an estimator does not support the networks.
pub fn hypergradient(
    problem: &Problem<'_>,
    point: &Point,
    estimators: &[&dyn Hypergradient],
    adjoints: Adjoints,
) -> Result<HyperGradient> {
    if estimators.len() != problem.graph.stages.len() {
        return Err(Error::Invalid(format!(
            "{} estimators for {} stages",
            estimators.len(),
            problem.graph.stages.len()
        )));
    }
    let before = problem.passes.get();
    let mut result = if estimators.iter().any(|e| e.unrolls()) {
        unrolled(problem, point, estimators, adjoints)?
    } else {
        first_order(problem, point)?
    };
    result.passes = problem.passes.get() - before;
    Ok(result)
}

fn empty(problem: &Problem<'_>) -> HyperGradient {
    HyperGradient {
        contributions: vec![],
        objective: 0.0,
        validation_losses: vec![],
        training_losses: vec![],
        passes: 0,
        evaluated: Evaluated::default(),
        warm: WarmStarts::new(),
        direct_term: problem.graph.direct_term,
        transfer_reaches: false,
    }
}

/// Where an objective term belongs.
fn source(stage: usize) -> Source {
    if stage == 0 { Source::Main } else { Source::Transfer }
}

/// γ·∇_A CE(W, A; valid) at the present weights: no unrolling (ξ = 0 in the paper of `DARTS`).
fn first_order(problem: &Problem<'_>, point: &Point) -> Result<HyperGradient> {
    let mut result = empty(problem);
    for term in problem.graph.objective.iter().filter(|o| o.weight > 0.0) {
        let (value, gradient) = problem.direct_gradient(term.stage, point)?;
        check_finite(value, problem, term.stage, "validation loss")?;
        let (Some(gradient), Some(group)) = (gradient, problem.levels[term.stage].architecture)
        else {
            continue;
        };
        result.objective += term.weight * value;
        result.validation_losses.push((term.stage, value));
        result.transfer_reaches |= term.stage > 0 && group == 0;
        result.contributions.push(Contribution {
            source: source(term.stage),
            via: Via::Objective,
            group,
            gradient: (gradient * term.weight)?,
        });
    }
    Ok(result)
}

fn unrolled(
    problem: &Problem<'_>,
    point: &Point,
    estimators: &[&dyn Hypergradient],
    adjoints: Adjoints,
) -> Result<HyperGradient> {
    let graph = problem.graph;
    let stages = graph.stages.len();
    let mut result = empty(problem);

    // Forward: the inner steps of each stage.
    let mut updated = point.detached();
    let mut trained = Vec::with_capacity(stages);
    for (stage, estimator) in estimators.iter().enumerate() {
        if !estimator.unrolls() {
            trained.push(None);
            continue;
        }
        let (training, loss) = train(problem, stage, &updated)?;
        result.training_losses.push(loss);
        updated.weights[stage] = training.weights.clone();
        trained.push(Some(training));
    }

    // The objective's own gradients.
    let apart = adjoints == Adjoints::Apart;
    let mut carried = if apart {
        let without_rates = graph.combine == Combine::NoLrFactors;
        vec![
            Adjoint::new(Source::Main, stages, false),
            Adjoint::new(Source::Transfer, stages, without_rates),
        ]
    } else {
        vec![Adjoint::new(Source::Joint, stages, false)]
    };
    for term in graph.objective.iter().filter(|o| o.weight > 0.0) {
        let (value, weights, architecture) = problem.objective_gradient(term.stage, &updated)?;
        check_finite(value, problem, term.stage, "validation loss")?;
        result.objective += term.weight * value;
        result.validation_losses.push((term.stage, value));
        let from = source(term.stage);
        let index = usize::from(apart && from == Source::Transfer);
        accumulate(&mut carried[index].of_stage[term.stage], &weights, term.weight)?;
        if let (Some(gradient), Some(group)) =
            (architecture, problem.levels[term.stage].architecture)
        {
            result.contributions.push(Contribution {
                source: carried[index].source,
                via: Via::Objective,
                group,
                gradient: (gradient * term.weight)?,
            });
        }
    }

    // Reverse: pull each stage's adjoint back through its training.
    for (stage, training) in trained.iter().enumerate().rev() {
        let Some(training) = training else { continue };
        let estimator = estimators[stage];
        let eta = problem.levels[stage].inner.learning_rate();
        for adjoint in &mut carried {
            let Some(v) = adjoint.of_stage[stage].take() else { continue };
            let length = norm(&v)?;
            check_finite(length, problem, stage, "hypergradient")?;
            let through_rate = estimator.limit() == Limit::Updates && !adjoint.without_rates;
            if length == 0.0 || (through_rate && eta == 0.0) {
                // Nothing to pull back at this step: no division by a zero norm.
                result.transfer_reaches |= adjoint.source == Source::Transfer;
                continue;
            }
            let key = (stage, adjoint.source);
            let shared = Shared::default();
            let oracle = StageOracle::new(problem, stage, &updated, training, &shared)
                .without_rates(adjoint.without_rates)
                .starting_at(problem.warm.get(&key));
            let MixedProduct { weights, architecture, .. } = estimator.pull_back(&oracle, &v)?;
            result.evaluated = result.evaluated.plus(shared.evaluated.get());
            if let Some(solution) = shared.solution.into_inner() {
                result.warm.insert(key, solution);
            }
            for (earlier, gradient) in weights.iter().enumerate() {
                if let Some(gradient) = gradient {
                    accumulate(&mut adjoint.of_stage[earlier], gradient, 1.0)?;
                    adjoint.pulled[earlier] = true;
                }
            }
            for (group, gradient) in architecture.into_iter().enumerate() {
                let Some(gradient) = gradient else { continue };
                let (source, via) = (adjoint.source, Via::Update(stage));
                if group > 0 && adjoint.without_rates && adjoint.pulled[stage] {
                    return Err(Error::config(
                        "`combine = \"no-lr-factors\"` does not go with an auxiliary model that is \
                         both searched and another one's teacher",
                    ));
                }
                result.transfer_reaches |= group == 0 && source == Source::Transfer;
                result.contributions.push(Contribution { source, via, group, gradient });
            }
        }
    }
    Ok(result)
}

/// The inner steps of a stage from `point`, and the loss before the first.
fn train(problem: &Problem<'_>, stage: usize, point: &Point) -> Result<(Training, f64)> {
    let inner = problem.unrolled_inner(stage);
    let count = problem.graph.stages[stage].unroll_steps;
    let mut point = point.clone();
    let mut memory = problem.levels[stage].memory.clone();
    let mut steps = Vec::with_capacity(count);
    let mut first = 0.0;
    for i in 0..count {
        let found = problem.inner_gradient(stage, &point)?;
        check_finite(found.loss, problem, stage, "training loss")?;
        if i == 0 {
            first = found.loss;
        }
        let weights = point.weights[stage].clone();
        let (next, after) = if i + 1 == count {
            (inner.unrolled(&weights, &found.gradient, &memory)?, memory.clone())
        } else {
            inner.advanced(&weights, &found.gradient, &memory)?
        };
        let adaptive = inner.is_adaptive() || problem.levels[stage].inner.is_adaptive();
        let gradient = adaptive.then_some(found.gradient);
        steps.push(InnerStep { weights, gradient, memory });
        point.weights[stage] = next;
        memory = after;
    }
    let weights = point.weights.swap_remove(stage);
    Ok((Training { steps, weights }, first))
}

fn check_finite(value: f64, problem: &Problem<'_>, stage: usize, what: &str) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Error::NotFinite {
        what: what.to_owned(),
        level: problem.graph.stages[stage].name.clone(),
        step: problem.draw.step as usize,
    })
}

/// The objective after every stage has made its step: J(A) as a number, for finite differences.
pub fn objective_value(problem: &Problem<'_>, point: &Point) -> Result<f64> {
    let (main, transfer) = objective_parts(problem, point, |_| point.architecture.clone())?;
    Ok(main + transfer)
}

/// The two parts of J, of [`Source::Main`] and [`Source::Transfer`], where the architecture may
/// differ from place to place: `architecture` gives it for each link of [`Via`]. Moved in one place
/// only, J gives one term of the hypergradient, by finite differences and without any adjoint.
pub fn objective_parts(
    problem: &Problem<'_>,
    point: &Point,
    architecture: impl Fn(Via) -> Vec<Tensor>,
) -> Result<(f64, f64)> {
    let mut updated = point.detached();
    for stage in 0..problem.graph.stages.len() {
        updated.architecture = architecture(Via::Update(stage));
        updated.weights[stage] = train(problem, stage, &updated)?.0.weights;
    }
    updated.architecture = architecture(Via::Objective);
    let (mut main, mut transfer) = (0.0, 0.0);
    for term in problem.graph.objective.iter().filter(|o| o.weight > 0.0) {
        let value = term.weight * problem.objective_term(term.stage, &updated)?;
        match source(term.stage) {
            Source::Main => main += value,
            Source::Transfer | Source::Joint => transfer += value,
        }
    }
    Ok((main, transfer))
}
