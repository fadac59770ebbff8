//! Selections: architecture parameters to a discrete cell.

mod argmax;
mod darts_top2;
mod magnitude;

pub use argmax::Argmax;
pub use darts_top2::DartsTop2;
pub use magnitude::Magnitude;
