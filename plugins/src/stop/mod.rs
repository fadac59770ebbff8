//! Stopping rules.

mod darts_plus;

pub use darts_plus::{DartsPlus, DartsPlusOptions};
