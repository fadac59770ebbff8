//! CPU kernels, with gradients, for networks that are sums of weighted chains of convolutions,
//! pools and normalisations.
//!
//! Describe a network with [`GraphBuilder`], then run it with [`Network`] as one candle operation.
//! The graph is compiled to a static plan: no allocation in a pass, normalisations applied lazily,
//! pools shared by all terms that read a state, depthwise results recomputed instead of stored.
//! Results are the same bytes for any number of threads.
//!
//! [`mod@reference`] runs the same graphs slowly and obviously, in `f32` or `f64`, and has exact second
//! derivatives ([`ReferenceNetwork`]).

mod arena;
mod chain;
mod counters;
mod error;
pub mod flat;
mod function;
mod gradients;
mod graph;
mod heap;
mod machine;
mod maps;
mod network;
mod plan;
mod primitives;
pub mod reference;
mod simd;
mod threads;

pub use counters::{Counters, counters};
pub use error::{Error, Result};
pub use function::{FunctionId, FunctionPass, TensorFunction};
pub use gradients::backward;
pub use graph::{
    Affine, Export, ExportId, Graph, GraphBuilder, Primitive, Shape, StateId, Term, Weight,
};
pub use heap::keep_freed_memory;
pub use machine::{MachinePeak, machine_peak};
pub use maps::{AvgPool2x2, Gather, Map, MaxPool2x2, Same};
pub use network::{Mode, Network, Outputs};
pub use plan::{Plan, packs};
pub use primitives::{count_kernels, kernel_calls};
pub use reference::ReferenceNetwork;
pub use threads::{set_threads, threads};

/// The kernels this machine can run, fastest first: `avx512`, `avx2`, `neon`, `portable`.
pub fn simd_paths() -> Vec<&'static str> {
    primitives::available().into_iter().map(|k| k.name).collect()
}

/// Whether this machine has the kernels that `TETLO_SIMD` names, in upper or lower case; networks
/// ignore a name that it has not.
///
/// # Errors
/// What the variable says, if this machine has no such kernels.
pub fn check_simd() -> std::result::Result<(), String> {
    match primitives::wanted_table() {
        Some(name) if primitives::table(Some(&name)).is_none() => Err(name),
        _ => Ok(()),
    }
}

/// The kernels that networks use in this process: the fastest of this machine, or what `TETLO_SIMD` names.
pub fn simd_name() -> &'static str {
    primitives::default_table().name
}
