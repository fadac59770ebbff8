//! Supernet transforms.

mod exclude_operations;

pub use exclude_operations::{ExcludeOperations, ExcludeOperationsOptions};
