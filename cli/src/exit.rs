//! Exit codes.

use std::process::ExitCode;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All went well.
    Ok = 0,
    /// The run, or the check, failed.
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// A comparison in which trials are missing.
    Incomplete = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The exit of an error: 2 where the user's configuration or usage is to blame, else 1.
pub(crate) fn of_error(error: &anyhow::Error) -> Exit {
    let usage = error.chain().any(|cause| {
        cause.downcast_ref::<tetlo_core::Error>().is_some_and(tetlo_core::Error::is_usage)
            || cause.downcast_ref::<Usage>().is_some()
    });
    if usage { Exit::Usage } else { Exit::Failed }
}

/// An error of usage that the argument parser cannot see.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
