//! Plugins in processes of their own: any language, over standard input and output.
//!
//! What is said there stands in [`frame`]. Each instance of a plugin is a child, started when it is built
//! and ended when it is dropped; its standard error becomes [`messages`](tetlo_core::foreign::messages).
//! A child that dies, hangs or talks nonsense is an error with its last words, never a hang or a panic.

mod calls;
mod child;
mod factory;
pub mod frame;
mod group;
mod instance;
#[cfg(test)]
mod tests;

pub use factory::Factory;

use instance::Instance;
use std::time::Duration;
use tetlo_core::Result;
use tetlo_core::foreign::Manifest;

/// How a process is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments; the working directory is the host's.
    pub program_and_arguments: Vec<String>,
    /// How long one answer may take.
    pub time_limit: Duration,
}

/// The plugins that a process has, and what it says it was built with. Starts it and ends it again.
///
/// # Errors
/// It cannot be started, does not answer as a plugin does, or its manifest is wrong.
pub fn manifests(command: &Command) -> Result<(Vec<Manifest>, String)> {
    let (_, greeting) = Instance::start(command, &instance::label(command))?;
    Ok((greeting.manifests, greeting.built_with))
}
