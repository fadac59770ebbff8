//! Plugins behind the C interface `tetlo_plugin.h`: a shared library's, or plain Rust linked in.

mod call;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod float;
mod library;
mod object;

pub use library::{CPlugin, Library};

use crate::kinds::TransferLoss;
use crate::registry::{Entry, loaded};
use std::sync::Once;
use tetlo_plugin::registered;

/// Adds the losses in plain Rust that are linked into this binary to the registry, once.
pub(crate) fn add_linked() {
    static ADDED: Once = Once::new();
    ADDED.call_once(|| {
        for one in registered() {
            // What cannot be described stays out; the suite and `plugins list` show that it is missing.
            let Ok((name, summary, factory)) = library::linked((one.descriptor)()) else {
                continue;
            };
            let entry = Entry::<dyn TransferLoss> {
                name,
                summary,
                origin: one.origin,
                code: None,
                factory,
            };
            loaded::add(entry);
        }
    });
}
