//! The README's custom loss: squared error between similarity matrices.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::kinds::{TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;

/// Options of `similarity-mse`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct SimilarityMseOptions {
    /// Subtract the batch mean from the embeddings first.
    pub center: bool,
}

/// mean over (i, j) of (S_M − S_V)², S the cosine similarities of a batch's embeddings.
#[derive(Debug)]
pub struct SimilarityMse(SimilarityMseOptions);

impl FromOptions for SimilarityMse {
    type Options = SimilarityMseOptions;

    fn from_options(options: SimilarityMseOptions) -> Result<Self> {
        Ok(Self(options))
    }
}

impl SimilarityMse {
    fn similarities(&self, z: &Tensor) -> Result<Tensor> {
        let z = if self.0.center { z.broadcast_sub(&z.mean_keepdim(0)?)? } else { z.clone() };
        let z = z.broadcast_div(&(z.sqr()?.sum_keepdim(1)? + 1e-12)?.sqrt()?)?;
        Ok(z.matmul(&z.t()?)?)
    }
}

impl TransferLoss for SimilarityMse {
    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        let difference = (self.similarities(batch.main)? - self.similarities(batch.aux)?)?;
        Ok(difference.sqr()?.mean_all()?)
    }
}

tetlo_core::register_transfer_loss!(
    "similarity-mse",
    SimilarityMse,
    "squared error of similarities"
);

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use tetlo_core::rng::{Key, Purpose};

    #[test]
    fn value_by_hand() {
        let loss = |center, main: &[[f64; 2]; 2], aux: &[[f64; 2]; 2]| -> f64 {
            let plugin = SimilarityMse::from_options(SimilarityMseOptions { center }).unwrap();
            let main = Tensor::new(main, &Device::Cpu).unwrap();
            let aux = Tensor::new(aux, &Device::Cpu).unwrap();
            let draws = Key::new(0, Purpose::Transfer).stream();
            let batch = TransferBatch::new(&main, &aux, draws).unwrap();
            plugin.loss(&batch).unwrap().to_scalar().unwrap()
        };
        // Cosines 0 and 3/5: twice (3/5)² over four entries.
        let value = loss(false, &[[2.0, 0.0], [0.0, 1.0]], &[[1.0, 0.0], [3.0, 4.0]]);
        assert!((value - 0.18).abs() < 1e-9);
        // Two centred images are always opposite.
        assert!(loss(true, &[[2.0, 0.0], [0.0, 1.0]], &[[1.0, 0.0], [3.0, 4.0]]) < 1e-9);
    }
}
