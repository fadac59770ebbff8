//! `draw`: the cells of a genotype, or the stages of a method.

use crate::args::{ConfigArgs, DrawArgs};
use crate::commands::setup::{self, genotype, write};
use crate::console;
use crate::draw::{self as drawing, stages};
use crate::exit::{Exit, Usage};
use anyhow::{Context, Result};
use std::path::Path;
use tetlo_core::config::{MethodConfig, OptimizerKind};
use tetlo_core::kinds::MultilevelOptimizer;

/// Writes an SVG, Graphviz text, or prints what is to be drawn.
pub(crate) fn draw(arguments: &DrawArgs) -> Result<Exit> {
    let (svg, dot, text) = if let Some(config) = &arguments.graph {
        of_method(config, arguments)?
    } else {
        let written = arguments.genotype.as_deref().context("a genotype or `--graph`")?;
        let genotype = genotype(written)?;
        (drawing::svg(&genotype), drawing::dot(&genotype), genotype.to_python())
    };
    if let Some(path) = &arguments.svg {
        write(path, svg.as_bytes())?;
    }
    if let Some(path) = &arguments.dot {
        write(path, dot.as_bytes())?;
    }
    if arguments.svg.is_none() && arguments.dot.is_none() {
        console::out(text.trim_end());
    }
    Ok(Exit::Ok)
}

/// A method's stage graph as SVG, DOT and text.
fn of_method(config: &Path, arguments: &DrawArgs) -> Result<(String, String, String)> {
    let loaded =
        setup::load(&ConfigArgs { config: config.to_owned(), set: arguments.set.clone() })?;
    let of_stages = |m: &&MethodConfig| m.optimizer_kind == OptimizerKind::MultilevelOptimizer;
    let methods = &loaded.config.methods;
    let method = match &arguments.method {
        Some(name) => methods.iter().find(|m| m.name == *name).ok_or_else(|| {
            let names: Vec<&str> = methods.iter().map(|m| m.name.as_str()).collect();
            Usage(format!("no method `{name}`: there are `{}`", names.join("`, `")))
        })?,
        None => methods.iter().find(of_stages).or(methods.first()).context("no method")?,
    };
    if !of_stages(&method) {
        let name = &method.name;
        return Err(
            Usage(format!("method `{name}` is a black-box search: it has no stages")).into()
        );
    }
    let optimizer: Box<dyn MultilevelOptimizer> = method.optimizer.build()?;
    let graph = optimizer.graph()?;
    let loss = method.transfer_loss.as_ref().map_or("transfer", |l| l.plugin.as_str());
    Ok((stages::svg(&graph, loss), stages::dot(&graph, loss), stages::text(&graph, loss)))
}
