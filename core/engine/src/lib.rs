//! Under construction.

pub mod statistics;
pub mod summary;
