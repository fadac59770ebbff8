//! Selections: architecture parameters to a discrete cell.

mod darts_top2;

pub use darts_top2::DartsTop2;
