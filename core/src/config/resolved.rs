//! The resolved configuration: plugins looked up, all defaults written out, paths absolute.

use super::code::CodeConfig;
use super::heat_map::HeatMapCell;
use super::search::SearchConfig;
use super::{options, schema};
use crate::registry::{Kind, catalog, loaded};
use crate::{Error, Result};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::fmt::Display;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A comparison. Serialises to the structure of the file it can be written as.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CompareConfig {
    /// Version of the format: 1.
    pub version: u32,
    /// Name of the comparison; usable as a file name.
    pub name: String,
    /// Seeds, each once, at least one.
    pub seeds: Vec<u64>,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Threads; 0: all cores.
    pub threads: usize,
    /// The tasks, at least one.
    #[serde(rename = "task")]
    pub tasks: Vec<TaskConfig>,
    /// The methods, at least one.
    #[serde(rename = "method")]
    pub methods: Vec<MethodConfig>,
    /// The evaluator of tasks that named none; `None` where each names its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluate: Option<PluginConfig>,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TaskConfig {
    /// Its name; usable as a file name.
    pub name: String,
    /// The data set; there is one wherever a method has a multilevel optimizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<PluginConfig>,
    /// The search space.
    pub search_space: PluginConfig,
    /// The evaluator: the task's own, or the file's.
    pub evaluate: PluginConfig,
}

/// Which kind of plugin a method's `optimizer` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptimizerKind {
    /// Trains a supernet and its architecture parameters.
    MultilevelOptimizer,
    /// Sees scores of architectures only.
    BlackBoxSearch,
}

/// A method.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MethodConfig {
    /// Its name; usable as a file name.
    pub name: String,
    /// The preset it started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// The optimizer.
    pub optimizer: PluginConfig,
    /// What the optimizer is; follows from its name.
    #[serde(skip_serializing)]
    pub optimizer_kind: OptimizerKind,
    /// The relaxation: always there for a multilevel optimizer, never for a black-box search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relaxation: Option<PluginConfig>,
    /// The selection rule: always there for a multilevel optimizer, never for a black-box search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection: Option<PluginConfig>,
    /// The transfer loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_loss: Option<PluginConfig>,
    /// The auxiliary model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auxiliary: Option<PluginConfig>,
    /// Penalties on the architecture parameters.
    pub regularizers: Vec<PluginConfig>,
    /// The stopping rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_rule: Option<PluginConfig>,
    /// Transforms of the supernet's space, in order.
    pub transforms: Vec<PluginConfig>,
    /// Its place in the report's heat map, which decides no result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heat_map: Option<HeatMapCell>,
    /// The search protocol: the file's, overlaid with the preset's and the method's own.
    pub search: SearchConfig,
}

/// A plugin with its options.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PluginConfig {
    /// The kind's name; follows from the key in the file.
    #[serde(skip_serializing)]
    pub kind: &'static str,
    /// The plugin's name.
    pub plugin: String,
    /// All its options, defaults written out.
    #[serde(serialize_with = "object")]
    pub options: Value,
    /// Where it comes from; `None`: it is linked in.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeConfig>,
}

/// Options that are no table (a unit type gives `null`) are written as an empty one.
fn object<S: Serializer>(options: &Value, out: S) -> Result<S::Ok, S::Error> {
    match options {
        Value::Object(map) => map.serialize(out),
        _ => serde_json::Map::new().serialize(out),
    }
}

impl CompareConfig {
    /// The configuration as a file, all defaults written out. Loads back to an equal value.
    ///
    /// # Errors
    /// A path that is not UTF-8, or an option that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        let cannot = |e: &dyn Display| {
            Error::config(format!("the configuration cannot be written as TOML: {e}"))
        };
        let mut value = serde_json::to_value(self).map_err(|e| cannot(&e))?;
        drop_nulls(&mut value);
        toml::to_string_pretty(&value).map_err(|e| cannot(&e))
    }
}

/// Takes out keys without a value, which TOML cannot hold; loading gives them their default, `null`.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

impl PluginConfig {
    /// The linked plugin `name` of kind `T` with these options (`null` or an object); what is left
    /// out gets its default.
    ///
    /// # Errors
    /// Unknown name, or options that do not fit.
    pub fn new<T: Kind + ?Sized>(name: &str, options: &Value) -> Result<Self> {
        let kind = catalog::kind(T::NAME)
            .ok_or_else(|| Error::Invalid(format!("unknown kind `{}`", T::NAME)))?;
        let plugin = catalog::find(kind, name)?;
        let mut given = options.clone();
        drop_nulls(&mut given);
        let wrong = |e: &dyn Display| Error::config(format!("options of `{name}`: {e}"));
        // The way of a file, so that defaults are filled in at every depth.
        let text = match given {
            Value::Null => String::new(),
            given => toml::to_string(&given).map_err(|e| wrong(&e))?,
        };
        let table = DeTable::parse(&text).map_err(|e| wrong(&e.message()))?;
        let node = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
        let options = plugin.describe.resolve(node.into()).map_err(|e| wrong(&e.message()))?;
        Ok(Self { kind: T::NAME, plugin: name.to_owned(), options, code: None })
    }

    /// Builds the plugin.
    ///
    /// # Errors
    /// It comes from code that was not loaded, is unknown, or its options do not fit.
    pub fn build<T: Kind + ?Sized>(&self) -> Result<Box<T>> {
        let Some(code) = &self.code else {
            return crate::registry::build::<T>(&self.plugin, &self.options);
        };
        let not_loaded = || Error::Unsupported {
            plugin: self.plugin.clone(),
            what: format!(
                "being built as a {}: its file {} was not loaded",
                T::NAME,
                code.file.display()
            ),
        };
        let entry = code.code().and_then(|code| loaded::find::<T>(code, &self.plugin));
        let entry = entry.ok_or_else(not_loaded)?;
        if let Some(loaded) = entry.code {
            loaded.set_time_limit(code.time_limit());
        }
        entry.build(&self.options).map_err(|e| e.in_plugin(&self.plugin))
    }

    /// What decides the plugin's behaviour, for trial ids: its name and options, without those that
    /// are paths (whose contents are hashed instead, so that a trial may move between machines); of
    /// code that is not linked in the hash of its file, and how it is run.
    pub fn identity(&self) -> Value {
        let Some(code) = &self.code else {
            let mut options = self.options.clone();
            let plugin = catalog::kind(self.kind).and_then(|k| catalog::find(k, &self.plugin).ok());
            if let Some(plugin) = plugin {
                let schema = schema::of_plugin(&plugin);
                options::visit_paths(&schema, &mut options, &mut |_| false);
            }
            return serde_json::json!({ "plugin": self.plugin, "options": options });
        };
        serde_json::json!({
            "plugin": self.plugin,
            "options": self.options,
            "sha256": code.sha256,
            "command": code.command,
        })
    }
}

impl TaskConfig {
    /// Its plugins that are not linked in.
    pub fn loaded(&self) -> impl Iterator<Item = &PluginConfig> {
        std::iter::once(&self.search_space).filter(|p| p.code.is_some())
    }
}

impl MethodConfig {
    /// Its plugins that are not linked in.
    pub fn loaded(&self) -> impl Iterator<Item = &PluginConfig> {
        let single = [&self.transfer_loss, &self.selection, &self.stop_rule];
        let single = single.into_iter().flatten();
        single.chain(&self.regularizers).filter(|p| p.code.is_some())
    }
}

impl CompareConfig {
    /// Its plugins that are not linked in.
    pub fn loaded(&self) -> impl Iterator<Item = &PluginConfig> {
        let of_tasks = self.tasks.iter().flat_map(TaskConfig::loaded);
        of_tasks.chain(self.methods.iter().flat_map(MethodConfig::loaded))
    }

    /// The same with other paths of the files that its plugins come from.
    #[must_use]
    pub fn with_libraries(mut self, path: impl Fn(&CodeConfig) -> PathBuf) -> Self {
        let spaces = self.tasks.iter_mut().map(|t| &mut t.search_space);
        let methods = self.methods.iter_mut().flat_map(|m| {
            let single = [&mut m.transfer_loss, &mut m.selection, &mut m.stop_rule];
            single.into_iter().flatten().chain(&mut m.regularizers)
        });
        for code in spaces.chain(methods).filter_map(|p| p.code.as_mut()) {
            code.file = path(code);
        }
        self
    }
}
