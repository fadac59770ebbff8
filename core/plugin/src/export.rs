//! The description of a library.
#![expect(unsafe_code, reason = "pointers to immutable data that live for ever are shared")]

use crate::abi::{self, Plugin};
use crate::leak;
use std::sync::OnceLock;

/// A transfer loss in plain Rust, as [`register_transfer_loss!`](crate::register_transfer_loss) submits
/// it.
#[derive(Debug)]
pub struct Registered {
    /// The crate, and its version.
    pub origin: (&'static str, &'static str),
    /// Describes it.
    pub descriptor: fn() -> abi::TransferLoss,
}
inventory::collect!(Registered);

/// The losses in plain Rust that are linked into this binary or library.
pub fn registered() -> impl Iterator<Item = &'static Registered> {
    inventory::iter::<Registered>.into_iter()
}

/// The plugins of a library, by kind.
#[derive(Debug, Default)]
pub struct Parts {
    /// Transfer losses.
    pub losses: Vec<abi::TransferLoss>,
    /// Regularisers.
    pub regularizers: Vec<abi::Regularizer>,
    /// Stopping rules.
    pub stop_rules: Vec<abi::StopRule>,
    /// Selections.
    pub selections: Vec<abi::Selection>,
}

impl Parts {
    /// The losses in plain Rust of this library.
    pub fn registered() -> Self {
        Self { losses: registered().map(|r| (r.descriptor)()).collect(), ..Self::default() }
    }
}

/// Addresses of values that live for ever.
fn pointers<T: 'static>(list: Vec<T>) -> (usize, *const *const T) {
    let list: &'static [T] = list.leak();
    let pointers: Vec<*const T> = list.iter().map(std::ptr::from_ref).collect();
    (pointers.len(), pointers.leak().as_ptr())
}

struct Shared(Plugin);
// SAFETY: every pointer in it is to immutable data that lives for ever.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// The description of this library, made at the first call. What
/// [`export_plugins!`](crate::export_plugins) expands to calls it.
pub fn library(version: &str, built_with: &str, parts: impl FnOnce() -> Parts) -> *const Plugin {
    static LIBRARY: OnceLock<Shared> = OnceLock::new();
    let make = || {
        let parts = parts();
        let losses: &'static [abi::TransferLoss] = parts.losses.leak();
        let (n_regularizers, regularizers) = pointers(parts.regularizers);
        let (n_stop_rules, stop_rules) = pointers(parts.stop_rules);
        let (n_selections, selections) = pointers(parts.selections);
        Shared(Plugin {
            abi: abi::ABI,
            struct_size: size_of::<Plugin>() as u32,
            sizes: abi::SIZES,
            built_with: leak(built_with),
            n_transfer_losses: losses.len(),
            transfer_losses: losses.as_ptr(),
            version: leak(version),
            n_regularizers,
            regularizers,
            n_stop_rules,
            stop_rules,
            n_selections,
            selections,
        })
    };
    &raw const LIBRARY.get_or_init(make).0
}
