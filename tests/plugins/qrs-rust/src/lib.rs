//! Quadruple relative similarities in plain Rust as a shared library, and a loss that panics.
mod panics;
mod qrs;
tetlo_plugin::export_plugins!();
