//! A transfer loss, an operation and a space defined outside the built-in plugins, as a researcher
//! would: one file, one registration, nothing else touched.

mod operation;

use candle_core::{D, Tensor};
use tetlo_core::Result;
use tetlo_core::kinds::{TransferBatch, TransferLoss};
use tetlo_core::registry::{FromOptions, NoOptions};

/// Mean squared difference of the mean embeddings' norms: no claim to be useful.
#[derive(Debug)]
struct MeanNorm;

impl FromOptions for MeanNorm {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl TransferLoss for MeanNorm {
    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        let norm = |z: &Tensor| z.sqr()?.mean(D::Minus1);
        let (main, aux) = batch.embeddings()?;
        Ok((norm(main)? - norm(aux)?)?.sqr()?.mean_all()?)
    }
}

tetlo_core::register_transfer_loss!("mean-norm", MeanNorm, "a loss from outside the plugins");
