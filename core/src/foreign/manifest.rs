//! What foreign code says of a plugin before it is built.

use super::options::SchemaOptions;
use crate::registry::{self, catalog};
use crate::{Error, Result};
use serde_json::Value;

/// Kinds whose plugins can come from a shared library or a process.
pub const LOADABLE: [&str; 4] = ["regularizer", "selection", "stop-rule", "transfer-loss"];

/// A plugin in foreign code.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its kind, one of [`LOADABLE`].
    pub kind: &'static str,
    /// Its name in the config, kebab-case.
    pub name: String,
    /// Its version; for people.
    pub version: String,
    /// One line for listings.
    pub summary: String,
    /// Its options.
    pub options: SchemaOptions,
}

impl Manifest {
    /// Checks what code says of a plugin. `schema` is the JSON schema of its options, `null` for none.
    ///
    /// # Errors
    /// A kind that cannot be loaded, a name that no config could hold, a text of several lines, or a
    /// schema that is none.
    pub fn new(
        kind: &str,
        name: &str,
        version: &str,
        summary: &str,
        schema: &Value,
    ) -> Result<Self> {
        let wrong = |what: String| Err(Error::Invalid(what));
        let Some(kind) = LOADABLE.into_iter().find(|k| *k == kind) else {
            let known = catalog::kind(kind).is_some();
            let what = if known { "cannot be loaded" } else { "is unknown" };
            return wrong(format!("the kind `{kind}` {what}; {} can", LOADABLE.join(", ")));
        };
        if !registry::is_name(name, '-') {
            return wrong(format!(
                "the name {name:?} is not lower-case words and digits joined by `-`"
            ));
        }
        for (what, text) in [("summary", summary), ("version", version)] {
            if !registry::is_line(text) {
                return wrong(format!("the {what} of `{name}` is not one line of text: {text:?}"));
            }
        }
        let options = SchemaOptions::new(schema)
            .map_err(|e| Error::Invalid(format!("the options schema of `{name}`: {e}")))?;
        let (name, version, summary) = (name.to_owned(), version.to_owned(), summary.to_owned());
        Ok(Self { kind, name, version, summary, options })
    }

    /// Reads the list of plugins that a process sends: objects with `kind`, `name`, `version`,
    /// `summary` and, if there are options, `schema`.
    ///
    /// # Errors
    /// As [`Manifest::new`], a missing key, an empty list, or a name that stands in it twice.
    pub fn list(value: &Value) -> Result<Vec<Self>> {
        let wrong = |what: String| Error::Invalid(what);
        let Some(list) = value.as_array() else {
            return Err(wrong("the manifest is not a list of plugins".into()));
        };
        let text = |item: &Value, key: &str| {
            let text = item[key].as_str().map(str::to_owned);
            text.ok_or_else(|| wrong(format!("a plugin of the manifest has no text `{key}`")))
        };
        let read = |item: &Value| {
            let (kind, name) = (text(item, "kind")?, text(item, "name")?);
            let (version, summary) = (text(item, "version")?, text(item, "summary")?);
            Self::new(&kind, &name, &version, &summary, &item["schema"])
        };
        let list = list.iter().map(read).collect::<Result<Vec<_>>>()?;
        Self::check_distinct(&list)?;
        Ok(list)
    }

    /// Refuses an empty list, and two plugins of one kind and name.
    ///
    /// # Errors
    /// The message names them.
    pub fn check_distinct(list: &[Self]) -> Result<()> {
        if list.is_empty() {
            return Err(Error::Invalid("it has no plugins".into()));
        }
        for (i, one) in list.iter().enumerate() {
            if list[..i].iter().any(|o| o.kind == one.kind && o.name == one.name) {
                return Err(Error::Invalid(format!(
                    "two of its plugins of kind {} are called `{}`",
                    one.kind, one.name
                )));
            }
        }
        Ok(())
    }
}
