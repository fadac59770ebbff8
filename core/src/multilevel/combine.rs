//! From the parts of a hypergradient to one step of the architecture (METHODS.md §1.2, `combine`).

use super::graph::{Combine, StageGraph};
use super::reverse::{Adjoints, HyperGradient, Source};
use crate::optim::{Adam, AdamState, add_scaled, cosine, norm};
use crate::{Error, Result};
use candle_core::Tensor;

/// The memory of the architecture's optimiser: a value that is saved with a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct ArchState {
    /// Adam for each group of architecture parameters.
    pub groups: Vec<AdamState>,
    /// The second Adam state of `separate-states`.
    pub transferred: AdamState,
    /// Running norms of G_m and G_a, and their number of updates (`norm-matched`).
    pub norms: RunningNorms,
}

/// Exponential averages of the two norms: n ← .9·n + .1·‖G‖, divided by 1 − .9^t when read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RunningNorms {
    main: f64,
    transferred: f64,
    updates: u32,
}

impl RunningNorms {
    const DECAY: f64 = 0.9;

    /// Updates both, then returns them without bias.
    fn update(&mut self, main: f64, transferred: f64) -> Result<(f64, f64)> {
        if !main.is_finite() || !transferred.is_finite() {
            return Err(Error::NotFinite {
                what: "norm of a hypergradient part".into(),
                level: "architecture".into(),
                step: self.updates as usize,
            });
        }
        let average = |old: f64, new: f64| Self::DECAY * old + (1.0 - Self::DECAY) * new;
        self.main = average(self.main, main);
        self.transferred = average(self.transferred, transferred);
        self.updates += 1;
        let bias = 1.0 - Self::DECAY.powi(self.updates.min(10_000) as i32);
        Ok((self.main / bias, self.transferred / bias))
    }
}

/// Figures of one architecture step, for the records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CombineFigures {
    /// ‖G_m‖, where known apart.
    pub main_norm: Option<f64>,
    /// ‖G_a‖, where known apart.
    pub transferred_norm: Option<f64>,
    /// Cosine of the two.
    pub cosine: Option<f64>,
    /// Factor applied to G_a.
    pub factor: f64,
}

/// Must this graph's reverse pass keep G_m and G_a apart?
pub fn adjoints(graph: &StageGraph) -> Adjoints {
    let several = graph.objective.iter().any(|o| o.stage > 0);
    // ρ weighs G_a alone, so with ρ ≠ 1 even a plain sum needs the two.
    let plain = graph.combine == Combine::Sum && (graph.rho - 1.0).abs() < f64::EPSILON;
    if several && !plain { Adjoints::Apart } else { Adjoints::Joint }
}

/// One step of all architecture parameters.
///
/// `penalty` is the gradient of the regularisers in group 0; it belongs to G_m.
///
/// # Errors
/// A norm is not finite.
pub fn architecture_step(
    graph: &StageGraph,
    adam: Adam,
    state: &mut ArchState,
    architecture: &[Tensor],
    gradient: &HyperGradient,
    penalty: Option<&Tensor>,
) -> Result<(Vec<Tensor>, CombineFigures)> {
    state.groups.resize_with(architecture.len(), AdamState::default);
    let mut next = Vec::with_capacity(architecture.len());
    let (main, figures) = main_step(graph, adam, state, &architecture[0], gradient, penalty)?;
    next.push(main);
    for (group, value) in architecture.iter().enumerate().skip(1) {
        // A searched auxiliary descends J itself, with an Adam of its own.
        let total = gradient.sum(group, |_| true)?.map_or_else(|| value.zeros_like(), Ok)?;
        next.push(adam.step(&mut state.groups[group], value, &total)?);
    }
    Ok((next, figures))
}

fn main_step(
    graph: &StageGraph,
    adam: Adam,
    state: &mut ArchState,
    value: &Tensor,
    gradient: &HyperGradient,
    penalty: Option<&Tensor>,
) -> Result<(Tensor, CombineFigures)> {
    let zero = || -> Result<Tensor> { Ok(value.zeros_like()?) };
    let part = |source: Source| gradient.sum(0, |c| c.source == source);
    if gradient.contributions.iter().any(|c| c.source == Source::Joint) {
        let mut total = part(Source::Joint)?.map_or_else(zero, Ok)?;
        if let Some(penalty) = penalty {
            total = add_scaled(&total, 1.0, penalty)?;
        }
        let next = adam.step(&mut state.groups[0], value, &total)?;
        return Ok((next, CombineFigures { factor: 1.0, ..CombineFigures::default() }));
    }
    let mut main = part(Source::Main)?.map_or_else(zero, Ok)?;
    if let Some(penalty) = penalty {
        main = add_scaled(&main, 1.0, penalty)?;
    }
    let transferred = part(Source::Transfer)?.map_or_else(zero, Ok)?;
    let (main_norm, transferred_norm) = (norm(&main)?, norm(&transferred)?);
    let mut figures = CombineFigures {
        main_norm: Some(main_norm),
        transferred_norm: Some(transferred_norm),
        cosine: cosine(&main, &transferred)?,
        factor: graph.rho,
    };
    let next = match graph.combine {
        Combine::Sum | Combine::NoLrFactors => {
            let total = add_scaled(&main, graph.rho, &transferred)?;
            adam.step(&mut state.groups[0], value, &total)?
        }
        Combine::NormMatched => {
            let (n_m, n_a) = state.norms.update(main_norm, transferred_norm)?;
            let total = if has_no_main_part(graph) || n_m == 0.0 {
                (transferred * graph.rho)?
            } else if n_a == 0.0 {
                figures.factor = 0.0;
                main
            } else {
                figures.factor = graph.rho * (n_m / n_a).min(graph.match_max);
                add_scaled(&main, figures.factor, &transferred)?
            };
            adam.step(&mut state.groups[0], value, &total)?
        }
        Combine::SeparateStates => separate(graph, adam, state, value, &main, &transferred)?,
    };
    Ok((next, figures))
}

/// γ = 0: the main model's validation loss is not part of the objective (decided per config).
fn has_no_main_part(graph: &StageGraph) -> bool {
    !graph.objective.iter().any(|o| o.stage == 0 && o.weight > 0.0)
}

/// Is G_a zero by construction: no transfer reaches the objective?
fn has_no_transferred_part(graph: &StageGraph) -> bool {
    !graph.objective.iter().any(|o| o.stage > 0 && o.weight > 0.0) || graph.rho == 0.0
}

/// A − lr·(Â_m(G_m + wd·A) + ρ·Â_a(G_a))/(1 + ρ).
fn separate(
    graph: &StageGraph,
    adam: Adam,
    state: &mut ArchState,
    value: &Tensor,
    main: &Tensor,
    transferred: &Tensor,
) -> Result<Tensor> {
    let decayed = |g: &Tensor| add_scaled(g, adam.weight_decay, value);
    let lr = adam.learning_rate;
    if has_no_transferred_part(graph) {
        let direction = adam.direction(&mut state.groups[0], &decayed(main)?)?;
        return add_scaled(value, -lr, &direction);
    }
    if has_no_main_part(graph) {
        let direction = adam.direction(&mut state.transferred, &decayed(transferred)?)?;
        return add_scaled(value, -lr, &direction);
    }
    let of_main = adam.direction(&mut state.groups[0], &decayed(main)?)?;
    let of_transferred = adam.direction(&mut state.transferred, transferred)?;
    let both = add_scaled(&of_main, graph.rho, &of_transferred)?;
    add_scaled(value, -lr / (1.0 + graph.rho), &both)
}
