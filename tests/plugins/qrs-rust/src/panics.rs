//! A loss with a bug.

use tetlo_plugin::{Batch, Gradients, TransferLoss};

/// Looks for an image that is not there.
#[derive(Debug)]
pub struct Panics;

/// It has no options.
#[derive(Debug, Default, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {}

impl TransferLoss for Panics {
    type Options = Options;

    fn new(_: Options) -> Result<Self, String> {
        Ok(Self)
    }

    fn loss(&self, batch: &Batch<'_>, _: &mut Gradients<'_>) -> Result<f64, String> {
        Ok(batch.main()?.row(batch.images)[0])
    }
}

tetlo_plugin::register_transfer_loss!("panics", Panics, "looks for an image that is not there");
