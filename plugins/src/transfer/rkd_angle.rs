//! Relational knowledge distillation, angles.

use super::math::{SMALLEST_NORM, at_least, huber};
use candle_core::{D, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::kinds::{Invariances, Needs, TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;

/// Relational knowledge distillation by angles (Park et al., CVPR 2019, RKD-A): the angle at an
/// image between two others.
///
/// ```text
/// e[i, j]    = (z_j − z_i) / ‖z_j − z_i‖
/// a[i, j, k] = ⟨e[i, j], e[i, k]⟩
/// loss       = mean_{i, j, k} h(a_M − a_V)        h(x) = x²/2 for |x| < 1, else |x| − ½
/// ```
/// The mean runs over all N³ triples, as in the authors' code; those with equal images agree and add
/// 0, so a batch of two images, which has no angle, has the loss 0. Where ‖z_j − z_i‖ < 1e-12 there
/// is no direction: e = 0, without a gradient (the authors' code divides by 1e-12, which gives
/// gradients of that size). Unchanged by a translation, rotation or scale of either model's
/// embeddings, whose widths may differ. Differentiable in both models (the authors detach the
/// teacher). Cost O(N³D) for N × N × D numbers.
/// ```toml
/// transfer-loss = { plugin = "rkd-angle" }
/// ```
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct RkdAngleOptions {}

/// Relational distillation by angles: the formula stands at [`RkdAngleOptions`].
#[derive(Debug)]
pub struct RkdAngle;

impl FromOptions for RkdAngle {
    type Options = RkdAngleOptions;

    fn from_options(_: RkdAngleOptions) -> Result<Self> {
        Ok(Self)
    }
}

/// a, N × N × N.
fn angles(embedding: &Tensor) -> Result<Tensor> {
    let apart = embedding.unsqueeze(0)?.broadcast_sub(&embedding.unsqueeze(1)?)?;
    let squared = apart.sqr()?.sum_keepdim(D::Minus1)?;
    let directed = squared.detach().ge(SMALLEST_NORM.powi(2))?.to_dtype(squared.dtype())?;
    let norm = at_least(&squared, SMALLEST_NORM.powi(2))?.sqrt()?;
    let e = apart.broadcast_mul(&directed)?.broadcast_div(&norm)?;
    Ok(e.matmul(&e.transpose(1, 2)?)?)
}

impl TransferLoss for RkdAngle {
    fn needs(&self) -> Needs {
        Needs::embeddings(2)
    }

    fn invariances(&self) -> Invariances {
        Invariances { order: true, scale: true, rotation: true, shift: true }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        let (main, aux) = batch.embeddings()?;
        Ok(huber(&(angles(main)? - angles(aux)?)?)?.mean_all()?)
    }
}

tetlo_core::register_transfer_loss!(
    "rkd-angle",
    RkdAngle,
    "relational distillation: Huber loss of angles between triples"
);
