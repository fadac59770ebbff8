//! Nothing unwinds over the border: panics and errors become a code and a message.
#![expect(unsafe_code, reason = "writes to the host's buffer and reads its texts")]

use crate::abi::{ERROR, OK, PANIC};
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `f`; an error or a panic becomes a message in `err` and a code.
///
/// # Safety
/// `err` points to `len` writable bytes.
pub unsafe fn guarded(err: *mut c_char, len: usize, f: impl FnOnce() -> Result<(), String>) -> i32 {
    let (code, text) = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(())) => return OK,
        Ok(Err(text)) => (ERROR, text),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            (PANIC, text.unwrap_or_else(|| "panic".into()))
        }
    };
    // SAFETY: the caller's promise.
    unsafe { write_text(err, len, &text) };
    code
}

/// Writes a text and its NUL, cut where it does not fit. A NUL in the text ends it.
///
/// # Safety
/// `to` points to `len` writable bytes.
pub unsafe fn write_text(to: *mut c_char, len: usize, text: &str) {
    if len == 0 || to.is_null() {
        return;
    }
    let n = text.floor_char_boundary(text.len().min(len - 1));
    // SAFETY: n + 1 ≤ len bytes are written.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, n);
        *to.add(n) = 0;
    }
}

/// The text at a pointer; `None` for NULL.
///
/// # Errors
/// It is not UTF-8.
///
/// # Safety
/// `text` is NULL or points to a NUL-terminated text that lives as long as `'a`.
pub unsafe fn read_text<'a>(text: *const c_char) -> Result<Option<&'a str>, String> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| "a text is not UTF-8".to_owned())
}
