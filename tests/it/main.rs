//! Integration tests: one binary.

mod bench;
mod compare;
mod config_errors;
mod conformance;
mod hypergradient;
mod invariants;
mod nas_bench_201;
mod network;
mod partial;
mod plugins;
mod precision;
mod second_derivatives;
mod space_page;
mod stages;
mod tensor_code;
mod tetlo;
mod transfer;
