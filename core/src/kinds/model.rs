//! Kinds that give the search its material: spaces, operations, auxiliary models, data, evaluators.

use crate::Result;
use crate::config::SearchConfig;
use crate::data::Data;
use crate::genotype::Genotype;
use crate::network::{ImageShape, Network};
use crate::registry::macros::declare_kind;
use crate::space::{Recipe, Site, SpaceSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::sync::Arc;

/// A search space: gives its description as data, from which core builds every network.
pub trait SearchSpace: Debug + Send + Sync {
    /// The cell graph, the skeleton and the grammar.
    fn spec(&self) -> SpaceSpec;
}
declare_kind!(SearchSpace, "search-space");

/// A candidate operation on an edge, as a chain of primitives, of candle tensor code
/// ([`crate::space::TensorStep`]) or of both.
pub trait Operation: Debug + Send + Sync {
    /// The chain at a site (channels, stride, affine batch normalisation or not).
    fn recipe(&self, site: Site) -> Recipe;
}
declare_kind!(Operation, "operation");

/// What an auxiliary model is built for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AuxiliarySite<'a> {
    /// The images.
    pub image: ImageShape,
    /// Number of classes.
    pub classes: usize,
    /// The main model's space (an auxiliary supernet may use it).
    pub space: &'a SpaceSpec,
    /// Is the network to give its feature maps ([`Output::maps`](crate::network::Output::maps))?
    pub maps: bool,
    /// The most channels that its first layers may have, for checks in slow arithmetic.
    pub most_channels: usize,
}

impl<'a> AuxiliarySite<'a> {
    /// A site, without feature maps, for networks of any width.
    pub fn new(image: ImageShape, classes: usize, space: &'a SpaceSpec) -> Self {
        Self { image, classes, space, maps: false, most_channels: usize::MAX }
    }

    /// The same site for narrow networks.
    #[must_use]
    pub fn with_most_channels(self, most_channels: usize) -> Self {
        Self { most_channels, ..self }
    }

    /// The same site with feature maps or without.
    #[must_use]
    pub fn with_maps(self, maps: bool) -> Self {
        Self { maps, ..self }
    }
}

/// The auxiliary model of TETLO: fixed, or with an architecture of its own.
pub trait Auxiliary: Debug + Send + Sync {
    /// The network.
    fn network(&self, site: &AuxiliarySite<'_>) -> Result<Arc<dyn Network>>;
}
declare_kind!(Auxiliary, "auxiliary");

/// A data set.
pub trait Dataset: Debug + Send + Sync {
    /// Reads it.
    ///
    /// # Errors
    /// A file is missing, truncated or of another format; the message names it.
    fn load(&self) -> Result<Data>;

    /// Hash of what decides the content beyond the options (file bytes); `None` for built-in data.
    fn content_hash(&self) -> Result<Option<String>> {
        Ok(None)
    }
}
declare_kind!(Dataset, "dataset");

/// Which number a comparison is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Metric {
    /// Its name, such as `test_accuracy`.
    #[serde(rename = "name")]
    pub name: String,
    /// Is more better?
    #[serde(rename = "higher_is_better")]
    pub higher_is_better: bool,
    /// The split it is computed on.
    #[serde(rename = "split")]
    pub split: String,
}

/// How a derived network is trained from scratch; the defaults are the protocol of DARTS on CIFAR-10
/// (METHODS.md §3). Also the options of evaluators that retrain.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct RetrainProtocol {
    /// Epochs.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Images a step.
    #[schemars(range(min = 2))]
    pub batch_size: usize,
    /// Initial channels C; 0: those of the search.
    pub channels: usize,
    /// Number of cells (of each stage where the space has stages); 0: that of the search.
    pub cells: usize,
    /// Learning rate at the start; it falls as a cosine.
    pub learning_rate: f64,
    /// Learning rate at the end.
    pub learning_rate_min: f64,
    /// SGD momentum, in [0, 1).
    pub momentum: f64,
    /// SGD weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm; 0: no clipping.
    pub gradient_clip: f64,
    /// Drop-path probability in the last epoch, in [0, 1); it grows linearly from 0.
    pub drop_path: f64,
    /// Weight of the auxiliary head's loss; 0: no auxiliary head (NAS-Bench-201's protocol has none). The head pools its map to 2 × 2:
    /// as the authors' on 8 × 8 maps, with a window of side − 3 on others (our choice).
    pub auxiliary_weight: f64,
    /// Side of the cut-out square in pixels; 0: none.
    pub cutout: usize,
    /// Pixels of padding before the random crop; 0: no crop.
    pub crop_padding: usize,
    /// Mirror images at random.
    pub flip: bool,
}

impl Default for RetrainProtocol {
    fn default() -> Self {
        Self {
            epochs: 600,
            batch_size: 96,
            channels: 36,
            cells: 20,
            learning_rate: 0.025,
            learning_rate_min: 0.0,
            momentum: 0.9,
            weight_decay: 3e-4,
            gradient_clip: 5.0,
            drop_path: 0.2,
            auxiliary_weight: 0.4,
            cutout: 16,
            crop_padding: 4,
            flip: true,
        }
    }
}

impl RetrainProtocol {
    /// A short training with the search's settings: one epoch at the space's own size, as black-box
    /// searches score their proposals.
    pub fn proxy(search: &SearchConfig) -> Self {
        Self {
            epochs: 1,
            batch_size: search.batch_size,
            channels: 0,
            cells: 0,
            learning_rate: search.learning_rate,
            learning_rate_min: search.learning_rate_min,
            momentum: search.momentum,
            weight_decay: search.weight_decay,
            gradient_clip: search.gradient_clip,
            drop_path: 0.0,
            auxiliary_weight: 0.0,
            cutout: search.cutout,
            crop_padding: search.crop_padding,
            flip: search.flip,
        }
    }
}

/// What an evaluator found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The number the comparison is about.
    pub value: f64,
    /// Accuracy on the validation split, where the evaluator keeps one apart.
    pub val_accuracy: Option<f64>,
    /// Accuracy on the test split.
    pub test_accuracy: Option<f64>,
    /// Weights of the evaluated network.
    pub params: u64,
    /// Multiply-adds of one image.
    pub macs: u64,
}

/// What the engine does for an evaluator.
pub trait EvaluationHost {
    /// Trains the derived network on all training data and tests it once, on the test split.
    fn retrain(&mut self, genotype: &Genotype, protocol: &RetrainProtocol) -> Result<Evaluation>;
}

/// Gives the number by which methods are compared.
pub trait Evaluator: Debug + Send + Sync {
    /// Which number.
    fn metric(&self) -> Metric;

    /// Evaluates an architecture.
    fn evaluate(&self, genotype: &Genotype, host: &mut dyn EvaluationHost) -> Result<Evaluation>;

    /// The retraining it will ask for, where it does (`tetlo retrain`, `tetlo plan` show it).
    fn protocol(&self) -> Option<&RetrainProtocol> {
        None
    }
}
declare_kind!(Evaluator, "evaluator");
