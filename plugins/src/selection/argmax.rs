//! The rule of NAS-Bench-201: the best operation of every edge.

use tetlo_core::genotype::{Genotype, GenotypeCell, GenotypeEdge};
use tetlo_core::kinds::Selection;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::space::{ArchValues, CellSpec, EdgeSpec, Grammar, SpaceSpec};
use tetlo_core::{Error, Result};

/// The operation with the largest α on every edge, `none` among them (Dong and Yang, ICLR 2020, as in
/// the authors' code for DARTS on NAS-Bench-201).
///
/// Reads raw α (`arch_parameters`, edges × operations). Ties keep the first operation.
#[derive(Debug)]
pub struct Argmax;

impl FromOptions for Argmax {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Selection for Argmax {
    fn select(&self, space: &SpaceSpec, alphas: &ArchValues) -> Result<Genotype> {
        if space.grammar != Grammar::OneOperationAnEdge {
            return Err(Error::config_hint(
                format!(
                    "this rule keeps every edge, but a cell of the space `{}` has two inputs a node",
                    space.name
                ),
                "use the selection `darts-top2`, or `magnitude`, which fits both",
            ));
        }
        let mut cells = Vec::with_capacity(space.cells.len());
        for cell in &space.cells {
            let columns = cell.edges.first().map_or(0, |e| e.operations.len());
            let alpha = alphas.matrix(&space.parameter(cell), cell.edges.len(), columns)?;
            cells.push((cell.name.clone(), select_cell(cell, alpha)));
        }
        Ok(Genotype::new(cells))
    }
}

fn select_cell(cell: &CellSpec, alpha: &[Vec<f64>]) -> GenotypeCell {
    let largest = |row: &[f64]| (1..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b });
    let chosen = |(edge, row): (&EdgeSpec, &Vec<f64>)| GenotypeEdge {
        operation: edge.operations[largest(row)].clone(),
        from: edge.from,
        to: edge.to,
    };
    let edges = cell.edges.iter().zip(alpha).map(chosen).collect();
    GenotypeCell { inputs: cell.inputs, edges, concat: cell.concat() }
}

tetlo_core::register_selection!(
    "argmax",
    Argmax,
    "the operation with the largest α on every edge, none among them"
);

#[cfg(test)]
mod tests {
    use super::*;
    use tetlo_core::space::Skeleton;

    fn space() -> SpaceSpec {
        SpaceSpec {
            name: "test".into(),
            cells: vec![CellSpec::single_input("cell", 2, &["none", "skip", "conv"])],
            skeleton: Skeleton::ResidualStages { channels: 2, cells: 1 },
            grammar: Grammar::OneOperationAnEdge,
            operation_options: std::collections::BTreeMap::new(),
        }
    }

    fn select(rows: &[&[f64]]) -> Result<String> {
        let rows = rows.iter().map(|r| r.to_vec()).collect();
        let values = ArchValues::default().with("arch_parameters", rows);
        Ok(Argmax.select(&space(), &values)?.to_python())
    }

    #[test]
    fn every_edge_has_its_best_operation() {
        let arch = select(&[&[0.0, 2.0, 1.0], &[3.0, -1.0, 2.9], &[-2.0, -3.0, -1.0]]).unwrap();
        assert_eq!(arch, "|skip~0|+|none~0|conv~1|");
    }

    #[test]
    fn ties_keep_the_first() {
        let arch = select(&[&[0.1; 3], &[0.0, 0.2, 0.2], &[0.3, 0.1, 0.3]]).unwrap();
        assert_eq!(arch, "|none~0|+|skip~0|none~1|");
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let [full, thin, nan]: [&[f64]; 3] = [&[0.0; 3], &[0.0; 2], &[0.0, f64::NAN, 0.0]];
        for rows in [&[full; 2][..], &[thin; 3], &[nan; 3]] {
            let error = select(rows).unwrap_err().to_string();
            assert!(error.contains("`arch_parameters`"), "{error}");
        }
        let mut other = space();
        other.grammar = Grammar::TwoInputsANode;
        let error = Argmax.select(&other, &ArchValues::default()).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("two inputs a node"), "{error}");
    }
}
