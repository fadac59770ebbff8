//! What every kind must hold: names, texts, options and their schema.

use crate::Suite;
use crate::report::{Failure, Report, ensure, refused};
use serde_json::{Map, Value};
use tetlo_core::registry::Entry;
use toml::de::ValueDeserializer;

const UNKNOWN: &str = "no-such-option";
/// What path options are set to.
pub(crate) const NO_FILE: &str = "/no/such/file";

pub(crate) fn check<T: Suite + ?Sized>(entry: &Entry<T>, report: &mut Report<'_>) {
    report.check("name", || {
        let words = entry.name.split(T::JOINT);
        let good = |w: &str| {
            !w.is_empty() && w.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        ensure!(words.clone().all(good), "write it as lower-case words joined by `{}`", T::JOINT);
        Ok(())
    });
    report.check("summary", || {
        let summary = entry.summary;
        ensure!(!summary.trim().is_empty() && !summary.contains('\n'), "must be one line of text");
        Ok(())
    });
    report.check("defaults", || {
        let options = Value::Object(object(entry.defaults())?);
        if !needs_files(entry) {
            entry.build(&options)?;
        }
        match resolve(entry, "{}") {
            Ok(resolved) => ensure!(resolved == options, "an empty table resolves to {resolved}"),
            Err(e) => ensure!(names_path(entry, &e), "an empty table is refused: {e}"),
        }
        Ok(())
    });
    report.check("options schema", || {
        let defaults = object(entry.defaults())?;
        let schema = entry.schema().to_value();
        ensure!(
            schema["additionalProperties"] == false,
            "unknown options must be denied: `#[serde(deny_unknown_fields)]`"
        );
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        if let Some(key) = defaults.keys().find(|k| !properties.contains_key(*k)) {
            return Err(Failure(format!("the default option `{key}` is not in the schema")));
        }
        for (key, about) in properties {
            let described = about["description"].as_str().is_some_and(|d| !d.trim().is_empty());
            ensure!(described, "the option `{key}` has no description (its doc comment)");
            ensure!(!key.contains('_'), "the option `{key}` must be kebab-case");
            let optional = defaults.contains_key(key) || nullable(about);
            ensure!(optional, "the option `{key}` has no default and is not optional");
        }
        ensure!(schema["required"].is_null(), "every option needs a default: {schema}");
        Ok(())
    });
    report.check("an unknown option", || {
        let mut options = object(entry.defaults())?;
        options.insert(UNKNOWN.into(), Value::from(1));
        let message = refused("it", || entry.build(&Value::Object(options)))?;
        ensure!(message.contains(UNKNOWN), "the error does not name it: {message}");
        let message = resolve(entry, &format!("{{ {UNKNOWN} = 1 }}")).err().unwrap_or_default();
        ensure!(message.contains(UNKNOWN), "the config does not refuse it by name: {message}");
        Ok(())
    });
}

/// Does the plugin need a file: are its default options refused for a path that is missing?
pub(crate) fn needs_files<T: ?Sized>(entry: &Entry<T>) -> bool {
    let refusal = entry.build(&entry.defaults()).err();
    refusal.is_some_and(|e| e.is_usage() && names_path(entry, &e.to_string()))
}

/// Checks a plugin that needs files with paths at which there is none.
pub(crate) fn without_files<T: Suite + ?Sized>(entry: &Entry<T>, report: &mut Report<'_>) {
    let mut built = None;
    report.check("a missing file", || {
        let all = paths(entry);
        // Paths may exclude each other: each by itself, then all.
        let mut choices: Vec<Vec<String>> = all.iter().map(|p| vec![p.clone()]).collect();
        choices.push(all);
        let mut refusals = vec![];
        for choice in choices {
            let mut options = object(entry.defaults())?;
            options.extend(choice.into_iter().map(|path| (path, Value::from(NO_FILE))));
            match entry.build(&Value::Object(options)) {
                Ok(plugin) => built = Some(plugin),
                Err(e) => refusals.push(e.to_string()),
            }
        }
        let named = built.is_some() || refusals.iter().any(|r| r.contains(NO_FILE));
        ensure!(named, "the error must name it: {}", refusals.join("; "));
        Ok(())
    });
    if let Some(plugin) = built {
        T::without_files(&plugin, report);
    }
}

/// The options that are paths.
fn paths<T: ?Sized>(entry: &Entry<T>) -> Vec<String> {
    let schema = entry.schema().to_value();
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.filter(|(_, about)| about["format"] == "path").map(|(key, _)| key.clone()).collect()
}

fn names_path<T: ?Sized>(entry: &Entry<T>, message: &str) -> bool {
    paths(entry).iter().any(|p| message.contains(&format!("`{p}`")))
}

fn nullable(about: &Value) -> bool {
    let null = |t: &Value| t == "null" || t["type"] == "null";
    let any = |list: &Value| list.as_array().is_some_and(|l| l.iter().any(null));
    any(&about["type"]) || any(&about["anyOf"])
}

fn object(defaults: Value) -> Result<Map<String, Value>, Failure> {
    match defaults {
        Value::Object(map) => Ok(map),
        other => Err(Failure(format!("the default options are {other}, not a table"))),
    }
}

/// Reads an inline table as the config does.
fn resolve<T: ?Sized>(entry: &Entry<T>, table: &str) -> Result<Value, String> {
    let source = ValueDeserializer::parse(table).map_err(|e| e.to_string())?;
    entry.resolve(source).map_err(|e| e.to_string())
}
