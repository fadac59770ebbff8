//! Multilevel optimizers: they describe their stages, the reverse pass is core's.

mod darts;
mod estimator;
mod tetlo;

pub use darts::{Darts, DartsOptions};
pub use estimator::EstimatorRef;
pub use tetlo::{Tetlo, TetloOptions, Unroll};
