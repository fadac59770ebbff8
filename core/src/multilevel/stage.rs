//! One stage as an estimator sees it: differences and products of its second derivatives.

use super::graph::LossTerm;
use super::oracle::{Point, Problem, TRAIN, TRANSFER, take};
use crate::optim::add_scaled;
use crate::{Error, Result};
use candle_core::{Tensor, Var};
use std::cell::Cell;

/// Gradients in a stage's context.
#[derive(Debug, Clone)]
pub struct MixedProduct {
    /// In the weights of the stages before it; `None`: the loss does not depend on them.
    pub weights: Vec<Option<Tensor>>,
    /// In each group of architecture parameters.
    pub architecture: Vec<Option<Tensor>>,
}

impl MixedProduct {
    fn none(point: &Point, stage: usize) -> Self {
        Self { weights: vec![None; stage], architecture: vec![None; point.architecture.len()] }
    }

    /// All parts times `factor`.
    pub fn scaled(self, factor: f64) -> Result<Self> {
        let scale = |list: Vec<Option<Tensor>>| -> Result<Vec<Option<Tensor>>> {
            list.into_iter().map(|t| Ok(t.map(|t| t * factor).transpose()?)).collect()
        };
        Ok(Self { weights: scale(self.weights)?, architecture: scale(self.architecture)? })
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

/// One stage at a point, as an estimator sees it.
#[derive(Debug)]
pub struct StageOracle<'a> {
    problem: &'a Problem<'a>,
    stage: usize,
    point: &'a Point,
    evaluated: Cell<Evaluated>,
}

/// How often an estimator asked for second derivatives, by the way they were computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evaluated {
    /// By a difference of two gradients.
    pub differences: usize,
    /// By double backward.
    pub double_backward: usize,
}

impl Evaluated {
    /// What the field calls an estimator that does this; `None` for one that does both.
    pub fn method(self) -> Option<&'static str> {
        match (self.differences, self.double_backward) {
            (0, 0) => Some("first-order"),
            (_, 0) => Some("central-difference"),
            (0, _) => Some("exact"),
            _ => None,
        }
    }
}

impl<'a> StageOracle<'a> {
    /// Stage `stage` of `problem`; `point` holds its own weights before the update, those of earlier
    /// stages after theirs.
    pub fn new(problem: &'a Problem<'a>, stage: usize, point: &'a Point) -> Self {
        Self { problem, stage, point, evaluated: Cell::default() }
    }

    /// What has been computed through this oracle so far.
    pub fn evaluated(&self) -> Evaluated {
        self.evaluated.get()
    }

    /// The stage's own weights, at which the mixed derivative is taken.
    pub fn weights(&self) -> &Tensor {
        &self.point.weights[self.stage]
    }

    /// The product of a loss that does not depend on its context.
    pub fn no_product(&self) -> MixedProduct {
        MixedProduct::none(self.point, self.stage)
    }

    /// ∇_context L(plus, context) − ∇_context L(minus, context): two passes.
    ///
    /// The teacher of a transfer term is the same in both, so its part is one vector–Jacobian
    /// product with the difference of the gradients at its features.
    pub fn context_difference(&self, plus: &Tensor, minus: &Tensor) -> Result<MixedProduct> {
        let (problem, stage) = (self.problem, self.stage);
        problem.count();
        problem.count();
        let Evaluated { differences, double_backward } = self.evaluated.get();
        self.evaluated.set(Evaluated { differences: differences + 1, double_backward });
        let mut product = MixedProduct::none(self.point, stage);
        for term in &problem.graph.stages[stage].loss {
            match term {
                LossTerm::Supervised { weight } if *weight > 0.0 => {
                    self.supervised_difference(&mut product, *weight, plus, minus)?;
                }
                LossTerm::Transfer { from, weight } if *weight > 0.0 => {
                    self.transfer_difference(&mut product, *from, *weight, plus, minus)?;
                }
                _ => {}
            }
        }
        Ok(product)
    }

    fn supervised_difference(
        &self,
        product: &mut MixedProduct,
        weight: f64,
        plus: &Tensor,
        minus: &Tensor,
    ) -> Result<()> {
        let (problem, stage) = (self.problem, self.stage);
        let Some(a) = problem.levels[stage].architecture else { return Ok(()) };
        for (sign, own) in [(weight, plus), (-weight, minus)] {
            let mut architecture = self.point.detached().architecture;
            let var = Var::from_tensor(&architecture[a])?;
            architecture[a] = var.as_tensor().clone();
            let batch = &problem.batches.train;
            let loss = problem.supervised(stage, &own.detach(), &architecture, batch, TRAIN)?;
            let gradient =
                take(&tetlo_kernels::backward(&loss)?, &var).ok_or_else(|| self.no_gradient())?;
            accumulate(&mut product.architecture[a], &gradient, sign)?;
        }
        Ok(())
    }

    fn transfer_difference(
        &self,
        product: &mut MixedProduct,
        from: usize,
        weight: f64,
        plus: &Tensor,
        minus: &Tensor,
    ) -> Result<()> {
        let (problem, stage) = (self.problem, self.stage);
        let batch = problem.transfer_batch()?;
        let mut context = self.point.detached();
        let teacher = Var::from_tensor(&context.weights[from])?;
        let arch = match problem.levels[from].architecture {
            Some(a) => {
                let var = Var::from_tensor(&context.architecture[a])?;
                context.architecture[a] = var.as_tensor().clone();
                Some((a, var))
            }
            None => None,
        };
        let output =
            problem.run(from, teacher.as_tensor(), &context.architecture, batch, TRANSFER)?;
        let features = problem.teacher(&output, stage)?;
        let leaf = Var::from_tensor(&features.detach())?;
        let own_arch = problem.levels[stage].architecture;
        let mut cotangent: Option<Tensor> = None;
        for (sign, own) in [(weight, plus), (-weight, minus)] {
            let mut architecture = self.point.detached().architecture;
            let var = match own_arch {
                Some(a) => {
                    let var = Var::from_tensor(&architecture[a])?;
                    architecture[a] = var.as_tensor().clone();
                    Some((a, var))
                }
                None => None,
            };
            let aux = problem.run(stage, &own.detach(), &architecture, batch, TRANSFER)?;
            let aux = problem.features(&aux)?;
            let loss = problem.transfer_value(stage, leaf.as_tensor(), &aux)?;
            if !loss.track_op() {
                continue; // the loss does not reach the teacher (hard targets)
            }
            let gradients = loss.backward()?;
            if let Some(gradient) = take(&gradients, &leaf) {
                accumulate(&mut cotangent, &gradient, sign)?;
            }
            if let Some((a, var)) = var
                && let Some(gradient) = take(&gradients, &var)
            {
                accumulate(&mut product.architecture[a], &gradient, sign)?;
            }
        }
        let Some(cotangent) = cotangent else { return Ok(()) };
        let gradients = tetlo_kernels::backward(&(features * cotangent)?.sum_all()?)?;
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

    /// ∇_context ⟨∇_own L, v⟩ by double backward: exact, for networks of plain tensor operations.
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
        let Evaluated { differences, double_backward } = self.evaluated.get();
        self.evaluated.set(Evaluated { differences, double_backward: double_backward + 1 });
        let own = Var::from_tensor(&self.weights().detach())?;
        let vars = |list: &[Tensor]| -> Result<Vec<Var>> {
            list.iter().map(|t| Ok(Var::from_tensor(&t.detach())?)).collect()
        };
        let weights = vars(&self.point.weights[..stage])?;
        let architecture = vars(&self.point.architecture)?;
        let tensors = |v: &[Var]| v.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>();
        let context = Point { weights: tensors(&weights), architecture: tensors(&architecture) };
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
        for term in &problem.graph.stages[self.stage].loss {
            if let LossTerm::Transfer { from, weight } = term
                && *weight > 0.0
            {
                network(*from)?;
                if !problem.transfer_loss()?.twice_differentiable() {
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
