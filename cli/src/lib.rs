//! Under construction.

pub mod draw;
pub mod report;
