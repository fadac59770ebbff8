//! The string of NAS-Bench-201: `|op~0|+|op~0|op~1|+…`, a group of `op~input` for each node after
//! the input (node 0), whose output is the last node.

use super::GenotypeEdge;
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
            let from = reader.number()?;
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

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn error(&self, expected: &str) -> Error {
        let found: String = self.rest().chars().take(12).collect();
        let found = if found.is_empty() { "the end".into() } else { format!("`{found}`") };
        Error::Genotype(format!("expected {expected} at character {}, found {found}", self.at))
    }

    fn accept(&mut self, c: char) -> bool {
        let found = self.rest().starts_with(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn expect(&mut self, c: char, what: &str) -> Result<()> {
        if self.accept(c) { Ok(()) } else { Err(self.error(what)) }
    }

    fn operation(&mut self) -> Result<String> {
        let fits = |c: &char| c.is_alphanumeric() || "_-.".contains(*c);
        let name: String = self.rest().chars().take_while(fits).collect();
        if name.is_empty() {
            return Err(self.error("the name of an operation"));
        }
        self.at += name.len();
        Ok(name)
    }

    fn number(&mut self) -> Result<usize> {
        let digits: String = self.rest().chars().take_while(char::is_ascii_digit).collect();
        let number = digits.parse().map_err(|_| self.error("the number of a node"))?;
        self.at += digits.len();
        Ok(number)
    }
}
