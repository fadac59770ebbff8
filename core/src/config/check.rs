//! Checks of values and the resolution of every part.

use super::file::{CompareFile, MethodFile, PluginRef, TaskFile};
use super::options::Context;
use super::resolved::{CompareConfig, MethodConfig, OptimizerKind, PluginConfig, TaskConfig};
use super::search::SearchConfig;
use super::tree::Path;
use crate::Result;

const MULTILEVEL: &str = "multilevel-optimizer";
const BLACK_BOX: &str = "black-box-search";
/// More threads than any machine has cores: a slip.
pub const MOST_THREADS: usize = 4096;
/// Names become parts of file names, whose length file systems limit.
const LONGEST_NAME: usize = 100;

impl Context<'_, '_> {
    /// Checks the file's values and looks up its plugins.
    pub(super) fn resolve(&self, file: &CompareFile) -> Result<CompareConfig> {
        self.check_name(&file.name, &Path::of("name"))?;
        self.check_seeds(&file.seeds)?;
        self.check_device(&file.device)?;
        if file.threads > MOST_THREADS {
            let what = format!("`threads` must be at most {MOST_THREADS}, not {}", file.threads);
            return Err(self.error(&Path::of("threads"), what, "0 means all cores"));
        }
        self.check_search(&file.search, &Path::of("search"))?;
        self.check_entries("task", file.task.iter().map(|t| t.name.as_str()))?;
        self.check_entries("method", file.method.iter().map(|m| m.name.as_str()))?;

        self.check_heat_map(&file.method)?;

        let evaluate =
            self.optional(file.evaluate.as_ref(), &Path::of("evaluate"), &["evaluator"])?;
        let tasks = (file.task.iter().enumerate())
            .map(|(i, task)| self.task(task, &Path::of("task").index(i), evaluate.as_ref()))
            .collect::<Result<Vec<_>>>()?;
        let methods = (file.method.iter().enumerate())
            .map(|(i, method)| self.method(method, &Path::of("method").index(i)))
            .collect::<Result<Vec<_>>>()?;
        self.check_data(&tasks, &methods)?;
        Ok(CompareConfig {
            version: file.version,
            name: file.name.clone(),
            seeds: file.seeds.clone(),
            device: file.device.clone(),
            threads: file.threads,
            tasks,
            methods,
            evaluate,
        })
    }

    fn task(
        &self,
        file: &TaskFile,
        at: &Path,
        default: Option<&PluginConfig>,
    ) -> Result<TaskConfig> {
        let own = self.optional(file.evaluate.as_ref(), &at.key("evaluate"), &["evaluator"])?;
        let Some(evaluate) = own.or_else(|| default.cloned()) else {
            let what =
                format!("nothing evaluates the task `{}`: there is no `evaluate`", file.name);
            let hint = "write `[evaluate]` with `plugin = \"…\"`, or `evaluate = { … }` in the task; \
                        `tetlo plugins list --kind evaluator` shows the choices";
            return Err(self.error(at, what, hint));
        };
        Ok(TaskConfig {
            name: file.name.clone(),
            dataset: self.optional(file.dataset.as_ref(), &at.key("dataset"), &["dataset"])?,
            search_space: self.plugin(
                &file.search_space,
                &at.key("search-space"),
                &["search-space"],
            )?,
            evaluate,
        })
    }

    fn method(&self, file: &MethodFile, at: &Path) -> Result<MethodConfig> {
        let Some(optimizer) = &file.optimizer else {
            let what = format!("the method `{}` has no `optimizer`", file.name);
            let hint = "name a `preset` (`tetlo plugins list --kind method` shows the choices) or \
                        an `optimizer`";
            return Err(self.error(at, what, hint));
        };
        let optimizer = self.plugin(optimizer, &at.key("optimizer"), &[MULTILEVEL, BLACK_BOX])?;
        let one = |part: &Option<PluginRef>, key: &str, kind: &str| {
            self.optional(part.as_ref(), &at.key(key), &[kind])
        };
        self.check_search(&file.search, &at.key("search"))?;
        let method = MethodConfig {
            name: file.name.clone(),
            preset: file.preset.clone(),
            optimizer_kind: if optimizer.kind == BLACK_BOX {
                OptimizerKind::BlackBoxSearch
            } else {
                OptimizerKind::MultilevelOptimizer
            },
            optimizer,
            relaxation: one(&file.relaxation, "relaxation", "relaxation")?,
            selection: one(&file.selection, "selection", "selection")?,
            transfer_loss: one(&file.transfer_loss, "transfer-loss", "transfer-loss")?,
            auxiliary: one(&file.auxiliary, "auxiliary", "auxiliary")?,
            regularizers: self.several(
                &file.regularizers,
                &at.key("regularizers"),
                "regularizer",
            )?,
            stop_rule: one(&file.stop_rule, "stop-rule", "stop-rule")?,
            transforms: self.several(
                &file.transforms,
                &at.key("transforms"),
                "supernet-transform",
            )?,
            heat_map: file.heat_map.clone(),
            search: file.search.clone(),
        };
        self.check_parts(&method, at)?;
        Ok(method)
    }

    fn optional(
        &self,
        file: Option<&PluginRef>,
        at: &Path,
        kinds: &[&str],
    ) -> Result<Option<PluginConfig>> {
        file.map(|reference| self.plugin(reference, at, kinds)).transpose()
    }

    fn several(&self, file: &[PluginRef], at: &Path, kind: &str) -> Result<Vec<PluginConfig>> {
        file.iter().enumerate().map(|(i, r)| self.plugin(r, &at.index(i), &[kind])).collect()
    }

    /// A multilevel optimizer needs a relaxation and a selection; a black-box search trains no
    /// supernet, so that keys about one would do nothing.
    fn check_parts(&self, method: &MethodConfig, at: &Path) -> Result<()> {
        let optimizer = &method.optimizer.plugin;
        if method.optimizer_kind == OptimizerKind::MultilevelOptimizer {
            for (key, part) in
                [("relaxation", &method.relaxation), ("selection", &method.selection)]
            {
                if part.is_none() {
                    let what = format!(
                        "the method `{}` has no `{key}`, which the optimizer `{optimizer}` needs",
                        method.name
                    );
                    let hint = format!(
                        "start from a `preset`, or write `{key} = {{ plugin = \"…\" }}`; `tetlo \
                         plugins list --kind {key}` shows the choices"
                    );
                    return Err(self.error(at, what, hint));
                }
            }
            return Ok(());
        }
        let idle = [
            ("relaxation", method.relaxation.is_some()),
            ("selection", method.selection.is_some()),
            ("transfer-loss", method.transfer_loss.is_some()),
            ("auxiliary", method.auxiliary.is_some()),
            ("regularizers", !method.regularizers.is_empty()),
            ("stop-rule", method.stop_rule.is_some()),
            ("transforms", !method.transforms.is_empty()),
        ];
        match idle.iter().find(|(_, given)| *given) {
            Some((key, _)) => {
                let what = format!(
                    "`{key}` does nothing here: `{optimizer}` is a black-box search, which trains \
                     no supernet"
                );
                let hint = format!("leave `{key}` out, or use a multilevel optimizer");
                Err(self.error(&at.key(key), what, hint))
            }
            None => Ok(()),
        }
    }

    fn check_data(&self, tasks: &[TaskConfig], methods: &[MethodConfig]) -> Result<()> {
        let trains = |m: &&MethodConfig| m.optimizer_kind == OptimizerKind::MultilevelOptimizer;
        let Some(method) = methods.iter().find(trains) else { return Ok(()) };
        let Some(i) = tasks.iter().position(|t| t.dataset.is_none()) else { return Ok(()) };
        let what = format!(
            "the task `{}` has no `dataset`, but the method `{}` trains on one",
            tasks[i].name, method.name
        );
        let hint = "`tetlo plugins list --kind dataset` shows the choices";
        Err(self.error(&Path::of("task").index(i), what, hint))
    }

    fn check_name(&self, name: &str, at: &Path) -> Result<()> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let wrong = if name.is_empty() {
            "a name must not be empty".to_owned()
        } else if let Some(c) = name.chars().find(|&c| !fits(c)) {
            format!("the name `{}` contains {c:?}", name.escape_debug())
        } else if name.starts_with(['.', '-']) {
            format!("the name `{name}` begins with `{}`", &name[..1])
        } else if name.len() > LONGEST_NAME {
            format!("a name must not be longer than {LONGEST_NAME} characters")
        } else {
            return Ok(());
        };
        let hint = "names become file names: letters, digits, `.`, `_` and `-`, with a letter, \
                    digit or `_` first";
        Err(self.error(at, wrong, hint))
    }

    fn check_seeds(&self, seeds: &[u64]) -> Result<()> {
        let at = Path::of("seeds");
        if seeds.is_empty() {
            return Err(self.error(&at, "there are no seeds", "for example `seeds = [0, 1, 2]`"));
        }
        for (i, seed) in seeds.iter().enumerate() {
            if seeds[..i].contains(seed) {
                let hint = "each seed is a run of its own; take another number";
                return Err(self.error(
                    &at.index(i),
                    format!("the seed {seed} is given twice"),
                    hint,
                ));
            }
            // TOML's integers end there, and the resolved configuration is written as TOML.
            if i64::try_from(*seed).is_err() {
                let what = format!("the seed {seed} is too large");
                let hint = format!("a seed is at most {}", i64::MAX);
                return Err(self.error(&at.index(i), what, hint));
            }
        }
        Ok(())
    }

    fn check_device(&self, device: &str) -> Result<()> {
        let index = device.strip_prefix("cuda:");
        let ordinal = |i: &str| i.bytes().all(|b| b.is_ascii_digit()) && i.parse::<u16>().is_ok();
        if device == "cpu" || index.is_some_and(ordinal) {
            return Ok(());
        }
        let what = format!("unknown device `{}`", device.escape_debug());
        Err(self.error(
            &Path::of("device"),
            what,
            "a device is `cpu`, or `cuda:0` for the first GPU",
        ))
    }

    fn check_search(&self, search: &SearchConfig, at: &Path) -> Result<()> {
        match search.out_of_range() {
            Some((key, what)) => {
                let hint = format!("`tetlo config explain search.{key}` says what it takes");
                Err(self.error(&at.key(key), what, hint))
            }
            None => Ok(()),
        }
    }

    /// One or more entries of `[[task]]` or `[[method]]`, each with a name of its own.
    fn check_entries<'n>(&self, key: &str, names: impl Iterator<Item = &'n str>) -> Result<()> {
        let names: Vec<&str> = names.collect();
        if names.is_empty() {
            let hint = format!("write `[[{key}]]`; `tetlo config init` writes an example");
            return Err(self.error(&Path::of(key), format!("there is no {key}"), hint));
        }
        for (i, name) in names.iter().enumerate() {
            let at = Path::of(key).index(i).key("name");
            self.check_name(name, &at)?;
            if names[..i].contains(name) {
                let what = format!("two {key}s are called `{name}`");
                return Err(self.error(&at, what, "results are told apart by name"));
            }
        }
        Ok(())
    }
}
