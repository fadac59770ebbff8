//! The border of tetlo's plugins: the C interface, the Python helper, and what plain Rust needs to
//! write a transfer loss without a tensor library.
//!
//! A loss in plain Rust implements [`TransferLoss`] and is registered by
//! [`register_transfer_loss!`]. The same file works in two ways: linked into a binary that uses tetlo,
//! or, with [`export_plugins!`] in the crate's `lib.rs` and `crate-type = ["cdylib"]`, as a shared
//! library.

pub mod abi;
mod export;
mod guard;
mod loss;
mod stream;
pub mod testing;

pub use export::{Parts, Registered, library, registered};
pub use guard::{guarded, read_text, write_text};
pub use loss::{Array, Batch, Gradients, Needs, TransferLoss, descriptor};
pub use stream::Stream;

#[doc(hidden)]
pub use inventory;

/// `tetlo_plugin.h`: the C interface.
pub const HEADER: &str = include_str!("../include/tetlo_plugin.h");

/// `tetlo_plugin.py`: the helper of plugins in Python.
pub const PYTHON: &str = include_str!("../python/tetlo_plugin.py");

/// A text for the rest of the program; a NUL in it ends it.
pub fn leak(text: &str) -> *const std::ffi::c_char {
    let bytes: Vec<u8> = text.bytes().take_while(|b| *b != 0).collect();
    std::ffi::CString::new(bytes).unwrap_or_default().into_raw().cast_const()
}

/// Registers a transfer loss in plain Rust:
/// `register_transfer_loss!("name", Type, "one line for listings")`. `Type` implements
/// [`TransferLoss`].
#[macro_export]
macro_rules! register_transfer_loss {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::inventory::submit! {
            $crate::Registered {
                origin: (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
                descriptor: || $crate::descriptor::<$plugin>($name, $summary),
            }
        }
    };
}

/// Makes a `cdylib` a plugin library: exports every plugin that the crate registers. Once a crate, in
/// its `lib.rs`; at most one such crate can be linked into a binary.
#[macro_export]
macro_rules! export_plugins {
    () => {
        /// The one symbol that a library exports.
        #[expect(unsafe_code, reason = "the symbol's name is the interface")]
        #[unsafe(no_mangle)]
        pub extern "C" fn tetlo_plugin_v1() -> *const $crate::abi::Plugin {
            let built_with = concat!("Rust, no tensor library, crate ", env!("CARGO_PKG_NAME"));
            $crate::library(env!("CARGO_PKG_VERSION"), built_with, $crate::Parts::registered)
        }
    };
}
