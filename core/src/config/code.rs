//! Plugins that are not linked in: the file they come from.

use super::file::{CompareFile, OptionsTable, PluginRef};
use super::options::Context;
use super::tree::{self, Path};
use crate::Result;
use crate::foreign::LOADABLE;
use crate::registry::loaded::LIBRARY;
use crate::registry::{Code, loaded};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use toml::de::ValueDeserializer;

/// Stands for a plugin by the command that runs it.
pub(super) const PROCESS: &str = "process";

/// The one kind that comes as a page of data.
pub(super) const PAGES: &str = "search-space";

/// What becomes of a plugin whose code was not loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unloaded {
    /// An unknown name is an error.
    Refused,
    /// It is kept as it is written; an unknown name too, where it could be elsewhere.
    Kept {
        /// Are there places beside the configuration's own?
        elsewhere: bool,
    },
}

/// Where a plugin comes from that is not linked in.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CodeConfig {
    /// The file, absolute; empty where only its name is known.
    #[serde(rename = "library")]
    pub file: PathBuf,
    /// SHA-256 of the file, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Program and arguments, with `{library}` in place of the file; empty: the usual way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Seconds that a process may take for an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<f64>,
}

impl CodeConfig {
    /// The code, where it was loaded.
    pub fn code(&self) -> Option<&'static Code> {
        loaded::code_at(&self.file, &self.command)
    }

    /// The code's hash.
    ///
    /// # Errors
    /// It was not loaded, and no hash is written.
    pub fn hash(&self) -> Result<&str> {
        let not = || crate::Error::config(format!("{} was not loaded", self.file.display()));
        self.sha256.as_deref().ok_or_else(not)
    }

    pub(super) fn time_limit(&self) -> Duration {
        self.time_limit.map_or(loaded::TIME_LIMIT, Duration::from_secs_f64)
    }
}

/// Code that a configuration wants loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// The configuration's name.
    pub name: String,
    /// Its threads; 0: all cores.
    pub threads: usize,
    /// `[plugins] load`: files and folders whose plugins can be named, absolute.
    pub load: Vec<PathBuf>,
    /// Files that plugins name.
    pub files: Vec<Reference>,
}

/// A file that a plugin names.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Keys to the place in the configuration.
    pub at: Vec<String>,
    /// The file, absolute; empty where a command is to be searched for it.
    pub file: PathBuf,
    /// The command as it is written; empty: the file's usual way.
    pub command: Vec<String>,
    /// Seconds that a process may take for an answer.
    pub time_limit: Option<f64>,
    /// The hash that the file must have.
    pub sha256: Option<String>,
}

/// Options of a plugin that is named by its command.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ProcessOptions {
    /// Program and arguments. The first argument that is a file, relative to the configuration file, is
    /// what the trial's identity covers and what is kept with the comparison.
    pub(super) command: Vec<String>,
    /// The plugin's own options.
    #[serde(default)]
    #[expect(dead_code, reason = "read from the tree, by the plugin's own schema")]
    pub(super) options: Option<OptionsTable>,
    /// Seconds that it may take for an answer; absent: 60.
    pub(super) time_limit: Option<f64>,
    /// Name of the plugin, where the program has several of this kind.
    pub(super) name: Option<String>,
}

impl Context<'_, '_> {
    /// What the file wants loaded.
    pub(super) fn outline(&self, file: &CompareFile) -> Result<Outline> {
        let mut files = Vec::new();
        for (i, task) in file.task.iter().enumerate() {
            let at = Path::of("task").index(i).key("search-space");
            let keys = ["task", &task.name, "search-space"];
            self.reference(&task.search_space, &at, PAGES, &keys, &mut files)?;
        }
        for (i, method) in file.method.iter().enumerate() {
            let here = Path::of("method").index(i);
            let single = [
                ("transfer-loss", &method.transfer_loss),
                ("selection", &method.selection),
                ("stop-rule", &method.stop_rule),
            ];
            for (key, reference) in single {
                if let Some(reference) = reference {
                    let keys = ["method", &method.name, key];
                    self.reference(reference, &here.key(key), key, &keys, &mut files)?;
                }
            }
            for (n, reference) in method.regularizers.iter().enumerate() {
                let at = here.key("regularizers").index(n);
                let keys = ["method", &method.name, "regularizers"];
                self.reference(reference, &at, "regularizer", &keys, &mut files)?;
            }
        }
        let at = Path::of("plugins").key("load");
        let load = (file.plugins.load.iter().enumerate())
            .map(|(i, path)| self.absolute(path, &at.index(i)))
            .collect::<Result<_>>()?;
        Ok(Outline { name: file.name.clone(), threads: file.threads, load, files })
    }

    fn reference(
        &self,
        reference: &PluginRef,
        at: &Path,
        kind: &str,
        keys: &[&str],
        files: &mut Vec<Reference>,
    ) -> Result<()> {
        let keys = |last: &str| keys.iter().copied().chain([last]).map(str::to_owned).collect();
        if is_process(reference, &[kind]) {
            let options = self.process_options(at)?;
            files.push(Reference {
                at: keys("options"),
                file: PathBuf::new(),
                command: options.command,
                time_limit: options.time_limit,
                sha256: None,
            });
        } else if reference.file.is_some() {
            let code = self.code(reference, at, &[kind])?;
            files.push(Reference {
                at: keys("library"),
                file: code.file,
                command: code.command,
                time_limit: code.time_limit,
                sha256: code.sha256,
            });
        }
        Ok(())
    }

    /// The options of `plugin = "process"`.
    pub(super) fn process_options(&self, at: &Path) -> Result<ProcessOptions> {
        const EXAMPLE: &str =
            "for example `options = { command = [\"python3\", \"my_loss.py\"], options = { … } }`";
        let at = at.key("options");
        let Some(node) = tree::get(self.root, &at) else {
            return Err(self.error(
                &at,
                "the plugin `process` needs the option `command`",
                EXAMPLE,
            ));
        };
        let options =
            ProcessOptions::deserialize(ValueDeserializer::from(node.clone())).map_err(|e| {
                let span = e.span().unwrap_or_else(|| node.span());
                self.sources.error(&span, format!("options of `process`: {}", e.message()), EXAMPLE)
            })?;
        if options.command.is_empty() {
            return Err(self.error(&at.key("command"), "the command is empty", EXAMPLE));
        }
        self.check_time_limit(options.time_limit, &at)?;
        Ok(options)
    }

    /// The file that a reference names, and how it is run.
    pub(super) fn code(
        &self,
        reference: &PluginRef,
        path: &Path,
        kinds: &[&str],
    ) -> Result<CodeConfig> {
        let at = path.key("library");
        let library = reference.file.as_deref().unwrap_or_default();
        let is_page = std::path::Path::new(library)
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("toml"));
        let fits = |kind: &&str| if is_page { *kind == PAGES } else { LOADABLE.contains(kind) };
        if !kinds.iter().any(fits) {
            let what = format!(
                "a {} cannot be loaded from a {}; only a {} can",
                kinds.join(" or "),
                if is_page { "page of TOML" } else { "library" },
                if is_page { PAGES.to_owned() } else { LOADABLE.join(", ") }
            );
            return Err(self.error(&at, what, super::options::OWN_BINARY));
        }
        if library.is_empty() {
            let hint = "give the file's path, relative to the configuration file";
            return Err(self.error(&at, "`library` is empty", hint));
        }
        let command = reference.command.clone().unwrap_or_default();
        if reference.command.is_some() && !command.iter().any(|part| part.contains(LIBRARY)) {
            let hint = "for example `command = [\"python3\", \"-O\", \"{library}\"]`";
            let what = "`command` has no `{library}`, which stands for the file";
            return Err(self.error(&path.key("command"), what, hint));
        }
        self.check_time_limit(reference.time_limit, path)?;
        let hex = |hash: &String| hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit());
        if reference.sha256.as_ref().is_some_and(|hash| !hex(hash)) {
            let what = "`sha256` is not 64 hexadecimal digits";
            let hint = "leave it out, or take what `sha256sum` prints";
            return Err(self.error(&path.key("sha256"), what, hint));
        }
        Ok(CodeConfig {
            file: self.absolute(library, &at)?,
            sha256: reference.sha256.as_ref().map(|hash| hash.to_ascii_lowercase()),
            command,
            time_limit: reference.time_limit,
        })
    }

    /// Keys that only a plugin with a `library` has.
    pub(super) fn check_linked(&self, reference: &PluginRef, path: &Path) -> Result<()> {
        let given = [
            ("sha256", reference.sha256.is_some()),
            ("command", reference.command.is_some()),
            ("time-limit", reference.time_limit.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((key, _)) => {
                let what = format!("`{key}` is read beside `library` only");
                let hint = "name the plugin's file by `library`, or leave the key out";
                Err(self.error(&path.key(key), what, hint))
            }
            None => Ok(()),
        }
    }

    fn check_time_limit(&self, limit: Option<f64>, at: &Path) -> Result<()> {
        match limit {
            Some(limit) if !(0.001..=1e6).contains(&limit) => {
                let what =
                    format!("`time-limit` must be from 0.001 to 1000000 seconds, got `{limit}`");
                Err(self.error(&at.key("time-limit"), what, "absent: 60"))
            }
            _ => Ok(()),
        }
    }

    fn absolute(&self, path: &str, at: &Path) -> Result<PathBuf> {
        let mut value = serde_json::Value::String(path.to_owned());
        if let Some(node) = tree::get(self.root, at) {
            self.make_absolute(&mut value, node)?;
        }
        Ok(value.as_str().map(PathBuf::from).unwrap_or_default())
    }
}

/// Is the plugin named by its command?
pub(super) fn is_process(reference: &PluginRef, kinds: &[&str]) -> bool {
    reference.plugin == PROCESS
        && reference.file.is_none()
        && kinds.iter().any(|k| LOADABLE.contains(k))
}
