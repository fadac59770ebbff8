//! Multilevel optimizers: they describe their stages, the reverse pass is core's.

mod darts;
mod stages;
mod tetlo;

pub use darts::{Darts, DartsOptions};
pub use stages::{ObjectiveOptions, StageOptions, Stages, StagesOptions, TermOptions};
pub use tetlo::{Tetlo, TetloOptions, Unroll};
