//! What a search space is: data.

use super::mixing::Mixing;
use crate::genotype::{Genotype, GenotypeCell, GenotypeEdge};
use crate::layout::{Init, Layout};
use crate::rng::Stream;
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A search space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SpaceSpec {
    /// Its name.
    pub name: String,
    /// The kinds of cells; each has architecture parameters of its own.
    pub cells: Vec<CellSpec>,
    /// How cells are stacked to a network.
    pub skeleton: Skeleton,
    /// Which genotypes are in the space.
    pub grammar: Grammar,
    /// How the supernet mixes the operations of its edges. Derived networks do not depend on it.
    #[serde(default)]
    pub mixing: Mixing,
}

/// A kind of cell: a directed acyclic graph whose edges carry candidate operations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CellSpec {
    /// `normal` or `reduce`.
    pub name: String,
    /// Number of intermediate nodes.
    pub nodes: usize,
    /// The edges, in the order of the rows of α.
    pub edges: Vec<EdgeSpec>,
}

/// An edge between two states. States are the cell's two inputs, then its nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EdgeSpec {
    /// Source state.
    pub from: usize,
    /// Target state.
    pub to: usize,
    /// Candidate operations, in the order of the columns of α.
    pub operations: Vec<String>,
}

/// The macro skeleton of the DARTS family: stem, cells with two inputs each, global pooling, linear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Skeleton {
    /// Initial channels C; they double in each reduction cell.
    pub channels: usize,
    /// Number of cells; those at a third and two thirds are reduction cells.
    pub cells: usize,
    /// The stem has this many times C channels.
    pub stem_multiplier: usize,
}

impl Skeleton {
    /// Is cell `i` a reduction cell?
    pub fn is_reduction(&self, i: usize) -> bool {
        i == self.cells / 3 || i == 2 * self.cells / 3
    }
}

/// Which discrete cells a space contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Grammar {
    /// Each node takes two inputs from different states, one operation each, never `none`.
    TwoInputsANode,
}

impl SpaceSpec {
    /// Checks that the description makes sense.
    ///
    /// # Errors
    /// Names the cell and edge that does not.
    pub fn validated(self) -> Result<Self> {
        let bad = |what: String| Err(Error::config(format!("space `{}`: {what}", self.name)));
        if self.skeleton.channels == 0 || self.skeleton.cells == 0 {
            return bad("channels and cells must be at least 1".into());
        }
        if self.skeleton.channels > 4096 || self.skeleton.cells > 512 {
            return bad("`channels` can be 4096 and `cells` 512 at most".into());
        }
        if let Err(what) = self.mixing.check(self.skeleton.channels) {
            return bad(what);
        }
        for cell in &self.cells {
            let states = cell.nodes + 2;
            if cell.nodes == 0 || cell.edges.is_empty() {
                return bad(format!("cell `{}` has no node or no edge", cell.name));
            }
            let columns = cell.edges[0].operations.len();
            for (i, edge) in cell.edges.iter().enumerate() {
                if edge.from >= edge.to || edge.to < 2 || edge.to >= states {
                    return bad(format!(
                        "edge {i} of cell `{}` goes from state {} to {} of {states}",
                        cell.name, edge.from, edge.to
                    ));
                }
                if edge.operations.is_empty() || edge.operations.len() != columns {
                    return bad(format!(
                        "edge {i} of cell `{}` has {} operations, the first {columns}",
                        cell.name,
                        edge.operations.len()
                    ));
                }
            }
        }
        for name in ["normal", "reduce"] {
            if self.cell(name).is_none() {
                return bad(format!("the cell `{name}` is missing"));
            }
        }
        Ok(self)
    }

    /// The kind of cell of this name.
    pub fn cell(&self, name: &str) -> Option<&CellSpec> {
        self.cells.iter().find(|c| c.name == name)
    }

    /// The architecture parameters: `alphas_<cell>`, edges × operations, then with edge
    /// normalisation `betas_<cell>`, edges; all 1e-3·N(0, 1).
    pub fn architecture(&self) -> Layout {
        let mut layout = Layout::new();
        let init = Init::Normal { std: 1e-3 };
        for cell in &self.cells {
            layout.push(cell.alphas(), &[cell.edges.len(), cell.columns()], init);
        }
        for cell in self.cells.iter().filter(|_| self.mixing.edge_normalization) {
            layout.push(cell.betas(), &[cell.edges.len()], init);
        }
        layout
    }

    /// A uniform random genotype of the grammar.
    ///
    /// # Errors
    /// An edge offers nothing but `none`.
    pub fn sample(&self, draws: &mut Stream) -> Result<Genotype> {
        let mut cells = Vec::new();
        for cell in &self.cells {
            let mut edges = Vec::new();
            for node in 0..cell.nodes {
                let incoming = cell.into_state(2 + node);
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
                    let choices: Vec<&String> =
                        edge.operations.iter().filter(|o| *o != "none").collect();
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
            cells.push((cell.name.clone(), GenotypeCell { edges, concat: cell.concat() }));
        }
        Ok(Genotype::new(cells))
    }

    /// Checks that a genotype can be built in this space.
    ///
    /// # Errors
    /// Names the edge that is not in the space.
    pub fn check(&self, genotype: &Genotype) -> Result<()> {
        for spec in &self.cells {
            let cell = genotype
                .cell(&spec.name)
                .ok_or_else(|| Error::Genotype(format!("the cell `{}` is missing", spec.name)))?;
            for e in &cell.edges {
                if !spec.edges.iter().any(|s| s.from == e.from && s.to == e.to) {
                    return Err(Error::Genotype(format!(
                        "cell `{}` of space `{}` has no edge from state {} to state {}",
                        spec.name, self.name, e.from, e.to
                    )));
                }
            }
            if let Some(state) = cell.concat.iter().find(|c| **c < 2 || **c >= spec.nodes + 2) {
                return Err(Error::Genotype(format!(
                    "`{}_concat` names state {state}; the nodes are 2 to {}",
                    spec.name,
                    spec.nodes + 1
                )));
            }
            if cell.concat.is_empty() {
                return Err(Error::Genotype(format!("`{}_concat` is empty", spec.name)));
            }
        }
        Ok(())
    }
}

impl CellSpec {
    /// Every pair of states with an edge into each node, all with the same operations (DARTS).
    pub fn complete(name: &str, nodes: usize, operations: &[&str]) -> Self {
        let operations: Vec<String> = operations.iter().map(|o| (*o).to_owned()).collect();
        let edges = (2..nodes + 2)
            .flat_map(|to| (0..to).map(move |from| (from, to)))
            .map(|(from, to)| EdgeSpec { from, to, operations: operations.clone() })
            .collect();
        Self { name: name.to_owned(), nodes, edges }
    }

    /// Name of its architecture parameters α.
    pub fn alphas(&self) -> String {
        format!("alphas_{}", self.name)
    }

    /// Name of its edges' parameters β.
    pub fn betas(&self) -> String {
        format!("betas_{}", self.name)
    }

    /// Columns of α: operations of an edge.
    pub fn columns(&self) -> usize {
        self.edges.first().map_or(0, |e| e.operations.len())
    }

    /// The edges into a state, in order.
    pub fn into_state(&self, to: usize) -> Vec<&EdgeSpec> {
        self.edges.iter().filter(|e| e.to == to).collect()
    }

    /// The states joined to the cell's output: all nodes.
    pub fn concat(&self) -> Vec<usize> {
        (2..self.nodes + 2).collect()
    }
}

/// Values of architecture parameters, by name (`alphas_normal`, `betas_normal` …).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ArchValues {
    matrices: BTreeMap<String, Vec<Vec<f64>>>,
}

impl ArchValues {
    /// Adds a matrix by rows.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, rows: Vec<Vec<f64>>) -> Self {
        self.matrices.insert(name.into(), rows);
        self
    }

    /// From a flat tensor and its layout; a one-dimensional part is a matrix of one column.
    pub fn from_flat(layout: &Layout, flat: &candle_core::Tensor) -> Result<Self> {
        let mut values = Self::default();
        for entry in layout.entries() {
            let part = layout.view(flat, &entry.name)?.to_dtype(candle_core::DType::F64)?;
            let part = if part.rank() == 1 { part.unsqueeze(1)? } else { part };
            values = values.with(&entry.name, part.to_vec2()?);
        }
        Ok(values)
    }

    /// The matrix of this name, checked against the shape the space expects.
    ///
    /// # Errors
    /// Missing, of another shape, or not finite.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<&[Vec<f64>]> {
        let matrix = self
            .matrices
            .get(name)
            .ok_or_else(|| Error::Invalid(format!("the array `{name}` is missing")))?;
        if matrix.len() != rows || matrix.iter().any(|r| r.len() != columns) {
            return Err(Error::Invalid(format!(
                "`{name}` is {} × {}, the space has {rows} edges × {columns} operations",
                matrix.len(),
                matrix.first().map_or(0, Vec::len)
            )));
        }
        if matrix.iter().flatten().any(|v| !v.is_finite()) {
            return Err(Error::Invalid(format!("`{name}` has a value that is not finite")));
        }
        Ok(matrix)
    }

    /// Is there a matrix of this name?
    pub fn contains(&self, name: &str) -> bool {
        self.matrices.contains_key(name)
    }
}
