//! Training a derived network from scratch and testing it once (METHODS.md §3, retrain).

use crate::accuracy::{accuracy, correct};
use crate::loader::{Augmentation, Loader, prefetched};
use crate::record::{Observer, event};
use candle_core::{Tensor, Var};
use tetlo_core::data::Data;
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::RetrainProtocol;
use tetlo_core::multilevel::cross_entropy;
use tetlo_core::network::{ImageShape, Network, Pass, update_running_statistics};
use tetlo_core::optim::{CosineSchedule, Inner, SgdState};
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::{DerivedSize, KernelNetwork, SpaceSpec, initial_values};
use tetlo_core::{Error, Result};

/// Weights and running statistics of a trained network.
#[derive(Debug)]
pub struct Trained {
    /// The network.
    pub network: KernelNetwork,
    /// Its weights.
    pub weights: Tensor,
    /// Its running statistics.
    pub buffers: Option<Tensor>,
}

/// What training needs to know.
#[derive(Debug, Clone, Copy)]
pub struct TrainingRun<'a> {
    /// The data.
    pub data: &'a Data,
    /// Indices of the training images to use.
    pub indices: &'a [usize],
    /// The protocol.
    pub protocol: &'a RetrainProtocol,
    /// The trial's seed.
    pub seed: u64,
    /// Role of the draws: retraining is 0, proxies of a black-box search 1 and more.
    pub role: u32,
    /// Name of the phase in records.
    pub phase: &'a str,
}

/// The derived network at the size a protocol asks for (0 channels or cells: those of the space).
///
/// # Errors
/// The genotype is not of this space, or the images do not fit.
pub fn derived_network(
    space: &SpaceSpec,
    genotype: &Genotype,
    data: &Data,
    protocol: &RetrainProtocol,
) -> Result<KernelNetwork> {
    derived_network_of(space, genotype, data.train.shape, data.classes, protocol)
}

/// The same for images of a given shape.
pub fn derived_network_of(
    space: &SpaceSpec,
    genotype: &Genotype,
    image: ImageShape,
    classes: usize,
    protocol: &RetrainProtocol,
) -> Result<KernelNetwork> {
    let or = |value: usize, default: usize| if value == 0 { default } else { value };
    let size = DerivedSize {
        channels: or(protocol.channels, space.skeleton.channels()),
        cells: or(protocol.cells, space.skeleton.cells()),
        auxiliary_head: protocol.auxiliary_weight > 0.0,
    };
    space.derived(genotype, image, classes, size)
}

/// The augmentation of a protocol.
pub fn augmentation(p: &RetrainProtocol) -> Augmentation {
    Augmentation { crop_padding: p.crop_padding, flip: p.flip, cutout: p.cutout }
}

/// Trains a network from scratch.
///
/// # Errors
/// A loss is not finite.
pub fn train(
    network: KernelNetwork,
    run: TrainingRun<'_>,
    observer: &mut dyn Observer,
) -> Result<Trained> {
    let p = run.protocol;
    let key = Key::new(run.seed, Purpose::Weights).level(STAGE).role(run.role);
    let (mut weights, mut buffers, _) = initial_values(&network, key)?;
    let augmentation = augmentation(p);
    augmentation.check(run.data.train.shape)?;
    let shuffle = Key::new(run.seed, Purpose::Shuffle).level(STAGE).role(run.role);
    let loader =
        Loader::training(run.data, run.indices.to_vec(), p.batch_size, augmentation, shuffle);
    let schedule =
        CosineSchedule { start: p.learning_rate, min: p.learning_rate_min, epochs: p.epochs };
    let mut sgd = SgdState::default();
    let steps = loader.shuffled(0).len();
    observer.phase(run.phase, steps * p.epochs);
    for epoch in 0..p.epochs {
        let inner = Inner {
            learning_rate: schedule.rate(epoch),
            momentum: p.momentum,
            weight_decay: p.weight_decay,
        };
        let drop_path = p.drop_path * epoch as f64 / p.epochs as f64;
        let batches = loader.shuffled(epoch);
        let (mut sum, mut hits, mut images) = (0.0, 0, 0);
        prefetched(
            batches.len(),
            |i| batches.batch(i),
            |i, batch| {
                let step = epoch * steps + i;
                let pass = Pass::train(key.step(step)).with_drop_path(drop_path);
                let var = Var::from_tensor(&weights.detach())?;
                let output = network.forward(var.as_tensor(), None, &batch.images, &pass)?;
                let mut loss = cross_entropy(&output.logits, &batch.labels)?;
                if let Some(auxiliary) = &output.auxiliary_logits {
                    let deep = cross_entropy(auxiliary, &batch.labels)?;
                    loss = (loss + (deep * p.auxiliary_weight)?)?;
                }
                let value = f64::from(loss.to_scalar::<f32>()?);
                let gradients = loss.backward()?;
                let gradient = gradients
                    .get(&var)
                    .ok_or_else(|| Error::NoGradient("the weights of the derived network".into()))?
                    .detach();
                let (next, length) = sgd.step(inner, p.gradient_clip, &weights, &gradient)?;
                if !value.is_finite() || !length.is_finite() {
                    return Err(Error::NotFinite {
                        what: "training loss".into(),
                        level: run.phase.to_owned(),
                        step,
                    });
                }
                weights = next;
                if let Some(old) = &buffers {
                    buffers = Some(update_running_statistics(old, output.statistics.as_ref())?);
                }
                sum += value * batch.labels.len() as f64;
                hits += correct(&output.logits, &batch.labels)?;
                images += batch.labels.len();
                observer.step();
                Ok(())
            },
        )?;
        let n = images.max(1) as f64;
        let (loss, accuracy) = (sum / n, hits as f64 / n);
        let step = (epoch + 1) * steps;
        let phase = run.phase;
        let mut tell = |name: &str, value: f64| {
            observer.event(event(step, epoch, phase, format!("{phase}/train/{name}"), value));
        };
        tell("loss", loss);
        tell("accuracy", accuracy);
        tell("learning_rate", inner.learning_rate);
        observer.line(&format!(
            "{phase} epoch {}/{}: train loss {loss:.3}, train accuracy {accuracy:.3}",
            epoch + 1,
            p.epochs
        ));
    }
    Ok(Trained { network, weights, buffers })
}

/// Level of the derived network's draws, apart from those of the search's stages.
const STAGE: usize = 100;

impl Trained {
    /// Accuracy on the test split.
    pub fn test(&self, data: &Data, batch: usize) -> Result<f64> {
        self.accuracy(&Loader::test(data, batch, Key::new(0, Purpose::Shuffle)))
    }

    /// Accuracy on the images of a loader.
    pub fn accuracy(&self, loader: &Loader<'_>) -> Result<f64> {
        accuracy(&self.network, &self.weights, self.buffers.as_ref(), None, loader)
    }
}
