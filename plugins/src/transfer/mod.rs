//! Transfer losses.

mod example_loss;
mod kd;
mod qrs;

pub use example_loss::{SimilarityMse, SimilarityMseOptions};
pub use kd::{Kd, KdOptions};
pub use qrs::{Form, Qrs, QrsOptions, Sampler, Similarity, Target};
