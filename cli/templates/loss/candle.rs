//! The transfer loss `my-loss`: the squared difference of the models' mean features.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::kinds::{TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;

/// The loss is its options: what stands here can be set in a config.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MyLoss {
    /// The difference of the means that costs nothing.
    pub offset: f64,
}

impl FromOptions for MyLoss {
    type Options = Self;

    fn from_options(options: Self) -> Result<Self> {
        Ok(options)
    }
}

impl TransferLoss for MyLoss {
    /// The formula; candle gives the gradient.
    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        let (main, aux) = batch.embeddings()?;
        let gap = ((main.mean_all()? - aux.mean_all()?)? - self.offset)?;
        Ok(gap.sqr()?)
    }
}

tetlo_core::register_transfer_loss!("my-loss", MyLoss, "squared gap of the mean features");
