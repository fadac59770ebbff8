//! The built-in plugins of tetlo.

pub mod check;
pub mod hypergradient;
