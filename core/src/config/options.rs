//! A plugin reference: the name looked up, the options read by the plugin's own type.

use super::code::{CodeConfig, PAGES, PROCESS, Unloaded, is_process};
use super::file::PluginRef;
use super::message::{choices, meant, quoted, reword};
use super::resolved::PluginConfig;
use super::schema;
use super::source::Sources;
use super::tree::{self, Node, Path};
use crate::error::nearest;
use crate::foreign::LOADABLE;
use crate::registry::catalog::{self, KindInfo, Plugin};
use crate::registry::{Code, loaded};
use crate::{Error, Result};
use serde_json::Value;
use std::ops::Range;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// What a plugin that is not linked in needs instead.
pub(super) const OWN_BINARY: &str = "link the plugin into a binary of your own:
    use tetlo_plugins as _;
    use my_plugins as _;
    fn main() -> std::process::ExitCode { tetlo_cli::main() }";

/// The final tree, with what is needed to report errors in it.
pub(super) struct Context<'c, 'i> {
    pub(super) sources: &'c Sources<'i>,
    pub(super) root: &'c Node<'i>,
    pub(super) directory: &'c std::path::Path,
    pub(super) unloaded: Unloaded,
}

impl Context<'_, '_> {
    /// An error at the value of a path.
    pub(super) fn error(
        &self,
        path: &Path,
        what: impl AsRef<str>,
        hint: impl Into<String>,
    ) -> Error {
        self.sources.error(&tree::span(self.root, path), what, hint)
    }

    /// The plugin that the reference at `path` names, of the first of `kinds` that has it.
    pub(super) fn plugin(
        &self,
        reference: &PluginRef,
        path: &Path,
        kinds: &[&str],
    ) -> Result<PluginConfig> {
        if is_process(reference, kinds) {
            return self.process(path, kinds);
        }
        if reference.file.is_some() {
            let code = self.code(reference, path, kinds)?;
            return self.of_code(&reference.plugin, code, path, &path.key("options"), kinds);
        }
        self.check_linked(reference, path)?;
        let plugin = match self.find(&reference.plugin, &path.key("plugin"), kinds) {
            Err(_) if self.may_be_elsewhere(kinds) => {
                let nowhere = CodeConfig {
                    file: PathBuf::new(),
                    sha256: None,
                    command: vec![],
                    time_limit: None,
                };
                let at = path.key("options");
                return self.unread(&reference.plugin, nowhere, &at, kinds);
            }
            found => found?,
        };
        let options = self.options(&plugin, path, &path.key("options"))?;
        let code = plugin.code.map(|code| CodeConfig {
            file: code.path.clone(),
            sha256: Some(code.sha256.clone()),
            command: code.command.clone(),
            time_limit: None,
        });
        Ok(PluginConfig { kind: plugin.kind, plugin: reference.plugin.clone(), options, code })
    }

    /// The options at `at`, read by the plugin's own type.
    fn options(&self, plugin: &Plugin, path: &Path, at: &Path) -> Result<Value> {
        let node = match tree::get(self.root, at) {
            Some(node) => node.clone(),
            None => Spanned::new(
                tree::span(self.root, &path.key("plugin")),
                DeValue::Table(DeTable::new()),
            ),
        };
        self.check_finite(&node)?;
        let mut options = plugin
            .describe
            .resolve(ValueDeserializer::from(node.clone()))
            .map_err(|e| self.wrong_options(plugin, at, &node, &e))?;
        if plugin.code.is_some() {
            return Ok(options);
        }
        let mut not_utf8 = None;
        visit_paths(&schema::of_plugin(plugin), &mut options, &mut |value| {
            if let Err(e) = self.make_absolute(value, &node) {
                not_utf8 = Some(e);
            }
            true
        });
        not_utf8.map_or(Ok(options), Err)
    }

    /// Could an unknown name be that of a plugin which is not loaded?
    fn may_be_elsewhere(&self, kinds: &[&str]) -> bool {
        let load = tree::get(self.root, &Path::of("plugins").key("load"));
        let loads = load.and_then(|l| l.get_ref().as_array()).is_some_and(|l| !l.is_empty());
        let loadable = kinds.iter().any(|k| LOADABLE.contains(k) || *k == PAGES);
        loadable
            && match self.unloaded {
                Unloaded::Refused => false,
                Unloaded::Kept { elsewhere } => elsewhere || loads,
            }
    }

    /// `plugin = "process"`: the plugin that a command runs.
    fn process(&self, path: &Path, kinds: &[&str]) -> Result<PluginConfig> {
        let given = self.process_options(path)?;
        let loaded = loaded::code_at(std::path::Path::new(""), &given.command);
        let code = CodeConfig {
            file: loaded.map(|code| code.path.clone()).unwrap_or_default(),
            sha256: None,
            command: loaded.map_or(given.command, |code| code.command.clone()),
            time_limit: given.time_limit,
        };
        let at = path.key("options").key("options");
        let Some(loaded) = loaded else {
            return self.unread(PROCESS, code, &at, kinds);
        };
        let name = match given.name {
            Some(name) => name,
            None => self.only_one(loaded, path, kinds)?,
        };
        self.of_code(&name, code, path, &at, kinds)
    }

    /// The name of the one plugin of these kinds that a command runs.
    fn only_one(&self, code: &Code, path: &Path, kinds: &[&str]) -> Result<String> {
        let found = kinds.iter().filter_map(|k| catalog::kind(k));
        let names: Vec<&str> = found.flat_map(|k| k.names_in(code)).collect();
        let at = path.key("options");
        match names.as_slice() {
            [one] => Ok((*one).to_owned()),
            [] => {
                let what = format!("the command runs no {}", kinds.join(" or "));
                let hint = "`tetlo plugins list --library PATH` shows what a file has";
                Err(self.error(&at.key("command"), what, hint))
            }
            several => {
                let what = format!("the command runs {}", several.join(", "));
                let hint = format!("choose one: `name = \"{}\"`", several[0]);
                Err(self.error(&at, what, hint))
            }
        }
    }

    /// A plugin of a file; its options stand at `at`.
    pub(super) fn of_code(
        &self,
        name: &str,
        code: CodeConfig,
        path: &Path,
        at: &Path,
        kinds: &[&str],
    ) -> Result<PluginConfig> {
        let Some(loaded) = code.code() else {
            return self.unread(name, code, at, kinds);
        };
        let of_kind = |k: &&str| catalog::kind(k);
        let found = kinds.iter().filter_map(of_kind).find_map(|k| k.loaded(loaded, name));
        let Some(plugin) = found else {
            let known: Vec<&str> =
                kinds.iter().filter_map(of_kind).flat_map(|k| k.names_in(loaded)).collect();
            let what = format!("{} has no {} `{name}`", loaded.path.display(), kinds.join(" or "));
            let hint = match nearest(name, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None if known.is_empty() => {
                    "`tetlo plugins list --library PATH` shows what a file has".to_owned()
                }
                None => format!("it has {}", known.join(", ")),
            };
            return Err(self.error(&path.key("plugin"), what, hint));
        };
        let options = self.options(&plugin, path, at)?;
        // However it was named: the hash and the command say which code it is.
        let (sha256, command) = (Some(loaded.sha256.clone()), loaded.command.clone());
        let code = CodeConfig { sha256, command, ..code };
        Ok(PluginConfig { kind: plugin.kind, plugin: name.to_owned(), options, code: Some(code) })
    }

    /// A plugin whose code was not loaded: its options as they are written.
    fn unread(
        &self,
        name: &str,
        code: CodeConfig,
        at: &Path,
        kinds: &[&str],
    ) -> Result<PluginConfig> {
        let options = match tree::get(self.root, at) {
            Some(node) => {
                self.check_finite(node)?;
                tree::to_json(node)
            }
            None => Value::Object(serde_json::Map::new()),
        };
        let loadable = |k: &&str| LOADABLE.contains(k) || *k == PAGES;
        let kind = catalog::KINDS.iter().map(|k| k.name).find(|k| kinds.contains(k) && loadable(k));
        let kind = kind.ok_or_else(|| Error::config(format!("`{name}` cannot be loaded")))?;
        Ok(PluginConfig { kind, plugin: name.to_owned(), options, code: Some(code) })
    }

    fn find(&self, name: &str, at: &Path, kinds: &[&str]) -> Result<Plugin> {
        let kinds: Vec<&KindInfo> = kinds.iter().filter_map(|k| catalog::kind(k)).collect();
        let names: Vec<&str> = kinds.iter().map(|k| k.name).collect();
        let mut found = vec![];
        let mut known = vec![];
        for kind in &kinds {
            match catalog::find(kind, name) {
                Ok(plugin) => found.push(plugin),
                Err(Error::UnknownPlugin { known: of_kind, .. }) => known.extend(of_kind),
                Err(e) => {
                    let hint = "link only one of the two crates";
                    return Err(self.error(at, e.to_string(), hint));
                }
            }
        }
        match found.as_slice() {
            [plugin] => Ok(*plugin),
            [] => {
                let mut hint = choices(name, &known, &names);
                if kinds.iter().any(|k| LOADABLE.contains(&k.name)) {
                    hint += "; one of a file needs `library = \"…\"` beside its name";
                }
                Err(self.error(at, format!("unknown {} `{name}`", names.join(" or ")), hint))
            }
            _ => {
                let what = format!("`{name}` is the name of a {} and of a {}", names[0], names[1]);
                Err(self.error(at, what, "one of the two plugins needs another name"))
            }
        }
    }

    fn check_finite(&self, node: &Node<'_>) -> Result<()> {
        match tree::not_finite(node) {
            Some(span) => Err(self.sources.error(
                &span,
                "an option must be a finite number",
                "leave the option out, or give a large number",
            )),
            None => Ok(()),
        }
    }

    /// An error that the options type or the plugin's own check reports.
    fn wrong_options(
        &self,
        plugin: &Plugin,
        at: &Path,
        node: &Node<'_>,
        e: &toml::de::Error,
    ) -> Error {
        let what = format!("options of `{}`: {}", plugin.name, reword(e.message()));
        // serde gives a place; the plugin's own check names the key in back-quotes instead.
        if let Some(span) = e.span() {
            let hint = meant(e.message()).unwrap_or_else(|| self.explain(plugin, at, &span));
            return self.sources.error(&span, what, hint);
        }
        let span = quoted(e.message())
            .find_map(|key| key_span(node, key))
            .or_else(|| quoted(e.message()).find_map(|text| text_span(node, text)))
            .unwrap_or_else(|| node.span());
        let hint = plugin
            .describe
            .check(&tree::to_json(node))
            .err()
            .and_then(|e| e.hint())
            .unwrap_or_else(|| self.explain(plugin, at, &span));
        self.sources.error(&span, what, hint)
    }

    /// The command that explains the option at `span`, or all options.
    fn explain(&self, plugin: &Plugin, at: &Path, span: &Range<usize>) -> String {
        let option = tree::path_at(self.root, span)
            .filter(|path| path.0.starts_with(&at.0) && path.0.len() > at.0.len())
            .and_then(|path| path.keys().nth(at.keys().count()).map(str::to_owned))
            .filter(|key| schema::of_plugin(plugin)["properties"].get(key).is_some());
        match option {
            Some(key) => {
                format!(
                    "`tetlo config explain {}.{}.{key}` says what it takes",
                    plugin.kind, plugin.name
                )
            }
            None => format!("`tetlo plugins show {}` lists its options", plugin.name),
        }
    }

    pub(super) fn make_absolute(&self, value: &mut Value, node: &Node<'_>) -> Result<()> {
        let Some(path) = value.as_str().filter(|p| !p.is_empty()) else { return Ok(()) };
        let wrong = |what: String| {
            let hint = "give an absolute path, or keep the configuration in another directory";
            self.sources.error(&node.span(), what, hint)
        };
        let absolute = std::path::absolute(self.directory.join(path))
            .map_err(|e| wrong(format!("the path `{path}` cannot be made absolute: {e}")))?;
        let text = absolute.to_str().ok_or_else(|| {
            wrong(format!("the path `{path}` lies in a directory whose name is not UTF-8"))
        })?;
        *value = Value::String(text.to_owned());
        Ok(())
    }
}

/// The place of the value of a key, at any depth; its name may be dotted.
fn key_span(node: &Node<'_>, key: &str) -> Option<Range<usize>> {
    let table = node.get_ref().as_table()?;
    if let Some(value) = table.get(key) {
        return Some(value.span());
    }
    if let Some((first, rest)) = key.split_once('.')
        && let Some(inner) = table.get(first)
        && let Some(span) = key_span(inner, rest)
    {
        return Some(span);
    }
    table.values().find_map(|value| key_span(value, key))
}

/// The place of a text among the values, such as a name that the plugin did not find.
fn text_span(node: &Node<'_>, text: &str) -> Option<Range<usize>> {
    match node.get_ref() {
        DeValue::String(value) => (value == text).then(|| node.span()),
        DeValue::Array(array) => array.iter().find_map(|value| text_span(value, text)),
        DeValue::Table(table) => table.values().find_map(|value| text_span(value, text)),
        _ => None,
    }
}

/// Calls `visit` on each path in `value`: each text whose place in the JSON schema has the format
/// `path`. Where `visit` answers `false`, the key is taken out.
pub(super) fn visit_paths(
    schema: &Value,
    value: &mut Value,
    visit: &mut dyn FnMut(&mut Value) -> bool,
) {
    walk_paths(schema, schema, value, visit, 0);
}

/// Depth of references and alternatives followed; a schema may refer to itself.
const DEEPEST: usize = 64;

fn walk_paths(
    root: &Value,
    schema: &Value,
    value: &mut Value,
    visit: &mut dyn FnMut(&mut Value) -> bool,
    depth: usize,
) -> bool {
    if depth > DEEPEST {
        return true;
    }
    if schema["format"] == "path" {
        return match value {
            Value::String(_) => visit(value),
            // A list of paths stays or goes as a whole.
            Value::Array(list) => {
                let mut keep = true;
                for value in list {
                    keep &= visit(value);
                }
                keep
            }
            _ => true,
        };
    }
    let mut keep = true;
    if let Some(target) =
        schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')).and_then(|r| root.pointer(r))
    {
        keep &= walk_paths(root, target, value, visit, depth + 1);
    }
    for alternatives in ["anyOf", "oneOf", "allOf"] {
        for schema in schema[alternatives].as_array().into_iter().flatten() {
            keep &= walk_paths(root, schema, value, visit, depth + 1);
        }
    }
    match value {
        Value::Object(map) => {
            let known = &schema["properties"];
            let others = &schema["additionalProperties"];
            map.retain(|key, value| {
                let schema = known.get(key).unwrap_or(others);
                walk_paths(root, schema, value, visit, depth + 1)
            });
        }
        Value::Array(list) => {
            let items = &schema["items"];
            list.retain_mut(|value| walk_paths(root, items, value, visit, depth + 1));
        }
        _ => {}
    }
    keep
}
