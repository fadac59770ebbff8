//! Makes plugins that live in processes.

use super::Command;
use super::calls::Remote;
use schemars::Schema;
use serde_json::Value;
use tetlo_core::Result;
use tetlo_core::foreign::{ForeignLoss, ForeignRegularizer, Manifest, Named};
use tetlo_core::kinds::{Regularizer, Selection, StopRule, TransferLoss};
use tetlo_core::registry::{Code, Describe, Factory as Make};
use toml::de::ValueDeserializer;

/// Makes instances of one plugin, each in a process of its own.
#[derive(Debug, Clone)]
pub struct Factory {
    /// How its process is started.
    pub command: Command,
    /// The code it belongs to, whose time limit goes over the command's.
    pub code: Option<&'static Code>,
    /// The plugin, as [`manifests`](super::manifests) gave it.
    pub manifest: Manifest,
}

impl Factory {
    fn remote(&self, options: &Value) -> Result<Remote> {
        let options = self.manifest.options.complete(options)?;
        let mut command = self.command.clone();
        if let Some(code) = self.code {
            command.time_limit = code.time_limit();
        }
        Remote::start(&command, self.manifest.kind, &self.manifest.name, &options)
    }
}

impl Describe for Factory {
    fn resolve(&self, source: ValueDeserializer<'_>) -> Result<Value, toml::de::Error> {
        self.manifest.options.resolve(source)
    }

    fn defaults(&self) -> Value {
        self.manifest.options.defaults()
    }

    fn schema(&self) -> Schema {
        self.manifest.options.schema()
    }

    fn check(&self, options: &Value) -> Result<()> {
        self.remote(options).map(drop)
    }
}

impl Make<dyn TransferLoss> for Factory {
    fn build(&self, options: &Value) -> Result<Box<dyn TransferLoss>> {
        Ok(Box::new(ForeignLoss::new(&self.manifest.name, self.remote(options)?)))
    }
}

impl Make<dyn Regularizer> for Factory {
    fn build(&self, options: &Value) -> Result<Box<dyn Regularizer>> {
        Ok(Box::new(ForeignRegularizer::new(&self.manifest.name, self.remote(options)?)))
    }
}

impl Make<dyn StopRule> for Factory {
    fn build(&self, options: &Value) -> Result<Box<dyn StopRule>> {
        Ok(Box::new(Named::new(&self.manifest.name, self.remote(options)?)))
    }
}

impl Make<dyn Selection> for Factory {
    fn build(&self, options: &Value) -> Result<Box<dyn Selection>> {
        Ok(Box::new(Named::new(&self.manifest.name, self.remote(options)?)))
    }
}
