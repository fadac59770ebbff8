//! `draw`: the cells of a genotype.

use crate::args::DrawArgs;
use crate::commands::setup::{genotype, write};
use crate::console;
use crate::draw as drawing;
use crate::exit::Exit;
use anyhow::Result;

/// Writes an SVG, Graphviz text, or prints the form of the space's authors.
pub(crate) fn draw(arguments: &DrawArgs) -> Result<Exit> {
    let genotype = genotype(&arguments.genotype)?;
    if let Some(path) = &arguments.svg {
        write(path, drawing::svg(&genotype).as_bytes())?;
    }
    if let Some(path) = &arguments.dot {
        write(path, drawing::dot(&genotype).as_bytes())?;
    }
    if arguments.svg.is_none() && arguments.dot.is_none() {
        console::out(&genotype.to_python());
    }
    Ok(Exit::Ok)
}
