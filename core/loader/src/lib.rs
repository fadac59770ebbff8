//! Loads plugins at run time: shared libraries, processes, pages of data.
//!
//! [`load`] reads a file, looks at what it is, and adds its plugins to tetlo-core's registry; loaded code
//! is never unloaded. What is allowed is a [`Policy`].

mod elf;
pub mod exit;
mod library;
pub mod path;
pub mod process;
mod safety;

use process::{Command, Factory};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tetlo_core::foreign::Manifest;
use tetlo_core::kinds::{Regularizer, SearchSpace, Selection, StopRule, TransferLoss};
use tetlo_core::registry::loaded::LIBRARY;
use tetlo_core::registry::{Code, Entry, Kind, Tier, loaded};
use tetlo_core::space::page::{PageFactory, SpacePage};
use tetlo_core::{Error, Result};

/// What may be loaded.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Anything at all?
    pub enabled: bool,
    /// Files and folders that every user of the machine can write, too?
    pub allow_unsafe: bool,
}

/// A file to load.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The file, absolute; empty where `command` is to be searched for it.
    pub path: &'a Path,
    /// Program and arguments: with `{library}` in place of the file, or (with an empty path) as it would
    /// be typed. Empty: the file's usual way.
    pub command: &'a [String],
    /// What paths in `command` are relative to.
    pub directory: &'a Path,
    /// How long a process may take for an answer, where that was said; refused for other code.
    pub time_limit: Option<Duration>,
    /// How long it may take where nothing was said.
    pub usual_time_limit: Duration,
    /// The hash that the file must have.
    pub sha256: Option<&'a str>,
}

impl<'a> Request<'a> {
    /// The usual way to load a file.
    pub fn of(path: &'a Path) -> Self {
        Self {
            path,
            command: &[],
            directory: Path::new("."),
            time_limit: None,
            usual_time_limit: loaded::TIME_LIMIT,
            sha256: None,
        }
    }
}

/// One load at a time: of one file loaded twice, the second is the first.
static LOADING: Mutex<()> = Mutex::new(());
static CODE: Mutex<Vec<&'static Code>> = Mutex::new(Vec::new());

/// Loads a file and adds its plugins to the registry, to be found by its hash. Loading runs code, but
/// for pages of data. A file with the same bytes and command that is loaded already is not loaded again.
///
/// # Errors
/// The policy forbids it, the file is not what it must be, or its plugins do not describe themselves
/// as they should. The message names the file.
pub fn load(request: Request<'_>, policy: Policy) -> Result<&'static Code> {
    let _one = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let (path, command) = found(request)?;
    let code = at(&path, load_file(&path, &command, request, policy))?;
    loaded::at(request.path, request.command, code);
    loaded::at(&path, &code.command, code);
    if code.command == usual(&path) {
        loaded::at(&path, &[], code);
    }
    Ok(code)
}

/// Says which file an error is about.
fn at<T>(path: &Path, result: Result<T>) -> Result<T> {
    result.map_err(|e| {
        let what = format!("plugin file {}: {e}", path.display());
        match e.hint() {
            Some(hint) => Error::config_hint(what, hint),
            None => Error::config(what),
        }
    })
}

/// The file of a request, and the command with `{library}` in its place.
fn found(request: Request<'_>) -> Result<(PathBuf, Vec<String>)> {
    if !request.path.as_os_str().is_empty() {
        return Ok((request.path.to_path_buf(), request.command.to_vec()));
    }
    let files: Vec<(usize, PathBuf)> = (request.command.iter().enumerate())
        .map(|(i, part)| (i, request.directory.join(part)))
        .filter(|(_, path)| path.is_file())
        .collect();
    let (at, path) = match files.as_slice() {
        [one] => one.clone(),
        [] => {
            let program = request.command.first().map_or("", String::as_str);
            let found = path::program(program).filter(|_| !program.is_empty());
            (0, found.ok_or_else(|| nothing_to_keep(request))?)
        }
        several => {
            let names: Vec<String> =
                several.iter().map(|(_, path)| path.display().to_string()).collect();
            return Err(Error::config_hint(
                format!(
                    "the command names several files ({}); one can be kept with a comparison",
                    names.join(", ")
                ),
                "put the plugin into one file",
            ));
        }
    };
    // An interpreter alone is no plugin's code.
    if at == 0 && request.command.len() > 1 && files.is_empty() {
        return Err(nothing_to_keep(request));
    }
    let absolute = std::path::absolute(&path)
        .map_err(|e| Error::io(format!("cannot resolve {}", path.display()), e))?;
    let mut command = request.command.to_vec();
    LIBRARY.clone_into(&mut command[at]);
    Ok((absolute, command))
}

fn nothing_to_keep(request: Request<'_>) -> Error {
    Error::config_hint(
        format!("no part of the command `{}` is a file", request.command.join(" ")),
        format!("paths in it are relative to {}", request.directory.display()),
    )
}

/// How a script is run if nothing else is said: `.py` by `python3`, others by themselves.
fn usual(path: &Path) -> Vec<String> {
    let python = path.extension().is_some_and(|e| e == "py");
    let program = if python { vec!["python3"] } else { vec![] };
    program.into_iter().chain([LIBRARY]).map(str::to_owned).collect()
}

fn load_file(
    path: &Path,
    command: &[String],
    request: Request<'_>,
    policy: Policy,
) -> Result<&'static Code> {
    let is_page = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"));
    if !policy.enabled && !is_page {
        return Err(Error::config_hint(
            "`--no-dynamic-plugins` is given",
            "leave it out to run the code in this file",
        ));
    }
    let real = path.canonicalize().map_err(|e| Error::io("cannot be found", e))?;
    if !real.is_file() {
        return Err(Error::config("it is not a file"));
    }
    if !policy.allow_unsafe && !is_page {
        safety::check(&real)?;
    }
    let bytes = std::fs::read(&real).map_err(|e| Error::io("cannot be read", e))?;
    let sha256 = hash(&bytes);
    if let Some(expected) = request.sha256
        && expected != sha256
    {
        return Err(Error::config_hint(
            format!("it has changed: its SHA-256 is {sha256}, {expected} is expected"),
            "restore the file, or plan again into another directory: a changed plugin is another trial",
        ));
    }
    let tier = if is_page {
        Tier::Data
    } else if command.is_empty() && (elf::is_elf(&bytes) || has_library_name(path)) {
        Tier::SharedLibrary
    } else {
        Tier::Process
    };
    for (key, given) in
        [("command", !command.is_empty()), ("time-limit", request.time_limit.is_some())]
    {
        if given && tier != Tier::Process {
            return Err(Error::config_hint(
                format!("`{key}` is for scripts and programs, this is a {tier}"),
                "leave the key out",
            ));
        }
    }
    let command = match tier {
        Tier::Process if command.is_empty() => usual(path),
        _ => command.to_vec(),
    };
    let mut known = CODE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(code) = known.iter().find(|c| c.sha256 == sha256 && c.command == command) {
        return Ok(code);
    }
    let mut code = Code::new(tier, path.to_path_buf(), sha256);
    code.command = command;
    let code = match tier {
        Tier::SharedLibrary => shared_library(code, &real, &bytes)?,
        Tier::Process => script(code, request.time_limit.unwrap_or(request.usual_time_limit))?,
        Tier::Data | Tier::Linked => page(code, &bytes)?,
    };
    known.push(code);
    Ok(code)
}

/// `lib….so` is meant as a shared library even where its content is not one.
fn has_library_name(path: &Path) -> bool {
    path.extension().is_some_and(|e| ["so", "dylib", "dll", "a", "o"].iter().any(|k| e == *k))
}

/// The SHA-256 of these bytes, in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn shared_library(mut code: Code, path: &Path, bytes: &[u8]) -> Result<&'static Code> {
    let library = library::open(path, bytes)?;
    library.origin()?.0.clone_into(&mut code.built_with);
    let plugins = library.plugins()?;
    let code: &'static Code = Box::leak(Box::new(code));
    for plugin in plugins {
        plugin.add(code);
    }
    Ok(code)
}

fn script(mut code: Code, time_limit: Duration) -> Result<&'static Code> {
    code.set_time_limit(time_limit);
    let command =
        Command { program_and_arguments: with_file(&code.command, &code.path), time_limit };
    let (manifests, built_with) = process::manifests(&command)?;
    code.built_with = built_with;
    let code: &'static Code = Box::leak(Box::new(code));
    for manifest in manifests {
        let command = command.clone();
        match manifest.kind {
            "transfer-loss" => add::<dyn TransferLoss>(code, command, manifest),
            "regularizer" => add::<dyn Regularizer>(code, command, manifest),
            "stop-rule" => add::<dyn StopRule>(code, command, manifest),
            _ => add::<dyn Selection>(code, command, manifest),
        }
    }
    Ok(code)
}

/// A command with the file's path in its place.
fn with_file(command: &[String], path: &Path) -> Vec<String> {
    let path = path.display().to_string();
    command.iter().map(|part| part.replace(LIBRARY, &path)).collect()
}

fn leaked(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn add<T: Kind + ?Sized>(code: &'static Code, command: Command, manifest: Manifest)
where
    Factory: tetlo_core::registry::Factory<T>,
{
    let (name, summary) = (leaked(&manifest.name), leaked(&manifest.summary));
    let origin = (leaked(&code.path.display().to_string()), leaked(&manifest.version));
    let factory = Box::leak(Box::new(Factory { command, code: Some(code), manifest }));
    loaded::add(Entry::<T> { name, summary, origin, code: Some(code), factory });
}

fn page(code: Code, bytes: &[u8]) -> Result<&'static Code> {
    let text = tetlo_core::config::text_of("it", bytes)?;
    let page = SpacePage::parse(&code.path.display().to_string(), text)?;
    let code: &'static Code = Box::leak(Box::new(code));
    let (name, summary) = (leaked(&page.name), leaked(&page.summary));
    let origin = (leaked(&code.path.display().to_string()), leaked(&page.version));
    let factory = Box::leak(Box::new(PageFactory::new(&page)?));
    loaded::add(Entry::<dyn SearchSpace> { name, summary, origin, code: Some(code), factory });
    Ok(code)
}
