//! DARTS's rule: two inputs a node, the best operation on each.

use std::cmp::Ordering;
use tetlo_core::genotype::{Genotype, GenotypeCell, GenotypeEdge};
use tetlo_core::kinds::Selection;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::space::{ArchValues, CellSpec, EdgeSpec, Grammar, SpaceSpec};
use tetlo_core::{Error, Result};

/// The operation that no derived cell contains.
const NONE: &str = "none";

/// Keeps, for each node, the two incoming edges with the largest softmax weight of an operation
/// other than `none`, strongest first, and on each the strongest operation other than `none`
/// (Liu et al. 2019, §2.4; the order of the two is that of the authors' code).
///
/// Reads raw α (`alphas_<cell>`, edges × operations). Ties keep the first edge and the first
/// operation.
#[derive(Debug)]
pub struct DartsTop2;

impl FromOptions for DartsTop2 {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Selection for DartsTop2 {
    fn select(&self, space: &SpaceSpec, alphas: &ArchValues) -> Result<Genotype> {
        if space.grammar != Grammar::TwoInputsANode {
            return Err(Error::config_hint(
                format!(
                    "this rule keeps two inputs a node, but a cell of the space `{}` has one \
                     operation on every edge",
                    space.name
                ),
                "use the selection `argmax`, or `magnitude`, which fits both",
            ));
        }
        let mut cells = Vec::with_capacity(space.cells.len());
        for cell in &space.cells {
            let columns = cell.edges.first().map_or(0, |e| e.operations.len());
            let alpha = alphas.matrix(&space.parameter(cell), cell.edges.len(), columns)?;
            cells.push((cell.name.clone(), select_cell(cell, alpha)?));
        }
        Ok(Genotype::new(cells))
    }
}

/// An edge into the node at hand with its best operation.
struct Candidate<'a> {
    edge: &'a EdgeSpec,
    operation: usize,
    weight: f64,
}

fn select_cell(cell: &CellSpec, alpha: &[Vec<f64>]) -> Result<GenotypeCell> {
    let mut edges = Vec::with_capacity(2 * cell.nodes);
    for to in cell.inputs..cell.states() {
        let mut candidates = Vec::new();
        for (edge, row) in cell.edges.iter().zip(alpha).filter(|(e, _)| e.to == to) {
            let (operation, weight) = best(edge, row).ok_or_else(|| {
                Error::Invalid(format!(
                    "the edge from state {} to {to} of cell `{}` offers nothing but `{NONE}`",
                    edge.from, cell.name
                ))
            })?;
            candidates.push(Candidate { edge, operation, weight });
        }
        if candidates.len() < 2 {
            return Err(Error::Invalid(format!(
                "state {to} of cell `{}` has {} edges, two are to be kept",
                cell.name,
                candidates.len()
            )));
        }
        // Stable: equal weights stay in the order of the edges.
        candidates.sort_by(|a, b| b.weight.partial_cmp(&a.weight).unwrap_or(Ordering::Equal));
        edges.extend(candidates[..2].iter().map(|c| GenotypeEdge {
            operation: c.edge.operations[c.operation].clone(),
            from: c.edge.from,
            to,
        }));
    }
    Ok(GenotypeCell { inputs: cell.inputs, edges, concat: cell.concat() })
}

/// The first operation with the largest α that is not `none`, and its softmax weight.
fn best(edge: &EdgeSpec, row: &[f64]) -> Option<(usize, f64)> {
    let mut best: Option<usize> = None;
    for (i, operation) in edge.operations.iter().enumerate() {
        if operation != NONE && best.is_none_or(|b| row[i] > row[b]) {
            best = Some(i);
        }
    }
    let best = best?;
    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut exponentials: Vec<f64> = row.iter().map(|a| (a - top).exp()).collect();
    let numerator = exponentials[best];
    // Added in order of size, so that edges with equal α in another order tie to the bit.
    exponentials.sort_by(f64::total_cmp);
    Some((best, numerator / exponentials.iter().sum::<f64>()))
}

tetlo_core::register_selection!(
    "darts-top2",
    DartsTop2,
    "two inputs a node by the largest softmax weight, the best operation on each, never none"
);

#[cfg(test)]
mod tests {
    use super::*;
    use tetlo_core::space::Skeleton;

    fn space(nodes: usize, operations: &[&str]) -> SpaceSpec {
        SpaceSpec {
            name: "test".into(),
            cells: vec![CellSpec::complete("normal", nodes, operations)],
            skeleton: Skeleton::TwoInputs { channels: 2, cells: 1, stem_multiplier: 1 },
            grammar: Grammar::TwoInputsANode,
            operation_options: std::collections::BTreeMap::new(),
        }
    }

    fn select(space: &SpaceSpec, rows: &[&[f64]]) -> Result<Vec<(String, usize)>> {
        let rows = rows.iter().map(|r| r.to_vec()).collect();
        let values = ArchValues::default().with("alphas_normal", rows);
        let genotype = DartsTop2.select(space, &values)?;
        let cell = genotype.cell("normal").unwrap();
        Ok(cell.edges.iter().map(|e| (e.operation.clone(), e.from)).collect())
    }

    fn named(edges: &[(&str, usize)]) -> Vec<(String, usize)> {
        edges.iter().map(|(o, f)| ((*o).to_owned(), *f)).collect()
    }

    #[test]
    fn the_strongest_edge_stands_first() {
        let space = space(2, &["none", "skip", "conv"]);
        let rows: [&[f64]; 5] = [
            &[0.0, 0.0, 1.0],
            &[0.0, 2.0, 0.0],
            &[0.0, 0.0, 0.5],
            &[0.0, 0.1, 0.0],
            &[0.0, 3.0, 0.0],
        ];
        let expected = named(&[("skip", 1), ("conv", 0), ("skip", 2), ("conv", 0)]);
        assert_eq!(select(&space, &rows).unwrap(), expected);
    }

    #[test]
    fn none_weighs_on_its_edge_but_is_never_chosen() {
        let space = space(2, &["none", "skip", "conv"]);
        // Edges into node 1: raw α of the first is the largest, but `none` takes nearly all of it.
        let rows: [&[f64]; 5] = [
            &[9.0, 0.0, 1.0],
            &[9.0, 1.0, 0.0],
            &[9.0, 0.0, 3.0],
            &[0.0, 0.5, 0.0],
            &[0.0, 0.0, 0.4],
        ];
        let expected = named(&[("conv", 0), ("skip", 1), ("skip", 1), ("conv", 2)]);
        assert_eq!(select(&space, &rows).unwrap(), expected);
    }

    #[test]
    fn ties_keep_the_first() {
        let space = space(2, &["none", "skip", "conv", "pool"]);
        let flat: &[f64] = &[0.3; 4];
        let expected = named(&[("skip", 0), ("skip", 1), ("skip", 0), ("skip", 1)]);
        assert_eq!(select(&space, &[flat; 5]).unwrap(), expected);
        // The same α in another order is the same weight, to the bit.
        let rows: [&[f64]; 5] = [
            &[0.1, 0.2, 0.3, 0.7],
            &[0.3, 0.7, 0.2, 0.1],
            &[0.2, 0.7, 0.1, 0.3],
            &[0.1, 0.3, 0.7, 0.2],
            &[0.3, 0.2, 0.1, 0.7],
        ];
        let expected = named(&[("pool", 0), ("skip", 1), ("skip", 0), ("conv", 1)]);
        assert_eq!(select(&space, &rows).unwrap(), expected);
    }

    #[test]
    fn large_parameters_do_not_overflow() {
        let space = space(1, &["none", "skip"]);
        let expected = named(&[("skip", 1), ("skip", 0)]);
        assert_eq!(select(&space, &[&[0.0, -1e4], &[-1e4, 1e4]]).unwrap(), expected);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let only_none = space(1, &["none"]);
        let error = select(&only_none, &[&[0.0], &[0.0]]).unwrap_err().to_string();
        assert!(error.contains("nothing but `none`"), "{error}");
        let space = space(1, &["none", "skip"]);
        for rows in
            [&[&[0.0, 1.0][..]][..], &[&[0.0][..], &[0.0]], &[&[0.0, f64::NAN], &[0.0, 0.0]]]
        {
            let error = select(&space, rows).unwrap_err().to_string();
            assert!(error.contains("`alphas_normal`"), "{error}");
        }
        let mut thin = space;
        thin.cells[0].edges.pop();
        let error = select(&thin, &[&[0.0, 1.0]]).unwrap_err().to_string();
        assert!(error.contains("state 2 of cell `normal` has 1 edges"), "{error}");
    }
}
