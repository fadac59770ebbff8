//! Integration tests: one binary.

mod bench;
mod compare;
mod config_errors;
mod conformance;
mod hypergradient;
mod invariants;
mod loading;
mod nas_bench_201;
mod native;
mod network;
mod partial;
mod plugin_trials;
mod plugins;
mod plugins_check;
mod plugins_new;
mod precision;
mod qrs_again;
mod second_derivatives;
mod space_page;
mod stages;
mod tensor_code;
mod tetlo;
mod transfer;
