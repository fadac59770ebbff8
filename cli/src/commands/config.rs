//! `config init|check|schema|explain`.

use crate::args::{ConfigCommand, Format};
use crate::commands::compare::check as check_trials;
use crate::commands::setup::{self, Loaded};
use crate::console;
use crate::exit::Exit;
use anyhow::Result;
use serde_json::json;
use tetlo_core::config::{self, CompareConfig, OptimizerKind};
use tetlo_core::kinds::{MultilevelOptimizer, TransferLoss};

/// The config that `config init` prints, for the preset that stands where it says PRESET.
pub(crate) const INITIAL: &str = include_str!("initial.toml");

/// Runs a `config` command.
pub(crate) fn run(command: ConfigCommand) -> Result<Exit> {
    match command {
        ConfigCommand::Init { preset } => {
            config::preset(&preset)?;
            console::out(INITIAL.replace("PRESET", &preset).trim_end());
            Ok(Exit::Ok)
        }
        ConfigCommand::Check { config, format } => {
            check(setup::load_without_code(&config)?, format.format)
        }
        ConfigCommand::Schema => {
            console::out_json(&config::schema())?;
            Ok(Exit::Ok)
        }
        ConfigCommand::Explain { key } => {
            console::out(config::explain(&key)?.trim_end());
            Ok(Exit::Ok)
        }
    }
}

/// What in a config has no effect, method by method.
fn remarks(config: &CompareConfig) -> Result<Vec<String>> {
    let mut remarks = Vec::new();
    for method in &config.methods {
        if method.optimizer_kind != OptimizerKind::MultilevelOptimizer {
            continue;
        }
        let optimizer: Box<dyn MultilevelOptimizer> = method.optimizer.build()?;
        let graph = optimizer.graph()?;
        remarks.extend(optimizer.remarks().into_iter().map(|r| format!("{}: {r}", method.name)));
        let untrained = graph.untrained(method.search.epochs);
        remarks.extend(untrained.map(|r| format!("{}: {r}", method.name)));
        if method.auxiliary.is_some() && !graph.uses_auxiliary() {
            remarks.push(format!("{}: `auxiliary` is inert: no stage trains one", method.name));
        }
        let mut default_is_used = false;
        for (stage, _, from, own) in graph.transfers() {
            let (loss, what): (Box<dyn TransferLoss>, _) = match (own, &method.transfer_loss) {
                (Some(own), _) => (own.build()?, own.plugin.as_str()),
                (None, Some(reference)) => (reference.build()?, "transfer-loss"),
                (None, None) => continue, // an error of the method, found when it is built
            };
            default_is_used |= own.is_none();
            if !loss.reaches_main() {
                remarks.push(format!(
                    "{}: `{what}` of stage `{}` gives its teacher `{}` no gradient: nothing of this \
                     transfer reaches the architecture",
                    method.name, graph.stages[stage].name, graph.stages[from].name
                ));
            }
        }
        if method.transfer_loss.is_some() && !default_is_used {
            remarks.push(format!("{}: `transfer-loss` is inert: no stage uses it", method.name));
        }
    }
    Ok(remarks)
}

/// Takes out the methods with plugins whose code is not loaded; a remark about each such plugin.
fn without_unloaded(config: &mut CompareConfig) -> Vec<String> {
    let mut remarks = Vec::new();
    config.methods.retain(|method| {
        let before = remarks.len();
        for plugin in method.loaded() {
            let file = plugin.code.as_ref().map(|code| code.file.display().to_string());
            let from = match file.filter(|file| !file.is_empty()) {
                Some(file) => format!("comes from {file}"),
                None => "is not linked in".to_owned(),
            };
            remarks.push(format!(
                "{}: `{}` {from}; no code is loaded here, so the method is not checked further",
                method.name, plugin.plugin
            ));
        }
        remarks.len() == before
    });
    remarks
}

fn check(mut loaded: Loaded, format: Format) -> Result<Exit> {
    let methods = loaded.config.methods.len();
    let unloaded = without_unloaded(&mut loaded.config);
    // Everything but the training: the data are read, every network is built.
    check_trials(&loaded, &loaded.plan()?)?;
    let config = &loaded.config;
    let mut remarks = remarks(config)?;
    remarks.extend(unloaded);
    if config.device != "cpu" {
        remarks.push(format!("device `{}` is not available in this build", config.device));
    }
    let trials = methods * config.tasks.len() * config.seeds.len();
    match format {
        Format::Json => console::out_json(&json!({
            "ok": true,
            "name": config.name,
            "methods": methods,
            "tasks": config.tasks.len(),
            "seeds": config.seeds.len(),
            "trials": trials,
            "remarks": remarks,
        }))?,
        Format::Text => {
            console::out(&format!(
                "`{}` is a good config: {} methods × {} tasks × {} seeds = {trials} trials",
                config.name,
                methods,
                config.tasks.len(),
                config.seeds.len()
            ));
            for remark in remarks {
                console::out(&format!("remark: {remark}"));
            }
        }
    }
    Ok(Exit::Ok)
}
