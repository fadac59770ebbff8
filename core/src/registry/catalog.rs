//! All kinds and their plugins behind one type: for listings, the config and its schema.

use super::{Code, Describe, Entry, Kind, Tier, entries};
use crate::kinds::{
    Auxiliary, BlackBoxSearch, CheckProblem, Dataset, Evaluator, Hypergradient,
    MultilevelOptimizer, Operation, Regularizer, Relaxation, SearchSpace, Selection, StopRule,
    SupernetTransform, TransferLoss,
};
use crate::{Error, Result};

/// A registered plugin of any kind.
#[derive(Clone, Copy)]
pub struct Plugin {
    /// The kind's name.
    pub kind: &'static str,
    /// Name in the config.
    pub name: &'static str,
    /// One line for listings.
    pub summary: &'static str,
    /// Where it comes from (a crate, a loaded file), and its version.
    pub origin: (&'static str, &'static str),
    /// The loaded code it comes from; `None`: linked into the binary.
    pub code: Option<&'static Code>,
    /// Reads its options.
    pub describe: &'static dyn Describe,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} of {:?}", self.kind, self.name, self.origin)
    }
}

impl Plugin {
    fn new<T: Kind + ?Sized>(entry: &Entry<T>) -> Self {
        Self {
            kind: T::NAME,
            name: entry.name,
            summary: entry.summary,
            origin: entry.origin,
            code: entry.code,
            describe: entry.factory,
        }
    }

    /// How it is there: linked in, or loaded and in what way.
    pub fn tier(&self) -> Tier {
        self.code.map_or(Tier::Linked, |code| code.tier)
    }
}

/// A kind of plugin.
#[derive(Debug, Clone, Copy)]
pub struct KindInfo {
    /// Its name in kebab-case.
    pub name: &'static str,
    list: fn() -> Vec<Plugin>,
    loaded: fn(&Code, &str) -> Option<Plugin>,
    names_in: fn(&Code) -> Vec<&'static str>,
}

impl KindInfo {
    const fn of<T: Kind + ?Sized>() -> Self {
        Self {
            name: T::NAME,
            list: || entries::<T>().into_iter().map(Plugin::new).collect(),
            loaded: |code, name| super::loaded::find::<T>(code, name).map(Plugin::new),
            names_in: super::loaded::names::<T>,
        }
    }

    /// Its plugins, sorted by name.
    pub fn plugins(&self) -> Vec<Plugin> {
        (self.list)()
    }

    /// Its plugin of this name from this code.
    pub fn loaded(&self, code: &Code, name: &str) -> Option<Plugin> {
        (self.loaded)(code, name)
    }

    /// The names of its plugins from this code.
    pub fn names_in(&self, code: &Code) -> Vec<&'static str> {
        (self.names_in)(code)
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
