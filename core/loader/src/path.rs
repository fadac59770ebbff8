//! Search paths: files and folders whose plugins can be named without their file.

use crate::{Policy, Request, load};
use std::path::{Path, PathBuf};
use tetlo_core::registry::catalog::{self, KINDS, KindInfo};
use tetlo_core::registry::{Code, loaded};
use tetlo_core::{Error, Result};

/// The environment variable with further files and folders, separated by colons.
pub const VARIABLE: &str = "TETLO_PLUGIN_PATH";

/// The files and folders that [`VARIABLE`] names, absolute.
pub fn of_environment() -> Vec<PathBuf> {
    let value = std::env::var_os(VARIABLE).unwrap_or_default();
    let named = std::env::split_paths(&value).filter(|p| !p.as_os_str().is_empty());
    named.map(|p| std::path::absolute(&p).unwrap_or(p)).collect()
}

/// The executable file that the shell would run for this name.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|p| p.is_file())
}

/// The plugin files that a file or folder stands for. Of a folder: shared libraries (`*.so`), Python
/// scripts that use the module `tetlo_plugin`, and pages of TOML that say `kind = …`; not the helper
/// itself, nor tests (`test_*.py`).
///
/// # Errors
/// There is nothing at this path.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return match path.try_exists() {
            Ok(true) => Ok(vec![path.to_path_buf()]),
            _ => Err(Error::config(format!("there is no plugin file {}", path.display()))),
        };
    }
    let list = std::fs::read_dir(path)
        .map_err(|e| Error::io(format!("cannot read the folder {}", path.display()), e))?;
    let mut files: Vec<PathBuf> =
        list.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| is_plugin(p)).collect();
    files.sort();
    Ok(files)
}

fn is_plugin(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let text = || std::fs::read_to_string(path).unwrap_or_default();
    match path.extension().and_then(|e| e.to_str()) {
        Some("so") => path.is_file(),
        Some("py") => {
            name != "tetlo_plugin.py"
                && !name.starts_with("test_")
                && text().contains("tetlo_plugin")
        }
        Some("toml") => text()
            .lines()
            .any(|line| line.split_once('=').is_some_and(|(key, _)| key.trim() == "kind")),
        _ => false,
    }
}

/// Loads everything at these paths, to be found by name.
///
/// # Errors
/// As [`load`]; or a name that is taken: the message names both places.
pub fn load_all(paths: &[PathBuf], policy: Policy) -> Result<Vec<&'static Code>> {
    let mut all = Vec::new();
    for file in paths.iter().map(|p| files(p)).collect::<Result<Vec<_>>>()?.concat() {
        all.push(load_named(&file, policy)?);
    }
    Ok(all)
}

/// Loads a file, to be found by name.
fn load_named(file: &Path, policy: Policy) -> Result<&'static Code> {
    let code = load(Request::of(file), policy)?;
    if code.is_named() {
        return Ok(code);
    }
    for kind in &KINDS {
        for name in kind.names_in(code) {
            if let Ok(other) = catalog::find(kind, name) {
                return Err(Error::config_hint(
                    format!(
                        "two plugins of kind {} are called `{name}`: one in {}, one in {}",
                        kind.name,
                        other.origin.0,
                        file.display()
                    ),
                    "rename one, or leave it out of the search path and name it by its file: \
                     `library = \"…\"`",
                ));
            }
        }
    }
    code.name();
    Ok(code)
}

/// The plugins of loaded code, of all kinds.
pub fn plugins(code: &Code) -> Vec<catalog::Plugin> {
    let of_kind = |kind: &'static KindInfo| {
        kind.names_in(code).into_iter().filter_map(|n| kind.loaded(code, n))
    };
    KINDS.iter().flat_map(of_kind).collect()
}

/// The code of a file that is loaded.
pub fn code(file: &Path) -> Option<&'static Code> {
    loaded::code_at(file, &[])
}
