//! The checks themselves, in a process that they may end.

use super::target::{find_target, origin};
use super::wire::Message;
use super::{example, speed};
use crate::args::PluginCheckArgs;
use crate::commands::setup;
use crate::exit::{Exit, Usage};
use anyhow::Result;
use serde_json::Value;
use std::time::{Duration, Instant};
use tetlo_core::registry::catalog::Plugin;
use tetlo_test_support::{Event, Outcome, Report, Row};
use toml::de::ValueDeserializer;

/// Finds the plugins and checks them; tells of it on standard output.
pub(super) fn run(arguments: &PluginCheckArgs) -> Result<Exit> {
    const LOADS: &str = "loads";
    setup::end_with_parent();
    setup::set_threads(0)?;
    Message::Begin(LOADS.to_owned()).tell();
    let began = Instant::now();
    let row = |outcome, detail| Row {
        check: LOADS.to_owned(),
        outcome,
        seconds: began.elapsed().as_secs_f64(),
        detail,
    };
    let limit = Duration::from_secs_f64(arguments.time_limit);
    let plugins = match find_target(&arguments.plugin, arguments.kind.as_deref(), limit) {
        Err(error) if error.downcast_ref::<Usage>().is_none() => {
            let row = row(Outcome::Failed, with_hint(&error));
            Message::of("", &arguments.plugin, Event::End(&row)).tell();
            return Ok(Exit::Failed);
        }
        found => found?,
    };
    // Options that do not fit are an error of the command, not of the plugin.
    let mut all = Vec::new();
    for plugin in plugins {
        let options = match arguments.options.as_str() {
            "" => None,
            text => Some(options(&plugin, text)?),
        };
        all.push((row(Outcome::Ok, origin(&plugin)), plugin, options));
    }
    let mut failed = false;
    for (loads, plugin, options) in all {
        failed |= check(&loads, &plugin, options.as_ref())?;
    }
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

fn with_hint(error: &anyhow::Error) -> String {
    let hint = error.downcast_ref::<tetlo_core::Error>().and_then(tetlo_core::Error::hint);
    hint.map_or_else(|| format!("{error:#}"), |hint| format!("{error:#}; {hint}"))
}

/// Options as TOML, lines or a list on one line, with all defaults written out.
fn options(plugin: &Plugin, text: &str) -> Result<Value> {
    let inline = format!("{{ {text} }}");
    let resolved = match toml::from_str::<toml::Table>(text) {
        Ok(table) => {
            let table = toml::Value::Table(table).to_string();
            ValueDeserializer::parse(&table).and_then(|source| plugin.describe.resolve(source))
        }
        Err(_) => {
            ValueDeserializer::parse(&inline).and_then(|source| plugin.describe.resolve(source))
        }
    };
    resolved.map_err(|e| Usage(format!("--options of `{}`: {}", plugin.name, e.message())).into())
}

/// All checks of a plugin. Did one fail?
fn check(loads: &Row, plugin: &Plugin, options: Option<&Value>) -> Result<bool> {
    let (kind, name) = (plugin.kind, plugin.name);
    let about = plugin.summary.to_owned();
    Message::Plugin { kind: kind.to_owned(), name: name.to_owned(), about }.tell();
    let mut tell = |event: Event<'_>| Message::of(kind, name, event).tell();
    tell(Event::End(loads));
    let mut rows = tetlo_test_support::run(plugin, options, &mut tell)?;
    let mut report = Report::new(&mut tell);
    example::check(plugin, options, &mut report);
    speed::check(plugin, options, &mut report);
    rows.extend(report.into_rows());
    Ok(rows.iter().any(|r| r.outcome == Outcome::Failed))
}
