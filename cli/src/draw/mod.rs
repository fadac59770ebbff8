//! Genotypes and stage graphs as pictures: SVG with a layout of our own, and Graphviz DOT.

mod dot;
mod family;
mod layout;
mod order;
pub mod stages;
mod svg;

use dot::quoted;

pub use dot::dot;
pub use family::Family;
pub use svg::{cell_svg, svg};
use tetlo_core::space::SINGLE_CELL;

/// A state as the field calls it.
enum StateName {
    /// An input: the output of the cell this many before.
    Input(usize),
    /// A node. Those of a cell with two inputs count from 0, those of one with a single input from
    /// 1, where the input is node 0.
    Node(usize),
}

impl StateName {
    fn of(state: usize, inputs: usize) -> Self {
        match (state < inputs, inputs) {
            (true, _) => Self::Input(inputs - state),
            (false, 1) => Self::Node(state),
            (false, _) => Self::Node(state - inputs),
        }
    }
}

/// The title of a cell of this name.
pub fn title(name: &str) -> String {
    if name == SINGLE_CELL { name.to_owned() } else { format!("{name} cell") }
}
