//! Which discrete cells a space contains.

use super::spec::{CellSpec, EdgeSpec, Place, SpaceSpec};
use crate::genotype::{Genotype, GenotypeCell, GenotypeEdge};
use crate::rng::Stream;
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The operation that leaves an edge out.
const NONE: &str = "none";

/// Which discrete cells a space contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Grammar {
    /// Each node takes two inputs from different states, one operation each, never `none`.
    TwoInputsANode,
    /// Every edge carries one of its operations, `none` among them.
    OneOperationAnEdge,
}

impl SpaceSpec {
    /// A uniform random genotype of the grammar.
    ///
    /// # Errors
    /// An edge offers nothing but `none`, or a node has too few edges.
    pub fn sample(&self, draws: &mut Stream) -> Result<Genotype> {
        let mut cells = Vec::new();
        for cell in &self.cells {
            let edges = match self.grammar {
                Grammar::TwoInputsANode => two_inputs_a_node(cell, draws)?,
                Grammar::OneOperationAnEdge => cell
                    .edges
                    .iter()
                    .map(|e| GenotypeEdge {
                        operation: e.operations[draws.below(e.operations.len())].clone(),
                        from: e.from,
                        to: e.to,
                    })
                    .collect(),
            };
            let cell_of = GenotypeCell { inputs: cell.inputs, edges, concat: cell.concat() };
            cells.push((cell.name.clone(), cell_of));
        }
        Ok(Genotype::new(cells))
    }

    /// Checks that a genotype can be built in this space.
    ///
    /// # Errors
    /// Names the edge that is not in the space.
    pub fn check(&self, genotype: &Genotype) -> Result<()> {
        let bad = |what: String| Err(Error::Genotype(what));
        for spec in &self.cells {
            let Some(cell) = genotype.cell(&spec.name) else {
                let given: Vec<&str> = genotype.cells().map(|(name, _)| name).collect();
                return bad(format!(
                    "the cell `{}` of the space `{}` is missing (found: {})",
                    spec.name,
                    self.name,
                    given.join(", ")
                ));
            };
            if cell.inputs != spec.inputs {
                return bad(format!(
                    "cell `{}` has {} inputs, in the space `{}` {}",
                    spec.name, cell.inputs, self.name, spec.inputs
                ));
            }
            for e in &cell.edges {
                if !spec.edges.iter().any(|s| s.from == e.from && s.to == e.to) {
                    return bad(format!(
                        "cell `{}` of space `{}` has no edge from state {} to state {}",
                        spec.name, self.name, e.from, e.to
                    ));
                }
            }
            if self.grammar == Grammar::OneOperationAnEdge {
                check_every_edge(&self.name, spec, cell)?;
            }
            let nodes = spec.inputs..spec.states();
            if let Some(state) = cell.concat.iter().find(|c| !nodes.contains(c)) {
                return bad(format!(
                    "`{}_concat` names state {state}; the nodes are {} to {}",
                    spec.name,
                    nodes.start,
                    nodes.end - 1
                ));
            }
            if cell.concat.is_empty() {
                return bad(format!("`{}_concat` is empty", spec.name));
            }
        }
        Ok(())
    }
}

impl SpaceSpec {
    /// The first place at which a cell does not fit the grammar, so that nothing could be sampled.
    pub(super) fn grammar_flaw(&self) -> Option<(Place, String)> {
        let least = match self.grammar {
            Grammar::TwoInputsANode => 2,
            Grammar::OneOperationAnEdge => 1,
        };
        for (i, cell) in self.cells.iter().enumerate() {
            let few = |to: &usize| cell.into_state(*to).len() < least;
            if let Some(to) = (cell.inputs..cell.states()).find(few) {
                let has = cell.into_state(to).len();
                let what = format!("state {to} of cell `{}` has {has} edges into it", cell.name);
                return Some((Place::Cell(i, "edges"), format!("{what}, it needs {least}")));
            }
            let kept = |e: &EdgeSpec| e.operations.iter().any(|o| o != NONE);
            if self.grammar == Grammar::TwoInputsANode
                && let Some(e) = cell.edges.iter().position(|e| !kept(e))
            {
                let what = format!("edge {e} of cell `{}` offers nothing but `{NONE}`", cell.name);
                return Some((Place::Edge(i, e, "operations"), what));
            }
        }
        None
    }
}

fn two_inputs_a_node(cell: &CellSpec, draws: &mut Stream) -> Result<Vec<GenotypeEdge>> {
    let mut edges = Vec::new();
    for node in 0..cell.nodes {
        let incoming = cell.into_state(cell.inputs + node);
        if incoming.len() < 2 {
            return Err(Error::config(format!(
                "node {node} of cell `{}` has fewer than two edges",
                cell.name
            )));
        }
        let mut picked = draws.permutation(incoming.len());
        picked.truncate(2);
        picked.sort_unstable();
        for p in picked {
            let edge = incoming[p];
            let choices: Vec<&String> = edge.operations.iter().filter(|o| *o != NONE).collect();
            if choices.is_empty() {
                return Err(Error::config("an edge offers nothing but `none`"));
            }
            edges.push(GenotypeEdge {
                operation: choices[draws.below(choices.len())].clone(),
                from: edge.from,
                to: edge.to,
            });
        }
    }
    Ok(edges)
}

/// Each edge of the space once, with an operation that it offers.
fn check_every_edge(space: &str, spec: &CellSpec, cell: &GenotypeCell) -> Result<()> {
    for edge in &spec.edges {
        let (from, to) = (edge.from, edge.to);
        let chosen: Vec<&GenotypeEdge> =
            cell.edges.iter().filter(|e| (e.from, e.to) == (from, to)).collect();
        let [chosen] = chosen[..] else {
            return Err(Error::Genotype(format!(
                "the edge from node {from} to {to} has {} operations, in the space `{space}` each \
                 edge has one",
                chosen.len()
            )));
        };
        if !edge.operations.contains(&chosen.operation) {
            return Err(Error::Genotype(format!(
                "the edge from node {from} to {to} has the operation `{}`, the space `{space}` offers {}",
                chosen.operation,
                edge.operations.join(", ")
            )));
        }
    }
    Ok(())
}
