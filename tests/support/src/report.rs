//! What failed, and how it is found.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a suite found.
#[derive(Debug)]
pub struct Report {
    plugin: String,
    failures: Vec<String>,
}

/// Why a check failed; any error becomes one.
pub(crate) struct Failure(pub(crate) String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

pub(crate) type Check<T = ()> = Result<T, Failure>;

/// Fails the check unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {{
        let holds: bool = $condition;
        if !holds {
            return Err(crate::report::Failure(format!($($message)+)));
        }
    }};
}
pub(crate) use ensure;

impl Report {
    pub(crate) fn new(kind: &str, name: &str) -> Self {
        Self { plugin: format!("{kind} `{name}`"), failures: vec![] }
    }

    /// Runs one check; an error or a panic is noted.
    pub(crate) fn check(&mut self, what: impl Display, check: impl FnOnce() -> Check) {
        let failure = match guarded(check) {
            Ok(Ok(())) => return,
            Ok(Err(Failure(message))) => message,
            Err(panic) => format!("panicked: {panic}"),
        };
        self.failures.push(format!("{}: {what}: {failure}", self.plugin));
    }

    pub(crate) fn finish(self) -> Result<(), String> {
        if self.failures.is_empty() { Ok(()) } else { Err(self.failures.join("\n")) }
    }
}

/// The message of the panic, if there is one.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

/// Expects an error: not a result, not a panic. Returns the message.
pub(crate) fn refused<T>(
    what: impl Display,
    call: impl FnOnce() -> tetlo_core::Result<T>,
) -> Check<String> {
    match guarded(call) {
        Ok(Err(error)) => Ok(error.to_string()),
        Ok(Ok(_)) => Err(Failure(format!("{what} must be refused, but is accepted"))),
        Err(panic) => Err(Failure(format!("{what} must be an error, not a panic: {panic}"))),
    }
}
