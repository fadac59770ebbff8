//! The exact hypergradients that estimators are held against, and their own proof.
//!
//! That of the inner steps is the reverse pass with mixed products extrapolated from differences at
//! many step sizes (relative error near 1e-12), so it needs no second derivatives of the tensor
//! library. That the reverse pass itself is right is proven on the spot: the objective J(A) is computed
//! with the architecture moved in one place at a time, and its finite differences must be the terms.
//!
//! That of the inner problems' solutions takes the whole Hessian of a stage, a column a product, and
//! solves with it; a problem that knows its hypergradient confirms it.

use candle_core::{DType, Device, Tensor};
use std::fmt;
use tetlo_core::kinds::Hypergradient;
use tetlo_core::multilevel::check::CheckCase;
use tetlo_core::multilevel::reverse::{
    Adjoints, HyperGradient, Source, Via, hypergradient, objective_parts,
};
use tetlo_core::multilevel::{ErrorBound, Limit, MixedProduct, Problem, StageOracle};
use tetlo_core::optim::{add_scaled, norm};
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::{Error, Result};

/// The exact hypergradient of the inner steps with mixed products by `reference`, its terms apart.
pub(super) fn of_updates(case: &CheckCase, reference: &dyn Hypergradient) -> Result<HyperGradient> {
    by(case, reference)
}

/// The estimator behind [`of_updates`].
pub(super) fn updates_estimator() -> &'static dyn Hypergradient {
    &Extrapolated
}

/// The exact hypergradient of the inner problems' solutions, its terms apart.
pub(super) fn of_solutions(case: &CheckCase) -> Result<HyperGradient> {
    by(case, &Solved)
}

fn by(case: &CheckCase, estimator: &dyn Hypergradient) -> Result<HyperGradient> {
    let estimators = vec![estimator; case.graph.stages.len()];
    hypergradient(&case.problem(), &case.point, &estimators, Adjoints::Apart)
}

/// Mixed products by Richardson extrapolation of central differences.
#[derive(Debug)]
pub(super) struct Extrapolated;

impl Hypergradient for Extrapolated {
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        /// Length of the largest perturbation of the weights.
        const LARGEST: f64 = 0.02;
        let length = norm(v)?;
        let mut shape = None;
        let extrapolated = extrapolate(LARGEST / length, |step| {
            let plus = add_scaled(stage.weights(), step, v)?;
            let minus = add_scaled(stage.weights(), -step, v)?;
            let mut product = stage.context_difference(&plus, &minus)?.scaled(0.5 / step)?;
            let mut values = vec![];
            for part in product.parts_mut() {
                values.extend(part.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?);
            }
            shape = Some(product);
            Ok(values)
        })?;
        let mut product =
            shape.ok_or_else(|| Error::Invalid("an extrapolation without values".into()))?;
        let mut at = 0;
        for part in product.parts_mut() {
            let values = &extrapolated.value[at..at + part.elem_count()];
            at += values.len();
            *part =
                Tensor::from_slice(values, part.shape(), part.device())?.to_dtype(part.dtype())?;
        }
        Ok(product)
    }

    fn bound(&self) -> Option<ErrorBound> {
        None
    }
}

/// Mixed products by double backward: also of networks with kinks, where differences do not converge.
#[derive(Debug)]
pub(super) struct DoubleBackward;

impl Hypergradient for DoubleBackward {
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        stage.exact_product(v)
    }

    fn bound(&self) -> Option<ErrorBound> {
        None
    }
}

/// The implicit derivative with the stage's whole Hessian.
#[derive(Debug)]
struct Solved;

impl Hypergradient for Solved {
    fn mixed_product(&self, stage: &StageOracle<'_>, v: &Tensor) -> Result<MixedProduct> {
        Extrapolated.mixed_product(stage, v)
    }

    fn pull_back(&self, stage: &StageOracle<'_>, adjoint: &Tensor) -> Result<MixedProduct> {
        let n = adjoint.elem_count();
        let mut rows: Vec<Vec<f64>> = vec![];
        for i in 0..n {
            let unit: Vec<f64> = (0..n).map(|j| f64::from(u8::from(i == j))).collect();
            let unit = Tensor::from_vec(unit, n, &Device::Cpu)?.to_dtype(adjoint.dtype())?;
            let column = stage.hessian(&unit, |stage, v| self.mixed_product(stage, v))?;
            rows.push(column.to_dtype(DType::F64)?.to_vec1()?);
        }
        let solution = solve(rows, adjoint.to_dtype(DType::F64)?.to_vec1()?)?;
        let solution = Tensor::from_vec(solution, n, &Device::Cpu)?.to_dtype(adjoint.dtype())?;
        stage.through_solution(&solution, |stage, v| self.mixed_product(stage, v))
    }

    fn limit(&self) -> Limit {
        Limit::Solution
    }

    fn bound(&self) -> Option<ErrorBound> {
        None
    }
}

/// The solution of a small linear system, by elimination with pivots.
fn solve(mut rows: Vec<Vec<f64>>, mut right: Vec<f64>) -> Result<Vec<f64>> {
    let n = right.len();
    for i in 0..n {
        let pivot = (i..n).max_by(|a, b| rows[*a][i].abs().total_cmp(&rows[*b][i].abs()));
        let pivot = pivot.unwrap_or(i);
        if rows[pivot][i] == 0.0 || !rows[pivot][i].is_finite() {
            return Err(Error::Invalid("the Hessian of a check problem is singular".into()));
        }
        rows.swap(i, pivot);
        right.swap(i, pivot);
        let (top, below) = rows.split_at_mut(i + 1);
        for (k, row) in below.iter_mut().enumerate() {
            let factor = row[i] / top[i][i];
            for (value, upper) in row[i..].iter_mut().zip(&top[i][i..]) {
                *value -= factor * upper;
            }
            right[i + 1 + k] -= factor * right[i];
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| rows[i][j] * right[j]).sum();
        right[i] = (right[i] - known) / rows[i][i];
    }
    Ok(right)
}

/// A derivative by extrapolation, with an estimate of its error (in norm).
struct Extrapolation {
    value: Vec<f64>,
    error: f64,
}

/// The limit at step 0 of `difference`, a function of the squared step, from steps `largest`·2⁻ⁱ
/// (Richardson; the entry of the table with the smallest error estimate, as Ridders 1982).
fn extrapolate(
    largest: f64,
    mut difference: impl FnMut(f64) -> Result<Vec<f64>>,
) -> Result<Extrapolation> {
    const STEPS: i32 = 6;
    let distance =
        |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
    let mut best = Extrapolation { value: vec![], error: f64::INFINITY };
    let mut above: Vec<Vec<f64>> = vec![];
    for i in 0..STEPS {
        let mut row = vec![difference(largest * 0.5f64.powi(i))?];
        for (k, coarse) in above.iter().enumerate() {
            let fine = &row[k];
            let gain = 4f64.powi(k as i32 + 1) - 1.0;
            let next: Vec<f64> = fine.iter().zip(coarse).map(|(f, c)| f + (f - c) / gain).collect();
            let error = distance(&next, fine).max(distance(&next, coarse));
            if error <= best.error {
                best = Extrapolation { value: next.clone(), error };
            }
            row.push(next);
        }
        above = row;
    }
    if best.error.is_infinite() {
        return Err(Error::Invalid(
            "a difference of the reference derivative is not finite".into(),
        ));
    }
    Ok(best)
}

/// A term of the reference that finite differences of J contradict.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Disagreement {
    source: Source,
    via: Via,
    reverse: f64,
    differences: f64,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, via, reverse, differences } = self;
        write!(
            f,
            "the reference itself: term {source:?} via {via:?} has a directional derivative of \
             {reverse:e}, finite differences of the objective give {differences:e}"
        )
    }
}

/// Compares each term of `exact` with finite differences of J along its own direction and along
/// random ones. Parts through a transfer loss that is not smooth are left out.
///
/// `largest`: the largest move of the architecture.
pub(super) fn disagreements(
    case: &CheckCase,
    exact: &HyperGradient,
    largest: f64,
) -> Result<Vec<Disagreement>> {
    /// Random directions beside the term's own.
    const RANDOM: usize = 2;
    let problem = case.problem();
    let whole = exact.sum(0, |_| true)?.map_or(Ok(0.0), |total| norm(&total))?;
    let mut found = vec![];
    let places = std::iter::once(Via::Objective)
        .chain((0..case.graph.stages.len()).map(Via::Update))
        .collect::<Vec<_>>();
    for via in places {
        let parts = [Source::Main, Source::Transfer];
        let terms = parts
            .into_iter()
            .map(|source| term(case, exact, source, via))
            .collect::<Result<Vec<_>>>()?;
        let mut directions = vec![];
        for term in &terms {
            let length = norm(term)?;
            if length > 0.0 {
                directions.push((term / length)?);
            }
        }
        for role in 0..RANDOM {
            directions.push(random_direction(&terms[0], role)?);
        }
        for direction in directions {
            let moved = along(case, &problem, via, &direction, largest)?;
            for ((source, term), moved) in parts.into_iter().zip(&terms).zip(moved) {
                if source == Source::Transfer && !case.transfer_is_smooth {
                    continue;
                }
                let reverse = (term * &direction)?.sum_all()?.to_scalar::<f64>()?;
                let length = norm(term)?;
                // Rounding in J, plus what the extrapolation says of itself, but never more than a
                // tenth of the smallest bound that an estimator of the mixed product claims a term.
                let rounding = 1e-12 * (1.0 + exact.objective.abs());
                // A term that is tiny beside the whole drowns in the rounding of J.
                let noise = (10.0 * moved.error).min((1e-4 * length).max(1e-8 * whole));
                let allowed = rounding + 1e-6 * length + noise;
                let differences = moved.value;
                if (reverse - differences).abs() > allowed || !differences.is_finite() {
                    found.push(Disagreement { source, via, reverse, differences });
                }
            }
        }
    }
    Ok(found)
}

/// The sum of the reference's contributions of one source and link.
fn term(case: &CheckCase, exact: &HyperGradient, source: Source, via: Via) -> Result<Tensor> {
    let mut sum = case.point.architecture[0].zeros_like()?;
    for c in &exact.contributions {
        if c.group == 0 && c.source == source && c.via == via {
            sum = add_scaled(&sum, 1.0, &c.gradient)?;
        }
    }
    Ok(sum)
}

fn random_direction(like: &Tensor, role: usize) -> Result<Tensor> {
    let mut stream = Key::new(0, Purpose::Problem).level(100).role(role as u32).stream();
    let values: Vec<f64> = (0..like.elem_count()).map(|_| stream.normal()).collect();
    let direction = Tensor::from_vec(values, like.shape(), like.device())?;
    let length = norm(&direction)?;
    Ok((direction / length)?)
}

struct Slope {
    value: f64,
    error: f64,
}

/// d/dt of the two parts of J with the architecture A + t·`direction` at `via`, A elsewhere.
fn along(
    case: &CheckCase,
    problem: &Problem<'_>,
    via: Via,
    direction: &Tensor,
    largest: f64,
) -> Result<[Slope; 2]> {
    let at = |t: f64| -> Result<(f64, f64)> {
        let mut moved = case.point.architecture.clone();
        moved[0] = add_scaled(&moved[0], t, direction)?;
        objective_parts(problem, &case.point, |place| {
            if place == via { moved.clone() } else { case.point.architecture.clone() }
        })
    };
    let mut pairs = vec![];
    let main = extrapolate(largest, |step| {
        let (plus, minus) = (at(step)?, at(-step)?);
        pairs.push((plus.1 - minus.1) / (2.0 * step));
        Ok(vec![(plus.0 - minus.0) / (2.0 * step)])
    })?;
    let mut pairs = pairs.into_iter();
    let transfer = extrapolate(largest, |_| Ok(pairs.next().into_iter().collect()))?;
    let slope = |e: Extrapolation| Slope { value: e.value[0], error: e.error };
    Ok([slope(main), slope(transfer)])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::Arc;
    use tetlo_core::kinds::{TransferBatch, TransferLoss};
    use tetlo_core::layout::{Init, Layout};
    use tetlo_core::multilevel::{
        Batch, Batches, EstimatorRef, LossTerm, ModelRole, Objective, Point, Stage, StageGraph,
        TransferLosses,
    };
    use tetlo_core::network::{Network, Output, Pass};
    use tetlo_core::optim::Inner;

    #[test]
    fn extrapolation_reaches_rounding() -> Result<()> {
        // d/dx (sin x, eˣ) at 1.
        let x = 1.0f64;
        let got = extrapolate(0.5, |h| {
            let slope = |f: fn(f64) -> f64| (f(x + h) - f(x - h)) / (2.0 * h);
            Ok(vec![slope(f64::sin), slope(f64::exp)])
        })?;
        let error = (got.value[0] - x.cos()).hypot(got.value[1] - x.exp());
        assert!(error < 1e-12 && got.error < 1e-10, "{error:e} {:e}", got.error);
        assert!(extrapolate(0.5, |_| Ok(vec![f64::NAN])).is_err());
        Ok(())
    }

    #[test]
    fn a_linear_system_by_hand() -> Result<()> {
        // 2y = 4 and x + y = 5: the first pivot is 0.
        assert_eq!(solve(vec![vec![0.0, 2.0], vec![1.0, 1.0]], vec![4.0, 5.0])?, [3.0, 2.0]);
        assert!(solve(vec![vec![1.0, 2.0], vec![2.0, 4.0]], vec![1.0, 1.0]).is_err());
        Ok(())
    }

    /// Logits x ⊙ w ⊙ tanh a; x ⊙ w without an architecture.
    #[derive(Debug)]
    struct Product {
        weights: Layout,
        architecture: Layout,
        buffers: Layout,
    }

    impl Network for Product {
        fn weights(&self) -> &Layout {
            &self.weights
        }

        fn buffers(&self) -> &Layout {
            &self.buffers
        }

        fn architecture(&self) -> &Layout {
            &self.architecture
        }

        fn multiply_adds(&self) -> u64 {
            2
        }

        fn forward(
            &self,
            weights: &Tensor,
            architecture: Option<&Tensor>,
            images: &Tensor,
            _pass: &Pass<'_>,
        ) -> Result<Output> {
            let factors = match architecture {
                Some(a) => (weights * a.tanh()?)?,
                None => weights.clone(),
            };
            let logits = images.broadcast_mul(&factors)?;
            Ok(Output::new(logits.clone(), logits))
        }
    }

    pub(in crate::check) fn case() -> Result<CheckCase> {
        let tensor = |v: &[f64], shape: &[usize]| Tensor::from_vec(v.to_vec(), shape, &Device::Cpu);
        let layout = |name: &str| {
            let mut layout = Layout::new();
            layout.push(name, &[2], Init::Constant(0.0));
            layout
        };
        let network =
            Product { weights: layout("w"), architecture: layout("a"), buffers: Layout::new() };
        let batch = |x: &[f64]| -> Result<Batch> {
            Ok(Batch { images: tensor(x, &[2, 2])?, labels: vec![0, 1] })
        };
        let point = Point {
            weights: vec![tensor(&[0.7, -0.4], &[2])?],
            architecture: vec![tensor(&[0.3, 0.9], &[2])?],
        };
        let batches = Batches {
            train: batch(&[1.0, 0.5, -0.3, 0.8])?,
            valid: batch(&[0.2, -0.6, 0.9, 1.1])?,
            transfer: None,
        };
        let graph = StageGraph::bilevel(EstimatorRef::named("none"));
        let networks: Vec<Arc<dyn Network>> = vec![Arc::new(network)];
        Ok(CheckCase::new(graph, networks, vec![Inner::plain(0.3)], point, batches))
    }

    /// Half the mean square between the embeddings.
    #[derive(Debug)]
    struct Imitation;

    impl TransferLoss for Imitation {
        fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
            let (main, aux) = batch.embeddings()?;
            Ok(((aux - main)?.sqr()?.mean_all()? * 0.5)?)
        }
    }

    /// The same with a second model that learns from the first.
    pub(in crate::check) fn two_stages() -> Result<CheckCase> {
        let CheckCase { mut graph, mut networks, mut inner, mut point, mut batches, .. } = case()?;
        let loss = vec![LossTerm::supervised(1.0), LossTerm::transfer(0, 1.0)];
        graph.stages.push(Stage::new("aux", ModelRole::Auxiliary, loss));
        graph.objective.push(Objective { stage: 1, weight: 1.0 });
        let mut weights = Layout::new();
        weights.push("w", &[2], Init::Constant(0.0));
        let (architecture, buffers) = (Layout::new(), Layout::new());
        networks.push(Arc::new(Product { weights, architecture, buffers }));
        inner.push(Inner::plain(0.2));
        point.weights.push(Tensor::new(&[0.2, 0.5], &Device::Cpu)?);
        batches.transfer = Some(batches.train.clone());
        let transfers = TransferLosses::build(&graph, || Ok(Box::new(Imitation)))?;
        Ok(CheckCase { transfers, ..CheckCase::new(graph, networks, inner, point, batches) })
    }

    #[test]
    fn a_wrong_term_contradicts_the_objective() -> Result<()> {
        let case = case()?;
        let right = of_updates(&case, &Extrapolated)?;
        assert_eq!(right.contributions.len(), 2);
        assert_eq!(disagreements(&case, &right, 0.25)?, vec![]);
        for (i, part) in right.contributions.iter().enumerate() {
            let mut wrong = right.clone();
            wrong.contributions[i].gradient = (&part.gradient * 1.001)?;
            let found = disagreements(&case, &wrong, 0.25)?;
            assert!(!found.is_empty() && found.iter().all(|d| d.via == part.via), "{found:?}");
        }
        Ok(())
    }
}
