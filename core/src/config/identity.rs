//! What of a configuration decides a trial's result.

use super::resolved::{MethodConfig, PluginConfig, TaskConfig};
use serde_json::{Value, json};

fn all(list: &[PluginConfig]) -> Vec<Value> {
    list.iter().map(PluginConfig::identity).collect()
}

fn one(plugin: Option<&PluginConfig>) -> Option<Value> {
    plugin.map(PluginConfig::identity)
}

impl MethodConfig {
    /// Everything of a method that decides a result: its plugins and settings, and its name, so that
    /// two methods of one composition stay two; not the preset it was written with, nor its place
    /// in the report.
    pub fn identity(&self) -> Value {
        json!({
            "name": self.name,
            "optimizer": self.optimizer.identity(),
            "relaxation": one(self.relaxation.as_ref()),
            "selection": one(self.selection.as_ref()),
            "transfer-loss": one(self.transfer_loss.as_ref()),
            "auxiliary": one(self.auxiliary.as_ref()),
            "regularizers": all(&self.regularizers),
            "stop-rule": one(self.stop_rule.as_ref()),
            "transforms": all(&self.transforms),
            "search": self.search,
        })
    }
}

impl TaskConfig {
    /// Everything of a task that decides a result. Data in files count by their content, which the
    /// engine hashes.
    pub fn identity(&self) -> Value {
        json!({
            "name": self.name,
            "dataset": one(self.dataset.as_ref()),
            "search-space": self.search_space.identity(),
            "evaluate": self.evaluate.identity(),
        })
    }
}
