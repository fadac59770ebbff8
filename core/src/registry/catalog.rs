//! All kinds and their plugins behind one type: for listings, the config and its schema.

use super::{Entry, Kind, build, entries};
use crate::kinds::{
    Auxiliary, BlackBoxSearch, CheckProblem, Dataset, Evaluator, Hypergradient,
    MultilevelOptimizer, Operation, Regularizer, Relaxation, SearchSpace, Selection, StopRule,
    SupernetTransform, TransferLoss,
};
use crate::{Error, Result};
use schemars::Schema;
use serde_json::Value;
use toml::de::ValueDeserializer;

/// A registered plugin of any kind.
#[derive(Debug, Clone, Copy)]
pub struct Plugin {
    /// The kind's name.
    pub kind: &'static str,
    /// Name in the config.
    pub name: &'static str,
    /// One line for listings.
    pub summary: &'static str,
    /// The crate that submits it, and its version.
    pub origin: (&'static str, &'static str),
    /// Reads options with their places in the source and writes all defaults out.
    pub resolve: fn(ValueDeserializer<'_>) -> Result<Value, toml::de::Error>,
    /// Builds the plugin of this name from resolved options and drops it.
    pub check: fn(&str, &Value) -> Result<()>,
    /// The default options.
    pub defaults: fn() -> Value,
    /// The JSON schema of the options.
    pub schema: fn() -> Schema,
}

impl Plugin {
    fn new<T: Kind + ?Sized>(entry: &Entry<T>) -> Self {
        Self {
            kind: T::NAME,
            name: entry.name,
            summary: entry.summary,
            origin: entry.origin,
            resolve: entry.resolve,
            check: |name, options| build::<T>(name, options).map(drop),
            defaults: entry.defaults,
            schema: entry.schema,
        }
    }
}

/// A kind of plugin.
#[derive(Debug, Clone, Copy)]
pub struct KindInfo {
    /// Its name in kebab-case.
    pub name: &'static str,
    list: fn() -> Vec<Plugin>,
}

impl KindInfo {
    const fn of<T: Kind + ?Sized>() -> Self {
        Self { name: T::NAME, list: || entries::<T>().into_iter().map(Plugin::new).collect() }
    }

    /// Its plugins, sorted by name.
    pub fn plugins(&self) -> Vec<Plugin> {
        (self.list)()
    }
}

/// All kinds, sorted by name.
pub const KINDS: [KindInfo; 15] = [
    KindInfo::of::<dyn Auxiliary>(),
    KindInfo::of::<dyn BlackBoxSearch>(),
    KindInfo::of::<dyn CheckProblem>(),
    KindInfo::of::<dyn Dataset>(),
    KindInfo::of::<dyn Evaluator>(),
    KindInfo::of::<dyn Hypergradient>(),
    KindInfo::of::<dyn MultilevelOptimizer>(),
    KindInfo::of::<dyn Operation>(),
    KindInfo::of::<dyn Regularizer>(),
    KindInfo::of::<dyn Relaxation>(),
    KindInfo::of::<dyn SearchSpace>(),
    KindInfo::of::<dyn Selection>(),
    KindInfo::of::<dyn StopRule>(),
    KindInfo::of::<dyn SupernetTransform>(),
    KindInfo::of::<dyn TransferLoss>(),
];

/// The kind of this name.
pub fn kind(name: &str) -> Option<&'static KindInfo> {
    KINDS.iter().find(|k| k.name == name)
}

/// The plugin of this kind and name.
///
/// # Errors
/// Unknown, or submitted twice.
pub fn find(kind: &KindInfo, name: &str) -> Result<Plugin> {
    let list = kind.plugins();
    let mut found = list.iter().filter(|p| p.name == name);
    match (found.next(), found.next()) {
        (None, _) => Err(Error::UnknownPlugin {
            kind: kind.name,
            name: name.to_owned(),
            known: list.iter().map(|p| p.name).collect(),
        }),
        (Some(plugin), None) => Ok(*plugin),
        (Some(first), Some(second)) => Err(Error::DuplicatePlugin {
            kind: kind.name,
            name: first.name,
            first: first.origin.0,
            second: second.origin.0,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_sorted_and_found() {
        assert!(KINDS.is_sorted_by(|a, b| a.name < b.name));
        assert_eq!(kind("transfer-loss").map(|k| k.name), Some("transfer-loss"));
        assert!(kind("transfer").is_none());
    }
}
