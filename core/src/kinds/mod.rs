//! The kinds of plugins: one trait each.

mod model;
mod search;
mod transfer;

pub use crate::multilevel::check::CheckProblem;
pub use crate::multilevel::{Hypergradient, MultilevelOptimizer};
pub use model::{
    Auxiliary, AuxiliarySite, Dataset, Evaluation, EvaluationHost, Evaluator, Metric, Operation,
    RetrainProtocol, SearchSpace,
};
pub use search::{
    BlackBoxSearch, Evaluated, Progress, Regularizer, Relaxation, Selection, Stop, StopRule,
    SupernetTransform, Trace,
};
pub use transfer::{Invariances, Needs, Seen, TransferBatch, TransferLoss};
