//! `logistic`: hyper-cleaning of a softmax regression, solved by Newton's method.

use super::arrays::{Drawn, flat, labels, shaped};
use super::cleaning::{Rows, Weighted, sigmoid, two_levels};
use super::linear::Matrix;
use super::training::Training;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::log_softmax;
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

/// Options of the check problem `logistic`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct LogisticOptions {
    /// Weight decay: part of the inner problem.
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
    /// Classes.
    #[schemars(range(min = 2))]
    pub classes: usize,
    /// Numbers an example, where arrays are drawn.
    #[schemars(range(min = 1))]
    pub inputs: usize,
    /// Training examples, where arrays are drawn; their labels are noise.
    #[schemars(range(min = 1))]
    pub examples: usize,
}

impl Default for LogisticOptions {
    fn default() -> Self {
        Self {
            weight_decay: 0.05,
            learning_rate: None,
            momentum: 0.0,
            optimizer: InnerRule::Sgd,
            unroll_steps: 2,
            classes: 3,
            inputs: 4,
            examples: 10,
        }
    }
}

/// W* = argmin Σ_i σ(A_i)·CE(x_i·W, y_i)/n + wd/2·|W|² on the training examples, J = the mean cross
/// entropy of x·W* on the validation examples: data hyper-cleaning (Shaban et al. 2019).
///
/// W* is found by Newton's method to rounding; its hypergradient is known by extrapolated differences
/// of J(A), each value with an inner problem solved anew.
///
/// Arrays: `A` (one an example), `batch/{train,valid}/{x,y}`; for Adam its second moments `adam`
/// (inputs × classes).
#[derive(Debug)]
pub struct Logistic {
    options: LogisticOptions,
}

impl FromOptions for Logistic {
    type Options = LogisticOptions;

    fn from_options(options: LogisticOptions) -> Result<Self> {
        let o = &options;
        for (key, value, low) in
            [("classes", o.classes, 2), ("inputs", o.inputs, 1), ("examples", o.examples, 1)]
        {
            if value < low {
                return Err(Error::config(format!("`{key}` must be at least {low}, got {value}")));
            }
        }
        if o.weight_decay <= 0.0 {
            return Err(Error::config(format!(
                "`weight-decay` must be above 0 (the inner problem has no unique solution without), \
                 got {}",
                o.weight_decay
            )));
        }
        let problem = Self { options };
        problem.training().check()?;
        Ok(problem)
    }
}

/// Cross entropy, weighted by the embedding in training; the mean.
#[derive(Debug)]
struct WeightedEntropy {
    classes: usize,
}

impl Criterion for WeightedEntropy {
    fn loss(&self, output: &Output, batch: &Batch, training: bool) -> Result<Tensor> {
        let n = batch.labels.len();
        let mut picked = vec![0.0; n * self.classes];
        for (i, label) in batch.labels.iter().enumerate() {
            picked[i * self.classes + *label as usize] = -1.0;
        }
        let picked = Tensor::from_vec(picked, (n, self.classes), &Device::Cpu)?;
        let losses = (log_softmax(&output.logits, D::Minus1)? * picked)?.sum_keepdim(1)?;
        let losses = if training { (losses * &output.embedding)? } else { losses };
        Ok(losses.mean_all()?)
    }

    fn validates_architecture(&self) -> bool {
        false
    }
}

/// A softmax regression's loss at W, with its derivatives.
struct Expansion {
    value: f64,
    gradient: Matrix,
    hessian: Matrix,
}

/// Rows, their classes and their weights.
struct Examples<'a> {
    x: &'a Matrix,
    labels: &'a [u32],
    weights: &'a [f64],
    classes: usize,
}

impl Examples<'_> {
    /// Mean of weight · cross entropy, with W flat by rows (inputs × classes).
    fn expand(&self, w: &Matrix, decay: f64) -> Expansion {
        let (classes, n) = (self.classes, self.x.rows as f64);
        let len = self.x.columns * classes;
        let mut value = 0.0;
        let (mut gradient, mut hessian) = (vec![0.0; len], vec![0.0; len * len]);
        for (i, label) in self.labels.iter().enumerate() {
            let x = self.x.row(i);
            let logits: Vec<f64> = (0..classes)
                .map(|c| x.iter().enumerate().map(|(j, x)| x * w.at(j * classes + c, 0)).sum())
                .collect();
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|z| (z - largest).exp()).sum();
            let p: Vec<f64> = logits.iter().map(|z| (z - largest).exp() / sum).collect();
            let weight = self.weights[i] / n;
            let y = *label as usize;
            value += weight * (largest + sum.ln() - logits[y]);
            for a in 0..len {
                let (j, c) = (a / classes, a % classes);
                gradient[a] += weight * x[j] * (p[c] - f64::from(u8::from(c == y)));
                for b in 0..len {
                    let (k, d) = (b / classes, b % classes);
                    let curvature = p[c] * (f64::from(u8::from(c == d)) - p[d]);
                    hessian[a * len + b] += weight * x[j] * x[k] * curvature;
                }
            }
        }
        let square: f64 = w.values().iter().map(|w| w * w).sum();
        Expansion {
            value: value + 0.5 * decay * square,
            gradient: Matrix::column(&gradient).plus(decay, w),
            hessian: Matrix::new(len, len, |a, b| hessian[a * len + b]).shifted(decay),
        }
    }

    /// The weights at which the gradient vanishes, and the Hessian there.
    fn solve(&self, decay: f64) -> Result<(Matrix, Matrix)> {
        const ITERATIONS: usize = 100;
        const SOLVED: f64 = 1e-13;
        let mut w = Matrix::new(self.x.columns * self.classes, 1, |_, _| 0.0);
        let mut now = self.expand(&w, decay);
        for _ in 0..ITERATIONS {
            let length = norm(now.gradient.values());
            if length <= SOLVED * (1.0 + norm(w.values())) {
                return Ok((w, now.hessian));
            }
            let step = now.hessian.solve(&now.gradient)?;
            // Halved until the gradient shrinks: the loss is convex, so a step in this direction does.
            let mut size = 1.0;
            loop {
                let next = w.plus(-size, &step);
                let there = self.expand(&next, decay);
                if norm(there.gradient.values()) < length || size < 1e-3 {
                    (w, now) = (next, there);
                    break;
                }
                size *= 0.5;
            }
        }
        Err(Error::Invalid(format!(
            "Newton's method has not solved the inner problem in {ITERATIONS} iterations: its gradient \
             is {:e}",
            norm(now.gradient.values())
        )))
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The data.
#[derive(Debug)]
struct Data {
    rows: Rows,
    train: Vec<u32>,
    valid: Vec<u32>,
}

impl Logistic {
    fn training(&self) -> Training {
        let o = &self.options;
        Training {
            learning_rate: o.learning_rate,
            weight_decay: o.weight_decay,
            momentum: o.momentum,
            optimizer: o.optimizer,
        }
    }

    fn read(&self, arrays: &Arrays) -> Result<Data> {
        let rows = Rows::read(arrays)?;
        let classes = self.options.classes;
        let train = labels(arrays, "train", rows.train.rows, classes)?;
        let valid = labels(arrays, "valid", rows.valid.rows, classes)?;
        Ok(Data { rows, train, valid })
    }

    fn solve(&self, data: &Data, log_weights: &[f64]) -> Result<(Matrix, Matrix)> {
        let weights: Vec<f64> = log_weights.iter().map(|a| sigmoid(*a)).collect();
        let (x, classes) = (&data.rows.train, self.options.classes);
        Examples { x, labels: &data.train, weights: &weights, classes }
            .solve(self.options.weight_decay)
    }

    /// J(A), from a solver alone.
    fn objective(&self, data: &Data, log_weights: &[f64]) -> Result<f64> {
        let w = self.solve(data, log_weights)?.0;
        let (x, classes) = (&data.rows.valid, self.options.classes);
        let weights = vec![1.0; x.rows];
        Ok(Examples { x, labels: &data.valid, weights: &weights, classes }.expand(&w, 0.0).value)
    }
}

impl CheckProblem for Logistic {
    fn levels(&self) -> Vec<usize> {
        vec![2]
    }

    fn arrays(&self, seed: u64) -> Result<Arrays> {
        let o = &self.options;
        let mut drawn = Drawn::new(seed);
        drawn.normal("A", &[o.examples], 1.0)?;
        for split in ["train", "valid"] {
            drawn.normal(format!("batch/{split}/x"), &[o.examples, o.inputs], 1.0)?;
            drawn.classes(format!("batch/{split}/y"), o.examples, o.classes)?;
        }
        drawn.normal("adam", &[o.inputs, o.classes], 1.0)?;
        let mut arrays = drawn.arrays();
        let moments = ((arrays["adam"].sqr()? * 0.1)? + 0.01)?;
        arrays.insert("adam".into(), moments);
        Ok(arrays)
    }

    fn has_arrays(&self, levels: usize, arrays: &Arrays) -> bool {
        levels == 2 && arrays.contains_key("A")
    }

    fn known(&self, levels: usize, arrays: &Arrays) -> Result<Option<Tensor>> {
        /// Largest move of a log-weight; three halvings, so an error of order 8.
        const LARGEST: f64 = 0.2;
        two_levels(levels)?;
        let data = self.read(arrays)?;
        let mut slopes = vec![];
        for i in 0..data.rows.log_weights.len() {
            let at = |t: f64| {
                let mut moved = data.rows.log_weights.clone();
                moved[i] += t;
                self.objective(&data, &moved)
            };
            let mut above: Vec<f64> = vec![];
            for k in 0..4 {
                let h = LARGEST * 0.5f64.powi(k);
                let mut row = vec![(at(h)? - at(-h)?) / (2.0 * h)];
                for (order, coarse) in above.iter().enumerate() {
                    let fine = row[order];
                    row.push(fine + (fine - coarse) / (4f64.powi(order as i32 + 1) - 1.0));
                }
                above = row;
            }
            slopes.extend(above.last());
        }
        Matrix::column(&slopes).flat().map(Some)
    }

    fn case(&self, levels: usize, arrays: &Arrays) -> Result<CheckCase> {
        two_levels(levels)?;
        let data = self.read(arrays)?;
        let (weights, hessian) = self.solve(&data, &data.rows.log_weights)?;
        let (inputs, classes) = (data.rows.train.columns, self.options.classes);
        let network = Weighted::new(data.rows.train.rows, inputs, classes);
        let training = self.training();
        let second = || -> Result<Tensor> {
            let moments = shaped(arrays, "adam", &[inputs, classes])?;
            Ok(moments.flatten_all()?.to_dtype(DType::F64)?)
        };
        let memory = vec![training.memory(second)?];
        let inner = vec![training.inner(hessian.largest_eigenvalue_below())];
        let point = Point {
            weights: vec![weights.flat()?],
            architecture: vec![flat(arrays, "", network.architecture())?],
        };
        let (train, valid) = data.rows.batches(data.train.clone(), data.valid.clone())?;
        let mut graph = StageGraph::bilevel(EstimatorRef::named("first-order"));
        graph.stages[0].unroll_steps = self.options.unroll_steps;
        let batches = Batches { train, valid, transfer: None };
        let networks: Vec<Arc<dyn Network>> = vec![Arc::new(network)];
        Ok(CheckCase {
            criteria: vec![Arc::new(WeightedEntropy { classes })],
            memory,
            solved: true,
            ..CheckCase::new(graph.validated()?, networks, inner, point, batches)
        })
    }
}

register_check_problem!("logistic", Logistic, "softmax hyper-cleaning, solved by Newton's method");
