//! What a key means: for `tetlo config explain`.

use super::preset::{PRESET_KIND, PresetEntry, presets};
use super::schema;
use crate::error::nearest;
use crate::registry::catalog::{self, KINDS, KindInfo, Plugin};
use crate::{Error, Result};
use serde_json::Value;
use std::fmt::Write;

/// Explains a key of the file (`search.batch-size`, `method.transfer-loss`), a kind of plugin, a
/// plugin (`transfer-loss.qrs` or `qrs`), one of its options (`qrs.temperature`) or a preset
/// (`method.tetlo`): type, default, meaning. Where a name means several things, all are given.
///
/// # Errors
/// The key means nothing; the hint names the nearest one.
pub fn explain(key: &str) -> Result<String> {
    let steps: Vec<&str> = key.split('.').collect();
    let mut sections = vec![];
    let file = schema::structure();
    if let Some(found) = descend(&file, &file, &steps) {
        sections.push(section(key, &file, &found, None));
    }
    if let [kind] = steps.as_slice()
        && let Some(kind) = catalog::kind(kind)
    {
        sections.push(format!("{kind}\n{list}", kind = kind.name, list = plugin_list(kind)));
    }
    for plugin in KINDS.iter().flat_map(KindInfo::plugins) {
        sections.extend(explain_plugin(&plugin, &steps));
    }
    for preset in presets() {
        if steps == [preset.name] || steps == [PRESET_KIND, preset.name] {
            sections.push(explain_preset(preset));
        }
    }
    if sections.is_empty() {
        return Err(unknown(key, &file));
    }
    Ok(sections.join("\n"))
}

/// A schema below another, with references and alternatives followed.
struct Found<'s> {
    /// The property as it stands: description, default.
    property: &'s Value,
    /// What it refers to: type, properties.
    target: &'s Value,
    required: bool,
}

fn target<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    if let Some(inner) = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')) {
        return root.pointer(inner).map_or(schema, |s| target(root, s));
    }
    // An optional value is one of it and null.
    if let Some([inner, null]) = schema["anyOf"].as_array().map(Vec::as_slice)
        && null["type"] == "null"
    {
        return target(root, inner);
    }
    schema
}

fn descend<'s>(root: &'s Value, from: &'s Value, steps: &[&str]) -> Option<Found<'s>> {
    let (first, rest) = steps.split_first()?;
    let mut table = target(root, from);
    if table["type"] == "array" {
        table = target(root, &table["items"]);
    }
    let property = table["properties"].get(first)?;
    if rest.is_empty() {
        let required = table["required"].as_array().is_some_and(|r| r.iter().any(|k| k == first));
        return Some(Found { property, target: target(root, property), required });
    }
    descend(root, property, rest)
}

fn explain_plugin(plugin: &Plugin, steps: &[&str]) -> Option<String> {
    let steps = match steps {
        [kind, rest @ ..] if *kind == plugin.kind => rest,
        steps => steps,
    };
    let option = match steps {
        [name, option @ ..] if *name == plugin.name => option,
        _ => return None,
    };
    let root = schema::of_plugin(plugin);
    let defaults = plugin.describe.defaults();
    let key = format!("{}.{}", plugin.kind, plugin.name);
    if option.is_empty() {
        let mut text = format!(
            "{key}\n  {}\n  from: {} {}\n",
            plugin.summary, plugin.origin.0, plugin.origin.1
        );
        indent(&mut text, root["description"].as_str());
        text += &properties(&root, &root, Some(&defaults));
        return Some(text);
    }
    let found = descend(&root, &root, option)?;
    let default = option.iter().try_fold(&defaults, |value, key| value.get(key));
    Some(section(&format!("{key}.{}", option.join(".")), &root, &found, default))
}

fn explain_preset(preset: &PresetEntry) -> String {
    let mut text = format!(
        "{PRESET_KIND}.{}\n  {}\n  from: {} {}\n",
        preset.name, preset.summary, preset.origin.0, preset.origin.1
    );
    indent(&mut text, Some(preset.toml));
    text
}

fn section(key: &str, root: &Value, found: &Found<'_>, default: Option<&Value>) -> String {
    let kinds: Vec<&KindInfo> = kinds(found.property).filter_map(catalog::kind).collect();
    let mut text = format!("{key}\n  type: {}\n", type_of(root, found.property));
    let default = default.unwrap_or(&found.property["default"]);
    if found.required {
        text += "  required\n";
    } else if !default.is_object() {
        let _ = writeln!(text, "  default: {}", written(default));
    }
    let description = found.property["description"].as_str();
    indent(&mut text, description.or_else(|| found.target["description"].as_str()));
    for choice in found.target["oneOf"].as_array().into_iter().flatten() {
        if let (Some(name), Some(meaning)) =
            (choice["const"].as_str(), choice["description"].as_str())
        {
            let _ = writeln!(text, "  `{name}`: {}", meaning.replace('\n', " "));
        }
    }
    for kind in &kinds {
        text += &plugin_list(kind);
    }
    if kinds.is_empty() {
        let list = target(root, &found.target["items"]);
        let table = if found.target["type"] == "array" { list } else { found.target };
        text += &properties(root, table, default.is_object().then_some(default));
    }
    text
}

/// The plugins of a kind, a line each.
fn plugin_list(kind: &KindInfo) -> String {
    let mut text = format!("\n  plugins of kind {}:\n", kind.name);
    let plugins = kind.plugins();
    if plugins.is_empty() {
        text += "    none in this binary\n";
    }
    for plugin in plugins {
        let _ = writeln!(text, "    {}: {}", plugin.name, plugin.summary);
    }
    text
}

/// The keys of a table, a line each.
fn properties(root: &Value, table: &Value, defaults: Option<&Value>) -> String {
    let mut text = String::new();
    for (name, property) in table["properties"].as_object().into_iter().flatten() {
        if text.is_empty() {
            text += "\n  keys:\n";
        }
        let default = defaults.and_then(|d| d.get(name)).unwrap_or(&property["default"]);
        let default = if default.is_null() || default.is_object() {
            String::new()
        } else {
            format!(" = {}", written(default))
        };
        let meaning = property["description"].as_str().unwrap_or_default();
        let meaning = meaning.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        let _ = writeln!(text, "    {name}{default} ({}): {meaning}", type_of(root, property));
    }
    text
}

fn indent(text: &mut String, description: Option<&str>) {
    if let Some(description) = description {
        text.push('\n');
        for line in description.trim_end().lines() {
            let _ = writeln!(text, "{}", format!("  {line}").trim_end());
        }
    }
}

/// A default as TOML writes it.
fn written(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(written).collect();
            format!("[{}]", list.join(", "))
        }
        value => value.to_string(),
    }
}

fn kinds(property: &Value) -> impl Iterator<Item = &str> {
    property["x-kinds"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn type_of(root: &Value, property: &Value) -> String {
    let kinds: Vec<&str> = kinds(property).collect();
    if !kinds.is_empty() {
        let one = format!("plugin of kind {}", kinds.join(" or "));
        return if property["type"] == "array" { format!("array of: {one}") } else { one };
    }
    let schema = target(root, property);
    if schema["format"] == "path" || property["format"] == "path" {
        return "path, relative to the configuration file".to_owned();
    }
    let choices: Vec<String> = match (&schema["enum"], &schema["oneOf"]) {
        (Value::Array(list), _) => list.iter().filter(|v| !v.is_null()).map(written).collect(),
        (_, Value::Array(list)) if list.iter().all(|c| c["const"].is_string()) => {
            list.iter().map(|c| written(&c["const"])).collect()
        }
        _ => vec![],
    };
    if !choices.is_empty() {
        return format!("one of {}", choices.join(", "));
    }
    for alternatives in ["anyOf", "oneOf"] {
        if let Some(list) = schema[alternatives].as_array() {
            let list: Vec<String> =
                (list.iter()).filter(|s| s["type"] != "null").map(|s| type_of(root, s)).collect();
            return list.join(", or ");
        }
    }
    let name = match &schema["type"] {
        Value::Array(names) => names.iter().find_map(|n| n.as_str().filter(|n| *n != "null")),
        name => name.as_str(),
    };
    match name {
        Some("integer") => format!("whole number{}", range(schema)),
        Some("number") => format!("number{}", range(schema)),
        Some("boolean") => "true or false".to_owned(),
        Some("string") => "text".to_owned(),
        Some("object") => "table".to_owned(),
        Some("array") => format!("array of: {}", type_of(root, &schema["items"])),
        _ => "any value".to_owned(),
    }
}

fn range(schema: &Value) -> String {
    let bounds = [
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    ];
    let mut text = String::new();
    for (key, words) in bounds {
        if let Some(bound) = schema.get(key) {
            let _ = write!(text, ", {words} {bound}");
        }
    }
    text
}

fn unknown(key: &str, file: &Value) -> Error {
    let mut known = vec![];
    let mut tables = vec![(String::new(), target(file, file))];
    while let Some((prefix, table)) = tables.pop() {
        for (name, property) in table["properties"].as_object().into_iter().flatten() {
            let name = format!("{prefix}{name}");
            let mut inner = target(file, property);
            if inner["type"] == "array" {
                inner = target(file, &inner["items"]);
            }
            if kinds(property).next().is_none() {
                tables.push((format!("{name}."), inner));
            }
            known.push(name);
        }
    }
    for plugin in KINDS.iter().flat_map(KindInfo::plugins) {
        let name = format!("{}.{}", plugin.kind, plugin.name);
        let root = schema::of_plugin(&plugin);
        for option in root["properties"].as_object().into_iter().flatten().map(|(k, _)| k) {
            known.push(format!("{}.{option}", plugin.name));
            known.push(format!("{name}.{option}"));
        }
        known.push(plugin.name.to_owned());
        known.push(name);
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let hint = match nearest(key, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            "for example `search.epochs`, `method.optimizer`, KIND.NAME or NAME.OPTION; `tetlo \
                 plugins list` shows the kinds and names"
                .to_owned()
        }
    };
    Error::config_hint(format!("no key, plugin or option is called `{key}`"), hint)
}
