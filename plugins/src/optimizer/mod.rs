//! Multilevel optimizers: they describe their stages, the reverse pass is core's.

mod darts;
mod tetlo;

pub use darts::{Darts, DartsOptions};
pub use tetlo::{Tetlo, TetloOptions, Unroll};
