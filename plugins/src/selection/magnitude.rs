//! The rule of the space's authors: the largest weights that its grammar allows.

use super::{Argmax, DartsTop2};
use tetlo_core::Result;
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::Selection;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::space::{ArchValues, Grammar, SpaceSpec};

/// The largest α that the grammar of the space allows: [`DartsTop2`] where a node takes two inputs,
/// [`Argmax`] where every edge carries an operation.
#[derive(Debug)]
pub struct Magnitude;

impl FromOptions for Magnitude {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Selection for Magnitude {
    fn select(&self, space: &SpaceSpec, alphas: &ArchValues) -> Result<Genotype> {
        match space.grammar {
            Grammar::TwoInputsANode => DartsTop2.select(space, alphas),
            Grammar::OneOperationAnEdge => Argmax.select(space, alphas),
        }
    }
}

tetlo_core::register_selection!(
    "magnitude",
    Magnitude,
    "the largest α that the space's grammar allows: darts-top2 or argmax"
);

#[cfg(test)]
mod tests {
    use super::*;
    use tetlo_core::space::{CellSpec, Skeleton};

    #[test]
    fn follows_the_grammar() {
        let operations = ["none", "skip_connect", "conv"];
        let mut space = SpaceSpec {
            name: "test".into(),
            cells: vec![CellSpec::single_input("cell", 1, &operations)],
            skeleton: Skeleton::ResidualStages { channels: 2, cells: 1 },
            grammar: Grammar::OneOperationAnEdge,
            operation_options: std::collections::BTreeMap::new(),
        };
        let alphas = ArchValues::default().with("arch_parameters", vec![vec![1.0, 0.0, 0.5]]);
        assert_eq!(Magnitude.select(&space, &alphas).unwrap().to_python(), "|none~0|");
        space.cells = vec![CellSpec::complete("normal", 1, &operations)];
        space.skeleton = Skeleton::TwoInputs { channels: 2, cells: 1, stem_multiplier: 1 };
        space.grammar = Grammar::TwoInputsANode;
        let rows = vec![vec![1.0, 0.0, 0.5], vec![0.0, 0.2, 0.1]];
        let alphas = ArchValues::default().with("alphas_normal", rows);
        let genotype = Magnitude.select(&space, &alphas).unwrap();
        let chosen: Vec<&str> =
            genotype.cell("normal").unwrap().edges.iter().map(|e| &*e.operation).collect();
        assert_eq!(chosen, ["skip_connect", "conv"]);
    }
}
