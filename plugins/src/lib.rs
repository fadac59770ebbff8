//! The built-in plugins of tetlo: a file each, a folder a kind.
//!
//! A binary gets them by `use tetlo_plugins as _;`.

mod auxiliary;
pub mod black_box;
pub mod check;
pub mod dataset;
pub mod evaluator;
pub mod hypergradient;
pub mod optimizer;
mod presets;
pub mod regularizer;
pub mod relaxation;
pub mod selection;
pub mod stop;
pub mod transfer;
pub mod transform;
