//! The resolved configuration: plugins looked up, all defaults written out, paths absolute.

use super::heat_map::HeatMapCell;
use super::search::SearchConfig;
use super::{options, schema};
use crate::registry::{Kind, catalog};
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
    /// The shared library it comes from, absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "library")]
    pub shared_library: Option<PathBuf>,
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
        Ok(Self { kind: T::NAME, plugin: name.to_owned(), options, shared_library: None })
    }

    /// Builds the plugin, which must be linked in.
    ///
    /// # Errors
    /// It comes from a library, is unknown, or its options do not fit.
    pub fn build<T: Kind + ?Sized>(&self) -> Result<Box<T>> {
        if self.shared_library.is_some() {
            return Err(Error::Unsupported {
                plugin: self.plugin.clone(),
                what: format!("being built as a linked {}: it comes from a library", T::NAME),
            });
        }
        crate::registry::build::<T>(&self.plugin, &self.options)
    }

    /// What decides the plugin's behaviour, for trial ids: its name and options, without those that
    /// are paths (whose contents are hashed instead, so that a trial may move between machines).
    pub fn identity(&self) -> Value {
        let mut options = self.options.clone();
        if let Some(plugin) = self.linked() {
            let schema = schema::of_plugin(&plugin);
            options::visit_paths(&schema, &mut options, &mut |_| false);
        }
        serde_json::json!({ "plugin": self.plugin, "options": options })
    }

    fn linked(&self) -> Option<catalog::Plugin> {
        if self.shared_library.is_some() {
            return None;
        }
        catalog::find(catalog::kind(self.kind)?, &self.plugin).ok()
    }
}
