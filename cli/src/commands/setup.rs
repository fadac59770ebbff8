//! What several commands begin with: reading configs, genotypes and options, choosing device and
//! threads.

use crate::args::{ConfigArgs, PickArgs};
use crate::exit::Usage;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tetlo_core::config::{self, CompareConfig};
use tetlo_core::genotype::Genotype;
use tetlo_core::registry::Kind;
use tetlo_engine::plan::{Trial, plan};
use tetlo_engine::store;
use tetlo_engine::trial::Place;

/// Reads and resolves a config.
pub(crate) fn load(arguments: &ConfigArgs) -> Result<CompareConfig> {
    let path = &arguments.config;
    let bytes =
        std::fs::read(path).map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let directory = std::path::absolute(directory)?;
    let name = path.display().to_string();
    Ok(config::load_bytes(&name, &bytes, &directory, &arguments.set)?)
}

/// The trial that a command's arguments pick from a config.
pub(crate) fn pick(arguments: &PickArgs) -> Result<(CompareConfig, Trial)> {
    let mut config = load(&arguments.config)?;
    if let Some(device) = &arguments.device {
        config.device.clone_from(device);
    }
    let seed = arguments.seed.unwrap_or(config.seeds[0]);
    config.seeds = vec![seed];
    if let Some(task) = &arguments.task {
        let names: Vec<&str> = config.tasks.iter().map(|t| t.name.as_str()).collect();
        known("task", task, &names)?;
        config.tasks.retain(|t| t.name == *task);
    }
    if let Some(method) = &arguments.method {
        let names: Vec<&str> = config.methods.iter().map(|m| m.name.as_str()).collect();
        known("method", method, &names)?;
        config.methods.retain(|m| m.name == *method);
    }
    let trial = plan(&config)?.into_iter().next().context("the plan is empty")?;
    Ok((config, trial))
}

fn known(what: &str, name: &str, names: &[&str]) -> Result<()> {
    if names.contains(&name) {
        return Ok(());
    }
    let near = tetlo_core::error::nearest(name, names)
        .map_or_else(|| names.join(", "), |near| format!("did you mean `{near}`?"));
    bail!(Usage(format!("the config has no {what} `{name}` ({near})")))
}

/// Checks the device and sets the number of threads: the config's, else `TETLO_THREADS`, else the
/// processors this process may use.
pub(crate) fn place(device: &str, threads: usize) -> Result<Place> {
    if device != "cpu" {
        return Err(tetlo_core::Error::config_hint(
            format!("device `{device}` is not available: this build has no CUDA support"),
            "use `device = \"cpu\"`; `tetlo doctor` shows what this machine offers",
        )
        .into());
    }
    let threads = if threads > 0 { threads } else { threads_from_environment()? };
    tetlo_kernels::set_threads(threads);
    Ok(Place { device: device.to_owned(), threads })
}

/// `TETLO_THREADS`, or the processors of this process.
pub(crate) fn threads_from_environment() -> Result<usize> {
    match std::env::var("TETLO_THREADS") {
        Ok(text) => match text.parse::<usize>() {
            Ok(n) if n > 0 => Ok(n),
            _ => bail!(Usage(format!("TETLO_THREADS must be a positive number, got `{text}`"))),
        },
        Err(_) => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

/// Options given on the command line as TOML: lines, or `a = 1, b = "x"` on one line. Paths are
/// relative to where the command runs.
pub(crate) fn options<T: Kind + ?Sized>(plugin: &str, text: &str) -> Result<Value> {
    let here = std::env::current_dir()?;
    Ok(config::plugin::<T>(plugin, "--options", text, &here)?.options)
}

/// A genotype from a file, a run's directory, or the text itself.
pub(crate) fn genotype(text: &str) -> Result<Genotype> {
    let path = PathBuf::from(text);
    if path.is_dir() {
        let file = path.join("genotype.json");
        let text = store::read_text(&file)?;
        return Genotype::parse(&text).with_context(|| format!("in {}", file.display()));
    }
    if path.is_file() {
        let content = store::read_text(&path)?;
        return Genotype::parse(&content).with_context(|| format!("in {}", path.display()));
    }
    if text.contains('(') || text.contains('{') {
        return Ok(Genotype::parse(text)?);
    }
    bail!(Usage(format!("`{text}` is neither a file, a run's directory nor a genotype")))
}

/// Writes a file and the directories above it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
    {
        store::make_directory(parent)?;
    }
    Ok(store::write(path, bytes)?)
}
