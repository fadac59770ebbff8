//! The trials of a comparison: method × task × seed.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tetlo_core::Result;
use tetlo_core::config::{CodeConfig, CompareConfig, MethodConfig, PluginConfig, TaskConfig};
use tetlo_core::kinds::Dataset;

/// One method on one task with one seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Position in the plan.
    pub index: usize,
    /// 16 hex digits of the SHA-256 of everything that decides the result.
    pub id: String,
    /// The method.
    pub method: MethodConfig,
    /// The task.
    pub task: TaskConfig,
    /// The seed.
    pub seed: u64,
}

impl Trial {
    /// The trial as a config of its own, all defaults written out (`run.toml`). A place in the report
    /// is the comparison's affair.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn to_toml(&self, device: &str) -> Result<String> {
        let config = CompareConfig {
            version: 1,
            name: self.id.clone(),
            seeds: vec![self.seed],
            device: device.to_owned(),
            threads: 0,
            tasks: vec![self.task.clone()],
            methods: vec![MethodConfig { heat_map: None, ..self.method.clone() }],
            evaluate: None,
        };
        // Relative to the trial's directory, so that a comparison can be moved as a whole.
        config.with_libraries(|code| moved(code, "../..")).to_toml()
    }

    /// Its plugins that are not linked in.
    pub fn loaded(&self) -> impl Iterator<Item = &PluginConfig> {
        self.task.loaded().chain(self.method.loaded())
    }

    /// The line of `plan.jsonl`.
    pub fn to_json(&self) -> Value {
        json!({
            "schema": "tetlo.plan/1",
            "index": self.index,
            "trial_id": self.id,
            "method": self.method.name,
            "task": self.task.name,
            "seed": self.seed,
        })
    }
}

/// The folder of a comparison in which it keeps the files of its plugins.
pub const PLUGINS: &str = "plugins";

/// The name that a comparison keeps a plugin's file under.
///
/// # Errors
/// The file's hash is not known.
pub fn kept_name(code: &CodeConfig) -> Result<String> {
    let extension = code.file.extension().map(|e| e.to_string_lossy().into_owned());
    let hash = code.hash()?;
    Ok(extension.map_or_else(|| hash.to_owned(), |extension| format!("{hash}.{extension}")))
}

/// The path of a plugin's file as it is written into a file of a comparison, whose root is `root` from
/// there; files that the comparison does not keep are where they are.
pub fn moved(code: &CodeConfig, root: &str) -> PathBuf {
    let folder = code.file.parent().and_then(Path::file_name);
    let kept = kept_name(code)
        .ok()
        .filter(|kept| code.file.file_name().is_some_and(|name| name == kept.as_str()));
    match kept {
        Some(kept) if folder.is_some_and(|f| f == PLUGINS) => {
            Path::new(root).join(PLUGINS).join(kept)
        }
        _ => code.file.clone(),
    }
}

/// The trials of a comparison, task by task, method by method, seed by seed.
///
/// # Errors
/// A data file cannot be read (its hash is part of the trial's id).
///
/// A plugin whose file's hash is not known is an error too.
pub fn plan(config: &CompareConfig) -> Result<Vec<Trial>> {
    for plugin in config.loaded() {
        if let Some(code) = &plugin.code {
            code.hash().map_err(|e| e.in_plugin(&plugin.plugin))?;
        }
    }
    let mut trials = Vec::new();
    for task in &config.tasks {
        let data = match &task.dataset {
            Some(reference) => {
                let dataset: Box<dyn Dataset> = reference.build()?;
                dataset.content_hash().map_err(|e| e.in_plugin(&reference.plugin))?
            }
            None => None,
        };
        for method in &config.methods {
            for seed in &config.seeds {
                let id = trial_id(method, task, *seed, data.as_deref());
                trials.push(Trial {
                    index: trials.len(),
                    id,
                    method: method.clone(),
                    task: task.clone(),
                    seed: *seed,
                });
            }
        }
    }
    Ok(trials)
}

/// What decides a trial's result: not threads, jobs, directories or absolute paths.
fn identity(method: &MethodConfig, task: &TaskConfig, seed: u64, data: Option<&str>) -> Value {
    json!({
        "schema": "tetlo.trial/1",
        "seed": seed,
        "data": data,
        "method": method.identity(),
        "task": task.identity(),
    })
}

fn trial_id(method: &MethodConfig, task: &TaskConfig, seed: u64, data: Option<&str>) -> String {
    let text = canonical(&identity(method, task, seed, data));
    hex(&Sha256::digest(text.as_bytes()))[..16].to_owned()
}

/// JSON with sorted keys and no white space.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort();
            let parts: Vec<String> = keys
                .into_iter()
                .map(|k| format!("{}:{}", Value::String(k.clone()), canonical(&object[k])))
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(list) => {
            format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for b in bytes {
        let _ = write!(text, "{b:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_does_not_depend_on_key_order() {
        let a = json!({"b": [1, {"y": 2.5, "x": null}], "a": "q\""});
        let b = json!({"a": "q\"", "b": [1, {"x": null, "y": 2.5}]});
        assert_eq!(canonical(&a), canonical(&b));
        assert_eq!(canonical(&a), r#"{"a":"q\"","b":[1,{"x":null,"y":2.5}]}"#);
    }
}
