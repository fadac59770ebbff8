//! What was checked, what of it failed, and how that is found.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Ok,
    /// It does not hold.
    Failed,
    /// It does not apply; the detail says why.
    Skipped,
}

impl Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        })
    }
}

/// A check that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was checked.
    pub check: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Seconds it took.
    pub seconds: f64,
    /// Why it failed or was skipped; of one that holds what was measured, often nothing.
    pub detail: String,
}

/// What a suite tells while it runs.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// This check begins: if nothing more comes, it is what crashed or hangs.
    Begin(&'a str),
    /// A check has ended.
    End(&'a Row),
}

/// The checks of a plugin, as they are made.
pub struct Report<'a> {
    rows: Vec<Row>,
    tell: &'a mut dyn FnMut(Event<'_>),
}

impl std::fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Report").field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// Why a check failed; any error becomes one.
#[derive(Debug)]
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

impl<'a> Report<'a> {
    /// A report that tells `tell` of each check, before and after it.
    pub fn new(tell: &'a mut dyn FnMut(Event<'_>)) -> Self {
        Self { rows: vec![], tell }
    }

    /// Makes one check: what it found, or why it failed. A panic is a failure.
    pub fn measure(&mut self, what: impl Display, check: impl FnOnce() -> Result<String, String>) {
        let what = what.to_string();
        (self.tell)(Event::Begin(&what));
        let began = Instant::now();
        let (outcome, detail) = match guarded(check) {
            Ok(Ok(found)) => (Outcome::Ok, found),
            Ok(Err(message)) => (Outcome::Failed, message),
            Err(panic) => (Outcome::Failed, format!("panicked: {panic}")),
        };
        self.push(Row { check: what, outcome, seconds: began.elapsed().as_secs_f64(), detail });
    }

    /// Notes that a check does not apply.
    pub fn skip(&mut self, what: impl Display, why: impl Display) {
        let (check, detail) = (what.to_string(), why.to_string());
        self.push(Row { check, outcome: Outcome::Skipped, seconds: 0.0, detail });
    }

    /// The checks that were made.
    pub fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// Makes one check that has nothing to tell where it holds.
    pub(crate) fn check(&mut self, what: impl Display, check: impl FnOnce() -> Check) {
        self.measure(what, || match check() {
            Ok(()) => Ok(String::new()),
            Err(Failure(message)) => Err(message),
        });
    }

    /// Did this check fail?
    pub(crate) fn failed(&self, what: &str) -> bool {
        self.rows.iter().any(|r| r.check == what && r.outcome == Outcome::Failed)
    }

    fn push(&mut self, row: Row) {
        (self.tell)(Event::End(&row));
        self.rows.push(row);
    }
}

/// A line for each failure, which names the plugin.
pub(crate) fn failures(plugin: &str, rows: &[Row]) -> Result<(), String> {
    let failed = rows.iter().filter(|r| r.outcome == Outcome::Failed);
    let lines: Vec<String> =
        failed.map(|r| format!("{plugin}: {}: {}", r.check, r.detail)).collect();
    if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
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
    match accepted(&what, call)? {
        Err(message) => Ok(message),
        Ok(_) => Err(Failure(format!("{what} must be refused, but is accepted"))),
    }
}

/// The result, or the message of a refusal; not a panic, and not a refusal without a word.
pub(crate) fn accepted<T>(
    what: impl Display,
    call: impl FnOnce() -> tetlo_core::Result<T>,
) -> Check<Result<T, String>> {
    match guarded(call) {
        Ok(Ok(result)) => Ok(Ok(result)),
        Ok(Err(error)) => {
            let message = error.to_string();
            ensure!(!message.trim().is_empty(), "{what} is refused without a message");
            Ok(Err(message))
        }
        Err(panic) => Err(Failure(format!("{what} must be an error, not a panic: {panic}"))),
    }
}
