//! Integration tests: one binary.

mod compare;
mod config_errors;
mod invariants;
mod network;
mod plugins;
mod tetlo;
