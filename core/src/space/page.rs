//! A search space as a page of TOML.
//!
//! ```toml
//! kind = "search-space"
//! name = "my-space"
//! version = "0.1.0"
//! summary = "two nodes a cell, three operations an edge"
//!
//! grammar = "two-inputs-a-node"
//! operations = ["none", "skip_connect", "sep_conv_3x3"]
//!
//! [skeleton]
//! kind = "two-inputs"
//! channels = 8
//! cells = 3
//!
//! [[cell]]
//! name = "normal"
//! nodes = 2
//! connect = "complete"
//!
//! [[cell]]
//! name = "reduce"
//! nodes = 2
//! edges = [{ from = 0, to = 2 }, { from = 1, to = 2 }, { from = 0, to = 3 }, { from = 2, to = 3 }]
//! ```
//!
//! An edge offers its own `operations`, else those of its cell, else those of the page. A config can
//! give the supernet another size: the options `channels` and `cells` stand for those of the skeleton.

use super::skeleton::{MOST_CELLS, MOST_CHANNELS};
use super::spec::{MOST_NODES, Place};
use super::{CellSpec, EdgeSpec, Grammar, Mixing, Skeleton, SpaceSpec};
use crate::config::text::{Path, Text};
use crate::foreign::SchemaOptions;
use crate::kinds::{Operation, SearchSpace};
use crate::registry::{self, Describe, Factory};
use crate::{Error, Result};
use schemars::Schema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use toml::de::ValueDeserializer;

const EXAMPLE: &str = "`tetlo plugins new search-space NAME` writes a page to start from";
const OPTIONS: &str = "`tetlo plugins show operation/NAME` lists an operation's options";

/// The stem of the authors of DARTS.
const STEM_MULTIPLIER: usize = 3;

/// A search space with what a listing says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SpacePage {
    /// Name in the config, kebab-case.
    pub name: String,
    /// Version, for people.
    pub version: String,
    /// One line for listings.
    pub summary: String,
    /// The space; its name is the page's.
    pub spec: SpaceSpec,
}

impl SpacePage {
    /// Reads a page, which errors call `source_name`.
    ///
    /// # Errors
    /// The text is no TOML, has an unknown key, names an operation that is not registered, or
    /// describes no space ([`SpaceSpec::validated`], and cells that the grammar cannot sample). The
    /// message shows file, line and caret.
    pub fn parse(source_name: &str, text: &str) -> Result<Self> {
        let text = Text::parse(source_name, text)?;
        let file: PageFile = text.read(EXAMPLE)?;
        if !registry::is_name(&file.name, '-') {
            let what = "the name must be lower-case words and digits joined by `-`";
            return Err(text.error(&Path::of("name"), what, EXAMPLE));
        }
        for (key, value) in [("version", &file.version), ("summary", &file.summary)] {
            if !registry::is_line(value) {
                let what = format!("the {key} must be one line of text");
                return Err(text.error(&Path::of(key), what, EXAMPLE));
            }
        }
        let spec = file.spec(&text)?;
        if let Some((place, what)) = spec.flaw().or_else(|| spec.grammar_flaw()) {
            return Err(text.error(&path(&text, place), what, EXAMPLE));
        }
        operations(&text, &spec)?;
        let PageFile { name, version, summary, .. } = file;
        Ok(Self { name, version, summary, spec })
    }

    /// The page as text, which reads as the same page.
    ///
    /// # Errors
    /// An operation's options hold what TOML does not (`null`).
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(&PageFile::of(self))
            .map_err(|e| Error::Invalid(format!("the space `{}` is no page: {e}", self.name)))
    }
}

/// Where the page says what is wrong.
fn path(text: &Text<'_>, place: Place) -> Path {
    let cells = Path::of("cell");
    match place {
        Place::Skeleton(key) => Path::of("skeleton").key(key),
        Place::Mixing => Path::of("mixing").key("factor"),
        Place::Cells => cells,
        Place::Cell(cell, key) => cells.index(cell).key(key),
        Place::Edge(cell, edge, key) => {
            let cell = cells.index(cell);
            let own = cell.key("edges").index(edge).key(key);
            // Operations may stand further out.
            [own.clone(), cell.key(key), Path::of(key)]
                .into_iter()
                .find(|path| text.has(path))
                .unwrap_or(own)
        }
    }
}

/// Checks that the operations are registered, and their options.
fn operations(text: &Text<'_>, spec: &SpaceSpec) -> Result<()> {
    for (i, cell) in spec.cells.iter().enumerate() {
        for (e, edge) in cell.edges.iter().enumerate() {
            for (k, name) in edge.operations.iter().enumerate() {
                if let Err(error) = registry::find::<dyn Operation>(name) {
                    let at = path(text, Place::Edge(i, e, "operations")).index(k);
                    return Err(text.error(
                        &at,
                        error.to_string(),
                        error.hint().unwrap_or_default(),
                    ));
                }
            }
        }
    }
    for name in spec.operation_options.keys() {
        let at = Path::of("operation-options").key(name);
        if !spec.cells.iter().flat_map(|c| &c.edges).any(|e| e.operations.contains(name)) {
            let what = format!("no edge offers the operation `{name}`");
            return Err(text.error(&at, what, "leave its options out"));
        }
        let entry = registry::find::<dyn Operation>(name)?;
        let what = format!("options of `{name}`: ");
        text.read_at(&at, (&what, OPTIONS), |options| entry.resolve(options))?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PageKind {
    SearchSpace,
}

/// The page as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct PageFile {
    kind: PageKind,
    name: String,
    version: String,
    summary: String,
    grammar: Grammar,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    operations: Vec<String>,
    skeleton: SkeletonFile,
    #[serde(default, skip_serializing_if = "is_default")]
    mixing: Mixing,
    cell: Vec<CellFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    operation_options: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SkeletonKind {
    TwoInputs,
    ResidualStages,
}

/// [`Skeleton`] without a tag, whose errors would have no place.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SkeletonFile {
    kind: SkeletonKind,
    channels: usize,
    cells: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stem_multiplier: Option<usize>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Connect {
    /// Every node has an edge from every state before it.
    Complete,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CellFile {
    name: String,
    /// Those that the skeleton gives, where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inputs: Option<usize>,
    nodes: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    operations: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connect: Option<Connect>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    edges: Vec<EdgeFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct EdgeFile {
    from: usize,
    to: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    operations: Vec<String>,
}

fn is_default(mixing: &Mixing) -> bool {
    *mixing == Mixing::default()
}

/// The first list that is not empty.
fn first(lists: [&Vec<String>; 3]) -> Vec<String> {
    lists.into_iter().find(|l| !l.is_empty()).cloned().unwrap_or_default()
}

impl PageFile {
    fn spec(&self, text: &Text<'_>) -> Result<SpaceSpec> {
        let skeleton = self.skeleton.read(text)?;
        let cell = |(i, c): (usize, &CellFile)| {
            let at = Path::of("cell").index(i);
            c.read(text, &at, (skeleton.inputs(), &self.operations))
        };
        Ok(SpaceSpec {
            name: self.name.clone(),
            cells: self.cell.iter().enumerate().map(cell).collect::<Result<_>>()?,
            skeleton,
            grammar: self.grammar,
            mixing: self.mixing,
            operation_options: self.operation_options.clone(),
        })
    }

    fn of(page: &SpacePage) -> Self {
        let SpacePage { name, version, summary, spec } = page;
        Self {
            kind: PageKind::SearchSpace,
            name: name.clone(),
            version: version.clone(),
            summary: summary.clone(),
            grammar: spec.grammar,
            operations: vec![],
            skeleton: SkeletonFile::of(&spec.skeleton),
            mixing: spec.mixing,
            cell: spec.cells.iter().map(CellFile::of).collect(),
            operation_options: spec.operation_options.clone(),
        }
    }
}

impl SkeletonFile {
    fn read(&self, text: &Text<'_>) -> Result<Skeleton> {
        let Self { kind, channels, cells, stem_multiplier } = *self;
        match kind {
            SkeletonKind::TwoInputs => Ok(Skeleton::TwoInputs {
                channels,
                cells,
                stem_multiplier: stem_multiplier.unwrap_or(STEM_MULTIPLIER),
            }),
            SkeletonKind::ResidualStages if stem_multiplier.is_some() => {
                let what = "the skeleton `residual-stages` has no `stem-multiplier`";
                let at = Path::of("skeleton").key("stem-multiplier");
                Err(text.error(&at, what, "its stem has as many channels as its first stage"))
            }
            SkeletonKind::ResidualStages => Ok(Skeleton::ResidualStages { channels, cells }),
        }
    }

    fn of(skeleton: &Skeleton) -> Self {
        let (channels, cells) = (skeleton.channels(), skeleton.cells());
        let (kind, stem_multiplier) = match skeleton {
            Skeleton::TwoInputs { stem_multiplier, .. } => {
                (SkeletonKind::TwoInputs, Some(*stem_multiplier))
            }
            Skeleton::ResidualStages { .. } => (SkeletonKind::ResidualStages, None),
        };
        Self { kind, channels, cells, stem_multiplier }
    }
}

impl CellFile {
    /// `inputs` is what the skeleton gives, `operations` are the page's.
    fn read(
        &self,
        text: &Text<'_>,
        at: &Path,
        (inputs, operations): (usize, &Vec<String>),
    ) -> Result<CellSpec> {
        let inputs = self.inputs.unwrap_or(inputs);
        let none = vec![];
        match (self.connect, self.edges.is_empty()) {
            (Some(_), false) => {
                let what = format!("cell `{}` has both `connect` and `edges`", self.name);
                Err(text.error(&at.key("connect"), what, "leave one of them out"))
            }
            (None, true) => {
                let what = format!("cell `{}` has neither `connect` nor `edges`", self.name);
                Err(text.error(at, what, "`connect = \"complete\"` joins every node to all before"))
            }
            (None, false) => {
                let edge = |e: &EdgeFile| EdgeSpec {
                    from: e.from,
                    to: e.to,
                    operations: first([&e.operations, &self.operations, operations]),
                };
                let edges = self.edges.iter().map(edge).collect();
                Ok(CellSpec { name: self.name.clone(), inputs, nodes: self.nodes, edges })
            }
            // Sizes that are slips are refused with all others, but must not be built.
            (Some(Connect::Complete), true) if inputs.max(self.nodes) > MOST_NODES => {
                let (name, nodes) = (self.name.clone(), self.nodes);
                Ok(CellSpec { name, inputs, nodes, edges: vec![] })
            }
            (Some(Connect::Complete), true) => {
                let operations = first([&self.operations, operations, &none]);
                Ok(CellSpec::joined(&self.name, (inputs, self.nodes), &operations))
            }
        }
    }

    fn of(cell: &CellSpec) -> Self {
        let common = cell.edges.first().map(|e| e.operations.clone()).unwrap_or_default();
        let complete = cell.states() <= MOST_NODES
            && CellSpec::joined(&cell.name, (cell.inputs, cell.nodes), &common) == *cell;
        let same = cell.edges.iter().all(|e| e.operations == common);
        let edge = |e: &EdgeSpec| EdgeFile {
            from: e.from,
            to: e.to,
            operations: if same { vec![] } else { e.operations.clone() },
        };
        Self {
            name: cell.name.clone(),
            inputs: Some(cell.inputs),
            nodes: cell.nodes,
            operations: if same { common } else { vec![] },
            connect: complete.then_some(Connect::Complete),
            edges: if complete { vec![] } else { cell.edges.iter().map(edge).collect() },
        }
    }
}

/// Makes a page's space. Its options are the supernet's size.
#[derive(Debug)]
pub struct PageFactory {
    spec: SpaceSpec,
    options: SchemaOptions,
}

impl PageFactory {
    /// The factory of a page.
    ///
    /// # Errors
    /// The space is none ([`SpaceSpec::validated`]).
    pub fn new(page: &SpacePage) -> Result<Self> {
        let spec = page.spec.clone().validated()?;
        let size = |about: &str, default: usize, most: usize| {
            json!({
                "description": about, "type": "integer", "minimum": 1, "maximum": most,
                "default": default,
            })
        };
        let (channels, cells) = (spec.skeleton.channels(), spec.skeleton.cells());
        let schema = json!({
            "title": format!("Options of the space `{}`.", page.name),
            "properties": {
                "channels": size("Initial channels C of the supernet.", channels, MOST_CHANNELS),
                "cells": size(
                    "Cells of the supernet, or of each of its stages.", cells, MOST_CELLS
                ),
            },
        });
        Ok(Self { spec, options: SchemaOptions::new(&schema)? })
    }

    /// The space in the size that the options say.
    fn sized(&self, options: &Value) -> Result<SpaceSpec> {
        let options = self.options.complete(options)?;
        let size = |key: &str| options[key].as_u64().and_then(|n| usize::try_from(n).ok());
        let (channels, cells) = (size("channels").unwrap_or(0), size("cells").unwrap_or(0));
        let skeleton = self.spec.skeleton.resized(channels, cells);
        SpaceSpec { skeleton, ..self.spec.clone() }.validated()
    }
}

impl Describe for PageFactory {
    fn resolve(&self, source: ValueDeserializer<'_>) -> Result<Value, toml::de::Error> {
        use serde::de::Error as _;
        let options = self.options.resolve(source)?;
        self.sized(&options).map_err(toml::de::Error::custom)?;
        Ok(options)
    }

    fn defaults(&self) -> Value {
        self.options.defaults()
    }

    fn schema(&self) -> Schema {
        self.options.schema()
    }

    fn check(&self, options: &Value) -> Result<()> {
        self.sized(options).map(drop)
    }
}

impl Factory<dyn SearchSpace> for PageFactory {
    fn build(&self, options: &Value) -> Result<Box<dyn SearchSpace>> {
        Ok(Box::new(Page(self.sized(options)?)))
    }
}

/// A page's space in its size.
#[derive(Debug)]
struct Page(SpaceSpec);

impl SearchSpace for Page {
    fn spec(&self) -> SpaceSpec {
        self.0.clone()
    }
}
