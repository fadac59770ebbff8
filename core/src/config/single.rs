//! One plugin's options as given on a command line.

use super::code::{CodeConfig, Unloaded};
use super::file::PluginRef;
use super::load::parse;
use super::options::Context;
use super::resolved::PluginConfig;
use super::source::Sources;
use super::tree::Path;
use crate::Result;
use crate::registry::{Code, Kind};
use std::borrow::Cow;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The plugin `name` of kind `T` with options given as TOML: lines, or `a = 1, b = "x"` on one line.
/// Paths in it are relative to `directory`. It is one of `code` where that is given.
///
/// # Errors
/// As in a file: with the text, a caret and a hint. `source_name` says where the text comes from,
/// such as `--options`.
pub fn plugin<T: Kind + ?Sized>(
    name: &str,
    source_name: &str,
    text: &str,
    directory: &std::path::Path,
    code: Option<&'static Code>,
) -> Result<PluginConfig> {
    if code.is_none() {
        crate::registry::find::<T>(name)?;
    }
    // A list on one line is an inline table.
    let wrapped = format!("options = {{ {text} }}");
    let inline = DeTable::parse(text).is_err() && DeTable::parse(&wrapped).is_ok();
    let text = if inline { &wrapped } else { text };
    let mut sources = Sources::default();
    let start = sources.add(source_name, text);
    let node = parse(&sources, start, text)?;
    let mut table = DeTable::new();
    let span = node.span();
    let key = |key: &'static str| Spanned::new(span.clone(), Cow::Borrowed(key));
    let options = match node.into_inner() {
        DeValue::Table(mut parsed) if inline => parsed.remove("options"),
        other => Some(Spanned::new(span.clone(), other)),
    };
    if let Some(options) = options {
        table.insert(key("options"), options);
    }
    table.insert(key("plugin"), Spanned::new(span.clone(), DeValue::String(Cow::Borrowed(name))));
    let root = Spanned::new(span.clone(), DeValue::Table(table));
    let unloaded = Unloaded::Refused;
    let context = Context { sources: &sources, root: &root, directory, unloaded };
    let (at, kinds) = (Path::default(), [T::NAME]);
    match code {
        None => context.plugin(&PluginRef::named(name), &at, &kinds),
        Some(code) => {
            let code = CodeConfig {
                file: code.path.clone(),
                sha256: Some(code.sha256.clone()),
                command: code.command.clone(),
                time_limit: None,
            };
            context.of_code(name, code, &at, &at.key("options"), &kinds)
        }
    }
}
