//! One stage as an estimator sees it: differences and products of its second derivatives, and the
//! steps that its training made.

use super::graph::LossTerm;
use super::oracle::{Point, Problem, take, variable};
use crate::kinds::TransferLoss;
use crate::optim::{InnerState, StepAdjoint, add_scaled, norm};
use crate::{Error, Result};
use candle_core::{Tensor, Var};
use std::cell::{Cell, RefCell};

/// Gradients of a stage's loss, or of a product with its gradient.
#[derive(Debug, Clone, Default)]
pub struct MixedProduct {
    /// In the stage's own weights; only where asked for.
    pub own: Option<Tensor>,
    /// In the weights of the stages before it; `None`: the loss does not depend on them.
    pub weights: Vec<Option<Tensor>>,
    /// In each group of architecture parameters.
    pub architecture: Vec<Option<Tensor>>,
}

impl MixedProduct {
    fn none(point: &Point, stage: usize) -> Self {
        Self {
            own: None,
            weights: vec![None; stage],
            architecture: vec![None; point.architecture.len()],
        }
    }

    /// All parts times `factor`.
    pub fn scaled(mut self, factor: f64) -> Result<Self> {
        for part in self.parts_mut() {
            *part = (&*part * factor)?;
        }
        Ok(self)
    }

    /// Every part that is there, in a fixed order.
    pub fn parts_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        let Self { own, weights, architecture } = self;
        own.iter_mut().chain(weights.iter_mut().flatten()).chain(architecture.iter_mut().flatten())
    }

    /// Adds `factor` · `other`.
    ///
    /// # Errors
    /// Shapes differ.
    pub fn add(&mut self, factor: f64, other: &Self) -> Result<()> {
        let Self { own, weights, architecture } = self;
        let sums = std::iter::once(own).chain(weights).chain(architecture);
        let parts = std::iter::once(&other.own).chain(&other.weights).chain(&other.architecture);
        for (sum, part) in sums.zip(parts) {
            if let Some(part) = part {
                accumulate(sum, part, factor)?;
            }
        }
        Ok(())
    }
}

/// Adds `factor · value` to an optional sum.
pub(super) fn accumulate(sum: &mut Option<Tensor>, value: &Tensor, factor: f64) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(old) => add_scaled(&old, factor, value)?,
        None => (value * factor)?,
    });
    Ok(())
}

/// One inner step of a stage, as it was made.
#[derive(Debug, Clone)]
pub(super) struct InnerStep {
    /// The weights before it.
    pub weights: Tensor,
    /// The gradient at these, where the optimiser's derivative needs it.
    pub gradient: Option<Tensor>,
    /// The memory before it.
    pub memory: InnerState,
}

/// The training of a stage between two architecture steps, as the hypergradient sees it.
#[derive(Debug, Clone)]
pub(super) struct Training {
    /// Its steps.
    pub steps: Vec<InnerStep>,
    /// The weights after the last.
    pub weights: Tensor,
}

/// Which parts of a product are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wants {
    own: bool,
    context: bool,
}

/// How often an estimator asked for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evaluated {
    /// Mixed products by a difference of two gradients.
    pub differences: usize,
    /// Mixed products by double backward.
    pub double_backward: usize,
    /// Products with the stage's Hessian alone, by either way.
    pub hessian: usize,
    /// Plain gradients.
    pub gradients: usize,
    /// Inner steps that adjoints were taken through.
    pub steps: usize,
}

impl Evaluated {
    /// What the field calls an estimator that does this.
    pub fn method(self) -> String {
        let through = if self.steps > 0 { "" } else { "implicit, " };
        let products = match (self.differences, self.double_backward) {
            (0, 0) if self.hessian + self.gradients == 0 => return "first-order".into(),
            (0, 0) => "no mixed product",
            (d, 0) if self.steps > 0 && d >= 2 * self.steps => "richardson",
            (_, 0) => "central-difference",
            (0, _) => "exact",
            _ => "central-difference and exact",
        };
        let solve = match (self.hessian, self.gradients) {
            (0, 0) => String::new(),
            (0, g) => format!(", {g} gradients"),
            (h, _) if self.steps > 0 => format!(", {h} Hessian products"),
            (h, _) => format!(", solved with {h} Hessian products"),
        };
        format!("{through}{products}{solve}")
    }

    /// The sum of two counts.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            differences: self.differences + other.differences,
            double_backward: self.double_backward + other.double_backward,
            hessian: self.hessian + other.hessian,
            gradients: self.gradients + other.gradients,
            steps: self.steps + other.steps,
        }
    }
}

/// What all views of one stage share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) evaluated: Cell<Evaluated>,
    pub(super) solution: RefCell<Option<Tensor>>,
}

/// One stage at a point, as an estimator sees it.
///
/// At first that point is the end of the stage's training; [`StageOracle::through_updates`] shows the
/// points before its steps.
#[derive(Debug)]
pub struct StageOracle<'a> {
    problem: &'a Problem<'a>,
    stage: usize,
    point: &'a Point,
    training: &'a Training,
    own: &'a Tensor,
    without_rates: bool,
    start: Option<&'a Tensor>,
    wants: Wants,
    shared: &'a Shared,
}

impl<'a> StageOracle<'a> {
    /// Stage `stage` of `problem`; `point` holds the weights of all stages after their training.
    pub(super) fn new(
        problem: &'a Problem<'a>,
        stage: usize,
        point: &'a Point,
        training: &'a Training,
        shared: &'a Shared,
    ) -> Self {
        Self {
            problem,
            stage,
            point,
            training,
            own: &training.weights,
            without_rates: false,
            start: None,
            wants: Wants { own: false, context: true },
            shared,
        }
    }

    /// The same, pulling back by −1 in place of −η (`no-lr-factors`).
    pub(super) fn without_rates(self, without_rates: bool) -> Self {
        Self { without_rates, ..self }
    }

    /// The same with a solution to start from.
    pub(super) fn starting_at(self, start: Option<&'a Tensor>) -> Self {
        Self { start, ..self }
    }

    fn at<'b>(&'b self, own: &'b Tensor, wants: Wants) -> StageOracle<'b> {
        StageOracle { own, wants, ..*self }
    }

    /// The stage's own weights, at which derivatives are taken.
    pub fn weights(&self) -> &Tensor {
        self.own
    }

    /// Inner learning rate of the stage.
    pub fn learning_rate(&self) -> f64 {
        self.problem.levels[self.stage].inner.learning_rate()
    }

    /// The solution of the linear system that this estimator kept at the last architecture step.
    pub fn warm_start(&self) -> Option<&Tensor> {
        self.start
    }

    /// Keeps a solution for the next architecture step.
    pub fn keep(&self, solution: Tensor) {
        self.shared.solution.replace(Some(solution));
    }

    /// The product of a loss that does not depend on its context.
    pub fn no_product(&self) -> MixedProduct {
        MixedProduct::none(self.point, self.stage)
    }

    fn evaluate(&self, change: impl FnOnce(&mut Evaluated)) {
        let mut evaluated = self.shared.evaluated.get();
        change(&mut evaluated);
        self.shared.evaluated.set(evaluated);
    }

    /// The adjoint of the stage's trained weights through every step of its training, from the last:
    /// with the transpose v_t of the optimiser's step,
    /// ∂J/∂context += −η·∇_context ⟨∇_θ L(θ_t), v_t⟩ and ∂J/∂θ_t += −η·∇_θ ⟨∇_θ L(θ_t), v_t⟩.
    /// `product` gives these products.
    ///
    /// # Errors
    /// Those of `product`.
    pub fn through_updates(
        &self,
        adjoint: &Tensor,
        product: impl Fn(&StageOracle<'_>, &Tensor) -> Result<MixedProduct>,
    ) -> Result<MixedProduct> {
        let inner = self.problem.unrolled_inner(self.stage);
        let eta = inner.learning_rate();
        let mut total = self.no_product();
        let mut after = StepAdjoint { weights: adjoint.clone(), first: None, second: None };
        for (i, step) in self.training.steps.iter().enumerate().rev() {
            let InnerStep { weights, gradient, memory } = step;
            // SGD's derivative does not contain the gradient: any tensor of the shape will do.
            let gradient = gradient.as_ref().unwrap_or(weights);
            let (direction, mut before) = inner.transpose(weights, gradient, memory, after)?;
            let wants = Wants { own: i > 0, context: true };
            self.evaluate(|e| e.steps += 1);
            let length = norm(&direction)?;
            if !length.is_finite() {
                return Err(Error::NotFinite {
                    what: "adjoint of an inner step".into(),
                    level: self.problem.graph.stages[self.stage].name.clone(),
                    step: self.problem.draw.step as usize,
                });
            }
            if length > 0.0 {
                let MixedProduct { own, weights, architecture } =
                    product(&self.at(weights, wants), &direction)?;
                if let Some(own) = own {
                    before.weights = add_scaled(&before.weights, -eta, &own)?;
                }
                let factor = if self.without_rates { -1.0 } else { -eta };
                for (sum, part) in total.weights.iter_mut().zip(weights) {
                    if let Some(part) = part {
                        accumulate(sum, &part, factor)?;
                    }
                }
                for (group, part) in architecture.into_iter().enumerate() {
                    // A searched auxiliary descends J itself, with its learning rates.
                    let factor = if group == 0 { factor } else { -eta };
                    if let Some(part) = part {
                        accumulate(&mut total.architecture[group], &part, factor)?;
                    }
                }
            }
            after = before;
        }
        Ok(total)
    }

    /// The adjoint of a *solution* θ*(context) of the stage, where ∇_θ L + wd·θ = 0: with
    /// v = (∇²_θ L + wd)⁻¹·adjoint, ∂J/∂context = −∇_context ⟨∇_θ L, v⟩.
    ///
    /// # Errors
    /// Those of `product`.
    pub fn through_solution(
        &self,
        v: &Tensor,
        product: impl Fn(&StageOracle<'_>, &Tensor) -> Result<MixedProduct>,
    ) -> Result<MixedProduct> {
        product(self, v)?.scaled(-1.0)
    }

    /// (∇²_θ L + wd)·v at these weights, by `product`.
    ///
    /// # Errors
    /// Those of `product`.
    pub fn hessian(
        &self,
        v: &Tensor,
        product: impl Fn(&StageOracle<'_>, &Tensor) -> Result<MixedProduct>,
    ) -> Result<Tensor> {
        let before = self.shared.evaluated.get();
        let own = product(&self.at(self.own, Wants { own: true, context: false }), v)?.own;
        // A product with the Hessian alone is not one of the mixed products.
        self.shared.evaluated.set(Evaluated { hessian: before.hessian + 1, ..before });
        let own = own.map_or_else(|| v.zeros_like(), Ok)?;
        let decay = self.problem.levels[self.stage].inner.weight_decay();
        if decay == 0.0 { Ok(own) } else { add_scaled(&own, decay, v) }
    }

    /// ∇_θ L + wd·θ at other weights of the stage: one pass.
    ///
    /// # Errors
    /// The loss does not reach the weights.
    pub fn gradient(&self, own: &Tensor) -> Result<Tensor> {
        self.evaluate(|e| e.gradients += 1);
        let mut point = self.point.clone();
        point.weights[self.stage] = own.clone();
        let gradient = self.problem.inner_gradient(self.stage, &point)?.gradient;
        let decay = self.problem.levels[self.stage].inner.weight_decay();
        if decay == 0.0 { Ok(gradient) } else { add_scaled(&gradient, decay, own) }
    }

    /// The diagonal of ∂(step)/∂(gradient) of the stage's last inner step, applied to `v`, without the
    /// learning rate.
    ///
    /// # Errors
    /// Shapes differ.
    pub fn adapted(&self, v: &Tensor) -> Result<Tensor> {
        let inner = self.problem.levels[self.stage].inner;
        let Some(InnerStep { weights, gradient, memory }) = self.training.steps.last() else {
            return Ok(v.clone());
        };
        let gradient = gradient.as_ref().unwrap_or(weights);
        let after = StepAdjoint { weights: v.clone(), first: None, second: None };
        Ok(inner.transpose(weights, gradient, memory, after)?.0)
    }

    /// ∇ L(plus, context) − ∇ L(minus, context), in the context and, where it is wanted, in the
    /// stage's own weights: two passes.
    ///
    /// The teacher of a transfer term is the same in both, so its part is one vector–Jacobian
    /// product with the difference of the gradients at its features.
    ///
    /// # Errors
    /// The loss does not reach what it should.
    pub fn context_difference(&self, plus: &Tensor, minus: &Tensor) -> Result<MixedProduct> {
        let (problem, stage) = (self.problem, self.stage);
        problem.count();
        problem.count();
        self.evaluate(|e| e.differences += 1);
        let mut product = MixedProduct::none(self.point, stage);
        for (i, term) in problem.graph.stages[stage].loss.iter().enumerate() {
            match term {
                _ if term.weight() <= 0.0 => {}
                LossTerm::Supervised { .. } => {
                    self.supervised_difference(&mut product, term, plus, minus)?;
                }
                LossTerm::Transfer { from, .. } => {
                    self.transfer_difference(&mut product, i, *from, plus, minus)?;
                }
            }
        }
        Ok(product)
    }

    /// The stage's own weights as a variable if their gradient is wanted, and their tensor.
    fn own_variable(&self, own: &Tensor) -> Result<(Option<Var>, Tensor)> {
        let mut own = own.detach();
        let var = if self.wants.own { Some(variable(&mut own)?) } else { None };
        Ok((var, own))
    }

    /// The group of architecture parameters of a stage, if their gradient is wanted.
    fn group(&self, stage: usize) -> Option<usize> {
        self.problem.levels[stage].architecture.filter(|_| self.wants.context)
    }

    fn supervised_difference(
        &self,
        product: &mut MixedProduct,
        term: &LossTerm,
        plus: &Tensor,
        minus: &Tensor,
    ) -> Result<()> {
        let (problem, stage) = (self.problem, self.stage);
        let group = self.group(stage);
        if group.is_none() && !self.wants.own {
            return Ok(());
        }
        for (sign, own) in [(term.weight(), plus), (-term.weight(), minus)] {
            let mut architecture = self.point.detached().architecture;
            let arch = group.map(|a| variable(&mut architecture[a])).transpose()?;
            let (var, own) = self.own_variable(own)?;
            let (loss, _) = problem.supervised(stage, &own, &architecture, term.split())?;
            let gradients = tetlo_kernels::backward(&loss)?;
            if let (Some(a), Some(arch)) = (group, arch) {
                let gradient = take(&gradients, &arch).ok_or_else(|| self.no_gradient())?;
                accumulate(&mut product.architecture[a], &gradient, sign)?;
            }
            if let Some(var) = var {
                let gradient = take(&gradients, &var).ok_or_else(|| self.no_gradient())?;
                accumulate(&mut product.own, &gradient, sign)?;
            }
        }
        Ok(())
    }

    fn transfer_difference(
        &self,
        product: &mut MixedProduct,
        index: usize,
        from: usize,
        plus: &Tensor,
        minus: &Tensor,
    ) -> Result<()> {
        let (problem, stage) = (self.problem, self.stage);
        let term = &problem.graph.stages[stage].loss[index];
        let mut context = self.point.detached();
        let (mut teacher, mut arch) = (None, None);
        if self.wants.context {
            teacher = Some(variable(&mut context.weights[from])?);
            if let Some(a) = self.group(from) {
                arch = Some((a, variable(&mut context.architecture[a])?));
            }
        }
        let weights = &context.weights[from];
        let said = problem.said(from, weights, &context.architecture, term.split())?;
        let features = problem.teacher(&said, stage, index)?;
        let leaves = features
            .tensors()
            .map(|t| Ok(Var::from_tensor(&t.detach())?))
            .collect::<Result<Vec<_>>>()?;
        let mut next = leaves.iter();
        let leaf = features.map(|t| Ok(next.next().map_or(t, |v| v.as_tensor()).clone()))?;
        let own_group = self.group(stage);
        let mut cotangents: Vec<Option<Tensor>> = vec![None; leaves.len()];
        for (sign, own) in [(term.weight(), plus), (-term.weight(), minus)] {
            let mut architecture = self.point.detached().architecture;
            let own_arch = own_group.map(|a| variable(&mut architecture[a])).transpose()?;
            let (var, own) = self.own_variable(own)?;
            let loss = problem.transfer((stage, index), leaf.clone(), &own, &architecture)?;
            if !loss.track_op() {
                continue; // the loss does not reach the teacher (hard targets)
            }
            let gradients = tetlo_kernels::backward(&loss)?;
            for (cotangent, leaf) in cotangents.iter_mut().zip(&leaves) {
                if let Some(gradient) = take(&gradients, leaf) {
                    accumulate(cotangent, &gradient, sign)?;
                }
            }
            if let (Some(a), Some(arch)) = (own_group, own_arch)
                && let Some(gradient) = take(&gradients, &arch)
            {
                accumulate(&mut product.architecture[a], &gradient, sign)?;
            }
            if let Some(var) = var
                && let Some(gradient) = take(&gradients, &var)
            {
                accumulate(&mut product.own, &gradient, sign)?;
            }
        }
        let Some(teacher) = teacher else { return Ok(()) };
        let mut pulled: Option<Tensor> = None;
        for (feature, cotangent) in features.tensors().zip(cotangents) {
            let Some(cotangent) = cotangent else { continue };
            let part = (feature * cotangent)?.sum_all()?;
            pulled = Some(match pulled {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        let Some(pulled) = pulled else { return Ok(()) };
        let gradients = tetlo_kernels::backward(&pulled)?;
        // A network that is cut somewhere would silently lose the whole transferred part.
        let name = &problem.graph.stages[from].name;
        let missing = |what: &str| Error::NoGradient(format!("the {what} of stage `{name}`"));
        let gradient = take(&gradients, &teacher).ok_or_else(|| missing("weights"))?;
        accumulate(&mut product.weights[from], &gradient, 1.0)?;
        if let Some((a, var)) = arch {
            let gradient =
                take(&gradients, &var).ok_or_else(|| missing("architecture parameters"))?;
            accumulate(&mut product.architecture[a], &gradient, 1.0)?;
        }
        Ok(())
    }

    /// ∇ ⟨∇_own L, v⟩ by double backward, in the context and, where it is wanted, in the stage's own
    /// weights: exact, for networks that have second derivatives.
    ///
    /// # Errors
    /// Second derivatives are not switched on in this process (see
    /// [`double_backward_enabled`]), or a network or the transfer loss does not have them.
    pub fn exact_product(&self, v: &Tensor) -> Result<MixedProduct> {
        let (problem, stage) = (self.problem, self.stage);
        if !double_backward_enabled() {
            return Err(no_double_backward(
                "a process that was not started with CANDLE_GRAD_DO_NOT_DETACH=1",
            ));
        }
        self.check_twice_differentiable()?;
        problem.count();
        problem.count();
        self.evaluate(|e| e.double_backward += 1);
        let own = Var::from_tensor(&self.weights().detach())?;
        let mut context = self.point.detached();
        context.weights.truncate(stage);
        let variables = |list: &mut [Tensor]| -> Result<Vec<Var>> {
            if self.wants.context { list.iter_mut().map(variable).collect() } else { Ok(vec![]) }
        };
        let weights = variables(&mut context.weights)?;
        let architecture = variables(&mut context.architecture)?;
        let (loss, _) = problem.stage_loss(stage, own.as_tensor(), &context)?;
        let mut product = MixedProduct::none(self.point, stage);
        if !loss.track_op() {
            return Ok(product);
        }
        let first = loss.backward()?;
        let gradient = first.get(&own).ok_or_else(|| self.no_gradient())?;
        if !gradient.track_op() {
            // Linear in its own weights: no mixed derivative.
            return Ok(product);
        }
        let second = (gradient * v.detach())?.sum_all()?.backward()?;
        for (out, var) in product.weights.iter_mut().zip(&weights) {
            *out = take(&second, var);
        }
        for (out, var) in product.architecture.iter_mut().zip(&architecture) {
            *out = take(&second, var);
        }
        if self.wants.own {
            product.own = take(&second, &own);
        }
        Ok(product)
    }

    /// Refuses networks and losses whose second derivatives would silently be wrong.
    fn check_twice_differentiable(&self) -> Result<()> {
        let problem = self.problem;
        let network = |stage: usize| {
            if problem.levels[stage].network.twice_differentiable() {
                return Ok(());
            }
            let name = &problem.graph.stages[stage].name;
            Err(no_double_backward(&format!("the network of stage `{name}`")))
        };
        network(self.stage)?;
        for (stage, term, from, _) in problem.graph.transfers() {
            if stage == self.stage {
                network(from)?;
                if !problem.transfers.get(stage, term).is_ok_and(TransferLoss::twice_differentiable)
                {
                    return Err(no_double_backward("this transfer loss"));
                }
            }
        }
        Ok(())
    }

    fn no_gradient(&self) -> Error {
        Error::NoGradient(format!("stage `{}`", self.problem.graph.stages[self.stage].name))
    }
}

fn no_double_backward(what: &str) -> Error {
    Error::Unsupported { plugin: "double backward".into(), what: what.to_owned() }
}

/// Was this process started with `CANDLE_GRAD_DO_NOT_DETACH=1`? Without it candle's second
/// derivatives are silently wrong.
pub fn double_backward_enabled() -> bool {
    std::env::var("CANDLE_GRAD_DO_NOT_DETACH").is_ok_and(|v| !v.is_empty() && v != "0")
}
