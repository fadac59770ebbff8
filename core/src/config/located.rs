//! Errors that are found after loading, brought back to their place in the file.

use super::load::parse;
use super::source::Sources;
use super::tree::{self, Node, Path};
use crate::Error;
use toml::de::DeValue;

/// `error` with the place of the value that `path` leads to: keys, and for `task` and `method` the
/// entry's name after the key. Where the file does not say the value (a default, a preset, an
/// override), the nearest table round it; where it says nothing of it, `error` as it is.
#[must_use]
pub fn located(source_name: &str, text: &str, path: &[&str], error: Error) -> Error {
    let mut sources = Sources::default();
    let start = sources.add(source_name, text);
    let Ok(root) = parse(&sources, start, text) else { return error };
    let Some(path) = find(&root, path) else { return error };
    let hint = error.hint().unwrap_or_else(|| "`tetlo config explain KEY` explains a key".into());
    sources.error(&tree::span(&root, &path), error.to_string(), hint)
}

/// An error in a single value, such as that of a command-line argument.
#[must_use]
pub fn in_argument(argument: &str, value: &str, error: &Error) -> Error {
    let mut sources = Sources::default();
    sources.add_argument(argument, value);
    sources.error(&(0..value.len()), error.to_string(), error.hint().unwrap_or_default())
}

/// The path with names of entries turned into indices; at least its first key must be there.
fn find(root: &Node<'_>, keys: &[&str]) -> Option<Path> {
    let mut path = Path::default();
    for key in keys {
        let here = tree::get(root, &path)?;
        let next = match here.get_ref() {
            DeValue::Array(entries) => {
                let named = |n: &Node<'_>| {
                    n.get_ref().get("name").and_then(|v| v.get_ref().as_str()) == Some(key)
                };
                path.index(entries.iter().position(named)?)
            }
            _ => path.key(key),
        };
        if tree::get(root, &next).is_none() {
            break;
        }
        path = next;
    }
    (path != Path::default()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "device = \"cuda:0\"\n[[method]]\nname = \"a\"\n[[method]]\nname = \"b\"\npreset = \"x\"\n";

    fn shown(path: &[&str]) -> String {
        located("c.toml", TEXT, path, Error::config_hint("it fails", "do better")).to_string()
    }

    #[test]
    fn the_nearest_place_is_shown() {
        let device = shown(&["device"]);
        assert!(device.starts_with("c.toml:1:10: it fails\n"), "{device}");
        assert!(device.contains("^^^^^^^^"), "{device}");
        let preset = shown(&["method", "b", "preset"]);
        assert!(preset.starts_with("c.toml:6:10: it fails\n"), "{preset}");
        let inside = shown(&["method", "b", "auxiliary", "plugin"]);
        assert!(inside.starts_with("c.toml:4:"), "{inside}");
        assert_eq!(shown(&["task", "a"]), "it fails");
        assert_eq!(shown(&["method", "c"]), "it fails");
        let argument = in_argument("--device", "cuda:0", &Error::config("no"));
        assert!(argument.to_string().starts_with("--device, column 1: no\n"), "{argument}");
    }
}
