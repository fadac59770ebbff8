//! The configuration: a TOML file, `--set` overrides and presets in, the resolved configuration
//! out.
//!
//! A method's keys come from three places. Keys in the file replace the preset's keys of the same
//! name as a whole; only `search` is merged key by key: the file's `[search]`, over it the
//! preset's, over it the method's own. `--set` reaches into the result, so
//! `method.tetlo.optimizer.options.lambda=0.5` changes one option and leaves the preset's others.
//! (`--set …optimizer.plugin=…` changes the name alone; a whole plugin is set by
//! `…optimizer={plugin="…",options={…}}`.)
//!
//! Every error names file, line and column, shows the line with a caret, and carries a hint.

mod check;
mod code;
mod difference;
mod explain;
mod file;
mod heat_map;
mod identity;
mod load;
mod located;
mod message;
mod options;
mod overrides;
mod preset;
mod resolved;
mod schema;
mod search;
mod single;
mod source;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod tree;

pub use check::MOST_THREADS;
pub use code::{CodeConfig, Outline, Reference};
pub use difference::difference;
pub use explain::explain;
pub use heat_map::HeatMapCell;
pub use load::{load, load_bytes, load_without_code, outline, text_of};
pub use located::{in_argument, located};
pub use preset::{PRESET_KIND, PresetEntry, preset, presets};
pub use resolved::{CompareConfig, MethodConfig, OptimizerKind, PluginConfig, TaskConfig};
pub use schema::schema;
pub use search::SearchConfig;
pub use single::plugin;
