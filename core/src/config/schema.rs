//! One JSON schema of the whole file, with the options of every registered plugin.

use super::code::{PAGES, PROCESS, ProcessOptions};
use super::file::{CompareFile, PluginRef};
use super::preset::presets;
use crate::foreign::LOADABLE;
use crate::registry::catalog::{self, KindInfo, Plugin};
use schemars::schema_for;
use serde_json::{Map, Value, json};

/// The JSON schema of a configuration file, from the plugins in this binary: editors complete and
/// check with it.
pub fn schema() -> Value {
    let mut root = structure();
    let mut defs = match root.as_object_mut().and_then(|r| r.remove("$defs")) {
        Some(Value::Object(defs)) => defs,
        _ => Map::new(),
    };
    defs.remove("PluginRef");
    let mut wanted = vec![];
    point_to_kinds(&mut root, &mut wanted);
    defs.values_mut().for_each(|def| point_to_kinds(def, &mut wanted));
    if let Some(preset) =
        defs.get_mut("MethodFile").and_then(|d| d.pointer_mut("/properties/preset"))
    {
        let names: Vec<&str> = presets().iter().map(|p| p.name).collect();
        if !names.is_empty() {
            let description = preset["description"].clone();
            *preset = json!({ "description": description, "enum": names });
        }
    }
    for kinds in wanted {
        let name = reference_name(&kinds);
        if !defs.contains_key(&name) {
            let reference = plugin_reference(&kinds, &mut defs);
            defs.insert(name, reference);
        }
    }
    root["$defs"] = Value::Object(defs);
    root
}

/// The schema of the file's structure. References to plugins name their kinds in `x-kinds`.
pub(super) fn structure() -> Value {
    schema_for!(CompareFile).to_value()
}

/// The schema of a plugin's options.
pub(super) fn of_plugin(plugin: &Plugin) -> Value {
    plugin.describe.schema().to_value()
}

/// Replaces the general schema of a plugin reference, wherever `x-kinds` stands, by one for those
/// kinds.
fn point_to_kinds(schema: &mut Value, wanted: &mut Vec<Vec<String>>) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for property in properties.values_mut() {
        let Some(kinds) = property.get("x-kinds").and_then(Value::as_array) else { continue };
        let kinds: Vec<String> =
            kinds.iter().filter_map(|k| k.as_str().map(str::to_owned)).collect();
        let reference = json!({ "$ref": format!("#/$defs/{}", reference_name(&kinds)) });
        let description = property["description"].clone();
        *property = if property["type"] == "array" {
            json!({ "description": description, "type": "array", "items": reference })
        } else {
            json!({ "description": description, "$ref": reference["$ref"] })
        };
        wanted.push(kinds);
    }
}

fn reference_name(kinds: &[String]) -> String {
    format!("plugin.{}", kinds.join("."))
}

/// The schema of a reference to a plugin of one of these kinds; the schemas of their options go to
/// `defs`.
fn plugin_reference(kinds: &[String], defs: &mut Map<String, Value>) -> Value {
    let mut names = vec![];
    let mut cases = vec![];
    let code = kinds.iter().any(|k| LOADABLE.contains(&k.as_str()));
    let loadable = code || kinds.iter().any(|k| k == PAGES);
    for plugin in kinds.iter().filter_map(|k| catalog::kind(k)).flat_map(KindInfo::plugins) {
        let place = format!("options.{}.{}", plugin.kind, plugin.name);
        let mut named = json!({
            "required": ["plugin"],
            "properties": { "plugin": { "const": plugin.name } },
        });
        if loadable {
            named["not"] = json!({ "required": ["library"] });
        }
        let options = json!({ "$ref": format!("#/$defs/{place}") });
        cases.push(json!({ "if": named, "then": { "properties": { "options": options } } }));
        names.push(plugin.name);
        let options = hoist(of_plugin(&plugin), &place, defs);
        defs.insert(place, options);
    }
    let mut schema = json!({
        "type": "object",
        "required": ["plugin"],
        "additionalProperties": false,
        "properties": {
            "plugin": { "type": "string", "description": "Name of the plugin." },
            "options": { "type": "object", "description": "Its options." },
        },
    });
    if loadable {
        // A search path may know further names.
        schema["properties"]["plugin"]["examples"] = json!(names);
        let reference = schema_for!(PluginRef).to_value();
        let keys: &[&str] = if code {
            &["library", "sha256", "command", "time-limit"]
        } else {
            &["library", "sha256"]
        };
        for key in keys {
            schema["properties"][key] = reference["properties"][key].clone();
        }
    } else {
        schema["properties"]["plugin"]["enum"] = json!(names);
    }
    if code {
        let place = format!("options.{}.{PROCESS}", kinds.join("."));
        cases.push(json!({
            "if": {
                "required": ["plugin"],
                "properties": { "plugin": { "const": PROCESS } },
                "not": { "required": ["library"] },
            },
            "then": { "properties": { "options": { "$ref": format!("#/$defs/{place}") } } },
        }));
        let options = hoist(schema_for!(ProcessOptions).to_value(), &place, defs);
        defs.insert(place, options);
    }
    // An empty `allOf` is not allowed.
    if !cases.is_empty() {
        schema["allOf"] = Value::Array(cases);
    }
    schema
}

/// Moves a schema's own definitions to `defs`, under its place's name.
fn hoist(mut schema: Value, place: &str, defs: &mut Map<String, Value>) -> Value {
    fn repoint(value: &mut Value, place: &str) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value.as_str() {
                        Some(target) if key == "$ref" => {
                            let moved = match target.strip_prefix("#/$defs/") {
                                Some(inner) => format!("#/$defs/{place}.{inner}"),
                                None => format!("#/$defs/{place}"),
                            };
                            *value = Value::String(moved);
                        }
                        _ => repoint(value, place),
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|v| repoint(v, place)),
            _ => {}
        }
    }
    repoint(&mut schema, place);
    if let Some(map) = schema.as_object_mut() {
        map.remove("$schema");
        if let Some(Value::Object(own)) = map.remove("$defs") {
            defs.extend(own.into_iter().map(|(name, def)| (format!("{place}.{name}"), def)));
        }
    }
    schema
}
