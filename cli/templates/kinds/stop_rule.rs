//! The stopping rule `@PLUGIN@`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::{Stop, StopRule, Trace};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result};

/// Ends the search when its cell has not changed for some epochs. It is its options: what stands here
/// can be set in a config.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MyPlugin {
    /// Epochs with the same cell after which the search ends, at least 1.
    #[schemars(range(min = 1))]
    pub patience: usize,
}

impl Default for MyPlugin {
    fn default() -> Self {
        Self { patience: 3 }
    }
}

impl FromOptions for MyPlugin {
    type Options = Self;

    fn from_options(options: Self) -> Result<Self> {
        if options.patience == 0 {
            return Err(Error::config("`patience` must be at least 1"));
        }
        Ok(options)
    }
}

impl StopRule for MyPlugin {
    /// The rule: it sees the epochs so far, the last of which has just ended.
    fn stop(&self, trace: &Trace) -> Result<Option<Stop>> {
        let Some(last) = trace.genotypes.last() else {
            return Ok(None);
        };
        let same = trace
            .genotypes
            .iter()
            .rev()
            .take_while(|g| *g == last)
            .count();
        let epoch = trace.genotypes.len() - 1;
        Ok((same > self.patience).then_some(Stop {
            stop_epoch: epoch,
            return_epoch: epoch,
        }))
    }
}

tetlo_core::register_stop_rule!(
    "@PLUGIN@",
    MyPlugin,
    "ends the search when its cell stays the same"
);

tetlo_core::export_plugins!();
