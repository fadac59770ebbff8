//! Transfer losses.

mod example_loss;
mod kd;
mod qrs;
#[cfg(test)]
mod tests;

pub use example_loss::SimilarityMse;
pub use kd::{Kd, KdOptions};
pub use qrs::{Form, Qrs, QrsOptions, Sampler, Similarity, Target};
