//! Black-box searches: architectures are proposed, trained briefly and scored on the search's
//! validation split.

use crate::loader::Loader;
use crate::record::{Observer, event};
use crate::retrain::{TrainingRun, derived_network, train};
use tetlo_core::config::SearchConfig;
use tetlo_core::data::{Data, SearchIndices, TransferSplit};
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{BlackBoxSearch, Evaluated, RetrainProtocol};
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::SpaceSpec;
use tetlo_core::{Error, Result};

/// What a black-box search found.
#[derive(Debug)]
pub struct BlackBoxResult {
    /// The best architecture.
    pub genotype: Genotype,
    /// Its score: accuracy on the search's validation split.
    pub best_val_accuracy: f64,
    /// All evaluated architectures, in order.
    pub history: Vec<Evaluated>,
}

/// Runs a black-box search with the budget of a differentiable one.
///
/// \[D\] The same budget means: as many training epochs on the search's training half as the search
/// settings say. Each proposal is trained for one epoch at the space's own size and scored on the
/// validation half, so `epochs` proposals are evaluated unless the plugin sets another number.
/// (A derived network has far fewer multiply-adds than a supernet: the baseline gets no more
/// compute.) Ties keep the earlier architecture.
///
/// # Errors
/// A proposal is not in the space, or its training loss is not finite.
pub fn black_box(
    plugin: &dyn BlackBoxSearch,
    space: &SpaceSpec,
    settings: &SearchConfig,
    data: &Data,
    seed: u64,
    observer: &mut dyn Observer,
) -> Result<BlackBoxResult> {
    let split = TransferSplit::Train;
    let indices = SearchIndices::divide(data.train.len(), settings.train_portion, split, seed)?;
    let key = Key::new(seed, Purpose::Shuffle);
    let valid = Loader::plain(data, indices.valid, settings.batch_size, key);
    let protocol = RetrainProtocol::proxy(settings);
    let evaluations = plugin.evaluations().unwrap_or(settings.epochs).max(1);
    let mut history: Vec<Evaluated> = Vec::with_capacity(evaluations);
    let mut best = 0;
    for i in 0..evaluations {
        let mut draws = Key::new(seed, Purpose::Sample).step(i).stream();
        let genotype = plugin.propose(space, &history, &mut draws)?;
        let network = derived_network(space, &genotype, data, &protocol)?;
        let run = TrainingRun {
            data,
            indices: &indices.train,
            protocol: &protocol,
            seed,
            role: 1 + i as u32,
            phase: "search",
        };
        let score = train(network, run, &mut Quiet(observer))?.accuracy(&valid)?;
        observer.event(event(i, i, "search", "search/val/accuracy", score));
        observer.event(event(i, i, "search", "search/skip_count", genotype.skip_count() as f64));
        observer.line(&format!(
            "search {}/{evaluations}: val accuracy {score:.3}, skips {}",
            i + 1,
            genotype.skip_count()
        ));
        history.push(Evaluated { genotype, score });
        if score > history[best].score {
            best = i;
        }
    }
    let found = history
        .get(best)
        .ok_or_else(|| Error::Invalid("a black-box search evaluated nothing".into()))?;
    let (genotype, best_val_accuracy) = (found.genotype.clone(), found.score);
    Ok(BlackBoxResult { genotype, best_val_accuracy, history })
}

/// Passes steps on, but not the lines and events of each short training.
struct Quiet<'a>(&'a mut dyn Observer);

impl Observer for Quiet<'_> {
    fn event(&mut self, _event: crate::summary::Event) {}

    fn phase(&mut self, name: &str, steps: usize) {
        self.0.phase(name, steps);
    }

    fn step(&mut self) {
        self.0.step();
    }

    fn line(&mut self, _text: &str) {}
}
