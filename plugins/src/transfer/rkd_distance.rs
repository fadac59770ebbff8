//! Relational knowledge distillation, distances.

use super::math::{at_least, huber};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::kinds::{Invariances, Needs, TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;

/// Smallest squared distance of different images, as in the authors' code.
const SMALLEST_SQUARE: f64 = 1e-12;

/// Relational knowledge distillation by distances (Park et al., CVPR 2019, RKD-D): how far apart any
/// two images are, relative to the mean.
///
/// ```text
/// d[i, j] = ‖z_i − z_j‖ / μ        μ = mean of ‖z_i − z_j‖ over i ≠ j
/// loss    = mean_{i, j} h(d_M[i, j] − d_V[i, j])        h(x) = x²/2 for |x| < 1, else |x| − ½
/// ```
/// The mean runs over all N² pairs, those of an image with itself included, which add 0, as in the
/// authors' code. A squared distance below 1e-12 counts as 1e-12 and has no gradient (the same
/// code), so equal embeddings give finite numbers. Unchanged by a translation, rotation or scale of
/// either model's embeddings, whose widths may differ. Differentiable in both models (the authors
/// detach the teacher).
/// ```toml
/// transfer-loss = { plugin = "rkd-distance" }
/// ```
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct RkdDistanceOptions {}

/// Relational distillation by distances: the formula stands at [`RkdDistanceOptions`].
#[derive(Debug)]
pub struct RkdDistance;

impl FromOptions for RkdDistance {
    type Options = RkdDistanceOptions;

    fn from_options(_: RkdDistanceOptions) -> Result<Self> {
        Ok(Self)
    }
}

/// d, N × N.
fn distances(embedding: &Tensor) -> Result<Tensor> {
    // Distances do not change with the origin; near it they lose less to cancellation.
    let z = embedding.broadcast_sub(&embedding.mean_keepdim(0)?)?;
    let n = z.dim(0)?;
    let squared = z.sqr()?.sum_keepdim(1)?;
    let products = (z.matmul(&z.t()?)? * 2.0)?;
    let squares = squared.broadcast_add(&squared.t()?)?.sub(&products)?;
    let different = (1.0 - Tensor::eye(n, z.dtype(), z.device())?)?;
    let distances = (at_least(&squares, SMALLEST_SQUARE)?.sqrt()? * different)?;
    let mean = (distances.sum_all()? / (n * (n - 1)) as f64)?;
    Ok(distances.broadcast_div(&mean)?)
}

impl TransferLoss for RkdDistance {
    fn needs(&self) -> Needs {
        Needs::embeddings(2)
    }

    fn invariances(&self) -> Invariances {
        Invariances { order: true, scale: true, rotation: true, shift: true }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        let (main, aux) = batch.embeddings()?;
        Ok(huber(&(distances(main)? - distances(aux)?)?)?.mean_all()?)
    }
}

tetlo_core::register_transfer_loss!(
    "rkd-distance",
    RkdDistance,
    "relational distillation: Huber loss of normalised distances"
);
