//! What a loss sees in a test.

use crate::numbers::normal;
use crate::report::{Check, ensure};
use candle_core::{DType, Device, Tensor};
use tetlo_core::kinds::{Needs, Seen, TransferBatch, TransferLoss};
use tetlo_core::rng::{Key, Purpose};

/// Classes that logits score, and labels name.
pub(super) const CLASSES: usize = 5;

/// Shapes of what is seen of a model.
#[derive(Debug, Clone)]
pub(super) struct Shapes {
    /// Width of the embedding.
    pub(super) width: usize,
    /// Classes that the logits score.
    pub(super) classes: usize,
    /// Channels, height and width of the feature maps.
    pub(super) maps: Vec<[usize; 3]>,
}

impl Shapes {
    /// Small ones, for differences.
    pub(super) fn small(width: usize) -> Self {
        let maps = vec![[width - 3, 4, 4], [width - 2, 2, 2]];
        Self { width, classes: CLASSES, maps }
    }
}

/// What a loss sees of `n` images.
#[derive(Debug, Clone)]
pub(super) struct Images {
    pub(super) main: Seen,
    pub(super) aux: Seen,
    pub(super) labels: Vec<u32>,
    pub(super) parameters: Option<Tensor>,
}

fn seen(needs: Needs, n: usize, shapes: &Shapes, seed: u64) -> Check<Seen> {
    let mut seen = Seen::default();
    if needs.embeddings {
        seen.embedding = Some(normal(&[n, shapes.width], seed)?);
    }
    if needs.logits {
        seen.logits = Some(normal(&[n, shapes.classes], seed + 10)?);
    }
    if needs.maps {
        for ([channels, height, width], seed) in shapes.maps.iter().zip(seed + 20..) {
            seen.maps.push(normal(&[n, *channels, *height, *width], seed)?);
        }
    }
    Ok(seen)
}

impl Images {
    pub(super) fn new(loss: &dyn TransferLoss, n: usize, shapes: &[Shapes; 2]) -> Check<Self> {
        let needs = loss.needs();
        let (main, aux) = (seen(needs, n, &shapes[0], 1)?, seen(needs, n, &shapes[1], 2)?);
        if needs.parameters {
            let layout = loss.parameters(&main, &aux)?;
            ensure!(!layout.is_empty(), "it says that it has parameters, but has none");
            ensure!(layout == loss.parameters(&main, &aux)?, "its parameters change");
        }
        let labels = (0..n).map(|i| i as u32 % 3).collect();
        let images = Self { main, aux, labels, parameters: None };
        Ok(images.with_own_parameters(loss)?)
    }

    /// The same with parameters of the loss for these shapes, where it has any.
    pub(super) fn with_own_parameters(self, loss: &dyn TransferLoss) -> tetlo_core::Result<Self> {
        if !loss.needs().parameters {
            return Ok(self);
        }
        let layout = loss.parameters(&self.main, &self.aux)?;
        let mut stream = Key::new(3, Purpose::Weights).stream();
        let parameters = layout.initialise_tensor(&mut stream)?.to_dtype(DType::F64)?;
        Ok(Self { parameters: Some(parameters), ..self })
    }

    /// Everything that may have a gradient, by name.
    pub(super) fn parts(&self) -> Vec<(String, Tensor)> {
        let mut parts = Vec::new();
        for (whose, seen) in [("main", &self.main), ("aux", &self.aux)] {
            let alone = seen.tensors().count() == 1;
            let name = |what: String| if alone { whose.into() } else { format!("{whose} {what}") };
            let matrices = [("embedding", &seen.embedding), ("logits", &seen.logits)];
            for (what, tensor) in matrices {
                parts.extend(tensor.iter().map(|t| (name(what.into()), t.clone())));
            }
            let maps = seen.maps.iter().enumerate();
            parts.extend(maps.map(|(i, t)| (name(format!("map {i}")), t.clone())));
        }
        parts.extend(self.parameters.iter().map(|t| ("its parameters".to_owned(), t.clone())));
        parts
    }

    /// The same with other values of the parts, in their order.
    pub(super) fn with(&self, parts: &[Tensor]) -> tetlo_core::Result<Self> {
        let mut parts = parts.iter().cloned();
        let mut next = || {
            let missing = || tetlo_core::Error::Invalid("a part is missing".into());
            parts.next().ok_or_else(missing)
        };
        let main = self.main.map(|_| next())?;
        let aux = self.aux.map(|_| next())?;
        let parameters = self.parameters.as_ref().map(|_| next()).transpose()?;
        Ok(Self { main, aux, labels: self.labels.clone(), parameters })
    }

    /// The same with every part replaced by what `f` makes of it.
    pub(super) fn map(&self, f: impl Fn(usize, &Tensor) -> Check<Tensor>) -> Check<Self> {
        let parts = self.parts();
        let changed: Vec<Tensor> =
            parts.iter().enumerate().map(|(i, (_, t))| f(i, t)).collect::<Check<_>>()?;
        Ok(self.with(&changed)?)
    }

    /// The same with one part replaced.
    pub(super) fn replaced(&self, at: usize, by: &Tensor) -> Check<Self> {
        self.map(|i, t| Ok(if i == at { by.clone() } else { t.clone() }))
    }

    /// The same with the images in another order: image `order[i]` becomes image i.
    pub(super) fn reordered(&self, order: &[u32]) -> Check<Self> {
        let rows = Tensor::new(order, &Device::Cpu)?;
        let pick = |t: &Tensor| Ok(t.index_select(&rows, 0)?);
        let (main, aux) = (self.main.map(pick)?, self.aux.map(pick)?);
        let labels = order.iter().map(|i| self.labels[*i as usize]).collect();
        Ok(Self { main, aux, labels, parameters: self.parameters.clone() })
    }

    /// The first `n` images.
    pub(super) fn first(&self, n: usize) -> Check<Self> {
        let few = |t: &Tensor| Ok(t.narrow(0, 0, n)?);
        let (main, aux) = (self.main.map(few)?, self.aux.map(few)?);
        let labels = self.labels[..n].to_vec();
        Ok(Self { main, aux, labels, parameters: self.parameters.clone() })
    }

    /// As the loss is given them.
    pub(super) fn batch(&self, loss: &dyn TransferLoss) -> tetlo_core::Result<TransferBatch<'_>> {
        let draws = Key::new(3, Purpose::Transfer).stream();
        let labels = loss.needs().labels.then_some(self.labels.as_slice());
        Ok(TransferBatch::new(self.main.clone(), self.aux.clone(), draws)?
            .with_labels(labels)
            .with_parameters(self.parameters.clone()))
    }
}
