//! A text in TOML that is no configuration, such as the page of a search space: its errors show file,
//! line and caret as those of a configuration do.

use super::load::parse;
use super::message::{meant, reword};
use super::source::Sources;
use super::tree::{self, Node};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use std::ops::Range;
use toml::de::ValueDeserializer;

pub(crate) use super::tree::Path;

/// A parsed text.
#[derive(Debug)]
pub(crate) struct Text<'i> {
    sources: Sources<'i>,
    root: Node<'i>,
}

impl<'i> Text<'i> {
    /// Parses a text that errors call `source_name`.
    pub(crate) fn parse(source_name: &str, text: &'i str) -> Result<Self> {
        let mut sources = Sources::default();
        let start = sources.add(source_name, text);
        let root = parse(&sources, start, text)?;
        Ok(Self { sources, root })
    }

    /// Reads the whole text; `hint` is for errors that tell nothing better.
    pub(crate) fn read<T: DeserializeOwned>(&self, hint: &str) -> Result<T> {
        if let Some(span) = tree::not_finite(&self.root) {
            return Err(self.sources.error(&span, "a number must be finite", hint));
        }
        T::deserialize(ValueDeserializer::from(self.root.clone()))
            .map_err(|e| self.wrong(&e, "", self.root.span(), hint))
    }

    /// The value at a path as `read` makes it of its source; `what` stands before its errors.
    pub(crate) fn read_at<T>(
        &self,
        path: &Path,
        (what, hint): (&str, &str),
        read: impl FnOnce(ValueDeserializer<'_>) -> Result<T, toml::de::Error>,
    ) -> Result<Option<T>> {
        let Some(node) = tree::get(&self.root, path) else { return Ok(None) };
        let read = read(ValueDeserializer::from(node.clone()));
        read.map(Some).map_err(|e| self.wrong(&e, what, node.span(), hint))
    }

    /// Is anything written at this path?
    pub(crate) fn has(&self, path: &Path) -> bool {
        tree::get(&self.root, path).is_some()
    }

    /// An error at the value of a path, or at the nearest table round it.
    pub(crate) fn error(
        &self,
        path: &Path,
        what: impl AsRef<str>,
        hint: impl Into<String>,
    ) -> Error {
        self.sources.error(&tree::span(&self.root, path), what, hint)
    }

    fn wrong(&self, e: &toml::de::Error, what: &str, place: Range<usize>, hint: &str) -> Error {
        let hint = meant(e.message()).unwrap_or_else(|| hint.to_owned());
        let what = format!("{what}{}", reword(e.message()));
        self.sources.error(&e.span().unwrap_or(place), what, hint)
    }
}
