//! Learning from mistakes.

use super::math::{at_least, log_softmax, one_hot, positive, same_classes};
use candle_core::{D, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::{Invariances, Needs, TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result};

/// How the teacher's losses become weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalisation {
    /// `ℓ_n / mean(ℓ)`.
    #[default]
    Mean,
    /// `N · softmax(ℓ / T)_n`.
    Softmax,
}

/// Cross entropy of the student on the batch's labels, images weighted by the teacher's own loss on
/// them: the student works most where the teacher is wrong (after Learning from Mistakes: Garg,
/// Zhang, Sridhara, Hosseini, Xing and Xie, AAAI 2022).
///
/// ```text
/// ℓ_n  = −log softmax(main)[n, y_n]
/// w_n  = ℓ_n / mean(ℓ), or with `normalisation = "softmax"` N · softmax(ℓ / T)_n; their mean is 1
/// loss = −mean_n w_n log softmax(aux)[n, y_n]
/// ```
/// Our design: the paper weights a training image by its likeness to the mistakes made on
/// validation images, here the mistakes are those on the batch itself. A mean of ℓ below 1e-12
/// counts as 1e-12. Unchanged by a constant added to all logits of an image. Differentiable in both
/// models.
/// ```toml
/// transfer-loss = { plugin = "mistake-weights", options = { normalisation = "softmax" } }
/// ```
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MistakeWeightsOptions {
    /// How the teacher's losses become weights.
    pub normalisation: Normalisation,
    /// T of `normalisation = "softmax"`; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

/// Weights from the teacher's mistakes: the formula stands at [`MistakeWeightsOptions`].
#[derive(Debug)]
pub struct MistakeWeights {
    /// T of the softmax; `None`: divided by the mean.
    temperature: Option<f64>,
}

impl FromOptions for MistakeWeights {
    type Options = MistakeWeightsOptions;

    fn from_options(options: MistakeWeightsOptions) -> Result<Self> {
        match (options.normalisation, options.temperature) {
            (Normalisation::Mean, None) => Ok(Self { temperature: None }),
            (Normalisation::Mean, Some(_)) => Err(Error::config_hint(
                "`temperature` has no effect with `normalisation = \"mean\"`",
                "set `normalisation = \"softmax\"`, or leave it out",
            )),
            (Normalisation::Softmax, t) => {
                Ok(Self { temperature: Some(positive("temperature", t.unwrap_or(1.0))?) })
            }
        }
    }
}

impl TransferLoss for MistakeWeights {
    fn needs(&self) -> Needs {
        Needs::batch(2).with_logits().with_labels()
    }

    fn invariances(&self) -> Invariances {
        Invariances { order: true, ..Invariances::default() }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        let (main, aux) = batch.logits()?;
        let right = one_hot(batch.labels()?, same_classes(main, aux)?, main)?;
        let losses = |logits: &Tensor| -> Result<Tensor> {
            Ok((log_softmax(logits, 1.0)? * &right)?.sum(1)?.neg()?)
        };
        let (main, aux) = (losses(main)?, losses(aux)?);
        let weighted = match self.temperature {
            None => {
                let mean = at_least(&main.mean_all()?, 1e-12)?;
                (main.broadcast_div(&mean)? * aux)?.mean_all()?
            }
            Some(t) => (candle_nn::ops::softmax(&(main / t)?, D::Minus1)? * aux)?.sum_all()?,
        };
        Ok(weighted)
    }
}

tetlo_core::register_transfer_loss!(
    "mistake-weights",
    MistakeWeights,
    "cross entropy weighted by the teacher's own losses (learning from mistakes)"
);
