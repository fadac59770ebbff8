//! The loop over epochs of one differentiable search (METHODS.md §1.3, §3).

use crate::loader::{Augmentation, Epoch, Loader, prefetched};
use crate::method::{Method, SearchState, Training};
use crate::record::{Observer, event};
use candle_core::Tensor;
use tetlo_core::data::{Data, SearchIndices, TransferSplit};
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{Progress, Trace};
use tetlo_core::multilevel::{Batches, ModelRole};
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::{Error, Result};

/// Raw architecture parameters after each epoch, by name.
pub type AlphaHistory = Vec<Vec<(String, Tensor)>>;

/// What a search found.
#[derive(Debug)]
pub struct SearchResult {
    /// The derived architecture.
    pub genotype: Genotype,
    /// Epochs that ran.
    pub epochs: usize,
    /// Best accuracy on the search's validation split.
    pub best_val_accuracy: f64,
    /// The architecture parameters after each epoch.
    pub history: AlphaHistory,
    /// The last state.
    pub state: SearchState,
}

/// Loader roles, for the keys of their shuffles.
const TRAIN: u32 = 0;
const VALID: u32 = 1;
const TRANSFER: u32 = 2;

/// The batches a search reads.
#[derive(Debug)]
pub(crate) struct Splits<'a> {
    train: Loader<'a>,
    valid: Loader<'a>,
    /// A loader of the transfer's own; `None`: no transfer, or the next validation batch.
    transfer: Option<Loader<'a>>,
    /// Does the transfer see the validation batch after the objective's?
    next_of_valid: bool,
    /// The validation images in order, not augmented.
    plain: Loader<'a>,
}

impl<'a> Splits<'a> {
    pub(crate) fn new(method: &Method, data: &'a Data, augmentation: Augmentation) -> Result<Self> {
        let s = &method.settings;
        let split = method.graph.transfer_split;
        let indices = SearchIndices::divide(data.train.len(), s.train_portion, split, method.seed)?;
        augmentation.check(data.train.shape)?;
        let loader = |indices: &[usize], role: u32| {
            let key = Key::new(method.seed, Purpose::Shuffle).role(role);
            Loader::training(data, indices.to_vec(), s.batch_size, augmentation, key)
        };
        let (train, valid) = (loader(&indices.train, TRAIN), loader(&indices.valid, VALID));
        let from_valid = split == TransferSplit::ValidUnlabelled;
        let uses = method.graph.uses_transfer_batch();
        let next_of_valid = uses && from_valid;
        let own = uses && !from_valid;
        let transfer = own.then(|| loader(&indices.transfer, TRANSFER));
        let few = |l: &Loader<'_>, least: usize| l.shuffled(0).len() < least;
        if few(&train, 1)
            || few(&valid, 1)
            || transfer.as_ref().is_some_and(|t| few(t, 1))
            || (next_of_valid && few(&valid, 2))
        {
            return Err(Error::config_hint(
                format!(
                    "too few images for batches of {}: {} for training, {} for validation, {} for \
                     transfer",
                    s.batch_size,
                    indices.train.len(),
                    indices.valid.len(),
                    indices.transfer.len()
                ),
                "lower `batch-size`, change `train-portion`, or use another `transfer-split`",
            ));
        }
        let key = Key::new(method.seed, Purpose::Shuffle);
        let plain = Loader::plain(data, indices.valid, s.batch_size, key);
        Ok(Self { train, valid, transfer, next_of_valid, plain })
    }

    pub(crate) fn epoch(&self, epoch: usize) -> EpochBatches<'_> {
        EpochBatches {
            train: self.train.shuffled(epoch),
            valid: self.valid.shuffled(epoch),
            transfer: self.transfer.as_ref().map(|t| t.shuffled(epoch)),
            next_of_valid: self.next_of_valid,
        }
    }
}

/// The batches of one epoch.
#[derive(Debug)]
pub(crate) struct EpochBatches<'a> {
    train: Epoch<'a>,
    valid: Epoch<'a>,
    transfer: Option<Epoch<'a>>,
    next_of_valid: bool,
}

impl EpochBatches<'_> {
    pub(crate) fn batches(&self, i: usize) -> Result<Batches> {
        let transfer = match &self.transfer {
            Some(own) => Some(own.batch(i)?),
            // The batch after the objective's: never the objective's own.
            None if self.next_of_valid => Some(self.valid.batch(i + 1)?),
            None => None,
        };
        Ok(Batches { train: self.train.batch(i)?, valid: self.valid.batch(i)?, transfer })
    }
}

/// What `[search]` does to training images.
fn augmentation(method: &Method) -> Augmentation {
    let s = &method.settings;
    Augmentation { crop_padding: s.crop_padding, flip: s.flip, cutout: s.cutout }
}

/// Checks that a search of `method` on `data` can begin.
///
/// # Errors
/// Images too few for the splits, or an augmentation that does not fit them.
pub fn check(method: &Method, data: &Data) -> Result<()> {
    method.check_second_derivatives()?;
    Splits::new(method, data, augmentation(method)).map(drop)
}

/// Runs a search on the training images of `data`.
///
/// # Errors
/// As [`check`] and [`Method::step`].
pub fn search(method: &Method, data: &Data, observer: &mut dyn Observer) -> Result<SearchResult> {
    let epochs = method.settings.epochs;
    let splits = Splits::new(method, data, augmentation(method))?;
    let mut state = method.initial_state()?;
    let steps = splits.train.shuffled(0).len();
    observer.phase("search", steps * epochs);
    if let Some(remark) = method.untrained() {
        observer.line(&format!("remark: {remark}"));
    }
    let (mut best_val_accuracy, mut history) = (0f64, vec![]);
    let mut trace = Trace { epochs, ..Trace::default() };
    let mut stopped = None;
    for epoch in 0..epochs {
        let source = splits.epoch(epoch);
        let mut figures = vec![EpochFigures::default(); method.networks.len()];
        prefetched(
            steps,
            |i| source.batches(i),
            |i, batches| {
                let at = Progress { epoch, epochs, step: epoch * steps + i };
                let outcome = method.step(&mut state, &batches, at, observer)?;
                for (sum, step) in figures.iter_mut().zip(&outcome.training) {
                    sum.add(*step);
                }
                if i + 1 == steps {
                    method.record_transfer(&state, &batches, at, observer)?;
                }
                observer.step();
                Ok(())
            },
        )?;
        let val_accuracy = method.validate(&state, &splits.plain)?;
        best_val_accuracy = best_val_accuracy.max(val_accuracy);
        let genotype = method.genotype(&state)?;
        let end = EpochEnd { epoch, step: (epoch + 1) * steps, val_accuracy, genotype: &genotype };
        end.tell(method, &figures, observer);
        history.push(method.networks[0].architecture().scatter(&state.point.architecture[0])?);
        trace.genotypes.push(genotype);
        if let Some(rule) = &method.stop_rule {
            stopped = rule.stop(&trace)?;
        }
        if stopped.is_some() {
            break;
        }
    }
    let epochs = trace.genotypes.len();
    let chosen = stopped.map_or(epochs.saturating_sub(1), |s| s.return_epoch);
    let genotype = match trace.genotypes.into_iter().nth(chosen) {
        Some(genotype) => genotype,
        None => method.genotype(&state)?,
    };
    Ok(SearchResult { genotype, epochs, best_val_accuracy, history, state })
}

/// What is recorded when an epoch ends.
struct EpochEnd<'a> {
    epoch: usize,
    step: usize,
    val_accuracy: f64,
    genotype: &'a Genotype,
}

impl EpochEnd<'_> {
    fn tell(&self, method: &Method, figures: &[EpochFigures], observer: &mut dyn Observer) {
        let mut tell = |name: &str, value: f64| {
            observer.event(event(self.step, self.epoch, "search", name, value));
        };
        for (stage, sum) in method.graph.stages.iter().zip(figures) {
            let prefix = match stage.model {
                ModelRole::Main => "search/train".to_owned(),
                ModelRole::Twin | ModelRole::Auxiliary => format!("search/{}/train", stage.name),
            };
            tell(&format!("{prefix}/loss"), sum.loss());
            if let Some(accuracy) = sum.accuracy() {
                tell(&format!("{prefix}/accuracy"), accuracy);
            }
        }
        let skips = self.genotype.skip_count();
        tell("search/val/accuracy", self.val_accuracy);
        tell("search/skip_count", skips as f64);
        tell("search/learning_rate", method.inner(0, self.epoch).learning_rate());
        observer.line(&format!(
            "search epoch {}/{}: train loss {:.3}, val accuracy {:.3}, skips {skips}",
            self.epoch + 1,
            method.settings.epochs,
            figures[0].loss(),
            self.val_accuracy,
        ));
    }
}

/// Sums over an epoch.
#[derive(Debug, Clone, Copy, Default)]
struct EpochFigures {
    loss: f64,
    correct: usize,
    classified: usize,
    images: usize,
}

impl EpochFigures {
    fn add(&mut self, step: Training) {
        self.loss += step.loss * step.images as f64;
        self.images += step.images;
        if let Some(correct) = step.correct {
            self.correct += correct;
            self.classified += step.images;
        }
    }

    fn loss(&self) -> f64 {
        self.loss / self.images.max(1) as f64
    }

    fn accuracy(&self) -> Option<f64> {
        (self.classified > 0).then(|| self.correct as f64 / self.classified as f64)
    }
}
