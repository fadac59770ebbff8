//! From text to the resolved configuration.
//!
//! The order: parse the file; `--set` of presets; merge presets; every other `--set`; lay the
//! search protocols over each other; let serde check structure and types; check values; resolve
//! plugins.

use super::code::{Outline, Unloaded};
use super::file::CompareFile;
use super::message::{choices, meant, quoted, reword};
use super::options::Context;
use super::overrides::{Argument, Override};
use super::preset::{PRESET_KIND, preset, presets};
use super::resolved::CompareConfig;
use super::source::Sources;
use super::tree::{self, Node, Path, array_mut, shift, table_mut};
use crate::{Error, Result};
use serde::Deserialize;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

const SYNTAX: &str = "the syntax is TOML (https://toml.io); `tetlo config init` writes an example";

/// Reads a configuration.
///
/// `source_name` is how errors name the file, `directory` what paths in it are relative to, `sets`
/// the values of `--set`.
///
/// A plugin of a library, a script or a page keeps its options as they are written unless its code was
/// loaded before ([`outline`] says what there is to load).
///
/// # Errors
/// Anything wrong with the text or an override: the message shows the place, the line and a caret,
/// and there is a hint.
pub fn load(
    source_name: &str,
    text: &str,
    directory: &std::path::Path,
    sets: &[String],
) -> Result<CompareConfig> {
    let unloaded = Unloaded::Refused;
    with_file((source_name, text), directory, sets, unloaded, resolved)
}

/// The code that a configuration wants loaded, before its plugins are looked up.
///
/// # Errors
/// As [`load`], as far as the structure goes.
pub fn outline(
    source_name: &str,
    text: &str,
    directory: &std::path::Path,
    sets: &[String],
) -> Result<Outline> {
    let unloaded = Unloaded::Refused;
    with_file((source_name, text), directory, sets, unloaded, outlined)
}

fn resolved(context: &Context<'_, '_>, file: &CompareFile) -> Result<CompareConfig> {
    context.resolve(file)
}

fn outlined(context: &Context<'_, '_>, file: &CompareFile) -> Result<Outline> {
    context.outline(file)
}

/// Reads the file as serde sees it and goes on with it.
fn with_file<R>(
    (source_name, text): (&str, &str),
    directory: &std::path::Path,
    sets: &[String],
    unloaded: Unloaded,
    then: impl FnOnce(&Context<'_, '_>, &CompareFile) -> Result<R>,
) -> Result<R> {
    let mut sources = Sources::default();
    let start = sources.add(source_name, text);
    let arguments = sets
        .iter()
        .enumerate()
        .map(|(i, text)| Argument::new(&mut sources, i, text))
        .collect::<Result<Vec<_>>>()?;

    let mut root = parse(&sources, start, text)?;
    if root.get_ref().as_table().is_none_or(DeTable::is_empty) {
        let hint = "`tetlo config init` writes an example";
        return Err(sources.error(&(start..start), "the configuration is empty", hint));
    }
    check_version(&sources, &root)?;

    let mut later: Vec<Override<'_>> = vec![];
    for argument in &arguments {
        let change = argument.parse(&sources)?;
        if change.before_presets(&root) {
            change.apply(&mut root, &sources)?;
        } else {
            later.push(change);
        }
    }
    merge_presets(&mut sources, &mut root)?;
    for change in later {
        change.apply(&mut root, &sources)?;
    }
    check_version(&sources, &root)?;
    overlay_search(&mut root);

    let file = CompareFile::deserialize(ValueDeserializer::from(root.clone()))
        .map_err(|e| wrong_structure(&sources, &root, &e))?;
    then(&Context { sources: &sources, root: &root, directory, unloaded }, &file)
}

/// Reads a configuration without the code that it wants loaded: of plugins that
/// are not linked in, nothing is checked. `elsewhere`: are there further places where they could be?
///
/// # Errors
/// As [`load`].
pub fn load_without_code(
    source_name: &str,
    text: &str,
    directory: &std::path::Path,
    sets: &[String],
    elsewhere: bool,
) -> Result<CompareConfig> {
    let unloaded = Unloaded::Kept { elsewhere };
    with_file((source_name, text), directory, sets, unloaded, resolved)
}

/// Reads a configuration from a file's bytes.
///
/// # Errors
/// As [`load`]; bytes that are no UTF-8 text too.
pub fn load_bytes(
    source_name: &str,
    bytes: &[u8],
    directory: &std::path::Path,
    sets: &[String],
) -> Result<CompareConfig> {
    load(source_name, text_of(source_name, bytes)?, directory, sets)
}

/// A configuration's text from a file's bytes.
///
/// # Errors
/// Bytes that are no UTF-8 text; the message shows the place.
pub fn text_of<'b>(source_name: &str, bytes: &'b [u8]) -> Result<&'b str> {
    let valid = std::str::from_utf8(bytes);
    let not_text = match valid {
        Ok(text) => text.bytes().position(|b| b.is_ascii_control() && !b"\t\n\r".contains(&b)),
        Err(e) => Some(e.valid_up_to()),
    };
    match (valid, not_text) {
        (Ok(text), None) => Ok(text),
        (_, at) => {
            let at = at.unwrap_or_default();
            // Up to the bad byte the text is what it is, so the place is right in the lossy text.
            let text = String::from_utf8_lossy(bytes);
            let mut sources = Sources::default();
            sources.add(source_name, &text);
            let what = format!("byte {at} (0x{:02x}) is not UTF-8 text", bytes[at]);
            let hint = "is this a TOML file? `tetlo config init` writes an example";
            Err(sources.error(&(at..at + 1), what, hint))
        }
    }
}

/// Parses a text that starts at offset `start` of the sources.
pub(super) fn parse<'i>(sources: &Sources<'_>, start: usize, text: &'i str) -> Result<Node<'i>> {
    let table = DeTable::parse(text).map_err(|e| {
        let at = e.span().unwrap_or_default();
        sources.error(&(start + at.start..start + at.end), e.message(), SYNTAX)
    })?;
    let span = table.span();
    Ok(shift(Spanned::new(span, DeValue::Table(table.into_inner())), start))
}

/// Before anything else: another version may have other keys.
fn check_version(sources: &Sources<'_>, root: &Node<'_>) -> Result<()> {
    match root.get_ref().get("version") {
        Some(node) => match node.get_ref() {
            DeValue::Integer(i) if i.radix() != 10 || i.as_str() != "1" => Err(sources.error(
                &node.span(),
                format!("version {i} of the configuration is unknown"),
                "this program reads `version = 1`",
            )),
            _ => Ok(()),
        },
        None => Ok(()),
    }
}

fn merge_presets<'i>(sources: &mut Sources<'i>, root: &mut Node<'i>) -> Result<()> {
    let Some(methods) = table_mut(root).and_then(|t| t.get_mut("method")).and_then(array_mut)
    else {
        return Ok(());
    };
    for method in methods.iter_mut() {
        let Some(table) = table_mut(method) else { continue };
        let Some(node) = table.get("preset") else { continue };
        let Some(name) = node.get_ref().as_str() else { continue };
        let entry = preset(name).map_err(|e| {
            let known: Vec<&str> = presets().iter().map(|p| p.name).collect();
            let (what, hint) = match e {
                Error::UnknownPlugin { .. } => {
                    (format!("unknown preset `{name}`"), choices(name, &known, &[PRESET_KIND]))
                }
                e => (e.to_string(), "link only one of the two crates".to_owned()),
            };
            sources.error(&node.span(), what, hint)
        })?;
        let start = sources.add(entry.place(), entry.toml);
        let body = parse(sources, start, entry.toml)?;
        for key in ["name", "preset"] {
            if let Some(value) = body.get_ref().get(key) {
                let what = format!("a preset has no `{key}`");
                let hint = "a preset is the body of a `[[method]]` table, without `name`";
                return Err(sources.error(&value.span(), what, hint));
            }
        }
        if let DeValue::Table(mut body) = body.into_inner() {
            if let Some(own) = table.get_mut("search").and_then(table_mut)
                && let Some(preset) = body.remove("search")
                && let DeValue::Table(preset) = preset.into_inner()
            {
                fill(own, preset);
            }
            fill(table, body);
        }
    }
    Ok(())
}

/// Adds the keys that `table` lacks.
fn fill<'i>(table: &mut DeTable<'i>, from: DeTable<'i>) {
    for (key, value) in from {
        table.entry(key).or_insert(value);
    }
}

/// Lays each method's `search` over the file's.
fn overlay_search(root: &mut Node<'_>) {
    let Some(root) = table_mut(root) else { return };
    let Some((key, search)) = root.get_key_value("search").map(|(k, v)| (k.clone(), v.clone()))
    else {
        return;
    };
    let Some(methods) = root.get_mut("method").and_then(array_mut) else { return };
    for method in methods.iter_mut() {
        let Some(table) = table_mut(method) else { continue };
        let own = table.entry(key.clone()).or_insert_with(|| search.clone());
        if let (Some(own), DeValue::Table(search)) = (table_mut(own), search.get_ref()) {
            fill(own, search.clone());
        }
    }
}

/// An error of serde in the structure of the file.
fn wrong_structure(sources: &Sources<'_>, root: &Node<'_>, e: &toml::de::Error) -> Error {
    let message = e.message();
    let span = e.span().unwrap_or_else(|| root.span());
    let hint = meant(message).unwrap_or_else(|| structure_hint(root, message, &span));
    sources.error(&span, reword(message), hint)
}

fn structure_hint(root: &Node<'_>, message: &str, span: &Range<usize>) -> String {
    let names: Vec<&str> = quoted(message).collect();
    let path = tree::path_at(root, span).unwrap_or_default();
    if message.starts_with("unknown field") {
        if names.contains(&"options") {
            return "a plugin's options stand in a table of their own: `options = { … }`"
                .to_owned();
        }
        let table = Path(path.0[..path.0.len().saturating_sub(1)].to_vec());
        return match table.to_string().as_str() {
            "" => "`tetlo config schema` lists the keys".to_owned(),
            table => format!("`tetlo config explain {table}` lists the keys"),
        };
    }
    if let (true, Some(missing)) = (message.starts_with("missing field"), names.first()) {
        return match *missing {
            "plugin" => "a plugin is named by `plugin = \"…\"`; `tetlo plugins list` shows the \
                         choices"
                .to_owned(),
            "seeds" => "for example `seeds = [0, 1, 2]`".to_owned(),
            "version" => "write `version = 1`".to_owned(),
            "task" | "method" => {
                format!("write `[[{missing}]]`; `tetlo config init` writes an example")
            }
            missing => format!("`tetlo config explain {}` says what it takes", path.key(missing)),
        };
    }
    match path.to_string().as_str() {
        "" => SYNTAX.to_owned(),
        key => format!("`tetlo config explain {key}` says what it takes"),
    }
}
