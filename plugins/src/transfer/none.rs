//! No transfer.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::kinds::{Invariances, Needs, TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;

/// Nothing is transferred: the loss is 0, and so is its gradient in both models' embeddings. The
/// baseline that costs what a transfer costs.
///
/// ```toml
/// transfer-loss = { plugin = "none" }
/// ```
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NoTransferOptions {}

/// No transfer: a loss of 0.
#[derive(Debug)]
pub struct NoTransfer;

impl FromOptions for NoTransfer {
    type Options = NoTransferOptions;

    fn from_options(_: NoTransferOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl TransferLoss for NoTransfer {
    fn needs(&self) -> Needs {
        Needs::embeddings(2)
    }

    fn reaches_main(&self) -> bool {
        false
    }

    fn invariances(&self) -> Invariances {
        Invariances { order: true, scale: true, rotation: true, shift: true }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        let (main, aux) = batch.embeddings()?;
        let touched = (main.mean_all()? + aux.mean_all()?)?;
        // Not `* 0.0`: candle takes that for a constant and cuts the graph.
        Ok((&touched * touched.zeros_like()?)?)
    }
}

tetlo_core::register_transfer_loss!("none", NoTransfer, "no transfer: a loss of 0");
