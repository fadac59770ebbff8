//! The multilevel optimizer `@PLUGIN@`, and with `src/main.rs` a tetlo that knows it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::kinds::MultilevelOptimizer;
use tetlo_core::multilevel::{EstimatorRef, LossTerm, ModelRole, Objective, Stage, StageGraph};
use tetlo_core::registry::FromOptions;

/// Options of `@PLUGIN@`: what stands here can be set in a config.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MyPluginOptions {
    /// Weight of the twin's validation loss in the objective.
    pub twin_weight: f64,
    /// Estimator of the mixed second derivative.
    pub estimator: EstimatorRef,
}

impl Default for MyPluginOptions {
    fn default() -> Self {
        Self {
            twin_weight: 0.5,
            estimator: EstimatorRef::named("first-order"),
        }
    }
}

/// Two supernets of one architecture, each with weights of its own, and the sum of their validation
/// losses: less noise of one initialisation in the architecture.
#[derive(Debug)]
pub struct MyPlugin {
    graph: StageGraph,
}

impl FromOptions for MyPlugin {
    type Options = MyPluginOptions;

    /// The levels as data: stages in the order of their training, and the objective on top.
    fn from_options(options: MyPluginOptions) -> Result<Self> {
        let twin = Stage::new("twin", ModelRole::Twin, vec![LossTerm::supervised(1.0)]);
        let mut graph = StageGraph::bilevel(options.estimator);
        graph.stages.push(twin);
        graph.objective.push(Objective {
            stage: 1,
            weight: options.twin_weight,
        });
        Ok(Self {
            graph: graph.validated()?,
        })
    }
}

impl MultilevelOptimizer for MyPlugin {
    fn graph(&self) -> Result<StageGraph> {
        Ok(self.graph.clone())
    }
}

tetlo_core::register_multilevel_optimizer!(
    "@PLUGIN@",
    MyPlugin,
    "validation loss of two supernets of one architecture"
);
