//! The built-in plugins of tetlo.

mod auxiliary;
pub mod check;
pub mod hypergradient;
pub mod optimizer;
