//! One complete search step (METHODS.md §1.3).

use super::{Method, SearchState};
use crate::accuracy::correct;
use crate::record::{Observer, event};
use candle_core::Tensor;
use tetlo_core::kinds::Progress;
use tetlo_core::multilevel::Batches;
use tetlo_core::multilevel::combine::architecture_step;
use tetlo_core::multilevel::reverse::HyperGradient;
use tetlo_core::network::update_running_statistics;
use tetlo_core::optim::norm;
use tetlo_core::{Error, Result};

impl Method {
    /// One complete search step: the architecture first, then the weights of each stage.
    ///
    /// # Errors
    /// A loss or gradient is not finite; the message names step and level.
    pub fn step(
        &self,
        state: &mut SearchState,
        batches: &Batches,
        at: Progress,
        observer: &mut dyn Observer,
    ) -> Result<StepOutcome> {
        let (mut gradient, mut combined) = (None, None);
        if self.updates_architecture(at) {
            let found = self.hypergradient(state, batches, at)?;
            combined = self.update_architecture(state, &found, at, observer)?;
            state.warm.clone_from(&found.warm);
            gradient = Some(found);
        }
        let mut training = Vec::with_capacity(self.networks.len());
        for stage in 0..self.networks.len() {
            training.push(self.weight_step(state, stage, batches, at)?);
        }
        Ok(StepOutcome { gradient, combined, training })
    }

    fn update_architecture(
        &self,
        state: &mut SearchState,
        gradient: &HyperGradient,
        at: Progress,
        observer: &mut dyn Observer,
    ) -> Result<Option<Tensor>> {
        let penalty = self.penalty_gradient(state, at)?;
        let (next, figures) = architecture_step(
            &self.graph,
            self.adam(),
            &mut state.arch,
            &state.point.architecture,
            gradient,
            penalty.as_ref(),
        )?;
        let mut tell = |name: String, value: f64| {
            observer.event(event(at.step, at.epoch, "search", name, value));
        };
        for c in &gradient.contributions {
            let length = norm(&c.gradient)?;
            if !length.is_finite() {
                return Err(Error::NotFinite {
                    what: format!("hypergradient term {}", c.name()),
                    level: "architecture".into(),
                    step: at.step,
                });
            }
            tell(format!("hypergrad/{}/norm", c.name()), length);
        }
        tell("hypergrad/passes".into(), gradient.passes as f64);
        tell("hypergrad/objective".into(), gradient.objective);
        if !self.graph.objective.iter().any(|o| o.stage > 0) {
            state.point.architecture = next;
            return Ok(figures.combined); // no transferred part to set against the main one
        }
        let optional = [
            ("hypergrad/main/norm", figures.main_norm),
            ("hypergrad/transferred/norm", figures.transferred_norm),
            ("hypergrad/cosine", figures.cosine),
            ("hypergrad/direct_share", gradient.direct_share()?),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                tell(name.into(), value);
            }
        }
        if figures.main_norm.is_some() {
            tell("hypergrad/factor".into(), figures.factor);
        }
        state.point.architecture = next;
        Ok(figures.combined)
    }

    fn penalty_gradient(&self, state: &SearchState, at: Progress) -> Result<Option<Tensor>> {
        if self.regularizers.is_empty() {
            return Ok(None);
        }
        let flat = candle_core::Var::from_tensor(&state.point.architecture[0].detach())?;
        let layout = self.networks[0].architecture();
        let cells = self.space.cells.iter();
        let alphas: Vec<Tensor> =
            cells.map(|c| layout.view(flat.as_tensor(), &c.alphas())).collect::<Result<_>>()?;
        let mut total: Option<Tensor> = None;
        for regularizer in &self.regularizers {
            let penalty = regularizer.penalty(&alphas, at)?;
            total = Some(match total {
                Some(sum) => (sum + penalty)?,
                None => penalty,
            });
        }
        let Some(total) = total else { return Ok(None) };
        Ok(total.backward()?.get(&flat).map(Tensor::detach))
    }

    /// One step of a stage's weights.
    pub fn weight_step(
        &self,
        state: &mut SearchState,
        stage: usize,
        batches: &Batches,
        at: Progress,
    ) -> Result<Training> {
        let (loss, gradient, output) = {
            let problem = self.problem(state, batches, at, true);
            let inner = problem.inner_gradient(stage, &state.point)?;
            (inner.loss, inner.gradient, inner.output)
        };
        let name = || self.graph.stages[stage].name.clone();
        let not_finite =
            |what: &str| Error::NotFinite { what: what.to_owned(), level: name(), step: at.step };
        if !loss.is_finite() {
            return Err(not_finite("training loss"));
        }
        let inner = self.inner(stage, at.epoch);
        let clip = self.settings.gradient_clip;
        let weights = &state.point.weights[stage];
        let (next, length) = state.inner[stage].step(inner, clip, weights, &gradient)?;
        if !length.is_finite() {
            return Err(not_finite("weight gradient"));
        }
        state.point.weights[stage] = next;
        let mut accuracy = None;
        if let Some(output) = output {
            accuracy = Some(correct(&output.logits, &batches.train.labels)?);
            if let Some(buffers) = &state.buffers[stage] {
                let updated = update_running_statistics(buffers, output.statistics.as_ref())?;
                state.buffers[stage] = Some(updated);
            }
        }
        Ok(Training { loss, correct: accuracy, images: batches.train.labels.len() })
    }

    /// The transfer loss's own figures, once an epoch.
    pub(crate) fn record_transfer(
        &self,
        state: &SearchState,
        batches: &Batches,
        at: Progress,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        if !self.graph.uses_transfer() {
            return Ok(());
        }
        let problem = self.problem(state, batches, at, false);
        for (stage, name, value) in problem.transfer_diagnostics(&state.point)? {
            let name = format!("transfer/{}/{name}", self.graph.stages[stage].name);
            observer.event(event(at.step, at.epoch, "search", name, value));
        }
        Ok(())
    }
}

/// A stage's weight step, for the record.
#[derive(Debug, Clone, Copy)]
pub struct Training {
    /// Loss before the step.
    pub loss: f64,
    /// Correctly classified training images, if the model's cross entropy is trained.
    pub correct: Option<usize>,
    /// Images in the batch.
    pub images: usize,
}

/// What a search step did.
#[derive(Debug)]
pub struct StepOutcome {
    /// The hypergradient, if the architecture was updated.
    pub gradient: Option<HyperGradient>,
    /// The combined gradient of the main architecture that its Adam took, before penalty and weight
    /// decay; `None` with `separate-states`.
    pub combined: Option<Tensor>,
    /// The weight step of each stage.
    pub training: Vec<Training>,
}
