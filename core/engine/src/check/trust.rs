//! What a comparison rests on beside derivatives: passes without a memory, the steps that searches
//! really make, solutions that are solutions, and rates that `no-lr-factors` leaves out once.

use super::reference;
use candle_core::{DType, Tensor};
use tetlo_core::Result;
use tetlo_core::multilevel::Combine;
use tetlo_core::multilevel::check::CheckCase;
use tetlo_core::multilevel::reverse::{Adjoints, HyperGradient, hypergradient};
use tetlo_core::network::Pass;
use tetlo_core::optim::{Inner, add_scaled, norm};

/// The bytes of everything that a case's networks and losses say, by what it is.
#[derive(Debug, PartialEq)]
pub(super) struct Said(Vec<(String, Vec<u64>)>);

impl Said {
    /// What they say now.
    pub(super) fn now(case: &CheckCase) -> Result<Self> {
        let problem = case.problem();
        let mut said = vec![];
        let bits = |t: &Tensor| -> Result<Vec<u64>> {
            let values = t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            Ok(values.into_iter().map(f64::to_bits).collect())
        };
        for (i, stage) in case.graph.stages.iter().enumerate() {
            let name = &stage.name;
            let found = problem.inner_gradient(i, &case.point)?;
            let mut training = bits(&found.gradient)?;
            training.push(found.loss.to_bits());
            said.push((format!("the training loss of stage `{name}`"), training));
            let validation = problem.objective_term(i, &case.point)?;
            let validation = vec![validation.to_bits()];
            said.push((format!("the validation loss of stage `{name}`"), validation));
            // Running statistics that a network keeps for itself show in evaluation alone.
            let network = case.networks[i].as_ref();
            if !network.buffers().is_empty() {
                let like = &case.point.weights[i];
                let buffers = Tensor::ones(network.buffers().len(), like.dtype(), like.device())?;
                let weights = like.narrow(0, 0, network.weights().len())?;
                let architecture = case.architecture[i].map(|a| &case.point.architecture[a]);
                let pass = Pass::evaluate(&buffers, case.draw);
                let images = &case.batches.train.images;
                let output = network.forward(&weights, architecture, images, &pass)?;
                said.push((format!("the evaluation of stage `{name}`"), bits(&output.logits)?));
            }
        }
        Ok(Self(said))
    }

    /// A line for each thing that is now said otherwise.
    pub(super) fn changed(&self, now: &Self) -> Vec<String> {
        let pairs = self.0.iter().zip(&now.0);
        pairs
            .filter(|(before, now)| before != now)
            .map(|((what, _), _)| {
                format!(
                    "{what} is not what it was before the passes of the check: its network or one of \
                     its losses keeps something from pass to pass, or draws anew in each"
                )
            })
            .collect()
    }
}

/// A line if J through the optimisers' own steps is not the J that was unrolled.
pub(super) fn other_steps(case: &CheckCase, unrolled: f64) -> Result<Option<String>> {
    /// Of rounding.
    const BOUND: f64 = 1e-10;
    if !case.graph.unroll_as_run {
        return Ok(None);
    }
    let problem = case.problem();
    let mut point = case.point.clone();
    for (i, stage) in case.graph.stages.iter().enumerate() {
        let mut memory = case.memory[i].clone();
        for _ in 0..stage.unroll_steps {
            let gradient = problem.inner_gradient(i, &point)?.gradient;
            let weights = &point.weights[i];
            point.weights[i] = memory.step(case.inner[i], 0.0, weights, &gradient)?.0;
        }
    }
    let mut run = 0.0;
    for term in case.graph.objective.iter().filter(|o| o.weight > 0.0) {
        run += term.weight * problem.objective_term(term.stage, &point)?;
    }
    let same = (run - unrolled).abs() <= BOUND * (1.0 + run.abs());
    Ok((!same).then(|| {
        format!(
            "the unrolled steps are not those that the inner optimisers make: the objective is \
             {unrolled:e} after the former, {run:e} after the latter"
        )
    }))
}

/// A line for each stage that is said to stand at its solution and does not.
pub(super) fn unsolved(case: &CheckCase) -> Result<Vec<String>> {
    /// Of the gradient, relative to the weights.
    const BOUND: f64 = 1e-9;
    if !case.solved {
        return Ok(vec![]);
    }
    let problem = case.problem();
    let mut lines = vec![];
    for (i, stage) in case.graph.stages.iter().enumerate() {
        let weights = &case.point.weights[i];
        let gradient = problem.inner_gradient(i, &case.point)?.gradient;
        let gradient = norm(&add_scaled(&gradient, case.inner[i].weight_decay(), weights)?)?;
        if gradient.is_nan() || gradient > BOUND * (1.0 + norm(weights)?) {
            lines.push(format!(
                "stage `{}` does not stand at the solution of its inner problem: the gradient there \
                 is {gradient:e}",
                stage.name
            ));
        }
    }
    Ok(lines)
}

/// The sum of the main architecture's contributions of one name.
fn named(gradient: &HyperGradient, name: &str) -> Result<Option<Tensor>> {
    let mut sum: Option<Tensor> = None;
    for c in gradient.contributions.iter().filter(|c| c.name() == name) {
        sum = Some(match sum {
            Some(sum) => add_scaled(&sum, 1.0, &c.gradient)?,
            None => c.gradient.clone(),
        });
    }
    Ok(sum)
}

/// A line for each term in which `no-lr-factors` does not leave out each rate once. For two stages of
/// one SGD step, where the terms are the usual ones over η_v, and over η_w·η_v.
pub(super) fn wrong_rates(case: &CheckCase, usual: &HyperGradient) -> Result<Vec<String>> {
    /// Of rounding, in differences of two step sizes.
    const BOUND: f64 = 1e-7;
    let [Inner::Sgd(first), Inner::Sgd(second)] = case.inner.as_slice() else { return Ok(vec![]) };
    let rates = [first.learning_rate, second.learning_rate];
    let one_step = case.graph.stages.iter().all(|s| s.unroll_steps == 1);
    let plain = case.graph.combine != Combine::NoLrFactors;
    if !one_step || !plain || rates.contains(&0.0) || case.architecture[1].is_some() {
        return Ok(vec![]);
    }
    let mut graph = case.graph.clone();
    graph.combine = Combine::NoLrFactors;
    let mut problem = case.problem();
    problem.graph = &graph;
    let estimator = reference::updates_estimator();
    let without = hypergradient(&problem, &case.point, &[estimator; 2], Adjoints::Apart)?;
    let mut lines = vec![];
    for (term, factor) in [
        ("main_direct", 1.0),
        ("main_through_W", 1.0),
        ("aux_through_W", rates[0] * rates[1]),
        ("aux_direct", rates[1]),
    ] {
        let of = |g: &HyperGradient| named(g, term);
        let (Some(usual), Some(without)) = (of(usual)?, of(&without)?) else { continue };
        let gap = norm(&add_scaled(&(without * factor)?, -1.0, &usual)?)?;
        if gap.is_nan() || gap > BOUND * norm(&usual)? {
            lines.push(format!(
                "{term}: `combine = \"no-lr-factors\"` does not leave out each learning rate once"
            ));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::super::reference::tests::{case, two_stages};
    use super::super::reference::{Extrapolated, of_updates};
    use super::*;
    use candle_core::Device;
    use tetlo_core::optim::{InnerState, Sgd};

    #[test]
    fn a_forgotten_buffer_shows_in_the_objective() -> Result<()> {
        let mut case = case()?;
        let forgotten = of_updates(&case, &Extrapolated)?.objective;
        let buffer = Tensor::new(&[0.3, -0.2], &Device::Cpu)?;
        case.memory[0] = InnerState::with_momentum(Some(buffer));
        case.inner[0] = Inner::Sgd(Sgd { learning_rate: 0.3, momentum: 0.9, weight_decay: 0.0 });
        assert_eq!(other_steps(&case, of_updates(&case, &Extrapolated)?.objective)?, None);
        assert!(other_steps(&case, forgotten)?.is_some());
        // `unroll = "plain"` is not what runs, and says so.
        case.graph.unroll_as_run = false;
        assert_eq!(other_steps(&case, forgotten)?, None);
        Ok(())
    }

    #[test]
    fn a_solution_has_no_gradient() -> Result<()> {
        let mut case = case()?;
        assert_eq!(unsolved(&case)?, Vec::<String>::new());
        case.solved = true;
        let lines = unsolved(&case)?;
        assert!(
            lines.len() == 1 && lines[0].starts_with("stage `main` does not stand"),
            "{lines:?}"
        );
        Ok(())
    }

    #[test]
    fn what_is_said_otherwise_is_named() -> Result<()> {
        let mut case = two_stages()?;
        let before = Said::now(&case)?;
        assert_eq!(before.changed(&Said::now(&case)?), Vec::<String>::new());
        case.point.weights[1] = (&case.point.weights[1] * (1.0 + 1e-15))?;
        let changed = before.changed(&Said::now(&case)?);
        assert!(changed.iter().all(|line| line.contains("of stage `aux`")), "{changed:?}");
        assert!(changed[0].starts_with("the training loss"), "{changed:?}");
        Ok(())
    }

    #[test]
    fn a_rate_left_out_twice_is_named() -> Result<()> {
        let case = two_stages()?;
        let usual = of_updates(&case, &Extrapolated)?;
        assert_eq!(wrong_rates(&case, &usual)?, Vec::<String>::new());
        for (term, factor) in [("aux_direct", 0.2), ("aux_through_W", 0.3), ("main_direct", 0.3)] {
            let mut wrong = usual.clone();
            for c in wrong.contributions.iter_mut().filter(|c| c.name() == term) {
                c.gradient = (&c.gradient * factor)?;
            }
            let lines = wrong_rates(&case, &wrong)?;
            assert!(lines.len() == 1 && lines[0].starts_with(term), "{lines:?}");
        }
        Ok(())
    }
}
