//! Probabilistic knowledge transfer.

use super::math::at_least;
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::kinds::{Invariances, Needs, TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;

/// ε of the authors' code.
const EPSILON: f64 = 1e-7;

/// Squared norm below which an embedding has no direction.
const SMALLEST_SQUARE: f64 = 1e-30;

/// Probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018): which images are neighbours.
///
/// ```text
/// K[i, j] = (⟨z_i, z_j⟩ / ((‖z_i‖ + ε)(‖z_j‖ + ε)) + 1) / 2        P[i, j] = K[i, j] / Σ_j K[i, j]
/// loss    = mean_{i, j} P_M log((P_M + ε) / (P_V + ε))        ε = 1e-7
/// ```
/// with ε, the pairs of an image with itself and the mean over all N² pairs as in the authors' code.
/// At embeddings of norm below 1e-15 the norm has no gradient. Unchanged by a rotation or
/// (but for ε) a scale of either model's embeddings, whose widths may differ. Differentiable in
/// both models (the authors detach the teacher).
/// ```toml
/// transfer-loss = { plugin = "pkt" }
/// ```
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct PktOptions {}

/// Probabilistic knowledge transfer: the formula stands at [`PktOptions`].
#[derive(Debug)]
pub struct Pkt;

impl FromOptions for Pkt {
    type Options = PktOptions;

    fn from_options(_: PktOptions) -> Result<Self> {
        Ok(Self)
    }
}

/// P, N × N.
fn neighbours(embedding: &Tensor) -> Result<Tensor> {
    let squared = embedding.sqr()?.sum_keepdim(1)?;
    let norms = (at_least(&squared, SMALLEST_SQUARE)?.sqrt()? + EPSILON)?;
    let z = embedding.broadcast_div(&norms)?;
    let kernel = z.matmul(&z.t()?)?.affine(0.5, 0.5)?;
    Ok(kernel.broadcast_div(&kernel.sum_keepdim(1)?)?)
}

impl TransferLoss for Pkt {
    fn needs(&self) -> Needs {
        Needs::embeddings(2)
    }

    fn invariances(&self) -> Invariances {
        // The ε beside the norm is not scaled.
        Invariances { order: true, rotation: true, ..Invariances::default() }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        let (main, aux) = batch.embeddings()?;
        let (main, aux) = (neighbours(main)?, neighbours(aux)?);
        let ratio = ((&main + EPSILON)?.log()? - (aux + EPSILON)?.log()?)?;
        Ok((main * ratio)?.mean_all()?)
    }
}

tetlo_core::register_transfer_loss!(
    "pkt",
    Pkt,
    "probabilistic knowledge transfer: divergence of the distributions of neighbours"
);
