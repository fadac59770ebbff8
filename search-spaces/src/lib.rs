//! The built-in search spaces of tetlo, as data, and the operations they name.

mod darts;
mod nas_bench_201;
mod operations;

pub use darts::{Darts, DartsOptions, PRIMITIVES};
pub use nas_bench_201::{NasBench201, NasBench201Options, OPERATIONS};
