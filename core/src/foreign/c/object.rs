//! An object that a plugin made, and calls with error messages.
#![expect(unsafe_code, reason = "calls functions of the C interface")]

use crate::{Error, Result};
use serde_json::Value;
use std::ffi::{CString, c_char, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tetlo_plugin::abi;

/// Bytes that a plugin may write as its message.
const MESSAGE: usize = 2048;

/// The pointer that `create` gave; NULL for a plugin without an object.
#[derive(Debug)]
struct Pointer(*mut c_void);
// SAFETY: the header demands that objects can move between threads; never two calls at a time.
unsafe impl Send for Pointer {}

/// A plugin's object: one call at a time, destroyed at the end.
#[derive(Debug)]
pub(super) struct Object {
    pointer: Mutex<Pointer>,
    destroy: Option<abi::Destroy>,
}

impl Object {
    /// Makes it.
    ///
    /// # Errors
    /// The plugin refuses the options: its message.
    ///
    /// # Safety
    /// The functions are a plugin's, and fulfil the header.
    pub(super) unsafe fn new(
        create: Option<abi::Create>,
        destroy: Option<abi::Destroy>,
        options: &Value,
    ) -> Result<Self> {
        let mut pointer = std::ptr::null_mut();
        if let Some(create) = create {
            let text = CString::new(options.to_string())
                .map_err(|_| Error::config("an option has a character with code 0"))?;
            // SAFETY: the caller's promise; text, place and buffer live through the call.
            with_message(|err, len| unsafe { create(text.as_ptr(), &raw mut pointer, err, len) })
                .map_err(|e| Error::config(e.to_string()))?;
        }
        Ok(Self { pointer: Mutex::new(Pointer(pointer)), destroy })
    }

    /// Calls a function with the object; no other call runs meanwhile.
    pub(super) fn call(
        &self,
        f: impl FnOnce(*mut c_void, *mut c_char, usize) -> i32,
    ) -> Result<()> {
        let pointer = self.lock();
        with_message(|err, len| f(pointer.0, err, len))
    }

    /// The object for as long as no other call may run.
    pub(super) fn with<R>(&self, f: impl FnOnce(*mut c_void) -> R) -> R {
        f(self.lock().0)
    }

    fn lock(&self) -> MutexGuard<'_, Pointer> {
        self.pointer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let pointer = self.lock().0;
        if let Some(destroy) = self.destroy.filter(|_| !pointer.is_null()) {
            // SAFETY: made by the plugin's `create`, and never used again.
            unsafe { destroy(pointer) };
        }
    }
}

/// Calls with a buffer for a message; a code that is not OK becomes an error with it.
fn with_message(f: impl FnOnce(*mut c_char, usize) -> i32) -> Result<()> {
    let mut buffer = [0_u8; MESSAGE];
    let code = keeping_mode(|| f(buffer.as_mut_ptr().cast(), buffer.len()))?;
    let message = buffer.split(|b| *b == 0).next().unwrap_or_default();
    let message = String::from_utf8_lossy(message);
    let message = if message.is_empty() { "no message".into() } else { message };
    match code {
        abi::OK => Ok(()),
        abi::PANIC => Err(Error::Foreign(format!("it panicked: {message}"))),
        abi::UNSUPPORTED => Err(Error::Foreign(format!("not supported: {message}"))),
        abi::ERROR => Err(Error::Foreign(message.into_owned())),
        other => Err(Error::Foreign(format!("it returned the unknown code {other}: {message}"))),
    }
}

/// Calls, and refuses a change of the processor's floating-point mode, which would change every number
/// after it.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn keeping_mode<R>(f: impl FnOnce() -> R) -> Result<R> {
    let before = super::float::Mode::now();
    let result = f();
    if super::float::Mode::now() == before {
        return Ok(result);
    }
    before.set();
    Err(Error::Foreign(
        "it changed the floating-point mode of the process (rounding, denormal numbers or traps)"
            .into(),
    ))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn keeping_mode<R>(f: impl FnOnce() -> R) -> Result<R> {
    Ok(f())
}
