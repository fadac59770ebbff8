//! Transfer losses: how well the auxiliary model reproduces what the main model knows.

use crate::registry::macros::declare_kind;
use crate::rng::Stream;
use crate::{Error, Result};
use candle_core::Tensor;
use std::fmt::Debug;

/// What a transfer loss wants to see of both models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Needs {
    /// What the loss compares.
    pub features: Features,
    /// Class labels of the batch.
    pub labels: bool,
    /// Smallest batch the loss is defined on.
    pub batch: usize,
}

impl Needs {
    /// Embeddings without labels, on batches of at least `batch`.
    pub fn embeddings(batch: usize) -> Self {
        Self { features: Features::Embedding, labels: false, batch }
    }

    /// Logits without labels.
    pub fn logits() -> Self {
        Self { features: Features::Logits, labels: false, batch: 1 }
    }

    /// The same with labels.
    #[must_use]
    pub fn with_labels(self) -> Self {
        Self { labels: true, ..self }
    }
}

/// Which outputs of the models a transfer loss compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// Features after global pooling, N × D.
    Embedding,
    /// Class scores, N × classes.
    Logits,
}

/// One batch as a transfer loss sees it.
///
/// `main` is the teacher: its gradient is what carries knowledge back into the architecture.
/// `aux` is the student. D may differ between the two.
#[derive(Debug)]
#[non_exhaustive]
pub struct TransferBatch<'a> {
    /// The main model's features, N × D.
    pub main: &'a Tensor,
    /// The auxiliary model's features, N × D'.
    pub aux: &'a Tensor,
    /// Labels, N (u32), where the loss asked for them.
    pub labels: Option<&'a [u32]>,
    /// Random numbers of this step: the same in all its passes.
    pub draws: Stream,
}

impl<'a> TransferBatch<'a> {
    /// A batch without labels.
    ///
    /// # Errors
    /// The features are not two matrices with the same number of rows.
    pub fn new(main: &'a Tensor, aux: &'a Tensor, draws: Stream) -> Result<Self> {
        match (main.dims(), aux.dims()) {
            ([n, _], [m, _]) if n == m && *n > 0 => Ok(Self { main, aux, labels: None, draws }),
            (a, b) => Err(Error::Invalid(format!(
                "the features of a transfer loss must be two matrices with the same number of rows, \
                 got shapes {a:?} and {b:?}"
            ))),
        }
    }

    /// The same with labels.
    #[must_use]
    pub fn with_labels(self, labels: Option<&'a [u32]>) -> Self {
        Self { labels, ..self }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.main.dims()[0]
    }

    /// No images? (Never: the constructor refuses.)
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks what `needs` says of batch size and labels.
    pub fn check(&self, needs: Needs) -> Result<()> {
        if self.len() < needs.batch {
            return Err(Error::Invalid(format!(
                "needs a batch of at least {} images, got {}",
                needs.batch,
                self.len()
            )));
        }
        match self.labels {
            None if needs.labels => Err(Error::Invalid("needs the labels of the batch".into())),
            Some(l) if l.len() != self.len() => Err(Error::Invalid(format!(
                "{} labels for a batch of {} images",
                l.len(),
                self.len()
            ))),
            _ => Ok(()),
        }
    }
}

/// A measure of how far the auxiliary model is from the main model's knowledge.
///
/// Pure: equal batches (draws included) give equal bytes. Differentiable in `aux`; in `main` as
/// far as knowledge is to flow back into the architecture.
pub trait TransferLoss: Debug + Send + Sync {
    /// What the loss looks at.
    fn needs(&self) -> Needs {
        Needs::embeddings(1)
    }

    /// The loss, a scalar.
    ///
    /// # Errors
    /// The batch is too small, or labels are missing.
    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor>;

    /// Does a gradient reach the main model, so that the loss can carry knowledge back into the
    /// architecture? Not so with hard targets (METHODS.md §1.1).
    fn reaches_main(&self) -> bool {
        true
    }

    /// Is every operation of `loss` differentiable twice, as plain tensor operations are? A loss with
    /// a gradient by hand is not: double backward through it would be silently wrong.
    fn twice_differentiable(&self) -> bool {
        true
    }

    /// Figures worth recording, by name (never used for the search itself).
    fn diagnostics(&self, _batch: &TransferBatch<'_>) -> Result<Vec<(&'static str, f64)>> {
        Ok(vec![])
    }
}

declare_kind!(TransferLoss, "transfer-loss");
