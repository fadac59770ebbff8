//! What is to be checked: plugins by name, or those of a file.

use super::super::find as listed;
use crate::commands::code;
use crate::exit::Usage;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tetlo_core::registry::Tier;
use tetlo_core::registry::catalog::{KINDS, KindInfo, Plugin};
use tetlo_loader::{Request, load, path};

/// The plugins that NAME, KIND/NAME or PATH names.
///
/// # Errors
/// [`Usage`]: there is no such thing; others: the file does not load.
pub(super) fn find_target(
    argument: &str,
    kind: Option<&str>,
    limit: Duration,
) -> Result<Vec<Plugin>> {
    code::load_environment()?;
    let (of, name) = match argument.split_once('/') {
        Some((of, name)) if KINDS.iter().any(|k| k.name == of) => (Some(of), name),
        _ => (None, argument),
    };
    let is = |p: &Plugin| p.name == name && of.is_none_or(|k| k == p.kind);
    let named: Vec<Plugin> = KINDS.iter().flat_map(KindInfo::plugins).filter(is).collect();
    let found = if !named.is_empty() {
        named
    } else if Path::new(argument).exists() {
        load_all(Path::new(argument), limit)?
    } else if of.is_none() && (argument.contains('/') || argument.contains('.')) {
        bail!(Usage(format!("there is no file or folder `{argument}`")));
    } else {
        listed(argument, None)?; // names the nearest one
        bail!(Usage(format!("`{argument}` is a method, a composition of plugins: check those")));
    };
    let of_kind: Vec<Plugin> =
        found.iter().filter(|p| kind.is_none_or(|k| k == p.kind)).copied().collect();
    if of_kind.is_empty() {
        let kinds: Vec<&str> = found.iter().map(|p| p.kind).collect();
        let asked = kind.unwrap_or_default();
        bail!(Usage(format!("`{argument}` is no {asked}; it is a {}", kinds.join(" and a "))));
    }
    Ok(of_kind)
}

/// Where a plugin comes from, in a line.
pub(super) fn origin(plugin: &Plugin) -> String {
    let (from, version) = plugin.origin;
    let Some(code) = plugin.code else { return format!("linked, from {from} {version}") };
    let tier = match code.tier {
        Tier::SharedLibrary => "shared library",
        Tier::Process => "process",
        Tier::Data => "page of data",
        Tier::Linked => "linked",
    };
    let mut parts = vec![format!("{tier} {}", code.path.display()), format!("version {version}")];
    if !code.command.is_empty() {
        parts.push(format!("run as `{}`", code.command.join(" ")));
    }
    if !code.built_with.is_empty() {
        parts.push(format!("built with {}", code.built_with));
    }
    parts.push(format!("SHA-256 {}", code.sha256));
    parts.join(", ")
}

/// Loads a file, or what was built in a folder that `plugins new` wrote: all its plugins.
///
/// A script gets a little less time than a check, so that it is its own call that fails.
fn load_all(at: &Path, limit: Duration) -> Result<Vec<Plugin>> {
    let mut plugins = Vec::new();
    for file in files(at)? {
        let file = std::path::absolute(file)?;
        let request = Request { usual_time_limit: limit.mul_f64(0.9), ..Request::of(&file) };
        plugins.extend(path::plugins(load(request, code::policy())?));
    }
    Ok(plugins)
}

fn files(at: &Path) -> Result<Vec<PathBuf>> {
    if !at.is_dir() {
        return Ok(vec![at.to_path_buf()]);
    }
    for folder in [at.to_path_buf(), at.join("target/release")] {
        let found = if folder.is_dir() { path::files(&folder)? } else { vec![] };
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let how = if at.join("Cargo.toml").is_file() {
        "build it first: `cargo build --release`"
    } else if at.join("Makefile").is_file() {
        "build it first: `make`"
    } else {
        "expected is a shared library, a script or a page of TOML"
    };
    bail!(Usage(format!("there is no plugin in the folder `{}`; {how}", at.display())))
}
