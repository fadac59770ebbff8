//! Pseudo-labels.

use super::math::{log_softmax, one_hot, positive, same_classes};
use candle_core::{D, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::kinds::{Invariances, Needs, TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;

/// The teacher's labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// Its class probabilities: carries the gradient to the main model.
    #[default]
    Soft,
    /// Its most probable class (of equal ones the first); no gradient to the main model.
    Hard,
}

/// Cross entropy of the student on the teacher's pseudo-labels (Learning by Teaching: Sheth, Jiang and
/// Xie, 2021).
///
/// ```text
/// p    = softmax(main / T), or with `target = "hard"` the class with the largest logit
/// loss = −mean_n Σ_c p[n, c] log softmax(aux)[n, c]
/// ```
/// T acts on the teacher alone: below 1 its labels are sharper, above 1 softer. Unlike `kd` the value
/// holds the labels' own entropy, whose gradient draws the teacher to labels that the student
/// agrees with. Unchanged by a constant added to all logits of an image. Differentiable in both
/// models; hard labels give the main model no gradient.
/// ```toml
/// transfer-loss = { plugin = "pseudo-label", options = { temperature = 0.5 } }
/// ```
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct PseudoLabelOptions {
    /// The teacher's labels.
    pub target: Labels,
    /// T; hard labels do not depend on it.
    pub temperature: f64,
}

impl Default for PseudoLabelOptions {
    fn default() -> Self {
        Self { target: Labels::Soft, temperature: 1.0 }
    }
}

/// Pseudo-labels: the formula stands at [`PseudoLabelOptions`].
#[derive(Debug)]
pub struct PseudoLabel {
    options: PseudoLabelOptions,
}

impl FromOptions for PseudoLabel {
    type Options = PseudoLabelOptions;

    fn from_options(options: PseudoLabelOptions) -> Result<Self> {
        positive("temperature", options.temperature)?;
        Ok(Self { options })
    }
}

impl TransferLoss for PseudoLabel {
    fn needs(&self) -> Needs {
        Needs::batch(2).with_logits()
    }

    fn reaches_main(&self) -> bool {
        self.options.target == Labels::Soft
    }

    fn teacher_is_smooth(&self) -> bool {
        self.options.target == Labels::Soft
    }

    fn invariances(&self) -> Invariances {
        Invariances { order: true, ..Invariances::default() }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        let (main, aux) = batch.logits()?;
        let classes = same_classes(main, aux)?;
        let labels = match self.options.target {
            Labels::Soft => log_softmax(main, self.options.temperature)?.exp()?,
            Labels::Hard => {
                let best = main.detach().argmax(D::Minus1)?.to_vec1::<u32>()?;
                // The product keeps a NaN, which a largest class would hide.
                let nothing = (main.detach() * main.zeros_like()?)?;
                (one_hot(&best, classes, main)? + nothing)?.detach()
            }
        };
        let agreement = (labels * log_softmax(aux, 1.0)?)?.sum_all()?;
        Ok((agreement / -(batch.len() as f64))?)
    }
}

tetlo_core::register_transfer_loss!(
    "pseudo-label",
    PseudoLabel,
    "cross entropy on the teacher's pseudo-labels (learning by teaching)"
);
