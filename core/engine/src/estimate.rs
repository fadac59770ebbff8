//! What a trial will take: memory and passes, from its plan alone.
//!
//! The estimate adds up what is alive at the same time: the buffers of the kernels (exactly, from
//! their plans), flat vectors of weights, tensors between kernels, data, and the process itself. A
//! search and the evaluation after it are never in memory together, so the larger one counts.

use crate::method::Method;
use crate::plan::Trial;
use crate::retrain::{augmentation, derived_network};
use crate::search;
use crate::trial::space;
use tetlo_core::Result;
use tetlo_core::config::OptimizerKind;
use tetlo_core::data::{Data, Images, Pixels};
use tetlo_core::kinds::{BlackBoxSearch, Evaluator, RetrainProtocol};
use tetlo_core::network::Network;
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::SpaceSpec;

/// What a trial will take, estimated.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Peak memory in bytes: the larger of the next two.
    pub memory_bytes: u64,
    /// Peak memory of the search.
    pub search_bytes: u64,
    /// Peak memory of the evaluation; 0 where nothing is trained.
    pub evaluation_bytes: u64,
    /// Gradients computed, each one forward and one backward pass of a network.
    pub passes: u64,
    /// Multiply-adds of all of them.
    pub multiply_adds: f64,
}

/// A forward and a backward pass, in forward passes.
const PASS: f64 = 3.0;
/// Genotypes that stand for the one a search will find.
const SAMPLES: usize = 8;
/// The program, its libraries, stacks and small things.
const PROCESS: usize = 14 << 20;
/// Batches in memory: of three splits, one in use, one waiting and one being made.
const BATCHES: usize = 9;
/// Tensors of the size of the exports in a training step: the operation's output, its parts, and the
/// gradients of both, which candle pads and adds.
const EXPORT_COPIES: usize = 5;

/// Flat vectors of a network's weights that live for as long as it is trained: weights and momentum.
const LASTING: usize = 2;
/// Those that come and go in a training step: the variable, the gradients of kernels and classifier
/// and their sum, weights and momentum after the step.
const PASSING: usize = 6;

/// Bytes of what a network keeps between steps.
fn lasting(network: &dyn Network, batch: usize, slots: usize, vectors: usize) -> usize {
    // Each set of buffers remembers the weights that it was packed from.
    let weights = 4 * network.weights().len() * (vectors + slots);
    slots * network.activation_bytes(batch) + weights
}

/// Bytes of what comes and goes in a pass with gradients.
fn passing(network: &dyn Network, batch: usize) -> usize {
    4 * network.weights().len() * PASSING + network.export_bytes(batch) * EXPORT_COPIES
}

fn training(network: &dyn Network, batch: usize) -> usize {
    lasting(network, batch, 1, LASTING) + passing(network, batch)
}

/// What every phase needs: the data, batches, the process.
fn base(data: &Data, batch: usize) -> usize {
    let of = |images: &Images| {
        let pixel = match images.pixels {
            Pixels::U8(_) => 1,
            Pixels::F32(_) => 4,
        };
        images.pixels.len() * pixel + 4 * images.labels.len()
    };
    let batches = 4 * BATCHES * batch * data.train.image_len();
    of(&data.train) + of(&data.test) + batches + PROCESS
}

/// Memory and multiply-adds of an image of the derived network that a protocol asks for: the mean
/// over genotypes drawn from the space, since what a search finds is not known before.
fn derived(
    space: &SpaceSpec,
    data: &Data,
    protocol: &RetrainProtocol,
    batch: usize,
) -> Result<(usize, f64)> {
    augmentation(protocol).check(data.train.shape)?;
    let (mut bytes, mut macs) = (0, 0.0);
    for i in 0..SAMPLES {
        let mut draws = Key::new(0, Purpose::Sample).step(i).stream();
        let network = derived_network(space, &space.sample(&mut draws)?, data, protocol)?;
        bytes += training(&network, batch) / SAMPLES;
        macs += network.multiply_adds() as f64 / SAMPLES as f64;
    }
    Ok((bytes, macs))
}

/// Passes of a network whose activations must be kept at the same time in a step.
fn slots(method: &Method, stage: usize) -> usize {
    let own = method.graph.stages[stage].loss.iter().filter(|term| term.weight() > 0.0);
    own.count().clamp(1, tetlo_kernels::Network::MOST_PASSES)
}

fn search_bytes(method: &Method, batch: usize) -> usize {
    // An unrolled step keeps the weights after it, and an adjoint.
    let vectors = if method.unrolls() { LASTING + 2 } else { LASTING };
    let networks = method.networks.iter().enumerate();
    let kept = networks.map(|(stage, n)| lasting(n.as_ref(), batch, slots(method, stage), vectors));
    let most = method.networks.iter().map(|n| passing(n.as_ref(), batch)).max();
    kept.sum::<usize>() + most.unwrap_or(0)
}

/// Builds everything a trial needs without training, so that what does not fit together is found
/// before anything is written; estimates what the trial will take.
///
/// # Errors
/// The config's parts do not fit together.
pub fn check_trial(trial: &Trial, data: &Data) -> Result<Cost> {
    let space = space(trial)?;
    let settings = &trial.method.search;
    let (image, classes) = (data.train.shape, data.classes);
    let half = settings.train_portion * data.train.len() as f64;
    let batch = settings.batch_size.min(data.train.len());
    let steps = (half / batch as f64).ceil();
    let mut cost = Cost::default();
    let mut passes = 0.0;
    match trial.method.optimizer_kind {
        OptimizerKind::MultilevelOptimizer => {
            let method = Method::new(&trial.method, space.clone(), image, classes, trial.seed)?;
            search::check(&method, data)?;
            cost.search_bytes = (base(data, batch) + search_bytes(&method, batch)) as u64;
            let steps = steps * settings.epochs as f64;
            let networks = method.networks.len() as f64;
            let macs: u64 = method.networks.iter().map(|n| n.multiply_adds()).sum();
            passes += steps * method.passes_a_step();
            cost.multiply_adds +=
                steps * batch as f64 * macs as f64 * method.passes_a_step() / networks * PASS;
        }
        OptimizerKind::BlackBoxSearch => {
            let plugin: Box<dyn BlackBoxSearch> = trial.method.optimizer.build()?;
            let protocol = RetrainProtocol::proxy(settings);
            let (bytes, macs) = derived(&space, data, &protocol, batch)?;
            cost.search_bytes = (base(data, batch) + bytes) as u64;
            let evaluations = plugin.evaluations().unwrap_or(settings.epochs) as f64;
            passes += evaluations * steps;
            cost.multiply_adds += evaluations * half * macs * PASS;
        }
    }
    let evaluator: Box<dyn Evaluator> = trial.task.evaluate.build()?;
    if let Some(protocol) = evaluator.protocol() {
        let batch = protocol.batch_size.min(data.train.len());
        let (bytes, macs) = derived(&space, data, protocol, batch)?;
        cost.evaluation_bytes = (base(data, batch) + bytes) as u64;
        passes += protocol.epochs as f64 * (data.train.len() as f64 / batch as f64).ceil();
        cost.multiply_adds += (protocol.epochs * data.train.len()) as f64 * macs * PASS;
    }
    cost.memory_bytes = cost.search_bytes.max(cost.evaluation_bytes);
    cost.passes = passes as u64;
    Ok(cost)
}
