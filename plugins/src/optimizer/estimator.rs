//! The option that names an estimator of the mixed second derivatives.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tetlo_core::Result;
use tetlo_core::kinds::Hypergradient;
use tetlo_core::registry;

/// An estimator and its options, with all defaults written out.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(from = "Written")]
pub struct EstimatorRef {
    /// Name of the estimator.
    pub plugin: String,
    /// Its options.
    pub options: Value,
}

/// An estimator as the config has it.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Name of the estimator (`tetlo plugins list --kind hypergradient`).
    plugin: String,
    /// Its options.
    #[serde(default)]
    options: Value,
}

impl From<Written> for EstimatorRef {
    fn from(written: Written) -> Self {
        let Written { plugin, mut options } = written;
        // An unknown name is an error of `build`, not of reading.
        if let Ok(entry) = registry::find::<dyn Hypergradient>(&plugin) {
            let mut resolved = (entry.defaults)();
            match (resolved.as_object_mut(), options.as_object_mut()) {
                (Some(defaults), Some(given)) => defaults.append(given),
                (_, Some(_)) => resolved = options,
                _ => {}
            }
            options = resolved;
        }
        Self { plugin, options }
    }
}

impl EstimatorRef {
    /// The estimator of this name with default options.
    pub fn named(plugin: &str) -> Self {
        Written { plugin: plugin.to_owned(), options: Value::Null }.into()
    }

    /// Builds it.
    ///
    /// # Errors
    /// The name or an option is unknown, or a value out of range.
    pub fn build(&self) -> Result<Box<dyn Hypergradient>> {
        registry::build::<dyn Hypergradient>(&self.plugin, &self.options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_written_out() {
        let read = |value: Value| serde_json::from_value::<EstimatorRef>(value).unwrap();
        let plain = read(json!({"plugin": "central-difference"}));
        assert_eq!(plain.options, json!({"epsilon": 0.01}));
        assert_eq!(plain, EstimatorRef::named("central-difference"));
        let given = json!({"plugin": "central-difference", "options": {"epsilon": 0.1}});
        assert_eq!(read(given).options, json!({"epsilon": 0.1}));
    }

    #[test]
    fn slips_are_named() {
        let unknown = EstimatorRef::named("central-diference").build().unwrap_err();
        assert!(unknown.hint().unwrap().starts_with("did you mean `central-difference`?"));
        let misspelt = json!({"plugin": "central-difference", "options": {"epsilom": 0.1}});
        let misspelt: EstimatorRef = serde_json::from_value(misspelt).unwrap();
        let message = misspelt.build().unwrap_err().to_string();
        assert!(message.contains("central-difference") && message.contains("epsilom"), "{message}");
    }
}
