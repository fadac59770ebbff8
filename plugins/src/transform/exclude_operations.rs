//! Leaves operations out of the space.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::SupernetTransform;
use tetlo_core::registry::FromOptions;
use tetlo_core::space::SpaceSpec;
use tetlo_core::{Error, Result};

/// Options of `exclude-operations`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct ExcludeOperationsOptions {
    /// Names of the operations to leave out, wherever an edge offers them.
    pub operations: Vec<String>,
}

impl Default for ExcludeOperationsOptions {
    fn default() -> Self {
        Self { operations: vec!["none".into()] }
    }
}

/// The space without some of its operations, on every edge of every cell. α loses their columns.
#[derive(Debug)]
pub struct ExcludeOperations {
    options: ExcludeOperationsOptions,
}

impl FromOptions for ExcludeOperations {
    type Options = ExcludeOperationsOptions;

    fn from_options(options: ExcludeOperationsOptions) -> Result<Self> {
        if options.operations.is_empty() {
            return Err(Error::config("`operations` must name at least one operation"));
        }
        Ok(Self { options })
    }
}

impl SupernetTransform for ExcludeOperations {
    fn transform(&self, mut space: SpaceSpec) -> Result<SpaceSpec> {
        for excluded in &self.options.operations {
            let mut edges = space.cells.iter().flat_map(|c| &c.edges);
            if !edges.any(|e| e.operations.contains(excluded)) {
                return Err(Error::config(format!(
                    "`operations`: no edge of the space `{}` offers `{excluded}`",
                    space.name
                )));
            }
        }
        for cell in &mut space.cells {
            for edge in &mut cell.edges {
                edge.operations.retain(|o| !self.options.operations.contains(o));
                if edge.operations.is_empty() {
                    return Err(Error::config(format!(
                        "`operations`: nothing is left on the edge from state {} to {} of cell `{}`",
                        edge.from, edge.to, cell.name
                    )));
                }
            }
        }
        space.validated()
    }
}

tetlo_core::register_supernet_transform!(
    "exclude-operations",
    ExcludeOperations,
    "leaves operations out of the space"
);

#[cfg(test)]
mod tests {
    use super::*;
    use tetlo_core::space::{CellSpec, Grammar, Skeleton};

    fn space() -> SpaceSpec {
        let cell = |name| CellSpec::complete(name, 2, &["none", "skip_connect", "sep_conv_3x3"]);
        SpaceSpec {
            name: "test".into(),
            cells: vec![cell("normal"), cell("reduce")],
            skeleton: Skeleton::TwoInputs { channels: 4, cells: 3, stem_multiplier: 3 },
            grammar: Grammar::TwoInputsANode,
            operation_options: std::collections::BTreeMap::new(),
        }
    }

    fn exclude(operations: &[&str]) -> Result<SpaceSpec> {
        let operations = operations.iter().map(|o| (*o).to_owned()).collect();
        ExcludeOperations::from_options(ExcludeOperationsOptions { operations })?.transform(space())
    }

    #[test]
    fn operations_disappear_from_every_edge() {
        let rest = exclude(&["none"]).unwrap();
        assert!(
            rest.cells
                .iter()
                .flat_map(|c| &c.edges)
                .all(|e| e.operations == ["skip_connect", "sep_conv_3x3"])
        );
        assert_eq!(rest.architecture().entries()[0].shape, [5, 2]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (operations, part) in [
            (&["nune"][..], "offers `nune`"),
            (&["none", "skip_connect", "sep_conv_3x3"], "nothing is left"),
            (&[], "at least one"),
        ] {
            let error = exclude(operations).unwrap_err().to_string();
            assert!(error.contains("`operations`") && error.contains(part), "{error}");
        }
        // Edges that would end with different numbers of operations have no common α.
        let mut uneven = space();
        uneven.cells[0].edges[0].operations = vec!["skip_connect".into(), "a".into(), "b".into()];
        let plugin = ExcludeOperations::from_options(ExcludeOperationsOptions::default()).unwrap();
        assert!(plugin.transform(uneven).unwrap_err().to_string().contains("operations"));
    }
}
