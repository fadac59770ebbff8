//! `smooth`: the check problem on which every estimator must be exact or nearly so.

use super::arrays::{batch, dims2, flat};
use super::smooth_network::SmoothNetwork;
use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use tetlo_core::kinds::{CheckProblem, TransferLoss};
use tetlo_core::multilevel::check::{Arrays, CheckCase};
use tetlo_core::multilevel::{
    Batches, EstimatorRef, LossTerm, ModelRole, Objective, Point, Stage, StageGraph, TransferLosses,
};
use tetlo_core::network::Network;
use tetlo_core::optim::{Adam, Inner, InnerRule, InnerState, Sgd, at_least};
use tetlo_core::registry::{self, FromOptions};
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::{Error, Result, register_check_problem};

/// The teacher's side of the relations (plugin `qrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Probabilities: differentiable in the teacher.
    Soft,
    /// Zero or one: no gradient to the teacher.
    Hard,
    /// Zero or one forward, the soft gradient backward.
    HardForward,
}

/// Options of the check problem `smooth`. All are accepted at every level.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct SmoothOptions {
    /// Number of levels, 2 to 4; without it each of them.
    pub levels: Option<usize>,
    /// Weight λ of the transfer loss of the auxiliary model.
    pub lambda: f64,
    /// Weight γ of the main model's validation loss.
    pub gamma: f64,
    /// Weight of the auxiliary models' own cross entropy.
    pub aux_ce: f64,
    /// Does the total contain the main architecture's direct part in the transfer loss?
    pub direct_term: bool,
    /// Learning rate of the main model's step.
    pub eta_w: f64,
    /// Learning rate of the auxiliary model's step.
    pub eta_v: f64,
    /// Temperature τ of the relations.
    pub tau: f64,
    /// The teacher's side of the relations.
    pub target: Target,
    /// Momentum of all inner steps.
    pub momentum: f64,
    /// Weight decay of all inner steps.
    pub weight_decay: f64,
    /// The rule of all inner optimisers. Without the arrays `adam/…` Adam starts without memory; its
    /// first step is then nearly a sign, and J has jumps wherever a gradient changes its own.
    pub optimizer: InnerRule,
    /// Inner steps of each stage.
    pub unroll_steps: usize,
    /// Weight of the transfer loss of the third model (four levels).
    pub lambda3: f64,
    /// Learning rate of the third model's step (four levels).
    pub eta_v3: f64,
    /// Weight of the auxiliary model's validation loss beside the third model's (four levels).
    pub gamma2: f64,
}

impl Default for SmoothOptions {
    fn default() -> Self {
        Self {
            levels: None,
            lambda: 1.0,
            gamma: 1.0,
            aux_ce: 1.0,
            direct_term: true,
            eta_w: 0.025,
            eta_v: 0.025,
            tau: 0.1,
            target: Target::Soft,
            momentum: 0.0,
            weight_decay: 0.0,
            optimizer: InnerRule::Sgd,
            unroll_steps: 1,
            lambda3: 1.0,
            eta_v3: 0.025,
            gamma2: 1.0,
        }
    }
}

/// Networks with one hidden layer in f64, without any kink (METHODS.md §1.4):
///
/// * 2 levels: J = γ·CE(W', A; valid);
/// * 3 levels: J = CE(V'; valid) + γ·CE(W', A; valid), V learns from W' by QRS;
/// * 4 levels: J = CE(V3'; valid) + γ2·CE(V'; valid) + γ·CE(W', A; valid), V3 learns from V' by QRS.
///
/// Arrays: `main/{W1,b1,W2,b2}`, `aux/{V1,c1,V2,c2}`, `aux3/…`, `A` (units × 4),
/// `batch/{train,valid,transfer}/{x,y}`; with momentum, `momentum/<model>/<name>`; for Adam, its second
/// moments after ten steps, `adam/<model>/<name>` (its first are 0).
#[derive(Debug)]
pub struct Smooth {
    options: SmoothOptions,
}

impl FromOptions for Smooth {
    type Options = SmoothOptions;

    fn from_options(options: SmoothOptions) -> Result<Self> {
        let o = &options;
        if let Some(levels) = o.levels.filter(|l| !LEVELS.contains(l)) {
            return Err(Error::config(format!("`levels` must be 2, 3 or 4, got {levels}")));
        }
        for (key, value) in [
            ("lambda", o.lambda),
            ("gamma", o.gamma),
            ("aux-ce", o.aux_ce),
            ("eta-w", o.eta_w),
            ("eta-v", o.eta_v),
            ("momentum", o.momentum),
            ("weight-decay", o.weight_decay),
            ("lambda3", o.lambda3),
            ("eta-v3", o.eta_v3),
            ("gamma2", o.gamma2),
        ] {
            at_least(key, value, 0.0)?;
        }
        if o.momentum >= 1.0 {
            return Err(Error::config(format!("`momentum` must be below 1, got {}", o.momentum)));
        }
        if !(o.tau.is_finite() && o.tau > 0.0) {
            return Err(Error::config(format!("`tau` must be above 0, got {}", o.tau)));
        }
        Ok(Self { options })
    }
}

/// Steps that Adam's memory has seen.
const ADAM_STEPS: u32 = 10;
/// The numbers of levels it is defined for.
const LEVELS: [usize; 3] = [2, 3, 4];
/// The models, in the order of their stages, and the names of their weights.
const MODELS: [(&str, [&str; 4]); 3] = [
    ("main", ["W1", "b1", "W2", "b2"]),
    ("aux", ["V1", "c1", "V2", "c2"]),
    ("aux3", ["V1", "c1", "V2", "c2"]),
];

impl CheckProblem for Smooth {
    fn levels(&self) -> Vec<usize> {
        self.options.levels.map_or_else(|| LEVELS.to_vec(), |levels| vec![levels])
    }

    fn arrays(&self, seed: u64) -> Result<Arrays> {
        const INPUTS: usize = 5;
        const CLASSES: usize = 3;
        const UNITS: [usize; 3] = [6, 7, 5];
        const IMAGES: [(&str, usize); 3] = [("train", 10), ("valid", 9), ("transfer", 8)];
        let mut shapes = vec![("A".to_owned(), vec![UNITS[0], 4], 1.0)];
        for (group, std) in [("", 0.5), ("momentum/", 0.1)] {
            for ((model, names), units) in MODELS.iter().zip(UNITS) {
                let of_model =
                    [vec![INPUTS, units], vec![units], vec![units, CLASSES], vec![CLASSES]];
                for (name, shape) in names.iter().zip(of_model) {
                    shapes.push((format!("{group}{model}/{name}"), shape, std));
                }
            }
        }
        for (split, images) in IMAGES {
            shapes.push((format!("batch/{split}/x"), vec![images, INPUTS], 1.0));
        }
        for ((model, names), units) in MODELS.iter().zip(UNITS) {
            let of_model = [vec![INPUTS, units], vec![units], vec![units, CLASSES], vec![CLASSES]];
            for (name, shape) in names.iter().zip(of_model) {
                shapes.push((format!("adam/{model}/{name}"), shape, 1.0));
            }
        }
        let mut arrays = Arrays::new();
        let key = Key::new(seed, Purpose::Problem);
        for (role, (name, shape, std)) in shapes.into_iter().enumerate() {
            let mut stream = key.role(role as u32).stream();
            let mut values: Vec<f64> =
                (0..shape.iter().product()).map(|_| std * stream.normal()).collect();
            if name.starts_with("adam/") {
                for v in &mut values {
                    *v = 0.1 * *v * *v + 0.01;
                }
            }
            arrays.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
        }
        for (level, (split, images)) in IMAGES.into_iter().enumerate() {
            let mut stream = key.level(1 + level).stream();
            let labels = (0..images).map(|_| stream.below(CLASSES) as i64).collect();
            let labels = Tensor::from_vec::<_, i64>(labels, images, &Device::Cpu)?;
            arrays.insert(format!("batch/{split}/y"), labels);
        }
        Ok(arrays)
    }

    fn has_arrays(&self, levels: usize, arrays: &Arrays) -> bool {
        MODELS[..levels - 1]
            .iter()
            .all(|(model, _)| arrays.keys().any(|name| name.starts_with(&format!("{model}/"))))
    }

    fn case(&self, levels: usize, arrays: &Arrays) -> Result<CheckCase> {
        if !LEVELS.contains(&levels) {
            return Err(Error::config(format!("`levels` must be 2, 3 or 4, got {levels}")));
        }
        let o = &self.options;
        let networks = networks(levels, arrays, 0.0)?;
        let mut weights = vec![];
        let mut memory = vec![];
        for (network, (model, _)) in networks.iter().zip(MODELS) {
            weights.push(flat(arrays, &format!("{model}/"), network.weights())?);
            let prefix = format!("adam/{model}/");
            if o.optimizer == InnerRule::Adam && arrays.keys().any(|n| n.starts_with(&prefix)) {
                let second = flat(arrays, &prefix, network.weights())?;
                let first = Some(second.zeros_like()?);
                memory.push(InnerState { first, second: Some(second), steps: ADAM_STEPS });
                continue;
            }
            let prefix = format!("momentum/{model}/");
            let buffered = o.optimizer == InnerRule::Sgd
                && o.momentum > 0.0
                && arrays.keys().any(|name| name.starts_with(&prefix));
            let buffer = buffered.then(|| flat(arrays, &prefix, network.weights())).transpose()?;
            memory.push(InnerState::with_momentum(buffer));
        }
        let inner = |learning_rate: f64| match o.optimizer {
            InnerRule::Sgd => Inner::Sgd(Sgd {
                learning_rate,
                momentum: o.momentum,
                weight_decay: o.weight_decay,
            }),
            InnerRule::Adam => Inner::Adam(Adam {
                learning_rate,
                beta1: 0.9,
                beta2: 0.999,
                weight_decay: o.weight_decay,
            }),
        };
        let (inputs, classes) = (dims2(arrays, "main/W1")?.0, dims2(arrays, "main/W2")?.1);
        let batch = |split: &str| batch(arrays, split, inputs, classes);
        let transfers = levels > 2;
        let graph = self.graph(levels).validated()?;
        let point =
            Point { weights, architecture: vec![flat(arrays, "", networks[0].architecture())?] };
        let batches = Batches {
            train: batch("train")?,
            valid: batch("valid")?,
            transfer: transfers.then(|| batch("transfer")).transpose()?,
        };
        let inner = [o.eta_w, o.eta_v, o.eta_v3][..levels - 1].iter().map(|e| inner(*e)).collect();
        Ok(CheckCase {
            transfers: TransferLosses::build(&graph, || self.transfer())?,
            transfer_is_smooth: o.target == Target::Soft,
            memory,
            ..CheckCase::new(graph, networks, inner, point, batches)
        })
    }
}

impl Smooth {
    fn graph(&self, levels: usize) -> StageGraph {
        let o = &self.options;
        let learner = |name: &str, from: usize, weight: f64| {
            let loss = vec![LossTerm::supervised(o.aux_ce), LossTerm::transfer(from, weight)];
            Stage::new(name, ModelRole::Auxiliary, loss)
        };
        // The check brings its estimators.
        let mut graph = StageGraph::bilevel(EstimatorRef::named("first-order"));
        graph.direct_term = o.direct_term;
        graph.objective = vec![Objective { stage: 0, weight: o.gamma }];
        if levels > 2 {
            graph.stages.push(learner("aux", 0, o.lambda));
            let weight = if levels > 3 { o.gamma2 } else { 1.0 };
            graph.objective.push(Objective { stage: 1, weight });
        }
        if levels > 3 {
            graph.stages.push(learner("aux3", 1, o.lambda3));
            graph.objective.push(Objective { stage: 2, weight: 1.0 });
        }
        for stage in &mut graph.stages {
            stage.unroll_steps = o.unroll_steps;
        }
        graph
    }

    /// The relations over all quadruples, by the plugin that searches use.
    fn transfer(&self) -> Result<Box<dyn TransferLoss>> {
        let options = json!({
            "sampler": "all",
            "similarity": "cosine",
            "temperature": self.options.tau,
            "target": self.options.target,
        });
        registry::build::<dyn TransferLoss>("qrs", &options)
    }
}

/// The networks of so many levels, with this noise on their embeddings.
pub(super) fn networks(
    levels: usize,
    arrays: &Arrays,
    noise: f64,
) -> Result<Vec<Arc<dyn Network>>> {
    let (inputs, units) = dims2(arrays, "main/W1")?;
    let classes = dims2(arrays, "main/W2")?.1;
    let mut networks: Vec<Arc<dyn Network>> =
        vec![Arc::new(SmoothNetwork::main(inputs, units, classes).with_noise(noise))];
    for (model, names) in &MODELS[1..levels - 1] {
        let units = dims2(arrays, &format!("{model}/{}", names[0]))?.1;
        let network = SmoothNetwork::auxiliary(inputs, units, classes).with_noise(noise);
        networks.push(Arc::new(network));
    }
    Ok(networks)
}

register_check_problem!("smooth", Smooth, "smooth networks in f64 with 2 to 4 levels");

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    fn smooth(options: SmoothOptions) -> Smooth {
        Smooth::from_options(options).unwrap()
    }

    #[test]
    fn ranges_are_checked() {
        let error = |o| Smooth::from_options(o).unwrap_err().to_string();
        let default = SmoothOptions::default;
        assert_eq!(
            error(SmoothOptions { levels: Some(5), ..default() }),
            "`levels` must be 2, 3 or 4, got 5"
        );
        assert_eq!(error(SmoothOptions { tau: 0.0, ..default() }), "`tau` must be above 0, got 0");
        assert_eq!(
            error(SmoothOptions { eta_v3: -1.0, ..default() }),
            "`eta-v3` must be at least 0, got -1"
        );
    }

    #[test]
    fn wrong_arrays_are_named() {
        let smooth = smooth(SmoothOptions::default());
        let full = smooth.arrays(0).unwrap();
        let error = |name: &str, tensor: Option<Tensor>| {
            let mut arrays = full.clone();
            match tensor {
                Some(tensor) => arrays.insert(name.into(), tensor),
                None => arrays.remove(name),
            };
            smooth.case(2, &arrays).unwrap_err().to_string()
        };
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F64, &Device::Cpu).unwrap();
        assert_eq!(error("main/b1", None), "the array `main/b1` is missing");
        assert_eq!(
            error("A", Some(zeros(&[6, 3]))),
            "the array `A` has shape [6, 3], expected [6, 4]"
        );
        assert_eq!(
            error("main/W1", Some(zeros(&[6]))),
            "the array `main/W1` has shape [6], not a matrix"
        );
        let labels = (zeros(&[10]) + 3.0).unwrap();
        assert_eq!(
            error("batch/train/y", Some(labels)),
            "the array `batch/train/y` has label 3, expected 0 to 2"
        );
    }

    #[test]
    fn levels_without_arrays_are_known() {
        let smooth = smooth(SmoothOptions::default());
        let mut arrays = smooth.arrays(0).unwrap();
        assert!(LEVELS.iter().all(|l| smooth.has_arrays(*l, &arrays)));
        arrays.retain(|name, _| !name.starts_with("aux3/"));
        assert!(smooth.has_arrays(3, &arrays) && !smooth.has_arrays(4, &arrays));
    }

    /// Two units, one image, worked by hand.
    #[test]
    fn the_main_model_mixes_four_activations() {
        let tensor =
            |v: &[f64], shape: &[usize]| Tensor::from_vec(v.to_vec(), shape, &Device::Cpu).unwrap();
        let network = SmoothNetwork::main(1, 2, 1);
        // p = x·(1, 2) + (0, −1) = (0.5, 0) at x = 0.5; logits = h₀ + 10·h₁ + 0.25.
        let weights = tensor(&[1.0, 2.0, 0.0, -1.0, 1.0, 10.0, 0.25], &[7]);
        // Row 0: equal weights ¼; row 1: all weight on the sigmoid.
        let architecture = tensor(&[0.0, 0.0, 0.0, 0.0, 0.0, 800.0, 0.0, 0.0], &[8]);
        let pass = tetlo_core::network::Pass::train(Key::new(0, Purpose::Problem));
        let output = network
            .forward(&weights, Some(&architecture), &tensor(&[0.5], &[1, 1]), &pass)
            .unwrap();
        let p = 0.5f64;
        let h0 = (p.tanh() + 1.0 / (1.0 + (-p).exp()) + p + p.sin()) / 4.0;
        let embedding = output.embedding.to_vec2::<f64>().unwrap();
        assert!((embedding[0][0] - h0).abs() < 1e-14 && (embedding[0][1] - 0.5).abs() < 1e-14);
        let logit = output.logits.to_vec2::<f64>().unwrap()[0][0];
        assert!((logit - (h0 + 5.0 + 0.25)).abs() < 1e-13);
    }
}
