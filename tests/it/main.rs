//! Integration tests: one binary.

mod compare;
mod config_errors;
mod conformance;
mod hypergradient;
mod invariants;
mod network;
mod partial;
mod plugins;
mod tetlo;
