//! Small plugins and presets for the tests. They are looked up and checked, never run.

use crate::genotype::Genotype;
use crate::kinds::{
    Auxiliary, AuxiliarySite, BlackBoxSearch, Dataset, Evaluated, Evaluation, EvaluationHost,
    Evaluator, Metric, MultilevelOptimizer, Regularizer, Relaxation, SearchSpace, Selection,
    TransferBatch, TransferLoss,
};
use crate::multilevel::StageGraph;
use crate::network::Network;
use crate::registry::{FromOptions, NoOptions};
use crate::rng::Stream;
use crate::space::{ArchValues, SpaceSpec};
use crate::{Error, Result};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

fn never<T>() -> Result<T> {
    Err(Error::Invalid("a test plugin is not run".to_owned()))
}

/// Declares a plugin without options.
macro_rules! plain {
    ($name:ident) => {
        #[derive(Debug)]
        struct $name;
        impl FromOptions for $name {
            type Options = NoOptions;
            fn from_options(_: NoOptions) -> Result<Self> {
                Ok(Self)
            }
        }
    };
}

/// Declares an options type.
macro_rules! options {
    ($(#[$meta:meta])* struct $name:ident { $($(#[$field:meta])* $key:ident: $type:ty = $default:expr,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
        #[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
        struct $name { $($(#[$field])* $key: $type,)* }
        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }
    };
}

options! {
    /// Options of the data set.
    struct DataOptions {
        /// The file.
        #[schemars(extend("format" = "path"))]
        path: PathBuf = PathBuf::new(),
        /// Further files.
        #[schemars(extend("format" = "path"))]
        more: Vec<PathBuf> = vec![],
        /// A mask, where there is one.
        #[schemars(extend("format" = "path"))]
        mask: Option<PathBuf> = None,
        /// Images used.
        limit: usize = 100,
    }
}

#[derive(Debug)]
struct Data;
impl FromOptions for Data {
    type Options = DataOptions;
    fn from_options(options: DataOptions) -> Result<Self> {
        if options.path.as_os_str().is_empty() {
            return Err(Error::config_hint("`path` is missing", "give the file's `path`"));
        }
        Ok(Self)
    }
}
impl Dataset for Data {
    fn load(&self) -> Result<crate::data::Data> {
        never()
    }
}
crate::register_dataset!("test-data", Data, "data from a path");

plain!(Space);
impl SearchSpace for Space {
    fn spec(&self) -> SpaceSpec {
        unreachable!("a test plugin is not run")
    }
}
crate::register_search_space!("test-space", Space, "a space");

options! {
    struct Inner {
        /// A rate.
        rate: f64 = 0.5,
    }
}

/// How parts are combined.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Added up.
    Sum,
    /// Scaled to one norm.
    NormMatched,
}

options! {
    struct LevelOptions {
        /// Weight λ of the transfer loss.
        lambda: f64 = 1.0,
        /// The way of combining.
        combine: Mode = Mode::Sum,
        /// A table inside.
        inner: Inner = Inner::default(),
        /// Name of the estimator.
        estimator: String = "exact".to_owned(),
        /// A number that may be missing.
        limit: Option<f64> = None,
        /// A single-precision number.
        small: f32 = 0.1,
    }
}

#[derive(Debug)]
struct Levels;
impl FromOptions for Levels {
    type Options = LevelOptions;
    fn from_options(o: LevelOptions) -> Result<Self> {
        if o.lambda < 0.0 {
            return Err(Error::config(format!("`lambda` must be at least 0, not {}", o.lambda)));
        }
        if o.inner.rate > 1.0 {
            let what = format!("`inner.rate` must be at most 1, not {}", o.inner.rate);
            return Err(Error::config(what));
        }
        if o.estimator != "exact" {
            return Err(Error::UnknownPlugin {
                kind: "hypergradient",
                name: o.estimator,
                known: vec!["exact"],
            });
        }
        Ok(Self)
    }
}
impl MultilevelOptimizer for Levels {
    fn graph(&self) -> Result<StageGraph> {
        never()
    }
}
crate::register_multilevel_optimizer!("test-levels", Levels, "levels");

plain!(Plain);
impl MultilevelOptimizer for Plain {
    fn graph(&self) -> Result<StageGraph> {
        never()
    }
}
impl BlackBoxSearch for Plain {
    fn evaluations(&self) -> Option<usize> {
        None
    }
    fn propose(&self, _: &SpaceSpec, _: &[Evaluated], _: &mut Stream) -> Result<Genotype> {
        never()
    }
}
crate::register_multilevel_optimizer!("test-both", Plain, "in two registries");
crate::register_black_box_search!("test-both", Plain, "in two registries");
crate::register_black_box_search!("test-random", Plain, "draws");
impl Relaxation for Plain {
    fn weights(&self, _: &Tensor, _: &mut Stream) -> Result<Tensor> {
        never()
    }
}
crate::register_relaxation!("test-softmax", Plain, "softmax");
impl Selection for Plain {
    fn select(&self, _: &SpaceSpec, _: &ArchValues) -> Result<Genotype> {
        never()
    }
}
crate::register_selection!("test-top2", Plain, "top two");
impl Auxiliary for Plain {
    fn network(&self, _: &AuxiliarySite<'_>) -> Result<Arc<dyn Network>> {
        never()
    }
}
crate::register_auxiliary!("test-aux", Plain, "auxiliary model");
crate::register_auxiliary!("test-twice", Plain, "first of two");
crate::register_auxiliary!("test-twice", Plain, "second of two");

options! {
    struct LossOptions {
        /// Temperature τ of the softmax.
        #[schemars(extend("exclusiveMinimum" = 0))]
        temperature: f64 = 1.0,
        /// Which rows are drawn.
        sampler: Mode = Mode::Sum,
        /// A large number.
        count: u64 = 3,
    }
}

#[derive(Debug)]
struct Loss;
impl FromOptions for Loss {
    type Options = LossOptions;
    fn from_options(o: LossOptions) -> Result<Self> {
        if o.temperature <= 0.0 {
            let what = format!("`temperature` must be above 0, not {}", o.temperature);
            return Err(Error::config(what));
        }
        Ok(Self)
    }
}
impl TransferLoss for Loss {
    fn loss(&self, _: &TransferBatch<'_>) -> Result<Tensor> {
        never()
    }
}
crate::register_transfer_loss!("test-loss", Loss, "a loss");

options! {
    struct PenaltyOptions {
        /// Its weight.
        weight: f64 = 1.0,
    }
}

#[derive(Debug)]
struct Penalty;
impl FromOptions for Penalty {
    type Options = PenaltyOptions;
    fn from_options(_: PenaltyOptions) -> Result<Self> {
        Ok(Self)
    }
}
impl Regularizer for Penalty {
    fn penalty(&self, _: &[Tensor], _: crate::kinds::Progress) -> Result<Tensor> {
        never()
    }
}
crate::register_regularizer!("test-penalty", Penalty, "a penalty");

options! {
    struct RetrainOptions {
        /// Epochs.
        epochs: usize = 600,
    }
}

#[derive(Debug)]
struct Retrain;
impl FromOptions for Retrain {
    type Options = RetrainOptions;
    fn from_options(_: RetrainOptions) -> Result<Self> {
        Ok(Self)
    }
}
impl Evaluator for Retrain {
    fn metric(&self) -> Metric {
        Metric { name: "m".to_owned(), higher_is_better: true, split: "test".to_owned() }
    }
    fn evaluate(&self, _: &Genotype, _: &mut dyn EvaluationHost) -> Result<Evaluation> {
        never()
    }
}
crate::register_evaluator!("test-retrain", Retrain, "retrains");

crate::register_preset!("test-tri", "three levels", include_str!("presets/tri.toml"));
crate::register_preset!("test-draws", "draws", "optimizer.plugin = 'test-random'\n", "draws.toml");
crate::register_preset!(
    "test-broken",
    "a misspelt option",
    "\noptimizer = { plugin = 'test-levels', options = { lamda = 1 } }\n",
    "../presets/broken.toml"
);
crate::register_preset!("test-garbled", "no TOML", "a = = 1\n", "garbled.toml");
crate::register_preset!("test-named", "with a name", "name = 'x'\n", "named.toml");
