//! What several commands begin with: reading configs, genotypes and options, choosing device and
//! threads.

use crate::args::{ConfigArgs, PickArgs};
use crate::commands::code::{self, Source};
use crate::exit::Usage;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tetlo_core::config::{self, CompareConfig, MethodConfig, Outline, PluginConfig};
use tetlo_core::data::Data;
use tetlo_core::genotype::Genotype;
use tetlo_core::registry::{Code, Kind};
use tetlo_engine::estimate::{Cost, check_trial};
use tetlo_engine::plan::{Trial, plan};
use tetlo_engine::store;
use tetlo_engine::trial::{Place, load_data};

/// A resolved config, and the text it came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: CompareConfig,
    name: String,
    text: String,
}

impl Loaded {
    /// Brings an error back to the place in the file that it is about.
    pub(crate) fn at(&self, path: &[&str], error: tetlo_core::Error) -> tetlo_core::Error {
        config::located(&self.name, &self.text, path, error)
    }

    /// Takes `--device` over the config's, checks it, and sets the number of threads.
    pub(crate) fn place(&mut self, device: Option<&String>) -> Result<Place> {
        if let Some(device) = device {
            self.config.device.clone_from(device);
            return place(device, self.config.threads).map_err(|e| match e {
                Unplaced::Device(e) => config::in_argument("--device", device, &e).into(),
                Unplaced::Other(e) => e,
            });
        }
        place(&self.config.device, self.config.threads).map_err(|e| match e {
            Unplaced::Device(e) => self.at(&["device"], e).into(),
            Unplaced::Other(e) => e,
        })
    }

    /// The trials of the config.
    pub(crate) fn plan(&self) -> Result<Vec<Trial>> {
        Ok(plan(&self.config).map_err(|e| match self.config.tasks.as_slice() {
            [one] => self.at(&["task", &one.name, "dataset"], e),
            _ => e,
        })?)
    }

    /// The data of a trial's task.
    pub(crate) fn data(&self, trial: &Trial) -> Result<Data> {
        Ok(load_data(trial).map_err(|e| self.at(&["task", &trial.task.name, "dataset"], e))?)
    }

    /// Builds everything that a trial needs, without training.
    pub(crate) fn check(&self, trial: &Trial, data: &Data) -> Result<Cost> {
        Ok(check_trial(trial, data).map_err(|e| self.at(&["method", &trial.method.name], e))?)
    }
}

/// Reads and resolves a config, with the code that it wants loaded.
pub(crate) fn load(arguments: &ConfigArgs) -> Result<Loaded> {
    read(arguments, |source| {
        source.load_code()?;
        Ok(config::load(source.name, source.text, source.directory, source.sets)?)
    })
}

/// Reads and resolves a config without loading code.
pub(crate) fn load_without_code(arguments: &ConfigArgs) -> Result<Loaded> {
    read(arguments, |source| {
        source.load_pages()?;
        let Source { name, text, directory, sets } = *source;
        let elsewhere = !code::environment().is_empty();
        Ok(config::load_without_code(name, text, directory, sets, elsewhere)?)
    })
}

/// What a config wants loaded.
pub(crate) fn outline(arguments: &ConfigArgs) -> Result<Outline> {
    with_source(arguments, |s| Ok(config::outline(s.name, s.text, s.directory, s.sets)?))
}

fn read(
    arguments: &ConfigArgs,
    resolve: impl FnOnce(&Source<'_>) -> Result<CompareConfig>,
) -> Result<Loaded> {
    with_source(arguments, |source| {
        let config = resolve(source)?;
        Ok(Loaded { config, name: source.name.to_owned(), text: source.text.to_owned() })
    })
}

/// Reads a config's text and goes on with it.
fn with_source<R>(
    arguments: &ConfigArgs,
    then: impl FnOnce(&Source<'_>) -> Result<R>,
) -> Result<R> {
    let path = &arguments.config;
    let bytes =
        std::fs::read(path).map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let directory = std::path::absolute(directory)?;
    let name = path.display().to_string();
    let text = config::text_of(&name, &bytes)?;
    then(&Source { name: &name, text, directory: &directory, sets: &arguments.set })
}

/// The trial that a command's arguments pick from a config, and where it runs.
pub(crate) fn pick(arguments: &PickArgs) -> Result<(Loaded, Trial, Place)> {
    pick_of(load(&arguments.config)?, arguments)
}

/// The same without loading code, for what needs data, space and evaluator only.
pub(crate) fn pick_without_code(arguments: &PickArgs) -> Result<(Loaded, Trial, Place)> {
    let mut loaded = load_without_code(&arguments.config)?;
    // The trial's name does not matter, nor do plugins of the search.
    let linked = |m: &MethodConfig| m.loaded().next().is_none();
    if loaded.config.methods.iter().any(linked) {
        loaded.config.methods.retain(linked);
    }
    pick_of(loaded, arguments)
}

fn pick_of(mut loaded: Loaded, arguments: &PickArgs) -> Result<(Loaded, Trial, Place)> {
    let place = loaded.place(arguments.device.as_ref())?;
    let config = &mut loaded.config;
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
    let trial = loaded.plan()?.into_iter().next().context("the plan is empty")?;
    Ok((loaded, trial, place))
}

fn known(what: &str, name: &str, names: &[&str]) -> Result<()> {
    if names.contains(&name) {
        return Ok(());
    }
    let near = tetlo_core::error::nearest(name, names)
        .map_or_else(|| names.join(", "), |near| format!("did you mean `{near}`?"));
    bail!(Usage(format!("the config has no {what} `{name}` ({near})")))
}

/// Why there is no place to run.
#[derive(Debug)]
pub(crate) enum Unplaced {
    /// The device is not there.
    Device(tetlo_core::Error),
    /// The environment is wrong.
    Other(anyhow::Error),
}

impl From<Unplaced> for anyhow::Error {
    fn from(why: Unplaced) -> Self {
        match why {
            Unplaced::Device(error) => error.into(),
            Unplaced::Other(error) => error,
        }
    }
}

/// Checks the device and sets the number of threads: the config's, else `TETLO_THREADS`, else the
/// processors this process may use.
pub(crate) fn place(device: &str, threads: usize) -> Result<Place, Unplaced> {
    if device != "cpu" && !device.starts_with("cuda:") {
        return Err(Unplaced::Device(tetlo_core::Error::config_hint(
            format!("unknown device `{device}`"),
            "a device is `cpu`, or `cuda:0` for the first GPU",
        )));
    }
    if device != "cpu" {
        return Err(Unplaced::Device(tetlo_core::Error::config_hint(
            format!("device `{device}` is not available: this build has no CUDA support"),
            "use `cpu`; `tetlo doctor` shows what this machine offers",
        )));
    }
    let threads = set_threads(threads).map_err(Unplaced::Other)?;
    Ok(Place { device: device.to_owned(), threads })
}

/// Sets and gives the number of threads: the config's, or with 0 the environment's.
pub(crate) fn set_threads(threads: usize) -> Result<usize> {
    let threads = match threads {
        0 => threads_from_environment()?,
        n if n > config::MOST_THREADS => {
            bail!(Usage(format!("{n} threads: at most {} are supported", config::MOST_THREADS)))
        }
        n => n,
    };
    if let Err(name) = tetlo_kernels::check_simd() {
        let paths = tetlo_kernels::simd_paths().join(", ");
        bail!(Usage(format!("TETLO_SIMD is `{name}`, but this machine has {paths}")));
    }
    tetlo_kernels::set_threads(threads);
    Ok(threads)
}

/// `TETLO_THREADS`, or the processors of this process.
pub(crate) fn threads_from_environment() -> Result<usize> {
    match std::env::var("TETLO_THREADS") {
        Ok(text) => match text.parse::<usize>() {
            Ok(n) if (1..=config::MOST_THREADS).contains(&n) => Ok(n),
            _ => bail!(Usage(format!(
                "TETLO_THREADS must be a number from 1 to {}, got `{text}`",
                config::MOST_THREADS
            ))),
        },
        Err(_) => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

/// Options given on the command line as TOML: lines, or `a = 1, b = "x"` on one line. Paths are
/// relative to where the command runs.
pub(crate) fn options<T: Kind + ?Sized>(plugin: &str, text: &str) -> Result<Value> {
    Ok(self::plugin::<T>(plugin, text, None)?.options)
}

/// The plugin of this name, of loaded code where that is given, with options from the command line.
pub(crate) fn plugin<T: Kind + ?Sized>(
    name: &str,
    options: &str,
    code: Option<&'static Code>,
) -> Result<PluginConfig> {
    let here = std::env::current_dir()?;
    Ok(config::plugin::<T>(name, "--options", options, &here, code)?)
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
    if text.contains(['(', '{', '|']) {
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

/// Ends this process when standard input closes, that is when the parent is gone.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        use std::io::Read;
        let mut byte = [0];
        while matches!(std::io::stdin().read(&mut byte), Ok(n) if n > 0) {}
        tetlo_loader::exit::done();
        #[expect(clippy::exit, reason = "the parent is gone: nobody waits for this process")]
        std::process::exit(1);
    });
}
