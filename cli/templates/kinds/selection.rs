//! The selection `@PLUGIN@`.

use tetlo_core::Result;
use tetlo_core::genotype::{Genotype, GenotypeCell, GenotypeEdge};
use tetlo_core::kinds::Selection;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::space::{ArchValues, CellSpec, Grammar, SpaceSpec};

/// The operation with the largest α of every edge; where a node takes two inputs, of the two edges into
/// it on which that α is largest, `none` left out.
#[derive(Debug)]
pub struct MyPlugin;

impl FromOptions for MyPlugin {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Selection for MyPlugin {
    /// The rule: raw α (edges × operations for each kind of cell) in, an architecture out.
    fn select(&self, space: &SpaceSpec, alphas: &ArchValues) -> Result<Genotype> {
        let two = space.grammar == Grammar::TwoInputsANode;
        let mut cells = Vec::new();
        for cell in &space.cells {
            let alpha = alphas.matrix(&cell.alphas(), cell.edges.len(), cell.columns())?;
            let mut edges = Vec::new();
            for to in cell.inputs..cell.states() {
                let mut into = strongest(cell, to, alpha, two);
                if two {
                    into.sort_by(|(a, _), (b, _)| b.total_cmp(a));
                    into.truncate(2);
                    into.sort_by_key(|(_, edge)| edge.from);
                }
                edges.extend(into.into_iter().map(|(_, edge)| edge));
            }
            let kept = GenotypeCell {
                inputs: cell.inputs,
                edges,
                concat: cell.concat(),
            };
            cells.push((cell.name.clone(), kept));
        }
        Ok(Genotype::new(cells))
    }
}

/// The edges into a state, each with its strongest operation and its α; ties keep the first.
fn strongest(
    cell: &CellSpec,
    to: usize,
    alpha: &[Vec<f64>],
    without_none: bool,
) -> Vec<(f64, GenotypeEdge)> {
    let mut list = Vec::new();
    for (edge, row) in cell
        .edges
        .iter()
        .zip(alpha)
        .filter(|(edge, _)| edge.to == to)
    {
        let mut offered = edge.operations.iter().zip(row);
        let kept = offered
            .by_ref()
            .filter(|(o, _)| !(without_none && *o == "none"));
        let best = kept.reduce(|best, next| if next.1 > best.1 { next } else { best });
        if let Some((operation, alpha)) = best {
            let edge = GenotypeEdge {
                operation: operation.clone(),
                from: edge.from,
                to,
            };
            list.push((*alpha, edge));
        }
    }
    list
}

tetlo_core::register_selection!(
    "@PLUGIN@",
    MyPlugin,
    "the largest α that the grammar allows"
);

tetlo_core::export_plugins!();
