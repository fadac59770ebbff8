//! Plugins from code that was loaded at run time: a shared library, a script, a page of data.
//!
//! Loading is the affair of the crate `tetlo-loader`; here is only what was loaded. Code is never
//! unloaded, so that its entries live as long as the program.

use super::{Entry, Kind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// How a plugin comes into the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Compiled into the binary.
    Linked,
    /// A shared library with the C interface `tetlo_plugin.h`.
    SharedLibrary,
    /// A process that is spoken to over its standard input and output.
    Process,
    /// A text file.
    Data,
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Linked => "linked",
            Self::SharedLibrary => "shared-library",
            Self::Process => "process",
            Self::Data => "data",
        })
    }
}

/// Code that was loaded at run time.
#[derive(Debug)]
pub struct Code {
    /// How.
    pub tier: Tier,
    /// The file, absolute.
    pub path: PathBuf,
    /// The SHA-256 of the file's bytes, 64 hex digits.
    pub sha256: String,
    /// How a process is started: program and arguments, `{library}` in place of the file. Empty for
    /// the other tiers.
    pub command: Vec<String>,
    /// What it says it was built with; for people.
    pub built_with: String,
    named: AtomicBool,
    time_limit: AtomicU64,
}

/// What a program that a process plugin runs gets in place of the file's path.
pub const LIBRARY: &str = "{library}";

/// Longest time that a process plugin may take for an answer, if the config says nothing.
pub const TIME_LIMIT: Duration = Duration::from_mins(1);

impl Code {
    /// Code that is found by its hash only.
    pub fn new(tier: Tier, path: PathBuf, sha256: String) -> Self {
        let (command, built_with) = (vec![], String::new());
        let time_limit = AtomicU64::new(TIME_LIMIT.as_millis() as u64);
        let named = AtomicBool::new(false);
        Self { tier, path, sha256, command, built_with, named, time_limit }
    }

    /// Can its plugins be named without naming the file (`[plugins] load`, `TETLO_PLUGIN_PATH`)?
    pub fn is_named(&self) -> bool {
        self.named.load(Ordering::Relaxed)
    }

    /// How long a process may take for an answer.
    pub fn time_limit(&self) -> Duration {
        Duration::from_millis(self.time_limit.load(Ordering::Relaxed))
    }

    /// Sets how long processes that are started from now on may take for an answer.
    pub fn set_time_limit(&self, limit: Duration) {
        self.time_limit.store(limit.as_millis() as u64, Ordering::Relaxed);
    }

    /// From now on its plugins can be named without naming the file.
    pub fn name(&self) {
        self.named.store(true, Ordering::Relaxed);
    }
}

/// Adds a plugin of loaded code.
pub fn add<T: Kind + ?Sized>(entry: Entry<T>) {
    let mut list = T::loaded().write().unwrap_or_else(PoisonError::into_inner);
    list.push(Box::leak(Box::new(entry)));
}

/// A file, or a command as it was written, and the code that it turned out to be.
type Place = (PathBuf, Vec<String>, &'static Code);

static PLACES: RwLock<Vec<Place>> = RwLock::new(Vec::new());

/// Notes that this file, run by this command (empty: in its own way), is this code.
pub fn at(path: &Path, command: &[String], code: &'static Code) {
    let mut places = PLACES.write().unwrap_or_else(PoisonError::into_inner);
    places.retain(|(p, c, _)| p != path || c != command);
    places.push((path.to_path_buf(), command.to_vec(), code));
}

/// The code that was loaded from this file with this command.
pub fn code_at(path: &Path, command: &[String]) -> Option<&'static Code> {
    let places = PLACES.read().unwrap_or_else(PoisonError::into_inner);
    places.iter().find(|(p, c, _)| p == path && c == command).map(|(.., code)| *code)
}

fn list<T: Kind + ?Sized>() -> Vec<&'static Entry<T>> {
    T::loaded().read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The plugins that can be named without naming their file.
///
/// Those in plain Rust that are linked in are among them.
pub(super) fn named<T: Kind + ?Sized>() -> impl Iterator<Item = &'static Entry<T>> {
    crate::foreign::c::add_linked();
    list::<T>().into_iter().filter(|e| e.code.is_none_or(Code::is_named))
}

/// The plugin of this name from this code.
pub fn find<T: Kind + ?Sized>(code: &Code, name: &str) -> Option<&'static Entry<T>> {
    let of = |e: &&Entry<T>| e.name == name && e.code.is_some_and(|c| std::ptr::eq(c, code));
    list::<T>().into_iter().find(of)
}

/// The names of the plugins from this code.
pub(super) fn names<T: Kind + ?Sized>(code: &Code) -> Vec<&'static str> {
    let of = |e: &&Entry<T>| e.code.is_some_and(|c| std::ptr::eq(c, code));
    list::<T>().into_iter().filter(of).map(|e| e.name).collect()
}
