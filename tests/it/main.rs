//! Integration tests: one binary.

mod bench;
mod compare;
mod config_errors;
mod conformance;
mod hypergradient;
mod invariants;
mod network;
mod plugins;
mod tetlo;
