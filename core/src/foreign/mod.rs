//! Plugins written outside this program's Rust: plain data in, plain data out.
//!
//! Foreign code sees arrays and gives a value with its gradients; the adapters here put both into
//! candle's graph and implement the kinds. What carries the arrays across (a C call, a pipe) is a
//! [`LossCode`] or a [`PenaltyCode`]; stopping rules and selections have no gradients, so their
//! carriers implement the kinds themselves.

mod arrays;
pub mod c;
pub mod cost;
mod decisions;
mod ended;
#[doc(hidden)]
pub mod export;
mod loss;
mod manifest;
pub mod messages;
mod options;
mod penalty;

pub use arrays::{Input, Role, ValueAndGradients, Values};
pub use decisions::{Named, checked_genotype, checked_stop, trace_to_json};
pub use ended::ended;
pub use loss::{ForeignLoss, Looks, LossCall, LossCode};
pub use manifest::{LOADABLE, Manifest};
pub use options::SchemaOptions;
pub use penalty::{ForeignRegularizer, PenaltyCall, PenaltyCode};
