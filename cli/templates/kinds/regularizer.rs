//! The regulariser `@PLUGIN@`.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::{Progress, Regularizer};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result};

/// `weight · Σ_cells mean(α²)`. It is its options: what stands here can be set in a config.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MyPlugin {
    /// Factor of the penalty, at least 0.
    pub weight: f64,
}

impl Default for MyPlugin {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl FromOptions for MyPlugin {
    type Options = Self;

    fn from_options(options: Self) -> Result<Self> {
        if options.weight < 0.0 {
            return Err(Error::config("`weight` must be at least 0"));
        }
        Ok(options)
    }
}

impl Regularizer for MyPlugin {
    /// The formula; candle gives the gradient. `alphas`: edges × operations for each kind of cell.
    fn penalty(&self, alphas: &[Tensor], _: Progress) -> Result<Tensor> {
        let squares = |alpha: &Tensor| alpha.sqr()?.mean_all();
        let squares: Vec<Tensor> = alphas.iter().map(squares).collect::<Result<_, _>>()?;
        Ok((Tensor::stack(&squares, 0)?.sum_all()? * self.weight)?)
    }
}

tetlo_core::register_regularizer!(
    "@PLUGIN@",
    MyPlugin,
    "mean square of the architecture parameters"
);

tetlo_core::export_plugins!();
