//! Presets: methods that ship, as data.

use crate::{Error, Result};

/// A method that ships: the body of a `[[method]]` table, without `name`.
#[derive(Debug)]
pub struct PresetEntry {
    /// Name in the config, kebab-case.
    pub name: &'static str,
    /// One line for listings.
    pub summary: &'static str,
    /// The keys, such as `optimizer = { … }`, `[search]`.
    pub toml: &'static str,
    /// The file it stands in, as the source that registers it names it.
    pub file: &'static str,
    /// The crate that submits it, and its version.
    pub origin: (&'static str, &'static str),
}

inventory::collect!(PresetEntry);

/// The kind's name in listings.
pub const PRESET_KIND: &str = "method";

/// Registers a preset:
/// `register_preset!("name", "one line for listings", include_str!("../presets/name.toml"))`.
#[macro_export]
macro_rules! register_preset {
    ($name:literal, $summary:literal, include_str!($file:literal)) => {
        $crate::register_preset!($name, $summary, include_str!($file), $file);
    };
    ($name:literal, $summary:literal, $toml:expr, $file:expr) => {
        $crate::inventory::submit! {
            $crate::config::PresetEntry {
                name: $name,
                summary: $summary,
                toml: $toml,
                file: $file,
                origin: (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
            }
        }
    };
}

/// All presets, sorted by name.
pub fn presets() -> Vec<&'static PresetEntry> {
    let mut list: Vec<_> = inventory::iter::<PresetEntry>.into_iter().collect();
    list.sort_by_key(|p| (p.name, p.origin));
    list
}

/// The preset of this name.
///
/// # Errors
/// Unknown, or submitted twice.
pub fn preset(name: &str) -> Result<&'static PresetEntry> {
    let list = presets();
    let mut found = list.iter().filter(|p| p.name == name);
    match (found.next(), found.next()) {
        (None, _) => Err(Error::UnknownPlugin {
            kind: PRESET_KIND,
            name: name.to_owned(),
            known: list.iter().map(|p| p.name).collect(),
        }),
        (Some(entry), None) => Ok(entry),
        (Some(first), Some(second)) => Err(Error::DuplicatePlugin {
            kind: PRESET_KIND,
            name: first.name,
            first: first.origin.0,
            second: second.origin.0,
        }),
    }
}

impl PresetEntry {
    /// The file as errors name it: crate and path inside it.
    pub(super) fn place(&self) -> String {
        let inside = self.file.trim_start_matches("../");
        format!("{}/{inside}", self.origin.0)
    }
}
