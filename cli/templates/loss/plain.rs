//! The transfer loss `my-loss`: the squared difference of the models' mean features.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_plugin::{Batch, Gradients, TransferLoss};

/// The loss is its options: what stands here can be set in a config.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MyLoss {
    /// The difference of the means that costs nothing.
    pub offset: f64,
}

impl TransferLoss for MyLoss {
    type Options = Self;

    fn new(options: Self) -> Result<Self, String> {
        Ok(options)
    }

    /// The formula: its value, and its gradient in the features that want one.
    fn loss(&self, batch: &Batch<'_>, gradients: &mut Gradients<'_>) -> Result<f64, String> {
        let (main, aux) = (batch.main()?.values, batch.aux()?.values);
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let gap = mean(main) - mean(aux) - self.offset;
        if let Some(to) = &mut gradients.main {
            to.fill(2.0 * gap / main.len() as f64);
        }
        if let Some(to) = &mut gradients.aux {
            to.fill(-2.0 * gap / aux.len() as f64);
        }
        Ok(gap * gap)
    }
}

tetlo_plugin::register_transfer_loss!("my-loss", MyLoss, "squared gap of the mean features");
