//! Genotypes as pictures: SVG with a layout of our own, and Graphviz DOT.

mod dot;
mod family;
mod layout;
mod order;
mod svg;

pub use dot::dot;
pub use family::Family;
pub use svg::{cell_svg, svg};

/// The label of a state in plain text: the inputs `c_{k-2}` and `c_{k-1}`, then the nodes 0, 1 …
fn state_label(state: usize) -> String {
    match state {
        0 => "c_{k-2}".into(),
        1 => "c_{k-1}".into(),
        node => (node - 2).to_string(),
    }
}
