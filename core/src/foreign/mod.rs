//! Plugins written outside this program's Rust: plain data in, plain data out.
//!
//! Foreign code sees arrays and gives a value with its gradients; the adapters here put both into
//! candle's graph and implement the kinds. What carries the arrays across (a C call, a pipe) is a
//! [`LossCode`] or a [`PenaltyCode`]; stopping rules and selections have no gradients, so their
//! carriers implement the kinds themselves.

mod arrays;
pub mod c;
pub mod cost;
#[doc(hidden)]
pub mod export;
mod loss;
mod manifest;
mod options;
mod penalty;

pub use arrays::{Input, Role, ValueAndGradients, Values};
pub use loss::{ForeignLoss, Looks, LossCall, LossCode};
pub use manifest::{LOADABLE, Manifest};
pub use options::SchemaOptions;
pub use penalty::{ForeignRegularizer, PenaltyCall, PenaltyCode};

use crate::genotype::Genotype;
use crate::space::SpaceSpec;
use crate::{Error, Result};

/// A genotype that foreign code selected, as JSON, checked against the space.
///
/// # Errors
/// It cannot be read, or is not in the space.
pub fn selected(space: &SpaceSpec, json: &str) -> Result<Genotype> {
    let genotype = Genotype::parse(json)
        .map_err(|e| Error::Invalid(format!("its genotype cannot be read: {e}")))?;
    space.check(&genotype)?;
    Ok(genotype)
}
