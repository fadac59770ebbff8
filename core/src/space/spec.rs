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

/// More nodes than any cell has: a slip.
pub(super) const MOST_NODES: usize = 64;

/// A place in a description: keys as in the JSON form, indices of cells and edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Skeleton(&'static str),
    Mixing,
    /// The list of cells.
    Cells,
    Cell(usize, &'static str),
    Edge(usize, usize, &'static str),
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
        match self.flaw() {
            Some((_, what)) => Err(Error::config(format!("space `{}`: {what}", self.name))),
            None => Ok(self),
        }
    }

    /// The first thing in the description that makes no sense: where, and what.
    pub(super) fn flaw(&self) -> Option<(Place, String)> {
        if let Some((key, what)) = self.skeleton.flaw() {
            return Some((Place::Skeleton(key), what));
        }
        if let Err(what) = self.mixing.check(self.skeleton.channels()) {
            return Some((Place::Mixing, what));
        }
        for (i, cell) in self.cells.iter().enumerate() {
            if let Some((key, what)) = cell.flaw(self.skeleton.inputs()) {
                return Some((Place::Cell(i, key), format!("cell `{}` {what}", cell.name)));
            }
            let edge = |e: usize| cell.edge_flaw(e).map(|flaw| (e, flaw));
            if let Some((e, (key, what))) = (0..cell.edges.len()).find_map(edge) {
                let what = format!("edge {e} of cell `{}` {what}", cell.name);
                return Some((Place::Edge(i, e, key), what));
            }
        }
        let kinds = self.skeleton.kinds();
        if let Some(name) = kinds.iter().find(|k| self.cell(k).is_none()) {
            return Some((Place::Cells, format!("the cell `{name}` is missing")));
        }
        let (i, cell) = self.cells.iter().enumerate().find(|(i, c)| {
            !kinds.contains(&c.name.as_str()) || self.cells[..*i].iter().any(|b| b.name == c.name)
        })?;
        let what = if kinds.contains(&cell.name.as_str()) {
            format!("there are two cells `{}`", cell.name)
        } else {
            format!("its skeleton has no cell `{}`, only {}", cell.name, kinds.join(" and "))
        };
        Some((Place::Cell(i, "name"), what))
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
        Self::joined(name, (2, nodes), &operations.iter().map(|&o| o.into()).collect::<Vec<_>>())
    }

    /// One input and `nodes` nodes, every pair of them joined, all edges with the same operations
    /// (NAS-Bench-201).
    pub fn single_input(name: &str, nodes: usize, operations: &[&str]) -> Self {
        Self::joined(name, (1, nodes), &operations.iter().map(|&o| o.into()).collect::<Vec<_>>())
    }

    /// A cell whose nodes have an edge from every state before them.
    pub(super) fn joined(
        name: &str,
        (inputs, nodes): (usize, usize),
        operations: &[String],
    ) -> Self {
        let edge = |from, to| EdgeSpec { from, to, operations: operations.to_vec() };
        let edges = (inputs..inputs + nodes).flat_map(|to| (0..to).map(move |from| (from, to)));
        let edges = edges.map(|(from, to)| edge(from, to)).collect();
        Self { name: name.to_owned(), inputs, nodes, edges }
    }

    /// The first thing about the cell as a whole that makes no sense: its key, and what.
    fn flaw(&self, inputs: usize) -> Option<(&'static str, String)> {
        if self.inputs != inputs {
            return Some((
                "inputs",
                format!("has {} inputs, its skeleton gives {inputs}", self.inputs),
            ));
        }
        if !(1..=MOST_NODES).contains(&self.nodes) {
            return Some(("nodes", format!("has {} nodes, 1 to {MOST_NODES} can be", self.nodes)));
        }
        self.edges.is_empty().then(|| ("edges", "has no edge".to_owned()))
    }

    /// The first thing about an edge that makes no sense: its key, and what.
    fn edge_flaw(&self, e: usize) -> Option<(&'static str, String)> {
        let EdgeSpec { from, to, ref operations } = self.edges[e];
        let states = self.states();
        let goes = format!("goes from state {from} to {to}");
        if to < self.inputs || to >= states {
            let nodes = format!("the nodes are {} to {}", self.inputs, states - 1);
            return Some(("to", format!("{goes}, {nodes}")));
        }
        if from >= to {
            return Some(("from", format!("{goes}; it must come from a state before")));
        }
        if let Some(same) = self.edges[..e].iter().position(|b| (b.from, b.to) == (from, to)) {
            return Some(("to", format!("{goes}, and so does edge {same}")));
        }
        if operations.is_empty() {
            return Some(("operations", "has no operation".to_owned()));
        }
        let columns = self.columns();
        if operations.len() != columns {
            let has = operations.len();
            return Some(("operations", format!("has {has} operations, the first {columns}")));
        }
        let twice = (1..columns).find(|i| operations[..*i].contains(&operations[*i]))?;
        Some(("operations", format!("has `{}` twice", operations[twice])))
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
