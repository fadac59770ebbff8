//! Searches that only see scores.

mod random;

pub use random::{Random, RandomOptions};
