//! Helpers on the parsed, spanned tree.

use serde_json::Value;
use std::fmt;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// A value with its place.
pub(super) type Node<'i> = Spanned<DeValue<'i>>;

/// One step down the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Into a table.
    Key(String),
    /// Into an array.
    Index(usize),
}

/// The way from the root to a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Path(pub(super) Vec<Step>);

impl Path {
    pub(crate) fn of(key: &str) -> Self {
        Self::default().key(key)
    }

    /// One key further.
    pub(crate) fn key(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Self(steps)
    }

    /// One index further.
    pub(crate) fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }

    /// The keys, without indices.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|s| match s {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, key) in self.keys().enumerate() {
            write!(f, "{}{key}", if i == 0 { "" } else { "." })?;
        }
        Ok(())
    }
}

/// The value at a path.
pub(super) fn get<'t, 'i>(root: &'t Node<'i>, path: &Path) -> Option<&'t Node<'i>> {
    path.0.iter().try_fold(root, |node, step| match step {
        Step::Key(key) => node.get_ref().get(key.as_str()),
        Step::Index(index) => node.get_ref().get(*index),
    })
}

/// The place of the value at a path, or of the nearest table round it that is written.
pub(super) fn span(root: &Node<'_>, path: &Path) -> Range<usize> {
    let mut node = root;
    for step in &path.0 {
        let next = match step {
            Step::Key(key) => node.get_ref().get(key.as_str()),
            Step::Index(index) => node.get_ref().get(*index),
        };
        match next {
            Some(next) => node = next,
            None => break,
        }
    }
    node.span()
}

/// The path of the smallest key or value that covers `place`.
pub(super) fn path_at(root: &Node<'_>, place: &Range<usize>) -> Option<Path> {
    fn covers(span: &Range<usize>, place: &Range<usize>) -> bool {
        span.start <= place.start && place.end <= span.end
    }
    fn walk(node: &Node<'_>, here: &Path, place: &Range<usize>, best: &mut Option<(usize, Path)>) {
        let mut offer = |span: Range<usize>, path: &Path| {
            let better = best.as_ref().is_none_or(|(len, _)| span.len() < *len);
            if covers(&span, place) && better {
                *best = Some((span.len(), path.clone()));
            }
        };
        offer(node.span(), here);
        match node.get_ref() {
            DeValue::Table(table) => {
                for (key, value) in table {
                    let path = here.key(key.get_ref());
                    if covers(&key.span(), place) {
                        *best = Some((key.span().len(), path));
                        return;
                    }
                    walk(value, &path, place, best);
                }
            }
            DeValue::Array(array) => {
                for (i, value) in array.iter().enumerate() {
                    walk(value, &here.index(i), place, best);
                }
            }
            _ => {}
        }
    }
    let mut best = None;
    walk(root, &Path::default(), place, &mut best);
    best.map(|(_, path)| path)
}

/// The table in a node.
pub(super) fn table_mut<'t, 'i>(node: &'t mut Node<'i>) -> Option<&'t mut DeTable<'i>> {
    match node.get_mut() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

/// The array in a node.
pub(super) fn array_mut<'t, 'i>(node: &'t mut Node<'i>) -> Option<&'t mut DeArray<'i>> {
    match node.get_mut() {
        DeValue::Array(array) => Some(array),
        _ => None,
    }
}

/// The same tree with all places moved by `offset`.
pub(super) fn shift(node: Node<'_>, offset: usize) -> Node<'_> {
    let moved = |span: Range<usize>| span.start + offset..span.end + offset;
    let span = moved(node.span());
    let value = match node.into_inner() {
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(k, v)| (Spanned::new(moved(k.span()), k.into_inner()), shift(v, offset)))
                .collect(),
        ),
        DeValue::Array(array) => {
            let mut moved = DeArray::new();
            for value in array.iter().cloned() {
                moved.push(shift(value, offset));
            }
            DeValue::Array(moved)
        }
        scalar => scalar,
    };
    Spanned::new(span, value)
}

/// The place of the first number that JSON cannot hold (infinite, NaN, overflowing).
pub(super) fn not_finite(node: &Node<'_>) -> Option<Range<usize>> {
    match node.get_ref() {
        DeValue::Float(x) => {
            let finite = x.as_str().parse().is_ok_and(f64::is_finite);
            (!finite).then(|| node.span())
        }
        DeValue::Array(array) => array.iter().find_map(not_finite),
        DeValue::Table(table) => table.values().find_map(not_finite),
        _ => None,
    }
}

/// The tree as JSON, for options that no options type reads here. Numbers must be finite; a date
/// becomes a string.
pub(super) fn to_json(node: &Node<'_>) -> Value {
    match node.get_ref() {
        DeValue::String(s) => Value::String(s.to_string()),
        DeValue::Integer(i) => match i64::from_str_radix(i.as_str(), i.radix()) {
            Ok(i) => i.into(),
            Err(_) => u64::from_str_radix(i.as_str(), i.radix()).ok().into(),
        },
        DeValue::Float(x) => x.as_str().parse::<f64>().ok().into(),
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Datetime(d) => Value::String(d.to_string()),
        DeValue::Array(array) => array.iter().map(to_json).collect(),
        DeValue::Table(table) => {
            table.iter().map(|(k, v)| (k.get_ref().to_string(), to_json(v))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Node<'_> {
        let table = DeTable::parse(text).unwrap();
        Spanned::new(table.span(), DeValue::Table(table.into_inner()))
    }

    #[test]
    fn places_lead_to_paths_and_back() {
        let text = "a = 1\n[[m]]\nname = 'x'\no = { k = [1, 22] }\n[m.s]\ne = 5\n";
        let root = parse(text);
        let second = Path::of("m").index(0).key("o").key("k").index(1);
        let place = span(&root, &second);
        assert_eq!(&text[place.clone()], "22");
        assert_eq!(path_at(&root, &place), Some(second));
        // A key, not its value; what is missing is placed at the table that lacks it.
        let key = text.find("e = 5").unwrap();
        let path = path_at(&root, &(key..key + 1)).unwrap();
        assert_eq!(path.to_string(), "m.s.e");
        assert_eq!(&text[span(&root, &Path::of("m").index(0).key("s").key("none"))], "[m.s]");
    }

    #[test]
    fn shifting_moves_keys_and_values() {
        let moved = shift(parse("a = [ { b = 1 } ]"), 100);
        let inner = Path::of("a").index(0).key("b");
        assert_eq!(span(&moved, &inner), 112..113);
        assert_eq!(path_at(&moved, &(108..109)), Some(inner));
        assert_eq!(path_at(&moved, &(8..9)), None);
    }

    #[test]
    fn json_keeps_values() {
        let json = to_json(&parse("a = 0x1F\nb = [1.5, true]\nc = { d = 'x' }\ne = 1979-05-27\n"));
        let expected =
            serde_json::json!({"a": 31, "b": [1.5, true], "c": {"d": "x"}, "e": "1979-05-27"});
        assert_eq!(json, expected);
        assert!(not_finite(&parse("a = [1.0, -inf]")).is_some());
        assert!(not_finite(&parse("a = 1e999")).is_some());
        assert!(not_finite(&parse("a = 1e99")).is_none());
    }
}
