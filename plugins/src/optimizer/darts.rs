//! `darts`: differentiable architecture search (Liu, Simonyan and Yang, ICLR 2019).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::MultilevelOptimizer;
use tetlo_core::multilevel::{EstimatorRef, StageGraph};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result, register_multilevel_optimizer};

/// Options of `darts`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct DartsOptions {
    /// 1: the validation loss at the present weights. 2: at the weights after one training step.
    pub order: u8,
    /// The architecture is updated every so many weight steps.
    pub hypergrad_every: usize,
    /// Epochs at the start in which the architecture stays as it is.
    pub warmup_epochs: usize,
    /// Estimator of the mixed second derivative, in place of the one that `order` stands for.
    pub estimator: Option<EstimatorRef>,
}

impl Default for DartsOptions {
    fn default() -> Self {
        Self { order: 2, hypergrad_every: 1, warmup_epochs: 0, estimator: None }
    }
}

/// min_A CE(W*(A), A; valid) with W*(A) = argmin_W CE(W, A; train), unrolled by one step (order 2) or
/// by none (order 1).
#[derive(Debug)]
pub struct Darts {
    graph: StageGraph,
}

impl FromOptions for Darts {
    type Options = DartsOptions;

    fn from_options(options: DartsOptions) -> Result<Self> {
        let DartsOptions { order, hypergrad_every, warmup_epochs, estimator } = options;
        let usual = match order {
            1 => "first-order",
            2 => "central-difference",
            other => return Err(Error::config(format!("`order` must be 1 or 2, got {other}"))),
        };
        let estimator = estimator.unwrap_or_else(|| EstimatorRef::named(usual));
        if estimator.build()?.unrolls() != (order == 2) {
            return Err(Error::config_hint(
                format!("`order = {order}` contradicts the estimator `{}`", estimator.plugin),
                "order 1 is `first-order`, order 2 every other estimator",
            ));
        }
        let graph =
            StageGraph { every: hypergrad_every, warmup_epochs, ..StageGraph::bilevel(estimator) };
        Ok(Self { graph: graph.validated()? })
    }
}

impl MultilevelOptimizer for Darts {
    fn graph(&self) -> Result<StageGraph> {
        Ok(self.graph.clone())
    }
}

register_multilevel_optimizer!("darts", Darts, "bilevel: DARTS, first or second order");

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tetlo_core::registry::build;

    fn graph(options: &Value) -> Result<StageGraph> {
        build::<dyn MultilevelOptimizer>("darts", options)?.graph()
    }

    #[test]
    fn order_chooses_the_estimator() -> Result<()> {
        assert_eq!(graph(&json!({}))?.estimator.plugin, "central-difference");
        assert_eq!(graph(&json!({"order": 1}))?.estimator.plugin, "first-order");
        let exact = graph(&json!({"estimator": {"plugin": "exact"}}))?;
        assert_eq!(exact.estimator.plugin, "exact");
        let options = json!({"hypergrad-every": 3, "warmup-epochs": 15});
        let graph = graph(&options)?;
        assert_eq!((graph.every, graph.warmup_epochs), (3, 15));
        assert_eq!((graph.stages.len(), graph.uses_auxiliary()), (1, false));
        Ok(())
    }

    #[test]
    fn contradictions_are_errors() {
        for (options, message) in [
            (json!({"order": 3}), "`order` must be 1 or 2, got 3"),
            (json!({"hypergrad-every": 0}), "`hypergrad-every` must be at least 1"),
            (
                json!({"order": 1, "estimator": {"plugin": "exact"}}),
                "`order = 1` contradicts the estimator `exact`",
            ),
            (
                json!({"order": 2, "estimator": {"plugin": "first-order"}}),
                "`order = 2` contradicts the estimator `first-order`",
            ),
        ] {
            let error = graph(&options).unwrap_err().to_string();
            assert_eq!(error, format!("plugin `darts`: {message}"));
        }
    }
}
