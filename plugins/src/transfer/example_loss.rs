//! The README's example of a transfer loss.
use candle_core::Tensor;
use tetlo_core::Result;
use tetlo_core::kinds::{TransferBatch, TransferLoss};
use tetlo_core::registry::{FromOptions, NoOptions};

/// Mean of `(S_M − S_V)²`, S the cosines between the centred embeddings of a batch.
#[derive(Debug)]
pub struct SimilarityMse;

impl FromOptions for SimilarityMse {
    type Options = NoOptions;
    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

fn cosines(z: &Tensor) -> Result<Tensor> {
    let z = z.broadcast_sub(&z.mean_keepdim(0)?)?;
    let z = z.broadcast_div(&(z.sqr()?.sum_keepdim(1)? + 1e-12)?.sqrt()?)?;
    Ok(z.matmul(&z.t()?)?)
}

impl TransferLoss for SimilarityMse {
    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        let (main, aux) = batch.embeddings()?;
        Ok((cosines(main)? - cosines(aux)?)?.sqr()?.mean_all()?)
    }
}

tetlo_core::register_transfer_loss!("similarity-mse", SimilarityMse, "squared error of cosines");
