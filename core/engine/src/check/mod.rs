//! `tetlo check hypergrad`: every registered estimator against the exact total derivative, in total
//! and term by term.

mod candidate;
mod composition;
mod reference;
mod report;
mod trust;

pub use composition::{Axes, composition};
pub use report::{CheckReport, Row, Skipped, compare, run};
