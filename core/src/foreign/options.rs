//! Options that a JSON schema describes.
//!
//! Foreign code checks its options itself when it is built; here the schema is held against them
//! first, so that a slip is an error at its place in the config, as with a linked plugin. Known are the
//! words that describe options: `type`, `enum`, `const`, bounds of numbers and lengths, `items`,
//! `properties`, references and alternatives. Others are left to the plugin.

use crate::{Error, Result};
use schemars::Schema;
use serde::de::{Deserialize, Error as _};
use serde_json::{Map, Value};
use std::cell::Cell;
use toml::de::ValueDeserializer;

/// Depth of references and alternatives followed; a schema may refer to itself.
const DEEPEST: usize = 32;

/// Schemas held against one option; alternatives that refer to themselves double at each depth. What lies
/// beyond is left to the plugin.
const MOST_STEPS: usize = 10_000;

/// The options of a plugin as its JSON schema tells them: defaults are the schema's `default`s.
#[derive(Debug, Clone)]
pub struct SchemaOptions {
    schema: Value,
}

impl SchemaOptions {
    /// Reads a schema: `null` for a plugin without options, else of an object with `properties`.
    ///
    /// # Errors
    /// It is neither, or a default is not of its own schema.
    pub fn new(schema: &Value) -> Result<Self> {
        let mut schema = match schema {
            Value::Null => Value::Object(Map::new()),
            other => other.clone(),
        };
        let Some(map) = schema.as_object_mut() else {
            return Err(Error::Invalid("a JSON object is expected".into()));
        };
        map.entry("type").or_insert_with(|| "object".into());
        map.entry("properties").or_insert_with(|| Value::Object(Map::new()));
        map.insert("additionalProperties".into(), Value::Bool(false));
        if map["type"] != "object" || !map["properties"].is_object() {
            let what = "an object (`\"type\": \"object\"`) with `properties` is expected";
            return Err(Error::Invalid(what.into()));
        }
        if let Some((key, _)) =
            properties(&schema).find(|(_, about)| !about.is_object() && !about.is_boolean())
        {
            return Err(Error::Invalid(format!("the option `{key}` has no schema")));
        }
        let this = Self { schema };
        let mut defaults = this.defaults();
        this.check(&mut defaults).map_err(|e| Error::Invalid(format!("a default: {e}")))?;
        Ok(this)
    }

    /// The default options.
    pub fn defaults(&self) -> Value {
        let of = |(key, about): (&String, &Value)| {
            about.get("default").filter(|d| !d.is_null()).map(|d| (key.clone(), d.clone()))
        };
        let mut defaults = Value::Object(properties(&self.schema).filter_map(of).collect());
        self.as_typed(&mut defaults);
        defaults
    }

    /// The schema.
    pub fn schema(&self) -> Schema {
        self.schema.clone().try_into().unwrap_or_default()
    }

    /// Reads options from a config and writes all defaults out.
    ///
    /// # Errors
    /// An unknown option, or a value that is not of the schema; the message names the key.
    pub fn resolve(&self, source: ValueDeserializer<'_>) -> Result<Value, toml::de::Error> {
        let given = Value::deserialize(source)?;
        self.complete(&given).map_err(toml::de::Error::custom)
    }

    /// These options (`null` or an object) over the defaults.
    ///
    /// # Errors
    /// As [`SchemaOptions::resolve`].
    pub fn complete(&self, given: &Value) -> Result<Value> {
        let mut options = self.defaults();
        match (options.as_object_mut(), given) {
            (_, Value::Null) => {}
            (Some(options), Value::Object(given)) => {
                options.extend(given.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
            _ => return Err(Error::config("the options are not a table")),
        }
        self.check(&mut options)?;
        Ok(options)
    }

    /// Checks options, and gives whole numbers the type that the schema says.
    fn check(&self, options: &mut Value) -> Result<()> {
        for (key, value) in options.as_object().into_iter().flatten() {
            let Some(about) = self.schema["properties"].get(key) else {
                // serde's words, which the config's errors understand.
                let known: Vec<String> =
                    properties(&self.schema).map(|(k, _)| format!("`{k}`")).collect();
                let expected = match known.as_slice() {
                    [] => "there are no fields".to_owned(),
                    [one] => format!("expected {one}"),
                    several => format!("expected one of {}", several.join(", ")),
                };
                return Err(Error::config(format!("unknown field `{key}`, {expected}")));
            };
            let steps = Cell::new(0);
            if let Err(what) = fits((&self.schema, &steps), about, value, 0) {
                return Err(Error::config(format!("`{key}` {what}, got `{value}`")));
            }
        }
        self.as_typed(options);
        Ok(())
    }

    /// A whole number where the schema says `number` becomes a float, as in a linked plugin's options.
    fn as_typed(&self, options: &mut Value) {
        for (key, value) in options.as_object_mut().into_iter().flatten() {
            let float = types(&self.schema["properties"][key]).any(|t| t == "number");
            if float && (value.is_i64() || value.is_u64()) {
                *value = value.as_f64().map_or(Value::Null, Value::from);
            }
        }
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// The types that a schema allows; none: any.
fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let one = schema["type"].as_str();
    one.into_iter().chain(schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str))
}

fn is(value: &Value, type_name: &str) -> bool {
    match type_name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "integer" => value.as_f64().is_some_and(|v| v.fract() == 0.0),
        "number" => value.is_number(),
        _ => true,
    }
}

/// Is the value of the schema? Else what it must be.
fn fits(
    all @ (root, steps): (&Value, &Cell<usize>),
    schema: &Value,
    value: &Value,
    depth: usize,
) -> Result<(), String> {
    steps.set(steps.get() + 1);
    if schema == &Value::Bool(false) {
        return Err("is not allowed".into());
    }
    if depth > DEEPEST || steps.get() > MOST_STEPS {
        return Ok(());
    }
    if let Some(target) =
        schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')).and_then(|r| root.pointer(r))
    {
        fits(all, target, value, depth + 1)?;
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        fits(all, part, value, depth + 1)?;
    }
    for key in ["anyOf", "oneOf"] {
        let Some(choices) = schema[key].as_array() else { continue };
        let mut says = Vec::new();
        let one = choices.iter().any(|choice| {
            fits(all, choice, value, depth + 1).map_err(|what| says.push(what)).is_ok()
        });
        if !one {
            says.dedup();
            return Err(says.join(", or "));
        }
    }
    let mut allowed = types(schema).peekable();
    if allowed.peek().is_some() && !allowed.any(|t| is(value, t)) {
        let names: Vec<&str> = types(schema).filter(|t| *t != "null").collect();
        return Err(format!("must be of type {}", names.join(" or ")));
    }
    if schema.get("const").is_some_and(|c| c != value) {
        return Err(format!("must be `{}`", text(&schema["const"])));
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        let names: Vec<String> = choices.iter().map(|c| format!("`{}`", text(c))).collect();
        return Err(format!("must be one of {}", names.join(", ")));
    }
    bounds(schema, value)?;
    for item in value.as_array().into_iter().flatten() {
        fits(all, &schema["items"], item, depth + 1)?;
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        fits(all, &schema["properties"][key], inner, depth + 1)
            .map_err(|e| format!("has a `{key}` that {e}"))?;
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn bounds(schema: &Value, value: &Value) -> Result<(), String> {
    let length = match value {
        Value::String(s) => Some((s.chars().count(), "minLength", "maxLength", "characters")),
        Value::Array(a) => Some((a.len(), "minItems", "maxItems", "values")),
        _ => None,
    };
    if let Some((n, least, most, of)) = length {
        if schema[least].as_u64().is_some_and(|least| (n as u64) < least) {
            return Err(format!("must have at least {} {of}", schema[least]));
        }
        if schema[most].as_u64().is_some_and(|most| n as u64 > most) {
            return Err(format!("must have at most {} {of}", schema[most]));
        }
    }
    let Some(v) = value.as_f64() else { return Ok(()) };
    let bound = |key: &str| schema[key].as_f64();
    if bound("minimum").is_some_and(|b| v < b) {
        return Err(format!("must be at least {}", schema["minimum"]));
    }
    if bound("maximum").is_some_and(|b| v > b) {
        return Err(format!("must be at most {}", schema["maximum"]));
    }
    if bound("exclusiveMinimum").is_some_and(|b| v <= b) {
        return Err(format!("must be above {}", schema["exclusiveMinimum"]));
    }
    if bound("exclusiveMaximum").is_some_and(|b| v >= b) {
        return Err(format!("must be below {}", schema["exclusiveMaximum"]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn options() -> SchemaOptions {
        SchemaOptions::new(&json!({"properties": {
            "temperature": {"type": "number", "exclusiveMinimum": 0, "default": 1},
            "sampler": {"enum": ["all", "random"], "default": "all"},
            "pairs": {"type": ["integer", "null"], "minimum": 1},
            "weights": {"type": "array", "items": {"type": "number"}, "maxItems": 2, "default": []},
            "target": {"$ref": "#/$defs/Target", "default": "soft"},
        }, "$defs": {"Target": {"oneOf": [{"const": "soft"}, {"const": "hard"}]}}}))
        .expect("a schema")
    }

    #[test]
    fn defaults_are_written_out_and_numbers_have_their_type() {
        let all = options().complete(&json!({"pairs": 3})).expect("they fit");
        let expected = json!({
            "temperature": 1.0, "sampler": "all", "weights": [], "target": "soft", "pairs": 3
        });
        assert_eq!(all, expected);
        assert!(all["temperature"].is_f64());
        assert_eq!(SchemaOptions::new(&Value::Null).expect("none").defaults(), json!({}));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (given, part) in [
            (json!({"temprature": 1}), "unknown field `temprature`, expected one of"),
            (json!({"temperature": 0}), "`temperature` must be above 0, got `0`"),
            (json!({"temperature": "hot"}), "`temperature` must be of type number"),
            (json!({"sampler": "none"}), "must be one of `all`, `random`"),
            (json!({"pairs": 1.5}), "must be of type integer"),
            (json!({"pairs": 0}), "must be at least 1"),
            (json!({"weights": [1, "x"]}), "must be of type number"),
            (json!({"weights": [1, 2, 3]}), "must have at most 2 values"),
            (json!({"target": "mild"}), "must be `soft`, or must be `hard`"),
            (json!([1]), "not a table"),
        ] {
            let error = options().complete(&given).expect_err("it must be refused").to_string();
            assert!(error.contains(part), "{given}: {error}");
        }
    }

    #[test]
    fn a_schema_that_doubles_itself_ends() {
        let twice = json!({"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/A"}], "const": 1});
        let schema = json!({"properties": {"x": {"$ref": "#/$defs/A"}}, "$defs": {"A": twice}});
        let options = SchemaOptions::new(&schema).expect("a schema");
        assert!(options.complete(&json!({"x": 2})).is_err());
    }

    /// Random changes of schemas, options and manifests, as a hostile plugin would send them.
    #[test]
    fn mutations_neither_panic_nor_hang() {
        use crate::foreign::Manifest;
        use crate::rng::{Key, Purpose};
        let manifest = json!([{
            "kind": "transfer-loss", "name": "my-loss", "version": "1", "summary": "a loss",
            "schema": options().schema().to_value(),
        }]);
        let (manifest, given) = (manifest.to_string(), json!({
            "temperature": 0.5, "sampler": "random", "pairs": 3, "weights": [1.0], "target": "hard",
        }).to_string());
        let mut draws = Key::new(1, Purpose::Problem).stream();
        let mut spoil = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..=draws.below(3) {
                let (at, from) = (draws.below(bytes.len()), draws.below(bytes.len()));
                match draws.below(4) {
                    0 => bytes[at] = b"{}[]\",:0-9.eE$#/ntf"[draws.below(19)],
                    1 => drop(bytes.drain(at.min(from)..at.max(from))),
                    2 => bytes.insert(at, bytes[from]),
                    _ => bytes.swap(at, from),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let mut read = 0;
        for _ in 0..100_000 {
            let (one, other) = (spoil(&manifest), spoil(&given));
            let manifest = serde_json::from_str::<Value>(&one).ok().map(|v| Manifest::list(&v));
            let options = serde_json::from_str::<Value>(&other).unwrap_or(Value::Null);
            if let Some(Ok(list)) = manifest {
                read += 1;
                for plugin in list {
                    let _ = plugin.options.complete(&options);
                    if let Ok(table) = ValueDeserializer::parse(&other) {
                        let _ = plugin.options.resolve(table);
                    }
                }
            }
        }
        assert!(read > 1000, "only {read} manifests could be read");
    }

    #[test]
    fn a_schema_is_checked_itself() {
        for schema in [
            json!(3),
            json!({"type": "array"}),
            json!({"properties": 3}),
            json!({"properties": {"x": 3}}),
            json!({"properties": {"x": {"type": "number", "default": "y"}}}),
        ] {
            assert!(SchemaOptions::new(&schema).is_err(), "{schema}");
        }
    }
}
