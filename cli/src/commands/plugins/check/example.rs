//! The plugin in a config: the line that names it, read as a config reads it.

use crate::commands::config::INITIAL;
use serde_json::Value;
use std::path::Path;
use tetlo_core::config::{self, CompareConfig};
use tetlo_core::registry::catalog::Plugin;
use tetlo_test_support::Report;

/// The method that an example changes, and the one for searches without a supernet.
const METHOD: &str = "tetlo";
const BLACK_BOX: &str = "random";

/// Where a kind stands in a config.
struct Place {
    method: &'static str,
    /// The table, as `--set` names it.
    table: &'static str,
    key: &'static str,
    /// What stands round the plugin, at `PLUGIN`.
    value: &'static str,
}

/// Where plugins of a kind stand; else why nowhere.
fn place(kind: &str) -> Result<Place, &'static str> {
    let of = |table, key, value| Ok(Place { method: METHOD, table, key, value });
    let own = "method.tetlo";
    match kind {
        "transfer-loss" => of(own, "transfer-loss", "PLUGIN"),
        "auxiliary" => of(own, "auxiliary", "PLUGIN"),
        "relaxation" => of(own, "relaxation", "PLUGIN"),
        "selection" => of(own, "selection", "PLUGIN"),
        "stop-rule" => of(own, "stop-rule", "PLUGIN"),
        "multilevel-optimizer" => of(own, "optimizer", "PLUGIN"),
        "regularizer" => of(own, "regularizers", "[PLUGIN]"),
        "supernet-transform" => of(own, "transforms", "[PLUGIN]"),
        "hypergradient" => {
            of(own, "optimizer", "{ plugin = \"tetlo\", options = { estimator = PLUGIN } }")
        }
        "dataset" => of("task.fashion", "dataset", "PLUGIN"),
        "search-space" => of("task.fashion", "search-space", "PLUGIN"),
        "evaluator" => of("", "evaluate", "PLUGIN"),
        "black-box-search" => {
            let table = "method.random";
            Ok(Place { method: BLACK_BOX, table, key: "optimizer", value: "PLUGIN" })
        }
        "operation" => Err("search spaces name operations, a config does not"),
        "check-problem" => Err("`tetlo check hypergrad --problem NAME` runs it, no config does"),
        _ => Err("no config names this kind"),
    }
}

/// Adds the row `example`.
pub(super) fn check(plugin: &Plugin, options: Option<&Value>, report: &mut Report<'_>) {
    const EXAMPLE: &str = "example";
    let found = place(plugin.kind).and_then(|place| match config::preset(place.method) {
        Ok(_) => Ok(place),
        Err(_) => Err("the preset that it would stand in is not linked in"),
    });
    let needs = plugin.describe.check(&plugin.describe.defaults()).err();
    match (found, needs) {
        (Err(why), _) => report.skip(EXAMPLE, why),
        (Ok(_), Some(needs)) if options.is_none() => {
            report.skip(EXAMPLE, format_args!("the default options do not do: {needs}"));
        }
        (Ok(place), _) => report.measure(EXAMPLE, || {
            let line = line(&place, plugin, options)?;
            load(&place, &line, &[]).map(|_| line)
        }),
    }
}

/// The example with changes, as `--set` makes them.
pub(super) fn config(
    plugin: &Plugin,
    options: Option<&Value>,
    sets: &[&str],
) -> Result<CompareConfig, String> {
    let place = place(plugin.kind)?;
    load(&place, &line(&place, plugin, options)?, sets)
}

fn line(place: &Place, plugin: &Plugin, options: Option<&Value>) -> Result<String, String> {
    let value = place.value.replace("PLUGIN", &reference(plugin, options)?);
    Ok(format!("{} = {value}", place.key))
}

fn load(place: &Place, line: &str, sets: &[&str]) -> Result<CompareConfig, String> {
    let joint = if place.table.is_empty() { "" } else { "." };
    let mut all = vec![format!("{}{joint}{line}", place.table)];
    all.extend(sets.iter().map(|s| (*s).to_owned()));
    let text = INITIAL.replace("PRESET", place.method);
    config::load("example", &text, Path::new("."), &all).map_err(|e| e.to_string())
}

/// `{ plugin = …, options = …, library = … }`.
fn reference(plugin: &Plugin, options: Option<&Value>) -> Result<String, String> {
    let mut parts = vec![format!("plugin = {}", inline(&Value::from(plugin.name))?)];
    let given = options.and_then(Value::as_object).filter(|o| !o.is_empty());
    if let Some(given) = given {
        let known = given.iter().filter(|(_, value)| !value.is_null());
        let known: Vec<String> = known
            .map(|(key, value)| Ok(format!("{key} = {}", inline(value)?)))
            .collect::<Result<_, String>>()?;
        parts.push(format!("options = {{ {} }}", known.join(", ")));
    }
    if let Some(code) = plugin.code {
        parts.push(format!("library = {}", inline(&Value::from(code.path.display().to_string()))?));
    }
    Ok(format!("{{ {} }}", parts.join(", ")))
}

/// A value as TOML on one line.
fn inline(value: &Value) -> Result<String, String> {
    let value = toml::Value::try_from(value).map_err(|e| e.to_string())?;
    Ok(value.to_string())
}
