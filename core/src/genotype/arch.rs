//! The string of NAS-Bench-201: `|op~0|+|op~0|op~1|+…`, a group of `op~input` for each node after
//! the input (node 0), whose output is the last node.

use super::GenotypeEdge;
use super::reader::Reader;
use crate::{Error, Result};

/// More nodes than any cell has: a slip.
const MOST_NODES: usize = 1000;

/// The string of edges into the nodes 1 to `last`.
pub(super) fn print(edges: &[GenotypeEdge], last: usize) -> String {
    let groups: Vec<String> = (1..=last)
        .map(|to| {
            let into = edges.iter().filter(|e| e.to == to);
            let inputs: Vec<String> = into.map(|e| format!("{}~{}", e.operation, e.from)).collect();
            format!("|{}|", inputs.join("|"))
        })
        .collect();
    groups.join("+")
}

/// The edges, node by node.
///
/// # Errors
/// Says what was expected at which character.
pub(super) fn parse(text: &str) -> Result<Vec<GenotypeEdge>> {
    let mut reader = Reader { text: text.trim_end(), at: 0 };
    let mut edges = Vec::new();
    for to in 1..=MOST_NODES {
        reader.expect('|', "`|`, which begins a node's group")?;
        // A node may have no input at all: `||`.
        while !reader.accept('|') {
            let operation = reader.operation()?;
            reader.expect('~', "`~` and the number of a node")?;
            let at = reader.at;
            let from = reader.number("the number of a node")?;
            if from >= to {
                return Err(Error::Genotype(format!(
                    "node {to} cannot take input from node {from} (character {at})"
                )));
            }
            reader.expect('|', "`|` after an input")?;
            edges.push(GenotypeEdge { operation, from, to });
            if reader.rest().is_empty() || reader.rest().starts_with('+') {
                break;
            }
        }
        if reader.rest().is_empty() {
            if edges.last().is_none_or(|e| e.to != to) {
                return Err(Error::Genotype(format!("the last node, {to}, has no input")));
            }
            return Ok(edges);
        }
        reader.expect('+', "`+` or the end of the text")?;
    }
    Err(Error::Genotype(format!("more than {MOST_NODES} nodes")))
}

impl Reader<'_> {
    fn expect(&mut self, c: char, what: &str) -> Result<()> {
        if self.accept(c) { Ok(()) } else { Err(self.error(what)) }
    }

    fn operation(&mut self) -> Result<String> {
        let fits = |c: char| c.is_alphanumeric() || "_-.".contains(c);
        self.take_while(fits, "the name of an operation")
    }
}
