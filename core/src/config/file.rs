//! The file as serde reads it: structure and types, before plugins are looked up.
//!
//! Doc comments are the reference: `tetlo config explain` and the JSON schema show them. Names of
//! kinds in `x-kinds` say which plugins a reference may name.

use super::heat_map::HeatMapCell;
use super::search::SearchConfig;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::borrow::Cow;

/// A comparison of methods on tasks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub(super) struct CompareFile {
    /// Version of the format; always 1.
    #[schemars(range(min = 1, max = 1))]
    pub(super) version: u32,
    /// Name of the comparison, and of its directory under `runs/`: letters, digits, `.`, `_`, `-`.
    pub(super) name: String,
    /// Seeds; every method runs once on every task with each.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub(super) seeds: Vec<u64>,
    /// Where tensors live: `cpu`, or `cuda:0` for the first GPU.
    #[serde(default = "cpu")]
    pub(super) device: String,
    /// Threads of the numerical kernels; 0: all cores. Results do not depend on it.
    #[serde(default)]
    #[schemars(range(max = 4096))]
    pub(super) threads: usize,
    /// Code whose plugins can be named below.
    #[serde(default)]
    pub(super) plugins: PluginsFile,
    /// The tasks: `[[task]]`, one or more.
    #[schemars(length(min = 1))]
    pub(super) task: Vec<TaskFile>,
    /// The search protocol of all methods; a preset's and a method's own `search` go over it, key
    /// by key.
    #[serde(default)]
    pub(super) search: SearchConfig,
    /// The methods: `[[method]]`, one or more.
    #[schemars(length(min = 1))]
    pub(super) method: Vec<MethodFile>,
    /// The evaluator of every task that names none of its own.
    #[schemars(extend("x-kinds" = ["evaluator"]))]
    pub(super) evaluate: Option<PluginRef>,
}

fn cpu() -> String {
    "cpu".to_owned()
}

/// Code that is loaded beside what is linked in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case", expecting = "a table")]
pub(super) struct PluginsFile {
    /// Shared libraries, scripts, pages of TOML, or folders of them, relative to the configuration file.
    pub(super) load: Vec<String>,
}

/// A task: a data set and a search space.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub(super) struct TaskFile {
    /// Name in results and in `--set task.NAME.…`: letters, digits, `.`, `_`, `-`.
    pub(super) name: String,
    /// The data set; may be left out where nothing trains (a tabular evaluator and black-box
    /// searches only).
    #[schemars(extend("x-kinds" = ["dataset"]))]
    pub(super) dataset: Option<PluginRef>,
    /// The search space.
    #[schemars(extend("x-kinds" = ["search-space"]))]
    pub(super) search_space: PluginRef,
    /// The evaluator of this task, instead of the file's.
    #[schemars(extend("x-kinds" = ["evaluator"]))]
    pub(super) evaluate: Option<PluginRef>,
}

/// A method: a composition of plugins. Keys beside `preset` replace the preset's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub(super) struct MethodFile {
    /// Name in results and in `--set method.NAME.…`: letters, digits, `.`, `_`, `-`.
    pub(super) name: String,
    /// The method that ships under this name, as the start.
    pub(super) preset: Option<String>,
    /// The optimizer: a multilevel optimizer or a black-box search. From the preset where left out.
    #[schemars(extend("x-kinds" = ["multilevel-optimizer", "black-box-search"]))]
    pub(super) optimizer: Option<PluginRef>,
    /// How architecture parameters become operation weights; a multilevel optimizer needs one, here
    /// or in the preset.
    #[schemars(extend("x-kinds" = ["relaxation"]))]
    pub(super) relaxation: Option<PluginRef>,
    /// How a genotype is derived; a multilevel optimizer needs one, here or in the preset.
    #[schemars(extend("x-kinds" = ["selection"]))]
    pub(super) selection: Option<PluginRef>,
    /// The transfer loss between main and auxiliary model.
    #[schemars(extend("x-kinds" = ["transfer-loss"]))]
    pub(super) transfer_loss: Option<PluginRef>,
    /// The auxiliary model.
    #[schemars(extend("x-kinds" = ["auxiliary"]))]
    pub(super) auxiliary: Option<PluginRef>,
    /// Penalties on the architecture parameters, added up.
    #[serde(default)]
    #[schemars(extend("x-kinds" = ["regularizer"]))]
    pub(super) regularizers: Vec<PluginRef>,
    /// A rule that may end the search early.
    #[schemars(extend("x-kinds" = ["stop-rule"]))]
    pub(super) stop_rule: Option<PluginRef>,
    /// Changes of the space that the supernet is built from, in order.
    #[serde(default)]
    #[schemars(extend("x-kinds" = ["supernet-transform"]))]
    pub(super) transforms: Vec<PluginRef>,
    /// Where the method stands in the report's heat map; results do not depend on it. Without it the
    /// method is in the tables only.
    pub(super) heat_map: Option<HeatMapCell>,
    /// The method's own search protocol; goes over the preset's and the file's, key by key.
    #[serde(default)]
    pub(super) search: SearchConfig,
}

/// A plugin and its options.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a table `{ plugin = \"…\", options = { … } }`"
)]
pub(super) struct PluginRef {
    /// Name of the plugin; `tetlo plugins list` shows them.
    pub(super) plugin: String,
    /// Its options; what is left out has its default.
    #[expect(dead_code, reason = "read from the tree, with the plugin's own type")]
    pub(super) options: Option<OptionsTable>,
    /// File that holds the plugin, relative to the configuration file: a shared library, a script, or
    /// (a search space) a page of TOML.
    #[serde(rename = "library")]
    pub(super) file: Option<String>,
    /// SHA-256 of that file; another file is refused. `tetlo plan` writes it.
    pub(super) sha256: Option<String>,
    /// How a script is run, with `{library}` in place of its path; absent: `.py` by `python3`, others
    /// by themselves.
    pub(super) command: Option<Vec<String>>,
    /// Seconds that a script may take for an answer; absent: 60.
    #[schemars(range(min = 0.001))]
    pub(super) time_limit: Option<f64>,
}

impl PluginRef {
    /// A linked plugin; its options stand in the tree.
    pub(super) fn named(plugin: &str) -> Self {
        Self {
            plugin: plugin.to_owned(),
            options: None,
            file: None,
            sha256: None,
            command: None,
            time_limit: None,
        }
    }
}

/// Options are left in the tree: the plugin's own options type reads them there, with places.
#[derive(Debug, Clone, Copy)]
pub(super) struct OptionsTable;

impl JsonSchema for OptionsTable {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OptionsTable".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object" })
    }
}

impl<'de> Deserialize<'de> for OptionsTable {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = OptionsTable;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table of options")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OptionsTable, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(OptionsTable)
            }
        }
        source.deserialize_map(Table)
    }
}
