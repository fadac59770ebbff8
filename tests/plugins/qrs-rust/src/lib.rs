//! Quadruple relative similarities in plain Rust as a shared library.
mod qrs;
tetlo_plugin::export_plugins!();
