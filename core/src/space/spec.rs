//! What a search space is: data.

use super::grammar::Grammar;
use super::mixing::Mixing;
use super::skeleton::Skeleton;
use crate::layout::{Init, Layout};
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
    /// Options of operations that are not left at their defaults, by name.
    #[serde(default)]
    pub operation_options: BTreeMap<String, serde_json::Value>,
}

/// A kind of cell: a directed acyclic graph whose edges carry candidate operations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CellSpec {
    /// `normal` or `reduce`; `cell` where there is one kind only.
    pub name: String,
    /// Number of inputs: 2 (the cells before), or 1.
    pub inputs: usize,
    /// Number of intermediate nodes.
    pub nodes: usize,
    /// The edges, in the order of the rows of α.
    pub edges: Vec<EdgeSpec>,
}

/// An edge between two states. States are the cell's inputs, then its nodes.
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

impl SpaceSpec {
    /// Checks that the description makes sense.
    ///
    /// # Errors
    /// Names the cell and edge that does not.
    pub fn validated(self) -> Result<Self> {
        let bad = |what: String| Err(Error::config(format!("space `{}`: {what}", self.name)));
        if let Err(e) = self.skeleton.check() {
            return bad(e.to_string());
        }
        if let Err(what) = self.mixing.check(self.skeleton.channels()) {
            return bad(what);
        }
        for cell in &self.cells {
            let (inputs, states) = (cell.inputs, cell.states());
            if inputs != self.skeleton.inputs() {
                return bad(format!(
                    "cell `{}` has {inputs} inputs, its skeleton gives {}",
                    cell.name,
                    self.skeleton.inputs()
                ));
            }
            if cell.nodes == 0 || cell.edges.is_empty() {
                return bad(format!("cell `{}` has no node or no edge", cell.name));
            }
            let columns = cell.edges[0].operations.len();
            for (i, edge) in cell.edges.iter().enumerate() {
                if edge.from >= edge.to || edge.to < inputs || edge.to >= states {
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
        for name in self.skeleton.kinds() {
            if self.cell(name).is_none() {
                return bad(format!("the cell `{name}` is missing"));
            }
        }
        let unknown = |c: &&CellSpec| !self.skeleton.kinds().contains(&c.name.as_str());
        if let Some(cell) = self.cells.iter().find(unknown) {
            return bad(format!("its skeleton has no cell `{}`", cell.name));
        }
        Ok(self)
    }

    /// The kind of cell of this name.
    pub fn cell(&self, name: &str) -> Option<&CellSpec> {
        self.cells.iter().find(|c| c.name == name)
    }

    /// The architecture parameters: edges × operations for each kind of cell, then with edge
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
}

impl CellSpec {
    /// Every pair of states with an edge into each node, all with the same operations (DARTS).
    pub fn complete(name: &str, nodes: usize, operations: &[&str]) -> Self {
        let operations: Vec<String> = operations.iter().map(|o| (*o).to_owned()).collect();
        let edges = (2..nodes + 2)
            .flat_map(|to| (0..to).map(move |from| (from, to)))
            .map(|(from, to)| EdgeSpec { from, to, operations: operations.clone() })
            .collect();
        Self { name: name.to_owned(), inputs: 2, nodes, edges }
    }

    /// One input and `nodes` nodes, every pair of them joined, all edges with the same operations
    /// (NAS-Bench-201).
    pub fn single_input(name: &str, nodes: usize, operations: &[&str]) -> Self {
        let operations: Vec<String> = operations.iter().map(|o| (*o).to_owned()).collect();
        let edges = (1..=nodes)
            .flat_map(|to| (0..to).map(move |from| (from, to)))
            .map(|(from, to)| EdgeSpec { from, to, operations: operations.clone() })
            .collect();
        Self { name: name.to_owned(), inputs: 1, nodes, edges }
    }

    /// Number of states: inputs and nodes.
    pub fn states(&self) -> usize {
        self.inputs + self.nodes
    }

    /// Name of its architecture parameters α, as in the authors' code: `alphas_<cell>`, or
    /// `arch_parameters` in the family of NAS-Bench-201.
    pub fn alphas(&self) -> String {
        if self.inputs == 1 { "arch_parameters".into() } else { format!("alphas_{}", self.name) }
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

    /// The states joined to the cell's output: all nodes of a cell with two inputs, the last node of
    /// one with a single input.
    pub fn concat(&self) -> Vec<usize> {
        let first = if self.inputs == 1 { self.nodes } else { self.inputs };
        (first..self.states()).collect()
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

    /// Checks that there is a matrix for each kind of architecture parameters of the space.
    ///
    /// # Errors
    /// One is missing, of another shape, or not finite.
    pub fn check(&self, space: &SpaceSpec) -> Result<()> {
        for entry in space.architecture().entries() {
            let columns = entry.shape.get(1).copied().unwrap_or(1);
            self.matrix(&entry.name, entry.shape[0], columns)?;
        }
        Ok(())
    }

    /// The matrices by rows, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Vec<f64>])> {
        self.matrices.iter().map(|(name, rows)| (name.as_str(), rows.as_slice()))
    }

    /// Is there a matrix of this name?
    pub fn contains(&self, name: &str) -> bool {
        self.matrices.contains_key(name)
    }
}
