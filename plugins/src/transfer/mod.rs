//! Transfer losses.

mod example_loss;
#[cfg(test)]
mod fixtures;
mod kd;
mod qrs;

pub use example_loss::{SimilarityMse, SimilarityMseOptions};
pub use kd::{Kd, KdOptions};
pub use qrs::{Form, Qrs, QrsOptions, Sampler, Similarity, Target};
