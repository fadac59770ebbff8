//! `quadratic`: chains of quadratic problems, whose hypergradient has a closed form.

use super::arrays::{Drawn, dims2, flat, shaped, vector};
use super::linear::Matrix;
use super::quadratic_parts::{Affine, Imitation, Squares};
use super::training::Training;
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tetlo_core::kinds::CheckProblem;
use tetlo_core::multilevel::check::{Arrays, CheckCase};
use tetlo_core::multilevel::{
    Batch, Batches, Criterion, EstimatorRef, LossTerm, ModelRole, Objective, Point, Stage,
    StageGraph, TransferLosses,
};
use tetlo_core::network::Network;
use tetlo_core::optim::{InnerRule, at_least};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result, register_check_problem};

/// Options of the check problem `quadratic`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct QuadraticOptions {
    /// Number of levels, 2 to 4; without it each of them.
    pub levels: Option<usize>,
    /// Weight λ of what a later stage learns from the one before it.
    pub lambda: f64,
    /// Weight of a later stage's own training error.
    pub fit: f64,
    /// Weight γ of the validation errors of all stages but the last.
    pub gamma: f64,
    /// Weight decay of all stages: part of their inner problems.
    pub weight_decay: f64,
    /// Learning rate of all stages; without it one over a bound on each stage's largest curvature.
    pub learning_rate: Option<f64>,
    /// Momentum of the inner steps, from an empty buffer.
    pub momentum: f64,
    /// The rule of all inner optimisers.
    pub optimizer: InnerRule,
    /// Inner steps of each stage.
    #[schemars(range(min = 1, max = 1000))]
    pub unroll_steps: usize,
    /// Numbers an image, where arrays are drawn.
    #[schemars(range(min = 1))]
    pub inputs: usize,
    /// Weights of the main model, where arrays are drawn; the others have one and two more.
    #[schemars(range(min = 1))]
    pub weights: usize,
    /// Architecture parameters, where arrays are drawn.
    #[schemars(range(min = 1))]
    pub parameters: usize,
    /// Images a batch, where arrays are drawn.
    #[schemars(range(min = 1))]
    pub images: usize,
}

impl Default for QuadraticOptions {
    fn default() -> Self {
        Self {
            levels: None,
            lambda: 1.0,
            fit: 0.5,
            gamma: 1.0,
            weight_decay: 0.3,
            learning_rate: None,
            momentum: 0.5,
            optimizer: InnerRule::Sgd,
            unroll_steps: 2,
            inputs: 5,
            weights: 4,
            parameters: 6,
            images: 8,
        }
    }
}

/// Each model says y_k(x) = x·F_k·θ_k; the main one, x·(F_1·θ_1 − B·α). With
/// ‖r‖² = Σ r²/(2n) over the images of a batch and weight decay wd,
///
/// θ_1* = argmin ‖y_1 − t_1‖²_train + wd/2·|θ_1|²,
/// θ_k* = argmin fit·‖y_k − t_k‖²_train + λ·‖y_k − y_(k−1)‖²_transfer + wd/2·|θ_k|²,
/// J = ‖y_K − v_K‖²_valid + γ·Σ_(k<K) ‖y_k − v_k‖²_valid.
///
/// Every stage stands at its solution, which linear algebra gives, as it gives dθ_k*/dα from the first
/// stage to the last: no reverse pass in it.
///
/// Arrays: `A`; `main/{F,B,train,valid}`, `aux/{F,train,valid}`, `aux3/…` with the targets t and v as
/// `train` and `valid`; `batch/{train,valid,transfer}/x`; for Adam its second moments `adam/<model>`.
#[derive(Debug)]
pub struct Quadratic {
    options: QuadraticOptions,
}

impl FromOptions for Quadratic {
    type Options = QuadraticOptions;

    fn from_options(options: QuadraticOptions) -> Result<Self> {
        let o = &options;
        if let Some(levels) = o.levels.filter(|l| !LEVELS.contains(l)) {
            return Err(Error::config(format!("`levels` must be 2, 3 or 4, got {levels}")));
        }
        for (key, value) in [("lambda", o.lambda), ("fit", o.fit), ("gamma", o.gamma)] {
            at_least(key, value, 0.0)?;
        }
        for (key, value) in [
            ("inputs", o.inputs),
            ("weights", o.weights),
            ("parameters", o.parameters),
            ("images", o.images),
        ] {
            if value == 0 {
                return Err(Error::config(format!("`{key}` must be at least 1")));
            }
        }
        let problem = Self { options };
        problem.training().check()?;
        Ok(problem)
    }
}

const LEVELS: [usize; 3] = [2, 3, 4];
const MODELS: [&str; 3] = ["main", "aux", "aux3"];

/// What linear algebra knows of a stage.
#[derive(Debug)]
struct Solved {
    /// F_k.
    features: Matrix,
    /// The Hessian of the inner problem, with weight decay.
    hessian: Matrix,
    /// θ_k*, n × 1.
    theta: Matrix,
    /// dθ_k*/dα.
    slope: Matrix,
}

/// The arrays of the first stages, as matrices.
#[derive(Debug)]
struct Data {
    train: Matrix,
    valid: Matrix,
    transfer: Option<Matrix>,
    shift: Matrix,
    architecture: Matrix,
    features: Vec<Matrix>,
    /// Of the training and of the validation batch, a stage each.
    targets: Vec<(Matrix, Matrix)>,
}

impl Data {
    fn read(levels: usize, arrays: &Arrays) -> Result<Self> {
        let inputs = dims2(arrays, "batch/train/x")?.1;
        let images = |split: &str| -> Result<Matrix> {
            let name = format!("batch/{split}/x");
            let rows = dims2(arrays, &name)?.0;
            Matrix::of(&shaped(arrays, &name, &[rows, inputs])?)
        };
        let of_inputs = |name: &str| -> Result<Matrix> {
            let columns = dims2(arrays, name)?.1;
            Matrix::of(&shaped(arrays, name, &[inputs, columns])?)
        };
        let (train, valid) = (images("train")?, images("valid")?);
        let transfer = (levels > 2).then(|| images("transfer")).transpose()?;
        let shift = of_inputs("main/B")?;
        let architecture = Matrix::column(&vector(arrays, "A", shift.columns)?);
        let (mut features, mut targets) = (vec![], vec![]);
        for model in &MODELS[..levels - 1] {
            features.push(of_inputs(&format!("{model}/F"))?);
            let of = |split: &str, x: &Matrix| -> Result<Matrix> {
                Ok(Matrix::column(&vector(arrays, &format!("{model}/{split}"), x.rows)?))
            };
            targets.push((of("train", &train)?, of("valid", &valid)?));
        }
        Ok(Self { train, valid, transfer, shift, architecture, features, targets })
    }

    fn stages(&self) -> usize {
        self.features.len()
    }
}

impl Quadratic {
    fn training(&self) -> Training {
        let o = &self.options;
        Training {
            learning_rate: o.learning_rate,
            weight_decay: o.weight_decay,
            momentum: o.momentum,
            optimizer: o.optimizer,
        }
    }

    /// The solutions of all stages and their derivatives, from the first to the last.
    fn solve(&self, data: &Data) -> Result<Vec<Solved>> {
        let o = &self.options;
        // What the model before says of the transfer batch, and its derivative.
        let mut teacher: Option<(Matrix, Matrix)> = None;
        let mut solved = vec![];
        for (stage, features) in data.features.iter().enumerate() {
            let n = features.columns;
            let mut hessian = Matrix::new(n, n, |_, _| 0.0);
            let mut right = Matrix::new(n, 1, |_, _| 0.0);
            let mut slopes = Matrix::new(n, data.shift.columns, |_, _| 0.0);
            // (target of F·θ on these images, its derivative)
            let mut add = |x: &Matrix, weight: f64, target: &Matrix, slope: Option<&Matrix>| {
                let z = x.times(features);
                let scale = weight / x.rows as f64;
                hessian = hessian.plus(scale, &z.transposed().times(&z));
                right = right.plus(scale, &z.transposed().times(target));
                if let Some(slope) = slope {
                    slopes = slopes.plus(scale, &z.transposed().times(slope));
                }
            };
            if stage == 0 {
                let moved = data.train.times(&data.shift);
                let target = data.targets[0].0.plus(1.0, &moved.times(&data.architecture));
                add(&data.train, 1.0, &target, Some(&moved));
            } else {
                add(&data.train, o.fit, &data.targets[stage].0, None);
                if let (Some(x), Some((said, slope))) = (&data.transfer, &teacher) {
                    add(x, o.lambda, said, Some(slope));
                }
            }
            let hessian = hessian.shifted(o.weight_decay);
            let (theta, slope) = (hessian.solve(&right)?, hessian.solve(&slopes)?);
            let now = Solved { features: features.clone(), hessian, theta, slope };
            teacher = data.transfer.as_ref().map(|x| data.said(x, stage, &now));
            solved.push(now);
        }
        Ok(solved)
    }

    fn objective_weight(&self, stage: usize, stages: usize) -> f64 {
        if stage + 1 == stages { 1.0 } else { self.options.gamma }
    }

    fn graph(&self, levels: usize) -> StageGraph {
        let o = &self.options;
        // The check brings its estimators.
        let mut graph = StageGraph::bilevel(EstimatorRef::named("first-order"));
        for (i, model) in MODELS[..levels - 1].iter().enumerate().skip(1) {
            let loss = vec![LossTerm::supervised(o.fit), LossTerm::transfer(i - 1, o.lambda)];
            graph.stages.push(Stage::new(*model, ModelRole::Auxiliary, loss));
        }
        let stages = graph.stages.len();
        graph.objective = (0..stages)
            .map(|stage| Objective { stage, weight: self.objective_weight(stage, stages) })
            .collect();
        for stage in &mut graph.stages {
            stage.unroll_steps = o.unroll_steps;
        }
        graph
    }
}

impl Data {
    /// What a solved model says of images, and its derivative in α.
    fn said(&self, x: &Matrix, stage: usize, solved: &Solved) -> (Matrix, Matrix) {
        let z = x.times(&solved.features);
        let (said, slope) = (z.times(&solved.theta), z.times(&solved.slope));
        if stage > 0 {
            return (said, slope);
        }
        let moved = x.times(&self.shift);
        (said.plus(-1.0, &moved.times(&self.architecture)), slope.plus(-1.0, &moved))
    }
}

impl CheckProblem for Quadratic {
    fn levels(&self) -> Vec<usize> {
        self.options.levels.map_or_else(|| LEVELS.to_vec(), |levels| vec![levels])
    }

    fn arrays(&self, seed: u64) -> Result<Arrays> {
        let o = &self.options;
        let mut drawn = Drawn::new(seed);
        // Of such a length that the curvatures are near 1 at any size.
        let std = 1.0 / (o.inputs as f64).sqrt();
        drawn.normal("A", &[o.parameters], 1.0)?;
        drawn.normal("main/B", &[o.inputs, o.parameters], std)?;
        for (i, model) in MODELS.iter().enumerate() {
            drawn.normal(format!("{model}/F"), &[o.inputs, o.weights + i], std)?;
            drawn.normal(format!("{model}/train"), &[o.images], 1.0)?;
            drawn.normal(format!("{model}/valid"), &[o.images], 1.0)?;
        }
        for split in ["train", "valid", "transfer"] {
            drawn.normal(format!("batch/{split}/x"), &[o.images, o.inputs], 1.0)?;
        }
        for (i, model) in MODELS.iter().enumerate() {
            let n = o.weights + i;
            drawn.normal(format!("adam/{model}"), &[n], 1.0)?;
        }
        let mut arrays = drawn.arrays();
        for model in MODELS {
            let name = format!("adam/{model}");
            let moments = ((arrays[&name].sqr()? * 0.1)? + 0.01)?;
            arrays.insert(name, moments);
        }
        Ok(arrays)
    }

    fn has_arrays(&self, levels: usize, arrays: &Arrays) -> bool {
        MODELS[..levels - 1].iter().all(|model| arrays.contains_key(&format!("{model}/F")))
    }

    fn known(&self, levels: usize, arrays: &Arrays) -> Result<Option<Tensor>> {
        let data = Data::read(levels, arrays)?;
        let solved = self.solve(&data)?;
        let mut total = Matrix::new(1, data.shift.columns, |_, _| 0.0);
        for (stage, solved) in solved.iter().enumerate() {
            let (said, slope) = data.said(&data.valid, stage, solved);
            let residual = said.plus(-1.0, &data.targets[stage].1);
            let scale = self.objective_weight(stage, data.stages()) / data.valid.rows as f64;
            total = total.plus(scale, &residual.transposed().times(&slope));
        }
        total.flat().map(Some)
    }

    fn case(&self, levels: usize, arrays: &Arrays) -> Result<CheckCase> {
        if !LEVELS.contains(&levels) {
            return Err(Error::config(format!("`levels` must be 2, 3 or 4, got {levels}")));
        }
        let data = Data::read(levels, arrays)?;
        let solved = self.solve(&data)?;
        let training = self.training();
        let mut networks: Vec<Arc<dyn Network>> = vec![];
        let mut criteria: Vec<Arc<dyn Criterion>> = vec![];
        let (mut weights, mut inner, mut memory) = (vec![], vec![], vec![]);
        for ((model, solved), (train, valid)) in MODELS.iter().zip(&solved).zip(&data.targets) {
            let matrix =
                |m: &Matrix| -> Result<Tensor> { Ok(m.flat()?.reshape((m.rows, m.columns))?) };
            let shift = networks.is_empty().then(|| matrix(&data.shift)).transpose()?;
            networks.push(Arc::new(Affine::new(matrix(&solved.features)?, shift)?));
            criteria.push(Arc::new(Squares { train: matrix(train)?, valid: matrix(valid)? }));
            weights.push(solved.theta.flat()?);
            inner.push(training.inner(solved.hessian.largest_eigenvalue_below()));
            let second = || shaped(arrays, &format!("adam/{model}"), &[solved.theta.rows]);
            memory.push(training.memory(second)?);
        }
        let batch = |x: &Matrix| -> Result<Batch> {
            let images = x.flat()?.reshape((x.rows, x.columns))?;
            Ok(Batch { images, labels: vec![0; x.rows] })
        };
        let graph = self.graph(levels).validated()?;
        let point =
            Point { weights, architecture: vec![flat(arrays, "", networks[0].architecture())?] };
        let batches = Batches {
            train: batch(&data.train)?,
            valid: batch(&data.valid)?,
            transfer: data.transfer.as_ref().map(batch).transpose()?,
        };
        Ok(CheckCase {
            transfers: TransferLosses::build(&graph, || Ok(Box::new(Imitation)))?,
            criteria,
            memory,
            solved: true,
            ..CheckCase::new(graph, networks, inner, point, batches)
        })
    }
}

register_check_problem!(
    "quadratic",
    Quadratic,
    "quadratics with a closed form, 2 to 4 levels, at the inner solutions"
);
