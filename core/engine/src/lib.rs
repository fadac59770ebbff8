//! Search, retrain and comparison loops of tetlo.

pub mod check;
