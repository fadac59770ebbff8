//! Supernet transforms.

mod exclude_operations;
mod partial_channels;

pub use exclude_operations::{ExcludeOperations, ExcludeOperationsOptions};
pub use partial_channels::{PartialChannels, PartialChannelsOptions};
