//! Code beside what is linked in: what a config, the command line and the environment want loaded.

use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use tetlo_core::config::{self, CodeConfig, Outline, Reference};
use tetlo_core::registry::Code;
use tetlo_engine::plan::Trial;
use tetlo_loader::{Policy, Request, load, path};

static POLICY: OnceLock<Policy> = OnceLock::new();

/// Sets what this process may load.
pub(crate) fn set_policy(policy: Policy) {
    let _ = POLICY.set(policy);
}

/// What this process may load.
pub(crate) fn policy() -> Policy {
    POLICY.get().copied().unwrap_or(Policy { enabled: false, allow_unsafe: false })
}

/// Hands the policy on to a child.
pub(crate) fn pass_policy(command: &mut Command) {
    let policy = policy();
    if !policy.enabled {
        command.arg("--no-dynamic-plugins");
    }
    if policy.allow_unsafe {
        command.arg("--allow-unsafe-plugins");
    }
}

/// The files and folders that the environment names; none where nothing may be loaded.
pub(crate) fn environment() -> Vec<PathBuf> {
    if policy().enabled { path::of_environment() } else { vec![] }
}

/// Loads what the environment names.
pub(crate) fn load_environment() -> Result<()> {
    path::load_all(&environment(), policy())?;
    Ok(())
}

/// Loads a file that the command line names.
pub(crate) fn load_file(file: &Path) -> Result<&'static Code> {
    let file = std::path::absolute(file)?;
    Ok(load(Request::of(&file), policy())?)
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"))
}

/// Does the config want code to run that is not linked in? Pages of data are none.
pub(crate) fn is_wanted(outline: &Outline) -> bool {
    let named = outline.files.iter().any(|f| !is_page(&f.file));
    named || !outline.load.is_empty() || !environment().is_empty()
}

/// A config's text, and what errors in it need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    pub(crate) directory: &'a Path,
    pub(crate) sets: &'a [String],
}

impl Source<'_> {
    /// What it wants loaded.
    pub(crate) fn outline(&self) -> Result<Outline> {
        Ok(config::outline(self.name, self.text, self.directory, self.sets)?)
    }

    /// Loads what it names, and what the environment names.
    pub(crate) fn load_code(&self) -> Result<()> {
        let outline = self.outline()?;
        load_environment()?;
        path::load_all(&outline.load, policy())
            .map_err(|e| config::located(self.name, self.text, &["plugins", "load"], e))?;
        outline.files.iter().try_for_each(|file| self.load_reference(file))
    }

    /// Loads the pages of data that it names, and no code.
    pub(crate) fn load_pages(&self) -> Result<()> {
        let outline = self.outline()?;
        let mut pages = outline.files.iter().filter(|f| is_page(&f.file));
        pages.try_for_each(|file| self.load_reference(file))
    }

    fn load_reference(&self, file: &Reference) -> Result<()> {
        let request = Request {
            command: &file.command,
            directory: self.directory,
            time_limit: file.time_limit.map(Duration::from_secs_f64),
            sha256: file.sha256.as_deref(),
            ..Request::of(&file.file)
        };
        let keys: Vec<&str> = file.at.iter().map(String::as_str).collect();
        load(request, policy()).map_err(|e| config::located(self.name, self.text, &keys, e))?;
        Ok(())
    }
}

/// Loads the code of a trial.
pub(crate) fn load_trial(trial: &Trial) -> Result<()> {
    for code in trial.loaded().filter_map(|plugin| plugin.code.as_ref()) {
        load(kept(code), policy())?;
    }
    Ok(())
}

/// The request for code whose hash is known.
fn kept(code: &CodeConfig) -> Request<'_> {
    Request {
        command: &code.command,
        time_limit: code.time_limit.map(Duration::from_secs_f64),
        sha256: code.sha256.as_deref(),
        ..Request::of(&code.file)
    }
}

/// Does a trial run code that is not linked in?
pub(crate) fn runs_code(trial: &Trial) -> bool {
    trial.loaded().filter_map(|plugin| plugin.code.as_ref()).any(|code| !is_page(&code.file))
}
