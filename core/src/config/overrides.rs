//! `--set KEY=VALUE`: one value of the tree, replaced before it is deserialised.
//!
//! KEY is a dotted TOML key; an entry of an array of tables is addressed by its `name`
//! (`method.tetlo.search.epochs`), of any array by its index from 0 (`seeds.0`). VALUE is TOML; a
//! word that is no TOML value is a string, and `.5` is a number.

use super::source::Sources;
use super::tree::{Node, array_mut, shift, table_mut};
use crate::Result;
use crate::error::nearest;
use std::borrow::Cow;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

const EXAMPLE: &str =
    "write `--set search.epochs=1` or `--set method.NAME.optimizer.options.KEY=VALUE`";

/// The argument, taken apart. Holds the text of the value, which the tree borrows.
#[derive(Debug)]
pub(super) struct Argument<'i> {
    key: &'i str,
    value: Value<'i>,
    /// Offset of the whole argument among the sources.
    start: usize,
    /// Offset of the value inside the argument.
    value_start: usize,
    value_len: usize,
}

#[derive(Debug)]
enum Value<'i> {
    Toml(Cow<'i, str>),
    Word(&'i str),
}

/// A value and the keys that lead to it.
#[derive(Debug)]
pub(super) struct Override<'v> {
    path: Vec<Spanned<String>>,
    value: Node<'v>,
}

impl<'i> Argument<'i> {
    /// Takes apart argument number `index` (from 0).
    pub(super) fn new(sources: &mut Sources<'i>, index: usize, text: &'i str) -> Result<Self> {
        let start = sources.add_argument(format!("--set #{}", index + 1), text);
        let whole = start..start + text.len();
        let Some(equals) = equals_sign(text) else {
            return Err(sources.error(&whole, "expected `KEY=VALUE`", EXAMPLE));
        };
        let key = &text[..equals];
        if key.trim().is_empty() {
            return Err(sources.error(&whole, "no key before `=`", EXAMPLE));
        }
        let raw = &text[equals + 1..];
        let value = raw.trim();
        let value_start = equals + 1 + (raw.len() - raw.trim_start().len());
        if value.is_empty() {
            let end = start + text.len();
            let hint = "an empty string is `KEY=''`";
            return Err(sources.error(&(end..end), "no value after `=`", hint));
        }
        let value_len = value.len();
        Ok(Self { key, value: read_value(value), start, value_start, value_len })
    }

    /// Parses key and value.
    pub(super) fn parse<'v>(&'v self, sources: &Sources<'_>) -> Result<Override<'v>> {
        let place = self.start + self.value_start;
        let span = place..place + self.value_len;
        let value = match &self.value {
            Value::Word(word) => Spanned::new(span, DeValue::String(Cow::Borrowed(*word))),
            Value::Toml(text) => {
                let value = DeValue::parse(text).map_err(|e| {
                    let at = e.span().unwrap_or_default();
                    let hint = "the value is TOML; text with spaces or signs needs quotes: \
                                `--set 'KEY=\"…\"'`";
                    sources.error(&(place + at.start..place + at.end), e.message(), hint)
                })?;
                shift(value, place)
            }
        };
        Ok(Override { path: self.path(sources)?, value })
    }

    fn path(&self, sources: &Sources<'_>) -> Result<Vec<Spanned<String>>> {
        let text = format!("{}=0", self.key);
        let wrong = |at: Range<usize>, what: &str| {
            let end = self.key.len();
            let at = self.start + at.start.min(end)..self.start + at.end.min(end);
            sources.error(&at, what, EXAMPLE)
        };
        let root = DeTable::parse(&text)
            .map_err(|e| wrong(e.span().unwrap_or_default(), e.message()))?
            .into_inner();
        let mut path = vec![];
        let mut table = &root;
        // A dotted key makes tables of one entry each, down to the 0.
        while let Some((key, value)) = table.iter().next() {
            let span = key.span().start + self.start..key.span().end + self.start;
            path.push(Spanned::new(span, key.get_ref().to_string()));
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        Ok(path)
    }
}

/// The first `=` outside quotes.
fn equals_sign(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '=') => return Some(i),
            (None, '"' | '\'') => quote = Some(c),
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(q), c) if c == q && !escaped => quote = None,
            _ => {}
        }
        escaped = false;
    }
    None
}

fn read_value(text: &str) -> Value<'_> {
    if DeValue::parse(text).is_ok() {
        return Value::Toml(text.into());
    }
    let digits = text.trim_start_matches(['+', '-']);
    if digits.contains('.')
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.')
        && let Ok(number) = text.parse::<f64>()
    {
        return Value::Toml(format!("{number:?}").into());
    }
    let special = |c: char| c.is_whitespace() || c.is_control() || "\"'[]{}=,#".contains(c);
    if text.contains(special) { Value::Toml(text.into()) } else { Value::Word(text) }
}

impl<'v> Override<'v> {
    /// Does it choose a method's preset, or a whole method? These come before presets are merged.
    pub(super) fn before_presets(&self, root: &Node<'_>) -> bool {
        match self.path.split_first() {
            Some((first, rest)) if first.get_ref() == "method" => {
                match root.get_ref().get("method").map(|m| named(m, rest)) {
                    Some(Some((_, used))) => {
                        let key = rest[used..].iter().map(Spanned::get_ref);
                        key.clone().next().is_none() || key.eq(["preset"])
                    }
                    _ => true,
                }
            }
            _ => true,
        }
    }

    /// Puts the value into the tree. Tables on the way are made where missing, so that a key that
    /// does not exist is reported like one in a file.
    pub(super) fn apply(self, root: &mut Node<'v>, sources: &Sources<'_>) -> Result<()> {
        let Self { path, value } = self;
        let mut node = root;
        let mut rest = path.as_slice();
        while let Some((key, after)) = rest.split_first() {
            let used;
            (node, used) = match node.get_ref() {
                DeValue::Array(_) => {
                    let Some((index, used)) = named(node, rest) else {
                        let parent = &path[path.len() - rest.len() - 1];
                        return Err(no_element(node, parent.get_ref(), key, sources));
                    };
                    match array_mut(node).and_then(|a| a.get_mut(index)) {
                        Some(element) => (element, used),
                        None => return Ok(()),
                    }
                }
                DeValue::Table(_) => match table_mut(node) {
                    Some(table) => {
                        let name = Cow::Owned(key.get_ref().clone());
                        let new = || Spanned::new(key.span(), DeValue::Table(DeTable::new()));
                        (table.entry(Spanned::new(key.span(), name)).or_insert_with(new), 1)
                    }
                    None => return Ok(()),
                },
                scalar => {
                    let done = &path[path.len() - rest.len() - 1];
                    let what = format!(
                        "`{}` holds a {}, so there is no `{}` in it",
                        done.get_ref(),
                        scalar.type_str(),
                        key.get_ref()
                    );
                    let hint = format!("set `{}` itself", done.get_ref());
                    return Err(sources.error(&key.span(), what, hint));
                }
            };
            debug_assert!(used > 0 && after.len() + 1 >= used);
            rest = &rest[used..];
        }
        *node = value;
        Ok(())
    }
}

/// The element of an array that the keys begin with: by `name`, which may itself hold dots, else by
/// index. Also how many keys that takes.
fn named(array: &Node<'_>, keys: &[Spanned<String>]) -> Option<(usize, usize)> {
    let array = array.get_ref().as_array()?;
    let name_is = |node: &Node<'_>, name: &str| {
        node.get_ref().get("name").is_some_and(|n| n.get_ref().as_str() == Some(name))
    };
    let mut name = String::new();
    for (i, key) in keys.iter().enumerate() {
        if i > 0 {
            name.push('.');
        }
        name.push_str(key.get_ref());
        if let Some(index) = array.iter().position(|node| name_is(node, &name)) {
            return Some((index, i + 1));
        }
    }
    let index: usize = keys.first()?.get_ref().parse().ok()?;
    (index < array.len()).then_some((index, 1))
}

fn no_element(
    array: &Node<'_>,
    parent: &str,
    key: &Spanned<String>,
    sources: &Sources<'_>,
) -> crate::Error {
    let elements = array.get_ref().as_array().map(|a| &**a).unwrap_or_default();
    let names: Vec<&str> = elements
        .iter()
        .filter_map(|e| e.get_ref().get("name").and_then(|n| n.get_ref().as_str()))
        .collect();
    let what = format!("`{parent}` has no element `{}`", key.get_ref());
    let hint = match nearest(key.get_ref(), &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => {
            format!("it has {} elements, counted from 0", elements.len())
        }
        None => format!("it has `{}`", names.join("`, `")),
    };
    sources.error(&key.span(), what, hint)
}
