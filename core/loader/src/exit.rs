//! Loaded code that calls `exit` must not pass for a program that has done its work.
#![expect(unsafe_code, reason = "a handler of the C library's exit")]

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static DONE: AtomicBool = AtomicBool::new(false);

extern "C" fn at_exit() {
    if DONE.load(Ordering::SeqCst) {
        return;
    }
    let text = b"error: code that is not linked in ended this process (it called `exit`)\n";
    // SAFETY: writes a text and ends the process, as a handler may.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(1);
    }
}

/// From now on the process ends with exit code 1 and a message, whoever ends it, unless [`done`] was
/// called.
pub fn guard() {
    static GUARDED: Once = Once::new();
    GUARDED.call_once(|| {
        // SAFETY: the handler is a function of this program, which is never unloaded.
        unsafe { libc::atexit(at_exit) };
    });
}

/// The program ends of its own will.
pub fn done() {
    DONE.store(true, Ordering::SeqCst);
}
