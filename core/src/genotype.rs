//! Discrete cells, as data and in the texts of the field.

mod arch;
mod python;
mod reader;
#[cfg(test)]
mod tests;

use crate::space::SINGLE_CELL;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One chosen operation: `operation` from state `from` into state `to`.
///
/// States are numbered as in the field: the cell's inputs first (0 and 1, or 0 alone), then its
/// nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GenotypeEdge {
    /// Name of the operation.
    pub operation: String,
    /// Source state.
    pub from: usize,
    /// Target state.
    pub to: usize,
}

/// The chosen operations of one kind of cell.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GenotypeCell {
    /// Number of inputs: 2 (the cells before), or 1.
    pub inputs: usize,
    /// The edges, in node order.
    pub edges: Vec<GenotypeEdge>,
    /// The states whose concatenation is the cell's output.
    pub concat: Vec<usize>,
}

impl GenotypeCell {
    /// The edges into a state, in order.
    pub fn into_state(&self, to: usize) -> impl Iterator<Item = &GenotypeEdge> {
        self.edges.iter().filter(move |e| e.to == to)
    }

    /// Number of edges whose operation is `skip_connect`.
    pub fn skip_count(&self) -> usize {
        self.edges.iter().filter(|e| e.operation == "skip_connect").count()
    }

    /// Exactly two edges into each node, in node order (the form of DARTS)?
    fn is_two_a_node(&self) -> bool {
        self.inputs == 2
            && self.edges.len().is_multiple_of(2)
            && self.edges.iter().enumerate().all(|(i, e)| e.to == 2 + i / 2)
            && self.concat.iter().all(|c| *c < 2 + self.edges.len() / 2)
    }
}

/// A discrete architecture: a cell per kind (`normal` and `reduce`, or [`SINGLE_CELL`] alone).
///
/// Its texts are DARTS's Python repr, the string of NAS-Bench-201, and JSON.
///
/// ```
/// use tetlo_core::genotype::Genotype;
/// let text = "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0)], normal_concat=range(2, 3), \
///             reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1)], reduce_concat=range(2, 3))";
/// let genotype = Genotype::parse(text)?;
/// assert_eq!(genotype.cell("normal").unwrap().skip_count(), 1);
/// assert_eq!(Genotype::parse(&genotype.to_json().to_string())?, genotype);
/// let text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|";
/// let genotype = Genotype::parse(text)?;
/// assert_eq!(genotype.to_json().to_string(), format!("{{\"arch\":\"{text}\"}}"));
/// # Ok::<(), tetlo_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Genotype {
    cells: BTreeMap<String, GenotypeCell>,
}

impl Genotype {
    /// From cells by name.
    pub fn new(cells: impl IntoIterator<Item = (String, GenotypeCell)>) -> Self {
        Self { cells: cells.into_iter().collect() }
    }

    /// A single cell with one input, whose output is its last node (NAS-Bench-201); edges in node
    /// order.
    pub fn single_input(edges: Vec<GenotypeEdge>) -> Self {
        let concat = edges.iter().map(|e| e.to).max().into_iter().collect();
        Self::new([(SINGLE_CELL.to_owned(), GenotypeCell { inputs: 1, edges, concat })])
    }

    /// The cell of a kind.
    pub fn cell(&self, name: &str) -> Option<&GenotypeCell> {
        self.cells.get(name)
    }

    /// The cells, by name.
    pub fn cells(&self) -> impl Iterator<Item = (&str, &GenotypeCell)> {
        self.cells.iter().map(|(n, c)| (n.as_str(), c))
    }

    /// Skip connections of the normal cell, or the only one (the collapse signal of the field).
    pub fn skip_count(&self) -> usize {
        let cell = self.cell("normal").or_else(|| self.cell(SINGLE_CELL));
        cell.map_or(0, GenotypeCell::skip_count)
    }

    /// The string of NAS-Bench-201, if this is a single cell with one input whose output is its last
    /// node.
    pub fn to_arch(&self) -> Option<String> {
        let cell = self.cell(SINGLE_CELL).filter(|c| c.inputs == 1 && self.cells.len() == 1)?;
        let last = cell.edges.iter().map(|e| e.to).max()?;
        (cell.concat == [last]).then(|| arch::print(&cell.edges, last))
    }

    /// Reads DARTS's Python repr, the string of NAS-Bench-201 or our JSON.
    ///
    /// # Errors
    /// Says what was expected and where.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::Genotype("the text is empty".into()));
        }
        if text.starts_with('{') {
            let value: Value =
                serde_json::from_str(text).map_err(|e| Error::Genotype(e.to_string()))?;
            return Self::from_json(&value);
        }
        if text.starts_with('|') {
            return Ok(Self::single_input(arch::parse(text)?));
        }
        Self::from_json(&python::parse(text)?)
    }

    /// The JSON form: two `[op, from]` entries a node in node order, or `[op, from, to]` where a
    /// cell is not two a node; `{"arch": "|…|"}` for a single cell with one input.
    pub fn to_json(&self) -> Value {
        if let Some(arch) = self.to_arch() {
            return json!({"arch": arch});
        }
        let mut object = Map::new();
        for (name, cell) in &self.cells {
            let two = cell.is_two_a_node();
            let edges: Vec<Value> = cell
                .edges
                .iter()
                .map(|e| {
                    if two {
                        json!([e.operation, e.from])
                    } else {
                        json!([e.operation, e.from, e.to])
                    }
                })
                .collect();
            object.insert(name.clone(), Value::Array(edges));
            object.insert(format!("{name}_concat"), json!(cell.concat));
        }
        Value::Object(object)
    }

    /// Reads the JSON form.
    pub fn from_json(value: &Value) -> Result<Self> {
        let bad = |what: String| Error::Genotype(what);
        let object = value.as_object().ok_or_else(|| bad("expected a JSON object".into()))?;
        if let Some(arch) = object.get("arch") {
            let text = arch.as_str().ok_or_else(|| bad("`arch` must be a text: \"|…|\"".into()))?;
            if let Some(other) = object.keys().find(|k| *k != "arch" && *k != "schema") {
                return Err(bad(format!("`arch` says everything, but there is `{other}` too")));
            }
            return Ok(Self::single_input(arch::parse(text)?));
        }
        let mut cells = BTreeMap::new();
        for (name, list) in object {
            if name.ends_with("_concat") || name == "schema" {
                continue;
            }
            let list = list
                .as_array()
                .ok_or_else(|| bad(format!("`{name}` must be a list of [operation, input]")))?;
            let mut edges = Vec::with_capacity(list.len());
            for (i, entry) in list.iter().enumerate() {
                edges.push(edge_from_json(name, i, entry)?);
            }
            let concat = object.get(&format!("{name}_concat")).ok_or_else(|| {
                bad(format!("`{name}_concat` is missing: the states a cell's output joins"))
            })?;
            let concat: Vec<usize> = serde_json::from_value(concat.clone())
                .map_err(|e| bad(format!("`{name}_concat`: {e}")))?;
            cells.insert(name.clone(), GenotypeCell { inputs: 2, edges, concat });
        }
        if cells.is_empty() {
            return Err(bad("no cell: expected `normal`, `reduce` … or `arch`".into()));
        }
        Ok(Self { cells })
    }

    /// DARTS's Python repr, to paste into a `genotypes.py`, or the string of NAS-Bench-201.
    pub fn to_python(&self) -> String {
        if let Some(arch) = self.to_arch() {
            return arch;
        }
        let mut out = String::from("Genotype(");
        for (i, (name, cell)) in self.cells.iter().enumerate() {
            let two = cell.is_two_a_node();
            let edges: Vec<String> = cell
                .edges
                .iter()
                .map(|e| {
                    if two {
                        format!("('{}', {})", e.operation, e.from)
                    } else {
                        format!("('{}', {}, {})", e.operation, e.to, e.from)
                    }
                })
                .collect();
            let comma = if i == 0 { "" } else { ", " };
            let concat = python::concat(&cell.concat);
            let _ = write!(out, "{comma}{name}=[{}], {name}_concat={concat}", edges.join(", "));
        }
        out.push(')');
        out
    }
}

fn edge_from_json(cell: &str, index: usize, entry: &Value) -> Result<GenotypeEdge> {
    let bad = || {
        Error::Genotype(format!(
            "entry {index} of `{cell}` is {entry}, expected [operation, from] or [operation, from, to]"
        ))
    };
    let list = entry.as_array().filter(|l| l.len() == 2 || l.len() == 3).ok_or_else(bad)?;
    let operation = list[0].as_str().ok_or_else(bad)?.to_owned();
    let from = list[1].as_u64().ok_or_else(bad)? as usize;
    let to = match list.get(2) {
        Some(to) => to.as_u64().ok_or_else(bad)? as usize,
        None => 2 + index / 2,
    };
    if from >= to {
        return Err(Error::Genotype(format!(
            "entry {index} of `{cell}`: state {to} cannot take input from state {from}"
        )));
    }
    Ok(GenotypeEdge { operation, from, to })
}
