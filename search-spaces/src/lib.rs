//! The built-in search spaces of tetlo, as data, and the operations they name.

mod darts;
mod operations;

pub use darts::{Darts, DartsOptions, PRIMITIVES};
