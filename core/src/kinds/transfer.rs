//! Transfer losses: how well the auxiliary model reproduces what the main model knows.

use crate::layout::Layout;
use crate::network::Output;
use crate::registry::macros::declare_kind;
use crate::rng::Stream;
use crate::{Error, Result};
use candle_core::Tensor;
use std::fmt::Debug;

/// What a transfer loss wants to see of both models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is wanted or not, whatever the others")]
pub struct Needs {
    /// Features after global pooling.
    pub embeddings: bool,
    /// Class scores.
    pub logits: bool,
    /// Feature maps at the end of each resolution.
    pub maps: bool,
    /// Class labels of the batch.
    pub labels: bool,
    /// Does the loss have parameters of its own, to be trained beside the student's weights?
    pub parameters: bool,
    /// Smallest batch the loss is defined on.
    pub batch: usize,
}

impl Needs {
    /// Nothing of either model, on batches of at least `batch`: to be added to.
    pub fn batch(batch: usize) -> Self {
        Self {
            embeddings: false,
            logits: false,
            maps: false,
            labels: false,
            parameters: false,
            batch,
        }
    }

    /// Embeddings without labels, on batches of at least `batch`.
    pub fn embeddings(batch: usize) -> Self {
        Self { embeddings: true, ..Self::batch(batch) }
    }

    /// Logits without labels.
    pub fn logits() -> Self {
        Self { logits: true, ..Self::batch(1) }
    }

    /// Feature maps without labels.
    pub fn maps() -> Self {
        Self { maps: true, ..Self::batch(1) }
    }

    /// The same and the labels.
    #[must_use]
    pub fn with_labels(self) -> Self {
        Self { labels: true, ..self }
    }

    /// The same and logits.
    #[must_use]
    pub fn with_logits(self) -> Self {
        Self { logits: true, ..self }
    }

    /// The same and feature maps.
    #[must_use]
    pub fn with_maps(self) -> Self {
        Self { maps: true, ..self }
    }

    /// The same, with parameters of its own ([`TransferLoss::parameters`]).
    #[must_use]
    pub fn with_parameters(self) -> Self {
        Self { parameters: true, ..self }
    }
}

/// Changes of a batch that leave a loss as it is; each is declared or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is declared or not, whatever the others")]
pub struct Invariances {
    /// The images in another order, the same for both models and the labels.
    pub order: bool,
    /// One model's embeddings times a positive number.
    pub scale: bool,
    /// One model's embeddings turned or mirrored (times an orthogonal matrix).
    pub rotation: bool,
    /// One vector added to all embeddings of one model.
    pub shift: bool,
}

/// What a transfer loss sees of one model: what its [`Needs`] name, nothing else.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Seen {
    /// Features after global pooling, N × D.
    pub embedding: Option<Tensor>,
    /// Class scores, N × classes.
    pub logits: Option<Tensor>,
    /// Feature maps, N × C × H × W each, from the finest resolution to the coarsest.
    pub maps: Vec<Tensor>,
}

impl Seen {
    /// An embedding alone.
    pub fn embedding(embedding: Tensor) -> Self {
        Self { embedding: Some(embedding), ..Self::default() }
    }

    /// Logits alone.
    pub fn logits(logits: Tensor) -> Self {
        Self { logits: Some(logits), ..Self::default() }
    }

    /// Feature maps alone.
    pub fn maps(maps: Vec<Tensor>) -> Self {
        Self { maps, ..Self::default() }
    }

    /// Of a forward pass, what `needs` names.
    pub fn of(output: &Output, needs: Needs) -> Self {
        Self {
            embedding: needs.embeddings.then(|| output.embedding.clone()),
            logits: needs.logits.then(|| output.logits.clone()),
            maps: if needs.maps { output.maps.clone() } else { vec![] },
        }
    }

    /// All tensors, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.embedding.iter().chain(&self.logits).chain(&self.maps)
    }

    /// The same with every tensor replaced by what `f` makes of it.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn map(&self, mut f: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            embedding: self.embedding.as_ref().map(&mut f).transpose()?,
            logits: self.logits.as_ref().map(&mut f).transpose()?,
            maps: self.maps.iter().map(f).collect::<Result<_>>()?,
        })
    }

    /// The number of images, where all tensors agree on it.
    fn images(&self, whose: &str) -> Result<Option<usize>> {
        let matrices = [("embedding", &self.embedding), ("logits", &self.logits)];
        for (name, tensor) in matrices {
            if let Some(t) = tensor
                && t.dims().len() != 2
            {
                return Err(Error::Invalid(format!(
                    "the {whose} model's {name} must be a matrix, got shape {:?}",
                    t.dims()
                )));
            }
        }
        if let Some(map) = self.maps.iter().find(|m| m.dims().len() != 4) {
            return Err(Error::Invalid(format!(
                "the {whose} model's feature maps must have four dimensions, got shape {:?}",
                map.dims()
            )));
        }
        // Code in other languages may read a first value without asking whether there is one.
        if let Some(empty) = self.tensors().find(|t| t.dims()[1..].contains(&0)) {
            return Err(Error::Invalid(format!(
                "the {whose} model's features have no values: shape {:?}",
                empty.dims()
            )));
        }
        let mut rows = self.tensors().map(|t| t.dims()[0]);
        let first = rows.next();
        match rows.find(|n| Some(*n) != first) {
            Some(other) => Err(Error::Invalid(format!(
                "the {whose} model's features are of {} and of {other} images",
                first.unwrap_or(0)
            ))),
            None => Ok(first),
        }
    }
}

/// One batch as a transfer loss sees it.
///
/// `main` is the teacher: its gradient is what carries knowledge back into the architecture.
/// `aux` is the student. D may differ between the two.
#[derive(Debug)]
#[non_exhaustive]
pub struct TransferBatch<'a> {
    /// What the main model says.
    pub main: Seen,
    /// What the auxiliary model says.
    pub aux: Seen,
    /// Labels, N (u32), where the loss asked for them.
    pub labels: Option<&'a [u32]>,
    /// The loss's own parameters, flat, in the layout of [`TransferLoss::parameters`].
    pub parameters: Option<Tensor>,
    /// Random numbers of this step: the same in all its passes.
    pub draws: Stream,
    images: usize,
}

impl<'a> TransferBatch<'a> {
    /// A batch without labels.
    ///
    /// # Errors
    /// The features of the two models are not of the same images, or have wrong dimensions.
    pub fn new(main: Seen, aux: Seen, draws: Stream) -> Result<Self> {
        let images = match (main.images("main")?, aux.images("auxiliary")?) {
            (Some(n), Some(m)) if n == m && n > 0 => n,
            (n, m) => {
                let say = |n: Option<usize>| n.map_or_else(|| "no".to_owned(), |n| n.to_string());
                return Err(Error::Invalid(format!(
                    "the features of a transfer loss must be of the same images, got {} of the main \
                     model and {} of the auxiliary",
                    say(n),
                    say(m)
                )));
            }
        };
        Ok(Self { main, aux, labels: None, parameters: None, draws, images })
    }

    /// A batch of two embeddings.
    ///
    /// # Errors
    /// They are not two matrices with the same number of rows.
    pub fn of_embeddings(main: &Tensor, aux: &Tensor, draws: Stream) -> Result<Self> {
        Self::new(Seen::embedding(main.clone()), Seen::embedding(aux.clone()), draws)
    }

    /// The same with labels.
    #[must_use]
    pub fn with_labels(self, labels: Option<&'a [u32]>) -> Self {
        Self { labels, ..self }
    }

    /// The same with the loss's own parameters.
    #[must_use]
    pub fn with_parameters(self, parameters: Option<Tensor>) -> Self {
        Self { parameters, ..self }
    }

    /// Embeddings of the main and of the auxiliary model, N × D and N × D'.
    ///
    /// # Errors
    /// The loss did not ask for them ([`Needs`]).
    pub fn embeddings(&self) -> Result<(&Tensor, &Tensor)> {
        both(self.main.embedding.as_ref(), self.aux.embedding.as_ref(), "embeddings")
    }

    /// Logits of the main and of the auxiliary model, N × classes.
    ///
    /// # Errors
    /// The loss did not ask for them ([`Needs`]).
    pub fn logits(&self) -> Result<(&Tensor, &Tensor)> {
        both(self.main.logits.as_ref(), self.aux.logits.as_ref(), "logits")
    }

    /// Feature maps of the main and of the auxiliary model, each from the finest resolution to the
    /// coarsest. There may be more of one model than of the other.
    ///
    /// # Errors
    /// The loss did not ask for them ([`Needs`]).
    pub fn maps(&self) -> Result<(&[Tensor], &[Tensor])> {
        let (main, aux) = (self.main.maps.as_slice(), self.aux.maps.as_slice());
        if main.is_empty() || aux.is_empty() {
            return Err(unseen("feature maps"));
        }
        Ok((main, aux))
    }

    /// The labels.
    ///
    /// # Errors
    /// The loss did not ask for them ([`Needs`]).
    pub fn labels(&self) -> Result<&'a [u32]> {
        self.labels.ok_or_else(|| unseen("labels"))
    }

    /// The loss's own parameters.
    ///
    /// # Errors
    /// The loss has none ([`Needs`]).
    pub fn parameters(&self) -> Result<&Tensor> {
        self.parameters.as_ref().ok_or_else(|| unseen("parameters of its own"))
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images
    }

    /// No images? (Never: the constructor refuses.)
    pub fn is_empty(&self) -> bool {
        self.images == 0
    }

    /// Checks what `needs` says of batch size, labels and what is seen of the models.
    pub fn check(&self, needs: Needs) -> Result<()> {
        if self.len() < needs.batch {
            return Err(Error::Invalid(format!(
                "needs a batch of at least {} images, got {}",
                needs.batch,
                self.len()
            )));
        }
        if needs.embeddings {
            self.embeddings()?;
        }
        if needs.logits {
            self.logits()?;
        }
        if needs.maps {
            self.maps()?;
        }
        if needs.parameters {
            self.parameters()?;
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

fn both<'t>(
    main: Option<&'t Tensor>,
    aux: Option<&'t Tensor>,
    what: &str,
) -> Result<(&'t Tensor, &'t Tensor)> {
    match (main, aux) {
        (Some(main), Some(aux)) => Ok((main, aux)),
        _ => Err(unseen(what)),
    }
}

fn unseen(what: &str) -> Error {
    Error::Invalid(format!("needs the {what}, which this batch does not have"))
}

/// A measure of how far the auxiliary model is from the main model's knowledge.
///
/// Pure: equal batches (draws included) give equal bytes. Differentiable in the student's features;
/// in the teacher's as far as knowledge is to flow back into the architecture.
pub trait TransferLoss: Debug + Send + Sync {
    /// What the loss looks at.
    fn needs(&self) -> Needs {
        Needs::embeddings(1)
    }

    /// Parameters of the loss itself, such as a projector between features of two widths, for models
    /// whose outputs have the shapes of these. They are trained with the student's weights, by the
    /// same optimiser. Asked only where [`Needs::parameters`] is set.
    ///
    /// # Errors
    /// The shapes do not go together.
    fn parameters(&self, _main: &Seen, _aux: &Seen) -> Result<Layout> {
        Ok(Layout::new())
    }

    /// The loss, a scalar.
    ///
    /// # Errors
    /// The batch is too small, or something it needs is missing.
    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor>;

    /// Does a gradient reach the main model, so that the loss can carry knowledge back into the
    /// architecture? Not so with hard targets (METHODS.md §1.1).
    fn reaches_main(&self) -> bool {
        true
    }

    /// Is its gradient in the teacher's features the derivative of its values? Not so with hard targets,
    /// whose values jump: differences of them see what no gradient does.
    fn teacher_is_smooth(&self) -> bool {
        true
    }

    /// Is every operation of `loss` differentiable twice, as plain tensor operations are? A loss with
    /// a gradient by hand is not: double backward through it would be silently wrong.
    fn twice_differentiable(&self) -> bool {
        true
    }

    /// Changes of a batch that leave the loss as it is, and that the conformance suite checks.
    fn invariances(&self) -> Invariances {
        Invariances::default()
    }

    /// Figures worth recording, by name (never used for the search itself).
    fn diagnostics(&self, _batch: &TransferBatch<'_>) -> Result<Vec<(&'static str, f64)>> {
        Ok(vec![])
    }
}

declare_kind!(TransferLoss, "transfer-loss");
