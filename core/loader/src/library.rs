//! Opens shared libraries.
#![expect(unsafe_code, reason = "loads and calls code that the user named")]

use crate::elf;
use std::path::Path;
use tetlo_core::foreign::c::Library;
use tetlo_core::{Error, Result};
use tetlo_plugin::abi;

fn invalid(what: impl Into<String>) -> Error {
    Error::Invalid(what.into())
}

/// Are numbers below the normal ones still computed with? A library built with `-Ofast` switches them
/// off for the whole thread that loads it.
fn denormals() -> bool {
    std::hint::black_box(1e-310_f64) * std::hint::black_box(0.5) != 0.0
}

/// Opens a library whose bytes were read before. It is never unloaded.
///
/// # Errors
/// It is no library for this machine, lacks something, or is made for another version of the
/// interface.
pub(crate) fn open(path: &Path, bytes: &[u8]) -> Result<Library> {
    elf::check(bytes).map_err(invalid)?;
    let flags = libc::RTLD_NOW | libc::RTLD_LOCAL;
    // SAFETY: loading runs the library's constructors: the user named this file. RTLD_NOW: a missing
    // function is an error here, not the end of the process at its first call.
    let library = unsafe { libloading::os::unix::Library::open(Some(path), flags) };
    let library = library.map_err(|e| {
        // libloading's own text hides the cause.
        let cause = std::error::Error::source(&e).map(ToString::to_string);
        let cause = cause.unwrap_or_else(|| e.to_string());
        let program = cause.contains("position-independent executable");
        let hint = if program { "; link it with `-shared`" } else { "" };
        invalid(format!("cannot be loaded: {cause}{hint}"))
    })?;
    // Never unloaded: a call after that ends the process.
    let library = Box::leak(Box::new(library));
    if !denormals() {
        return Err(invalid(
            "it switches denormal numbers off for the whole process (built with `-Ofast` or \
             `-ffast-math`), so every result would depend on it; build it without",
        ));
    }
    // SAFETY: the symbol's type is fixed by the header.
    let symbol =
        unsafe { library.get::<unsafe extern "C" fn() -> *const abi::Plugin>(abi::SYMBOL) };
    let Ok(symbol) = symbol else {
        let other = (2..10).find(|version| {
            let name = format!("tetlo_plugin_v{version}\0");
            // SAFETY: only looked up, never used.
            unsafe { library.get::<*const ()>(name.as_bytes()) }.is_ok()
        });
        return Err(invalid(match other {
            Some(version) => {
                format!("made for plugin ABI {version}, this tetlo has ABI {}", abi::ABI)
            }
            None => "it has no symbol `tetlo_plugin_v1`: end a Rust crate with \
                     `tetlo_core::export_plugins!();` or `tetlo_plugin::export_plugins!();`, a C file \
                     with `TETLO_TRANSFER_LOSS(…)` of `tetlo_plugin.h`"
                .into(),
        }));
    };
    // SAFETY: the header's contract: a description that lives as long as the library.
    unsafe { Library::new(symbol()) }
}
