//! `as-run`: the smooth problem with everything that a search's steps have beside a gradient.

use super::smooth::{Smooth, SmoothOptions, networks};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tetlo_core::kinds::{CheckProblem, TransferLoss};
use tetlo_core::multilevel::ModelRole;
use tetlo_core::multilevel::check::{Arrays, CheckCase};
use tetlo_core::optim::{Adam, Inner, InnerState, at_least};
use tetlo_core::registry::{self, FromOptions};
use tetlo_core::{Result, register_check_problem};

/// Options of the check problem `as-run`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct AsRunOptions {
    /// Number of levels, 2 to 4; without it each of them.
    pub levels: Option<usize>,
    /// Learning rate of the stages trained by SGD.
    pub learning_rate: f64,
    /// Learning rate of the stage trained by Adam.
    pub adam_learning_rate: f64,
    /// Momentum of the stages trained by SGD.
    pub momentum: f64,
    /// Weight decay of all stages.
    pub weight_decay: f64,
    /// Inner steps of each stage.
    #[schemars(range(min = 1, max = 1000))]
    pub unroll_steps: usize,
    /// Standard deviation of the noise on the embeddings, drawn anew each step.
    pub noise: f64,
    /// Random quadruples of the relations.
    #[schemars(range(min = 1))]
    pub quadruples: usize,
}

impl Default for AsRunOptions {
    fn default() -> Self {
        Self {
            levels: None,
            learning_rate: 0.1,
            adam_learning_rate: 0.02,
            momentum: 0.9,
            weight_decay: 0.1,
            unroll_steps: 2,
            noise: 0.2,
            quadruples: 24,
        }
    }
}

/// The networks, graphs and arrays of `smooth`, with the steps of a real search: several of them, with
/// weight decay; the main and the third model by SGD with a momentum buffer that is not empty, the
/// auxiliary by Adam with a memory (the buffer as first moment, its square and 0.01 as second, ten
/// steps); noise in the networks and random quadruples in the relations, which all passes of a step
/// must share.
///
/// What another problem would not see: a forgotten buffer, a step treated as another optimiser's, a
/// pass that draws for itself.
#[derive(Debug)]
pub struct AsRun {
    options: AsRunOptions,
    smooth: Smooth,
}

impl FromOptions for AsRun {
    type Options = AsRunOptions;

    fn from_options(options: AsRunOptions) -> Result<Self> {
        let o = &options;
        for (key, value) in [
            ("learning-rate", o.learning_rate),
            ("adam-learning-rate", o.adam_learning_rate),
            ("noise", o.noise),
        ] {
            at_least(key, value, 0.0)?;
        }
        let smooth = Smooth::from_options(SmoothOptions {
            levels: o.levels,
            eta_w: o.learning_rate,
            eta_v: o.adam_learning_rate,
            eta_v3: o.learning_rate,
            momentum: o.momentum,
            weight_decay: o.weight_decay,
            unroll_steps: o.unroll_steps,
            tau: 0.5,
            ..SmoothOptions::default()
        })?;
        Ok(Self { options, smooth })
    }
}

/// Adam's memory from a momentum buffer.
fn adam_memory(buffer: &Tensor) -> Result<InnerState> {
    let second = (buffer.sqr()? + 0.01)?;
    Ok(InnerState { first: Some(buffer.clone()), second: Some(second), steps: 10 })
}

impl CheckProblem for AsRun {
    fn levels(&self) -> Vec<usize> {
        self.smooth.levels()
    }

    fn arrays(&self, seed: u64) -> Result<Arrays> {
        self.smooth.arrays(seed)
    }

    fn has_arrays(&self, levels: usize, arrays: &Arrays) -> bool {
        self.smooth.has_arrays(levels, arrays)
    }

    fn case(&self, levels: usize, arrays: &Arrays) -> Result<CheckCase> {
        let o = &self.options;
        let mut case = self.smooth.case(levels, arrays)?;
        case.networks = networks(levels, arrays, o.noise)?;
        for stage in 0..case.graph.stages.len() {
            if case.graph.stages[stage].model == ModelRole::Main {
                continue;
            }
            let qrs = json!({"sampler": "random", "quadruples": o.quadruples, "temperature": 0.5});
            case.transfers.replace(stage, 1, registry::build::<dyn TransferLoss>("qrs", &qrs)?);
        }
        if levels > 2 {
            case.inner[1] = Inner::Adam(Adam {
                learning_rate: o.adam_learning_rate,
                beta1: 0.9,
                beta2: 0.999,
                weight_decay: o.weight_decay,
            });
            case.memory[1] = match &case.memory[1].first {
                Some(buffer) => adam_memory(buffer)?,
                None => adam_memory(&case.point.weights[1].zeros_like()?)?,
            };
        }
        Ok(case)
    }
}

register_check_problem!(
    "as-run",
    AsRun,
    "smooth networks with noise, several steps by SGD with momentum and by Adam"
);
