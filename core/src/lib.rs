//! tetlo's core: what a plugin author depends on. Traits, plain data, the registry and the config.
//!
//! No file access, no printing, no command line (ARCHITECTURE.md).

pub mod config;
pub mod data;
pub mod error;
pub mod genotype;
pub mod kinds;
pub mod layout;
pub mod multilevel;
pub mod network;
pub mod optim;
pub mod registry;
pub mod rng;
pub mod space;

pub use error::{Error, Result};
#[doc(hidden)]
pub use inventory;
