//! `bench`: times the product's ordinary path on random images, and sets it against the machine's peak.
//!
//! `gflops` are *useful* operations a second: two for each multiply-add of a convolution, forward once,
//! once more for the gradients of activations where there is a backward pass, and once more for
//! those of weights where they are wanted (an architecture step at first order wants none).
//! What the kernels recompute, and everything that is no convolution, is not counted.
//! `roofline_fraction` is `gflops` over `fma_peak_gflops`, the rate of fused multiply-adds from
//! registers that the same run measures with the same instruction set and number of threads.

mod derived;
mod hypergrad;
mod measure;
mod ops;
mod supernet;

use crate::args::BenchCommand;
use crate::exit::Exit;
use anyhow::Result;

/// Runs a `bench` command.
pub(crate) fn run(command: &BenchCommand) -> Result<Exit> {
    match command {
        BenchCommand::Supernet(arguments) => supernet::run(arguments),
        BenchCommand::Derived(arguments) => derived::run(arguments),
        BenchCommand::Ops(arguments) => ops::run(arguments),
        BenchCommand::Hypergrad(arguments) => hypergrad::run(arguments),
    }
}
