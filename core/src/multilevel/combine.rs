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
#[derive(Debug, Clone, Default)]
pub struct CombineFigures {
    /// The combined gradient of the main architecture, before penalty and weight decay; `None` with
    /// `separate-states`, which has none.
    pub combined: Option<Tensor>,
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
/// `penalty` is the gradient of the regularisers in group 0. Like the weight decay it is part of
/// neither G_m nor G_a: it is added after they are combined, unscaled, and to the Adam state that
/// gets the weight decay.
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
    let penalised = |g: Tensor| penalty.map_or_else(|| Ok(g.clone()), |p| add_scaled(&g, 1.0, p));
    if gradient.contributions.iter().any(|c| c.source == Source::Joint) {
        let total = part(Source::Joint)?.map_or_else(zero, Ok)?;
        let next = adam.step(&mut state.groups[0], value, &penalised(total.clone())?)?;
        let combined = Some(total);
        return Ok((next, CombineFigures { combined, factor: 1.0, ..CombineFigures::default() }));
    }
    let main = part(Source::Main)?.map_or_else(zero, Ok)?;
    let transferred = part(Source::Transfer)?.map_or_else(zero, Ok)?;
    let (main_norm, transferred_norm) = (norm(&main)?, norm(&transferred)?);
    let mut figures = CombineFigures {
        combined: None,
        main_norm: Some(main_norm),
        transferred_norm: Some(transferred_norm),
        cosine: cosine(&main, &transferred)?,
        factor: graph.rho,
    };
    let total = match graph.combine {
        Combine::Sum | Combine::NoLrFactors => add_scaled(&main, graph.rho, &transferred)?,
        Combine::NormMatched => {
            let (n_m, n_a) = state.norms.update(main_norm, transferred_norm)?;
            if has_no_main_part(graph) || n_m == 0.0 {
                (transferred * graph.rho)?
            } else if n_a == 0.0 {
                figures.factor = 0.0;
                main
            } else {
                figures.factor = graph.rho * (n_m / n_a).min(graph.match_max);
                add_scaled(&main, figures.factor, &transferred)?
            }
        }
        Combine::SeparateStates => {
            let with_decay = |g: Tensor| add_scaled(&penalised(g)?, adam.weight_decay, value);
            let lr = adam.learning_rate;
            if has_no_transferred_part(graph, gradient) {
                let direction = adam.direction(&mut state.groups[0], &with_decay(main)?)?;
                return Ok((add_scaled(value, -lr, &direction)?, figures));
            }
            if has_no_main_part(graph) {
                let direction =
                    adam.direction(&mut state.transferred, &with_decay(transferred)?)?;
                return Ok((add_scaled(value, -lr, &direction)?, figures));
            }
            // A − lr·(Â_m(G_m + wd·A) + ρ·Â_a(G_a))/(1 + ρ)
            let of_main = adam.direction(&mut state.groups[0], &with_decay(main)?)?;
            let of_transferred = adam.direction(&mut state.transferred, &transferred)?;
            let both = add_scaled(&of_main, graph.rho, &of_transferred)?;
            return Ok((add_scaled(value, -lr / (1.0 + graph.rho), &both)?, figures));
        }
    };
    let next = adam.step(&mut state.groups[0], value, &penalised(total.clone())?)?;
    figures.combined = Some(total);
    Ok((next, figures))
}

/// γ = 0: the main model's validation loss is not part of the objective (decided per config).
fn has_no_main_part(graph: &StageGraph) -> bool {
    !graph.objective.iter().any(|o| o.stage == 0 && o.weight > 0.0)
}

/// Is G_a zero by construction? Decided per config: a G_a that happens to vanish at a step does not
/// count, one that cannot reach the architecture does (first order, hard targets, λ = 0).
fn has_no_transferred_part(graph: &StageGraph, gradient: &HyperGradient) -> bool {
    !graph.objective.iter().any(|o| o.stage > 0 && o.weight > 0.0)
        || !graph.uses_transfer()
        || graph.rho == 0.0
        || !gradient.transfer_reaches()
}

#[cfg(test)]
mod tests {
    use super::super::graph::{EstimatorRef, LossTerm, ModelRole, Objective, Stage};
    use super::super::reverse::{Contribution, Via};
    use super::super::{Evaluated, WarmStarts};
    use super::*;
    use candle_core::Device;

    const ADAM: Adam = Adam { learning_rate: 0.1, beta1: 0.5, beta2: 0.999, weight_decay: 0.0 };

    fn tensor(values: &[f64]) -> Tensor {
        Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
    }

    fn values(t: &Tensor) -> Vec<f64> {
        t.to_vec1().unwrap()
    }

    fn close(got: &Tensor, expected: &[f64]) {
        let got = values(got);
        let same = got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-7);
        assert!(same && got.len() == expected.len(), "{got:?}, expected {expected:?}");
    }

    fn graph(combine: Combine, gamma: f64, rho: f64) -> StageGraph {
        let mut graph = StageGraph::bilevel(EstimatorRef::named("none"));
        graph.stages.push(Stage::new(
            "auxiliary",
            ModelRole::Auxiliary,
            vec![LossTerm::transfer(0, 1.0)],
        ));
        graph.objective =
            vec![Objective { stage: 0, weight: gamma }, Objective { stage: 1, weight: 1.0 }];
        StageGraph { combine, rho, ..graph }
    }

    fn part(source: Source, via: Via, group: usize, gradient: &[f64]) -> Contribution {
        Contribution { source, via, group, gradient: tensor(gradient) }
    }

    fn gradient(contributions: Vec<Contribution>) -> HyperGradient {
        let transfer_reaches = contributions.iter().any(|c| c.source == Source::Transfer);
        HyperGradient {
            contributions,
            objective: 0.0,
            validation_losses: vec![],
            training_losses: vec![],
            passes: 0,
            evaluated: Evaluated::default(),
            warm: WarmStarts::new(),
            direct_term: true,
            transfer_reaches,
        }
    }

    /// G_m = `main`, G_a = `transferred`, each of a single term.
    fn two(main: &[f64], transferred: &[f64]) -> HyperGradient {
        gradient(vec![
            part(Source::Main, Via::Objective, 0, main),
            part(Source::Transfer, Via::Update(1), 0, transferred),
        ])
    }

    /// The gradient that reached the only Adam state: m = (1 − β1)·g after the first step.
    fn first_gradient(state: &AdamState) -> Vec<f64> {
        let (m, _) = state.moments.as_ref().unwrap();
        values(&(m / (1.0 - ADAM.beta1)).unwrap())
    }

    fn step(
        graph: &StageGraph,
        adam: Adam,
        state: &mut ArchState,
        g: &HyperGradient,
        penalty: Option<&Tensor>,
    ) -> (Tensor, CombineFigures) {
        let start = [tensor(&[1.0, 2.0])];
        let (next, figures) = architecture_step(graph, adam, state, &start, g, penalty).unwrap();
        (next[0].clone(), figures)
    }

    #[test]
    fn sum_weighs_the_transferred_part_by_rho() {
        let mut state = ArchState::default();
        let g = two(&[3.0, 4.0], &[-1.0, 1.0]);
        let (next, figures) = step(&graph(Combine::Sum, 1.0, 2.0), ADAM, &mut state, &g, None);
        // G = (3 − 2, 4 + 2); Adam's first step is lr·sign(G).
        assert_eq!(first_gradient(&state.groups[0]), vec![1.0, 6.0]);
        close(&next, &[0.9, 1.9]);
        // ‖G_m‖ = 5, ‖G_a‖ = √2, cosine = (−3 + 4)/(5√2).
        assert_eq!(figures.main_norm, Some(5.0));
        assert!((figures.transferred_norm.unwrap() - 2f64.sqrt()).abs() < 1e-12);
        assert!((figures.cosine.unwrap() - 1.0 / (5.0 * 2f64.sqrt())).abs() < 1e-12);
    }

    #[test]
    fn decay_and_penalty_are_added_unscaled() {
        let adam = Adam { weight_decay: 0.5, ..ADAM };
        let penalty = tensor(&[10.0, 20.0]);
        let g = two(&[3.0, 4.0], &[0.5, 0.0]);
        // wd·A = (0.5, 1). Norm-matched: ‖G_m‖ = 5, ‖G_a‖ = 0.5: factor 10, G = (3 + 5, 4).
        for (combine, total) in [(Combine::Sum, [3.5, 4.0]), (Combine::NormMatched, [8.0, 4.0])] {
            let mut state = ArchState::default();
            step(&graph(combine, 1.0, 1.0), adam, &mut state, &g, Some(&penalty));
            let expected = [total[0] + 10.0 + 0.5, total[1] + 20.0 + 1.0];
            close(&tensor(&first_gradient(&state.groups[0])), &expected);
        }
        // At γ = 0 the penalty and the decay are not lost with the main part.
        for combine in [Combine::NormMatched, Combine::SeparateStates] {
            let mut state = ArchState::default();
            let g = gradient(vec![part(Source::Transfer, Via::Update(1), 0, &[0.5, 0.0])]);
            step(&graph(combine, 0.0, 1.0), adam, &mut state, &g, Some(&penalty));
            let used = match combine {
                Combine::SeparateStates => &state.transferred,
                _ => &state.groups[0],
            };
            close(&tensor(&first_gradient(used)), &[11.0, 21.0]);
        }
    }

    #[test]
    fn norm_matched_follows_running_norms() {
        let graph = graph(Combine::NormMatched, 1.0, 0.5);
        let mut state = ArchState::default();
        // First step, without bias: n_m = 5, n_a = 0.1, factor .5·50.
        let first = two(&[3.0, 4.0], &[0.1, 0.0]);
        let (_, figures) = step(&graph, ADAM, &mut state, &first, None);
        assert!((figures.factor - 25.0).abs() < 1e-9);
        // Second: n_m = (.9·.5 + .1·10)/(1 − .81) = 1.45/.19, n_a = (.9·.01 + .1·.3)/.19 = .039/.19.
        let second = two(&[6.0, 8.0], &[0.3, 0.0]);
        let (_, figures) = step(&graph, ADAM, &mut state, &second, None);
        assert!((figures.factor - 0.5 * 1.45 / 0.039).abs() < 1e-9);
    }

    #[test]
    fn norm_matched_has_a_largest_factor_and_no_division_by_zero() {
        let mut limited = graph(Combine::NormMatched, 1.0, 1.0);
        limited.match_max = 7.0;
        let tiny = two(&[3.0, 4.0], &[1e-3, 0.0]);
        let (_, figures) = step(&limited, ADAM, &mut ArchState::default(), &tiny, None);
        assert!((figures.factor - 7.0).abs() < 1e-12);

        let graph = graph(Combine::NormMatched, 1.0, 2.0);
        let mut state = ArchState::default();
        step(&graph, ADAM, &mut state, &two(&[3.0, 4.0], &[0.0, 0.0]), None);
        assert_eq!(first_gradient(&state.groups[0]), vec![3.0, 4.0]);
        let mut state = ArchState::default();
        step(&graph, ADAM, &mut state, &two(&[0.0, 0.0], &[1.0, -1.0]), None);
        assert_eq!(first_gradient(&state.groups[0]), vec![2.0, -2.0]);

        let bad = two(&[f64::NAN, 0.0], &[1.0, 0.0]);
        let start = [tensor(&[1.0, 2.0])];
        let stopped =
            architecture_step(&graph, ADAM, &mut ArchState::default(), &start, &bad, None);
        assert!(matches!(stopped, Err(Error::NotFinite { .. })));
    }

    #[test]
    fn separate_states_average_two_steps() {
        let mut state = ArchState::default();
        let g = two(&[3.0, -4.0], &[1e-6, 1e-6]);
        let graph = graph(Combine::SeparateStates, 1.0, 3.0);
        let adam = Adam { weight_decay: 1.0, ..ADAM };
        let (next, _) = step(&graph, adam, &mut state, &g, None);
        // Â_m = sign(3 + 1, −4 + 2) = (1, −1); Â_a = 1e-6/(1e-6 + 1e-8) = 1/1.01 in both.
        let a = 1.0 / 1.01;
        close(&next, &[1.0 - 0.1 * (1.0 + 3.0 * a) / 4.0, 2.0 - 0.1 * (-1.0 + 3.0 * a) / 4.0]);
        assert_eq!((state.groups[0].steps, state.transferred.steps), (1, 1));
    }

    #[test]
    fn separate_states_without_one_part_take_the_others_whole_step() {
        let g = two(&[3.0, 4.0], &[1.0, 1.0]);
        let mut state = ArchState::default();
        let no_main = graph(Combine::SeparateStates, 0.0, 1.0);
        let only = gradient(vec![part(Source::Transfer, Via::Update(1), 0, &[1.0, -1.0])]);
        close(&step(&no_main, ADAM, &mut state, &only, None).0, &[0.9, 2.1]);
        assert_eq!(state.groups[0].steps, 0);

        // G_a zero by construction: ρ = 0; λ = 0; or nothing that reaches the architecture.
        let mut without_lambda = graph(Combine::SeparateStates, 1.0, 1.0);
        without_lambda.stages[1].loss = vec![LossTerm::transfer(0, 0.0)];
        let unreached = gradient(vec![part(Source::Main, Via::Objective, 0, &[3.0, 4.0])]);
        for (graph, g) in [
            (graph(Combine::SeparateStates, 1.0, 0.0), &g),
            (without_lambda, &g),
            (graph(Combine::SeparateStates, 1.0, 1.0), &unreached),
        ] {
            let mut state = ArchState::default();
            close(&step(&graph, ADAM, &mut state, g, None).0, &[0.9, 1.9]);
            assert_eq!(state.transferred.steps, 0);
        }
        // A G_a that vanishes at one step is not "by construction".
        let mut state = ArchState::default();
        let zero = two(&[3.0, 4.0], &[0.0, 0.0]);
        let graph = graph(Combine::SeparateStates, 1.0, 1.0);
        close(&step(&graph, ADAM, &mut state, &zero, None).0, &[0.95, 1.95]);
    }

    #[test]
    fn no_lr_factors_sums_what_the_reverse_pass_gives() {
        let mut state = ArchState::default();
        let g = two(&[3.0, 4.0], &[100.0, -100.0]);
        step(&graph(Combine::NoLrFactors, 1.0, 0.5), ADAM, &mut state, &g, None);
        assert_eq!(first_gradient(&state.groups[0]), vec![53.0, -46.0]);
    }

    #[test]
    fn the_direct_term_can_be_left_out() {
        let mut g = two(&[3.0, 4.0], &[1.0, 1.0]);
        g.contributions.push(part(Source::Transfer, Via::Update(0), 0, &[0.25, 0.0]));
        assert_eq!(values(&g.sum(0, |_| true).unwrap().unwrap()), vec![4.25, 5.0]);
        g.direct_term = false;
        assert_eq!(values(&g.sum(0, |_| true).unwrap().unwrap()), vec![3.25, 4.0]);
        // ‖(1, 1)‖/‖(1.25, 1)‖, whether it counts or not.
        let share = g.direct_share().unwrap().unwrap();
        assert!((share - 2f64.sqrt() / (1.25f64 * 1.25 + 1.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_searched_auxiliary_descends_with_an_adam_of_its_own() {
        let mut g = two(&[3.0, 4.0], &[1.0, 1.0]);
        g.contributions.push(part(Source::Transfer, Via::Objective, 1, &[2.0]));
        g.contributions.push(part(Source::Transfer, Via::Update(1), 1, &[-5.0]));
        let start = [tensor(&[1.0, 2.0]), tensor(&[0.0])];
        let mut state = ArchState::default();
        let graph = graph(Combine::SeparateStates, 1.0, 1.0);
        let (next, _) = architecture_step(&graph, ADAM, &mut state, &start, &g, None).unwrap();
        close(&next[1], &[0.1]);
        assert_eq!(first_gradient(&state.groups[1]), vec![-3.0]);
    }

    #[test]
    fn parts_are_kept_apart_only_where_a_mode_needs_them() {
        assert_eq!(adjoints(&graph(Combine::Sum, 1.0, 1.0)), Adjoints::Joint);
        assert_eq!(adjoints(&graph(Combine::Sum, 1.0, 0.5)), Adjoints::Apart);
        assert_eq!(adjoints(&graph(Combine::NormMatched, 1.0, 1.0)), Adjoints::Apart);
        assert_eq!(adjoints(&StageGraph::bilevel(EstimatorRef::named("none"))), Adjoints::Joint);
    }
}
