//! Plugins named inside the options of an optimizer: estimators, transfer losses.

use crate::registry::{self, Kind};
use crate::{Error, Result};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;
use std::marker::PhantomData;

/// A plugin of kind `T` and its options, with all defaults written out.
pub struct PluginRef<T: ?Sized> {
    /// Its name.
    pub plugin: String,
    /// Its options.
    pub options: Value,
    kind: PhantomData<fn() -> Box<T>>,
}

/// A plugin as the config has it.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Name of the plugin.
    plugin: String,
    /// Its options.
    #[serde(default)]
    options: Value,
}

impl<T: Kind + ?Sized> PluginRef<T> {
    /// The plugin of this name with `given` options.
    pub fn new(plugin: impl Into<String>, mut given: Value) -> Self {
        let plugin = plugin.into();
        // An unknown name is an error of `build`, not of reading.
        if let Ok(entry) = registry::find::<T>(&plugin) {
            let mut resolved = entry.defaults();
            match (resolved.as_object_mut(), given.as_object_mut()) {
                (Some(defaults), Some(given)) => defaults.append(given),
                (_, Some(_)) => resolved = given,
                _ => {}
            }
            given = resolved;
        }
        Self { plugin, options: given, kind: PhantomData }
    }

    /// The plugin of this name with default options.
    pub fn named(plugin: impl Into<String>) -> Self {
        Self::new(plugin, Value::Null)
    }

    /// Builds it.
    ///
    /// # Errors
    /// The name or an option is unknown, a value out of range, or the plugin is not linked in: the
    /// identity of a trial would not tell its code.
    pub fn build(&self) -> Result<Box<T>> {
        if let Some(code) = registry::find::<T>(&self.plugin)?.code {
            return Err(Error::config_hint(
                format!(
                    "`{}` comes from {}; inside an optimizer's options a {} must be linked in",
                    self.plugin,
                    code.path.display(),
                    T::NAME
                ),
                "name it as the method's `transfer-loss`, which stages use that name none",
            ));
        }
        registry::build::<T>(&self.plugin, &self.options)
    }
}

impl<T: ?Sized> Clone for PluginRef<T> {
    fn clone(&self) -> Self {
        Self { plugin: self.plugin.clone(), options: self.options.clone(), kind: PhantomData }
    }
}

impl<T: ?Sized> PartialEq for PluginRef<T> {
    fn eq(&self, other: &Self) -> bool {
        self.plugin == other.plugin && self.options == other.options
    }
}

impl<T: ?Sized> std::fmt::Debug for PluginRef<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.plugin, self.options)
    }
}

impl<'de, T: Kind + ?Sized> Deserialize<'de> for PluginRef<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let Written { plugin, options } = Written::deserialize(deserializer)?;
        Ok(Self::new(plugin, options))
    }
}

impl<T: ?Sized> Serialize for PluginRef<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let (plugin, options) = (self.plugin.clone(), self.options.clone());
        Written { plugin, options }.serialize(serializer)
    }
}

impl<T: ?Sized> JsonSchema for PluginRef<T> {
    fn schema_name() -> Cow<'static, str> {
        "PluginRef".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Written::json_schema(generator)
    }
}
