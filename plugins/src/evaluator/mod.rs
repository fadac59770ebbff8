//! Evaluators.

mod retrain;

pub use retrain::Retrain;
