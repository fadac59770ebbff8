//! Similarity matrices of a batch.

use super::math::at_least;
use candle_core::{DType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;

/// How similar two images are, by their embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Similarity {
    /// ⟨x, y⟩ / (‖x‖ ‖y‖), each norm at least 1e-8 (as in `PyTorch`).
    #[default]
    Cosine,
    /// ⟨x, y⟩ / D.
    Dot,
    /// −‖x − y‖² / D.
    Euclidean,
}

/// Smallest norm that a cosine divides by.
const SMALLEST_NORM: f64 = 1e-8;

/// S, B × B, from embeddings B × D; differentiable.
pub(super) fn matrix(embedding: &Tensor, similarity: Similarity, center: bool) -> Result<Tensor> {
    let dimensions = embedding.dim(1)?.max(1) as f64;
    // Distances do not change with the origin; near it they lose less to cancellation.
    let z = if center || similarity == Similarity::Euclidean {
        embedding.broadcast_sub(&embedding.mean_keepdim(0)?)?
    } else {
        embedding.clone()
    };
    let dot = |z: &Tensor| z.matmul(&z.t()?);
    Ok(match similarity {
        Similarity::Cosine => {
            let squared = z.sqr()?.sum_keepdim(1)?;
            dot(&z.broadcast_div(&at_least(&squared, SMALLEST_NORM.powi(2))?.sqrt()?)?)?
        }
        Similarity::Dot => (dot(&z)? / dimensions)?,
        Similarity::Euclidean => {
            let squared = z.sqr()?.sum_keepdim(1)?;
            let cross = (dot(&z)? * 2.0)?;
            (cross.broadcast_sub(&squared)?.broadcast_sub(&squared.t()?)? / dimensions)?
        }
    })
}

/// Standard deviation of the similarities of different images.
pub(super) fn spread(similarities: &Tensor) -> Result<f64> {
    let rows: Vec<Vec<f64>> = similarities.detach().to_dtype(DType::F64)?.to_vec2()?;
    let different = || {
        let row = |(i, r): (usize, &Vec<f64>)| r[i + 1..].to_vec();
        rows.iter().enumerate().flat_map(row)
    };
    let n = different().count().max(1) as f64;
    let mean = different().sum::<f64>() / n;
    Ok((different().map(|s| (s - mean).powi(2)).sum::<f64>() / n).sqrt())
}
