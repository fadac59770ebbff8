//! The convolutional space of DARTS.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::SearchSpace;
use tetlo_core::registry::FromOptions;
use tetlo_core::space::{CellSpec, Grammar, Skeleton, SpaceSpec};
use tetlo_core::{Error, Result};

/// The candidate operations of every edge, in the order of the columns of α.
pub const PRIMITIVES: [&str; 8] = [
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
];

/// Intermediate nodes of a cell.
const NODES: usize = 4;

/// Options of the space `darts`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct DartsOptions {
    /// Initial channels C of the supernet; they double in each reduction cell.
    #[schemars(range(min = 1))]
    pub channels: usize,
    /// Cells of the supernet; those at a third and two thirds are reduction cells.
    #[schemars(range(min = 1))]
    pub cells: usize,
}

impl Default for DartsOptions {
    fn default() -> Self {
        Self { channels: 16, cells: 8 }
    }
}

/// The DARTS CNN space (Liu, Simonyan and Yang, ICLR 2019, §3.1): a normal and a reduction cell of
/// two inputs and four nodes, node i joined to all 2 + i states before it, 14 edges with eight
/// candidate operations each.
///
/// α is 14 × 8 a kind of cell; a discrete cell keeps two inputs a node.
#[derive(Debug)]
pub struct Darts {
    options: DartsOptions,
}

impl FromOptions for Darts {
    type Options = DartsOptions;

    fn from_options(options: DartsOptions) -> Result<Self> {
        let DartsOptions { channels, cells } = options;
        if channels == 0 {
            return Err(Error::config("`channels` must be at least 1"));
        }
        if cells == 0 {
            return Err(Error::config("`cells` must be at least 1"));
        }
        Ok(Self { options })
    }
}

impl SearchSpace for Darts {
    fn spec(&self) -> SpaceSpec {
        SpaceSpec {
            name: "darts".into(),
            cells: ["normal", "reduce"]
                .map(|name| CellSpec::complete(name, NODES, &PRIMITIVES))
                .to_vec(),
            skeleton: Skeleton::TwoInputs {
                channels: self.options.channels,
                cells: self.options.cells,
                stem_multiplier: 3,
            },
            grammar: Grammar::TwoInputsANode,
            operation_options: std::collections::BTreeMap::new(),
        }
    }
}

tetlo_core::register_search_space!(
    "darts",
    Darts,
    "the DARTS CNN space: two cells of four nodes, 14 edges with eight operations each"
);

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;
    use std::sync::Arc;
    use tetlo_core::genotype::Genotype;
    use tetlo_core::kinds::{Operation, Relaxation};
    use tetlo_core::network::{ImageShape, Network};
    use tetlo_core::registry;
    use tetlo_core::rng::{Key, Purpose, Stream};
    use tetlo_core::space::DerivedSize;

    const DARTS_V2: &str = "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), \
            ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), \
            ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], \
            reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), \
            ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), \
            ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])";

    /// The sizes that the authors' code logs for CIFAR-10.
    #[test]
    fn networks_have_the_published_sizes() {
        let image = ImageShape { channels: 3, height: 32, width: 32 };
        let supernet = spec().supernet(image, 10, Arc::new(Identity)).unwrap();
        assert_eq!(supernet.weights().len(), 1_930_618);
        let genotype = Genotype::parse(DARTS_V2).unwrap();
        let size = DerivedSize { channels: 36, cells: 20, auxiliary_head: false };
        let derived = spec().derived(&genotype, image, 10, size).unwrap();
        assert_eq!(derived.weights().len(), 3_349_342);
    }

    /// A relaxation, since the real ones are another crate's.
    #[derive(Debug)]
    struct Identity;

    impl Relaxation for Identity {
        fn weights(&self, alpha: &Tensor, _: &mut Stream) -> Result<Tensor> {
            Ok(alpha.clone())
        }
    }

    fn spec() -> SpaceSpec {
        Darts::from_options(DartsOptions::default()).unwrap().spec().validated().unwrap()
    }

    #[test]
    fn the_graph_is_that_of_the_paper() {
        let spec = spec();
        for cell in &spec.cells {
            let ends: Vec<_> = cell.edges.iter().map(|e| (e.from, e.to)).collect();
            assert_eq!(ends.len(), 14);
            // Rows of α: node 0 takes edges 0 and 1, node 1 edges 2 to 4, and so on.
            assert_eq!(ends[..5], [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]);
            assert_eq!(ends[13], (4, 5));
            assert_eq!(cell.concat(), [2, 3, 4, 5]);
        }
        let shapes: Vec<_> = spec
            .architecture()
            .entries()
            .iter()
            .map(|e| (e.name.clone(), e.shape.clone()))
            .collect();
        let expected = [("alphas_normal", vec![14, 8]), ("alphas_reduce", vec![14, 8])];
        assert_eq!(shapes, expected.map(|(n, s)| (n.to_owned(), s)));
        let reductions: Vec<_> = (0..8).filter(|i| spec.skeleton.is_reduction(*i)).collect();
        assert_eq!(reductions, [2, 5]);
    }

    #[test]
    fn every_primitive_is_registered() {
        for name in PRIMITIVES {
            assert!(registry::find::<dyn Operation>(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_published_cell_is_in_the_space() {
        let genotype = Genotype::parse(DARTS_V2).unwrap();
        spec().check(&genotype).unwrap();
        assert_eq!(genotype.skip_count(), 2);
    }

    #[test]
    fn samples_are_in_the_space() {
        let mut draws = Key::new(4, Purpose::Sample).stream();
        for _ in 0..50 {
            let genotype = spec().sample(&mut draws).unwrap();
            spec().check(&genotype).unwrap();
            for (_, cell) in genotype.cells() {
                assert!(cell.edges.iter().all(|e| e.operation != "none"));
                assert!((2..6).all(|node| cell.into_state(node).count() == 2));
            }
        }
    }

    #[test]
    fn options_out_of_range_name_the_key() {
        for (options, key) in [
            (DartsOptions { channels: 0, cells: 8 }, "`channels`"),
            (DartsOptions { channels: 8, cells: 0 }, "`cells`"),
        ] {
            let message = Darts::from_options(options).unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
    }
}
