//! `ridge`: hyper-cleaning of a ridge regression, whose hypergradient has a closed form.

use super::arrays::{Drawn, flat, shaped, vector};
use super::cleaning::{Rows, Weighted, two_levels};
use super::linear::Matrix;
use super::training::Training;
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tetlo_core::kinds::CheckProblem;
use tetlo_core::multilevel::check::{Arrays, CheckCase};
use tetlo_core::multilevel::{Batch, Batches, Criterion, EstimatorRef, Point, StageGraph};
use tetlo_core::network::{Network, Output};
use tetlo_core::optim::InnerRule;
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result, register_check_problem};

/// Options of the check problem `ridge`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct RidgeOptions {
    /// Weight decay: the ridge.
    pub weight_decay: f64,
    /// Learning rate; without it one over a bound on the largest curvature.
    pub learning_rate: Option<f64>,
    /// Momentum of the inner steps, from an empty buffer.
    pub momentum: f64,
    /// The rule of the inner optimiser.
    pub optimizer: InnerRule,
    /// Inner steps.
    #[schemars(range(min = 1, max = 1000))]
    pub unroll_steps: usize,
    /// Numbers an example, where arrays are drawn.
    #[schemars(range(min = 1))]
    pub inputs: usize,
    /// Training examples, where arrays are drawn; every third has a target of noise alone.
    #[schemars(range(min = 1))]
    pub examples: usize,
}

impl Default for RidgeOptions {
    fn default() -> Self {
        Self {
            weight_decay: 0.1,
            learning_rate: None,
            momentum: 0.0,
            optimizer: InnerRule::Sgd,
            unroll_steps: 3,
            inputs: 5,
            examples: 12,
        }
    }
}

/// w* = argmin Σ_i σ(A_i)·(x_i·w − y_i)²/(2n) + wd/2·|w|² on the training examples,
/// J = Σ_i (x_i·w* − y_i)²/(2n) on the validation examples: data hyper-cleaning (Shaban et al. 2019)
/// with squared errors.
///
/// With H = Σ σ(A_i)·x_i·x_iᵀ/n + wd, dw*/dA_i = −H⁻¹·σ'(A_i)·(x_i·w* − y_i)·x_i/n.
///
/// Arrays: `A` (one an example), `batch/{train,valid}/{x,y}`; for Adam its second moments `adam`.
#[derive(Debug)]
pub struct Ridge {
    options: RidgeOptions,
}

impl FromOptions for Ridge {
    type Options = RidgeOptions;

    fn from_options(options: RidgeOptions) -> Result<Self> {
        for (key, value) in [("inputs", options.inputs), ("examples", options.examples)] {
            if value == 0 {
                return Err(Error::config(format!("`{key}` must be at least 1")));
            }
        }
        let problem = Self { options };
        problem.training().check()?;
        Ok(problem)
    }
}

/// (x·w − y)²/2, weighted by the embedding in training; the mean.
#[derive(Debug)]
struct WeightedSquares {
    train: Tensor,
    valid: Tensor,
}

impl Criterion for WeightedSquares {
    fn loss(&self, output: &Output, _batch: &Batch, training: bool) -> Result<Tensor> {
        let target = if training { &self.train } else { &self.valid };
        let squares = ((&output.logits - target)?.sqr()? * 0.5)?;
        let squares = if training { (squares * &output.embedding)? } else { squares };
        Ok(squares.mean_all()?)
    }

    fn validates_architecture(&self) -> bool {
        false
    }
}

/// The problem with its solution.
#[derive(Debug)]
struct Solved {
    rows: Rows,
    train: Vec<f64>,
    valid: Vec<f64>,
    hessian: Matrix,
    weights: Matrix,
}

impl Ridge {
    fn training(&self) -> Training {
        let o = &self.options;
        Training {
            learning_rate: o.learning_rate,
            weight_decay: o.weight_decay,
            momentum: o.momentum,
            optimizer: o.optimizer,
        }
    }

    fn solve(&self, arrays: &Arrays) -> Result<Solved> {
        let rows = Rows::read(arrays)?;
        let train = vector(arrays, "batch/train/y", rows.train.rows)?;
        let valid = vector(arrays, "batch/valid/y", rows.valid.rows)?;
        let (x, s) = (&rows.train, rows.importance());
        let scaled = Matrix::new(x.rows, x.columns, |i, j| s[i] * x.at(i, j) / x.rows as f64);
        let hessian = scaled.transposed().times(x).shifted(self.options.weight_decay);
        let weights = hessian.solve(&scaled.transposed().times(&Matrix::column(&train)))?;
        Ok(Solved { rows, train, valid, hessian, weights })
    }
}

impl CheckProblem for Ridge {
    fn levels(&self) -> Vec<usize> {
        vec![2]
    }

    fn arrays(&self, seed: u64) -> Result<Arrays> {
        let (inputs, examples) = (self.options.inputs, self.options.examples);
        let mut drawn = Drawn::new(seed);
        drawn.normal("A", &[examples], 1.0)?;
        drawn.normal("true", &[inputs, 1], 1.0)?;
        drawn.normal("noise", &[2 * examples], 1.0)?;
        for split in ["train", "valid"] {
            drawn.normal(format!("batch/{split}/x"), &[examples, inputs], 1.0)?;
        }
        drawn.normal("adam", &[inputs], 1.0)?;
        let mut arrays = drawn.arrays();
        let noise: Vec<f64> = arrays["noise"].to_vec1()?;
        let truth = arrays["true"].clone();
        for (i, split) in ["train", "valid"].into_iter().enumerate() {
            let said = arrays[&format!("batch/{split}/x")].matmul(&truth)?.flatten_all()?;
            let noise = &noise[i * examples..(i + 1) * examples];
            let mut y = said.to_vec1::<f64>()?;
            for (k, (y, noise)) in y.iter_mut().zip(noise).enumerate() {
                let corrupted = i == 0 && k % 3 == 0;
                *y = if corrupted { 3.0 * noise } else { *y + 0.1 * noise };
            }
            arrays.insert(format!("batch/{split}/y"), Matrix::column(&y).flat()?);
        }
        let moments = ((arrays["adam"].sqr()? * 0.1)? + 0.01)?;
        arrays.insert("adam".into(), moments);
        arrays.retain(|name, _| !["true", "noise"].contains(&name.as_str()));
        Ok(arrays)
    }

    fn has_arrays(&self, levels: usize, arrays: &Arrays) -> bool {
        levels == 2 && arrays.contains_key("A")
    }

    fn known(&self, levels: usize, arrays: &Arrays) -> Result<Option<Tensor>> {
        two_levels(levels)?;
        let Solved { rows, train, valid, hessian, weights } = self.solve(arrays)?;
        let residual = rows.valid.times(&weights).plus(-1.0, &Matrix::column(&valid));
        let gradient =
            rows.valid.transposed().times(&residual).scaled(1.0 / rows.valid.rows as f64);
        let adjoint = hessian.solve(&gradient)?;
        let (x, s) = (&rows.train, rows.importance());
        let (said, pulled) = (x.times(&weights), x.times(&adjoint));
        let slope = |i: usize, _: usize| {
            let error = said.at(i, 0) - train[i];
            -s[i] * (1.0 - s[i]) * error * pulled.at(i, 0) / x.rows as f64
        };
        Matrix::new(x.rows, 1, slope).flat().map(Some)
    }

    fn case(&self, levels: usize, arrays: &Arrays) -> Result<CheckCase> {
        two_levels(levels)?;
        let Solved { rows, train, valid, hessian, weights } = self.solve(arrays)?;
        let network = Weighted::new(rows.train.rows, rows.train.columns, 1);
        let second = || shaped(arrays, "adam", &[rows.train.columns]);
        let training = self.training();
        let memory = vec![training.memory(second)?];
        let inner = vec![training.inner(hessian.largest_eigenvalue_below())];
        let labels = |y: &[f64]| vec![0; y.len()];
        let (train_batch, valid_batch) = rows.batches(labels(&train), labels(&valid))?;
        let point = Point {
            weights: vec![weights.flat()?],
            architecture: vec![flat(arrays, "", network.architecture())?],
        };
        let target = |y: &[f64]| Matrix::column(y).flat()?.unsqueeze(1).map_err(Error::from);
        let criterion = WeightedSquares { train: target(&train)?, valid: target(&valid)? };
        let mut graph = StageGraph::bilevel(EstimatorRef::named("first-order"));
        graph.stages[0].unroll_steps = self.options.unroll_steps;
        let batches = Batches { train: train_batch, valid: valid_batch, transfer: None };
        let networks: Vec<Arc<dyn Network>> = vec![Arc::new(network)];
        Ok(CheckCase {
            criteria: vec![Arc::new(criterion)],
            memory,
            solved: true,
            ..CheckCase::new(graph.validated()?, networks, inner, point, batches)
        })
    }
}

register_check_problem!("ridge", Ridge, "ridge hyper-cleaning with a closed form");
