//! Training a derived network from scratch and testing it once (METHODS.md §3, retrain).

use crate::accuracy::accuracy;
use crate::loader::{Augmentation, Loader, prefetched};
use crate::record::{Observer, event};
use crate::training::Trainee;
use candle_core::Tensor;
use tetlo_core::data::Data;
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::RetrainProtocol;
use tetlo_core::network::{ImageShape, Pass};
use tetlo_core::optim::{CosineSchedule, Inner, Sgd};
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::{DerivedSize, KernelNetwork, SpaceSpec};
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
    let mut trainee = Trainee::new(&network, key)?;
    let augmentation = augmentation(p);
    augmentation.check(run.data.train.shape)?;
    let shuffle = Key::new(run.seed, Purpose::Shuffle).level(STAGE).role(run.role);
    let loader =
        Loader::training(run.data, run.indices.to_vec(), p.batch_size, augmentation, shuffle);
    let schedule =
        CosineSchedule { start: p.learning_rate, min: p.learning_rate_min, epochs: p.epochs };
    let steps = loader.shuffled(0).len();
    observer.phase(run.phase, steps * p.epochs);
    for epoch in 0..p.epochs {
        let inner = Inner::Sgd(Sgd {
            learning_rate: schedule.rate(epoch),
            momentum: p.momentum,
            weight_decay: p.weight_decay,
        });
        let drop_path = p.drop_path * epoch as f64 / p.epochs as f64;
        let batches = loader.shuffled(epoch);
        let (mut sum, mut hits, mut images) = (0.0, 0, 0);
        prefetched(
            batches.len(),
            |i| batches.batch(i),
            |i, batch| {
                let step = epoch * steps + i;
                let pass = Pass::train(key.step(step)).with_drop_path(drop_path);
                let done = trainee.step(&network, &batch, &pass, inner, p)?;
                if !done.loss.is_finite() || !done.gradient_norm.is_finite() {
                    return Err(Error::NotFinite {
                        what: "training loss".into(),
                        level: run.phase.to_owned(),
                        step,
                    });
                }
                sum += done.loss * batch.labels.len() as f64;
                hits += done.correct;
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
        tell("learning_rate", inner.learning_rate());
        observer.line(&format!(
            "{phase} epoch {}/{}: train loss {loss:.3}, train accuracy {accuracy:.3}",
            epoch + 1,
            p.epochs
        ));
    }
    let Trainee { weights, buffers, .. } = trainee;
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
