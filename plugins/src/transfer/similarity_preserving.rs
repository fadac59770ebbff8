//! Similarity-preserving distillation.

use super::maps::{Features, Maps};
use super::math::unit;
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::kinds::{Invariances, Needs, TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;

/// Similarity-preserving distillation (Tung and Mori, ICCV 2019): which images of the batch excite
/// a model alike.
///
/// ```text
/// G = Z Zᵀ (N × N), each row divided by max(its norm, 1e-12)
/// loss = ‖G_M − G_V‖²_F / N²
/// ```
/// Z (N × D) are the embeddings, or with `features = "map"` the flattened feature maps (the paper's
/// choice), the loss summed over the pairs. The two widths may differ. Unchanged by a rotation
/// or a common scale of either Z. Differentiable in both models.
/// ```toml
/// transfer-loss = { plugin = "similarity-preserving", options = { features = "map" } }
/// ```
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct SimilarityPreservingOptions {
    /// What is compared.
    pub features: Features,
    /// With `features = "map"`: which feature maps.
    pub maps: Maps,
}

/// Similarity-preserving distillation: the formula stands at [`SimilarityPreservingOptions`].
#[derive(Debug)]
pub struct SimilarityPreserving {
    options: SimilarityPreservingOptions,
}

impl FromOptions for SimilarityPreserving {
    type Options = SimilarityPreservingOptions;

    fn from_options(options: SimilarityPreservingOptions) -> Result<Self> {
        Ok(Self { options })
    }
}

/// G of features, N × anything.
fn similarities(features: &Tensor) -> Result<Tensor> {
    let z = features.flatten_from(1)?;
    unit(&z.matmul(&z.t()?)?)
}

impl TransferLoss for SimilarityPreserving {
    fn needs(&self) -> Needs {
        self.options.features.needs()
    }

    fn invariances(&self) -> Invariances {
        let embedding = self.options.features == Features::Embedding;
        Invariances { order: true, scale: embedding, rotation: embedding, shift: false }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        let pairs = match self.options.features {
            Features::Embedding => vec![<[&Tensor; 2]>::from(batch.embeddings()?)],
            Features::Map => self.options.maps.pairs(batch)?,
        };
        let mut terms = Vec::new();
        for [main, aux] in pairs {
            terms.push((similarities(main)? - similarities(aux)?)?.sqr()?.mean_all()?);
        }
        Ok(Tensor::stack(&terms, 0)?.sum_all()?)
    }
}

tetlo_core::register_transfer_loss!(
    "similarity-preserving",
    SimilarityPreserving,
    "similarity-preserving distillation: squared error of normalised similarities"
);
