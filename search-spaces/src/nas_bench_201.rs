//! The cell space of NAS-Bench-201.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tetlo_core::kinds::SearchSpace;
use tetlo_core::registry::FromOptions;
use tetlo_core::space::{CellSpec, Grammar, SINGLE_CELL, Skeleton, SpaceSpec};
use tetlo_core::{Error, Result};

/// The candidate operations of every edge, in the order of the columns of α.
pub const OPERATIONS: [&str; 5] =
    ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"];

/// Nodes of a cell after its input.
const NODES: usize = 3;

/// Options of the space `nas-bench-201`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NasBench201Options {
    /// Channels C of the first stage; the second has 2C, the third 4C.
    #[schemars(range(min = 1))]
    pub channels: usize,
    /// Cells of each of the three stages.
    #[schemars(range(min = 1))]
    pub cells: usize,
}

impl Default for NasBench201Options {
    fn default() -> Self {
        Self { channels: 16, cells: 5 }
    }
}

/// The space of NAS-Bench-201 (Dong and Yang, ICLR 2020, §2), which is also the topology space of
/// NATS-Bench: one kind of cell, an input and three nodes, an edge between every two of them with
/// five candidate operations, so 15,625 cells; three stages of cells with a residual block of stride
/// 2 between.
///
/// α is 6 × 5 and called `arch_parameters` as in the authors' code, rows in the order 1←0, 2←0, 2←1,
/// 3←0, 3←1, 3←2; a discrete cell has one operation on every edge, which may be `none`. As in the
/// authors' search network for DARTS, batch normalisation in cells has neither scale nor shift, that
/// of stem, residual blocks and top has both, and pools are not normalised.
#[derive(Debug)]
pub struct NasBench201 {
    options: NasBench201Options,
}

impl FromOptions for NasBench201 {
    type Options = NasBench201Options;

    fn from_options(options: NasBench201Options) -> Result<Self> {
        let NasBench201Options { channels, cells } = options;
        if channels == 0 {
            return Err(Error::config("`channels` must be at least 1"));
        }
        if cells == 0 {
            return Err(Error::config("`cells` must be at least 1"));
        }
        Ok(Self { options })
    }
}

impl SearchSpace for NasBench201 {
    fn spec(&self) -> SpaceSpec {
        let NasBench201Options { channels, cells } = self.options;
        SpaceSpec {
            name: "nas-bench-201".into(),
            cells: vec![CellSpec::single_input(SINGLE_CELL, NODES, &OPERATIONS)],
            skeleton: Skeleton::ResidualStages { channels, cells },
            grammar: Grammar::OneOperationAnEdge,
            operation_options: [("avg_pool_3x3".to_owned(), json!({"normalise": false}))].into(),
        }
    }
}

tetlo_core::register_search_space!(
    "nas-bench-201",
    NasBench201,
    "the cells of NAS-Bench-201: six edges with five operations each, 15,625 cells"
);

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use tetlo_core::genotype::Genotype;
    use tetlo_core::kinds::{Operation, Relaxation};
    use tetlo_core::network::{ImageShape, Network};
    use tetlo_core::registry;
    use tetlo_core::rng::{Key, Purpose, Stream};
    use tetlo_core::space::DerivedSize;

    const IMAGE: ImageShape = ImageShape { channels: 3, height: 32, width: 32 };

    fn spec() -> SpaceSpec {
        let space = NasBench201::from_options(NasBench201Options::default()).unwrap();
        space.spec().validated().unwrap()
    }

    fn size(arch: &str, classes: usize) -> (usize, u64) {
        let size = DerivedSize { channels: 16, cells: 5, auxiliary_head: false };
        let genotype = Genotype::parse(arch).unwrap();
        let network = spec().derived(&genotype, IMAGE, classes, size).unwrap();
        (network.weights().len(), network.multiply_adds())
    }

    /// Parameters and FLOPs that the benchmark records (there in millions). Its FLOPs count the
    /// classifier's bias, so are `classes` more than ours.
    #[test]
    fn networks_have_the_published_sizes() {
        let all = |op: &str| format!("|{op}~0|+|{op}~0|{op}~1|+|{op}~0|{op}~1|{op}~2|");
        for (arch, params, flops) in [
            (all("nor_conv_3x3"), 1_531_546, 220_119_690),
            (all("nor_conv_1x1"), 241_306, 31_376_010),
            (all("skip_connect"), 73_306, 7_783_050),
            (all("none"), 73_306, 7_783_050),
            (
                "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|\
                 skip_connect~2|"
                    .to_owned(),
                129_306,
                15_647_370,
            ),
        ] {
            let (weights, multiply_adds) = size(&arch, 10);
            assert_eq!(weights, params, "{arch}");
            assert_eq!(multiply_adds + 10, flops, "{arch}");
            assert_eq!(size(&arch, 100).0 - weights, 5850, "{arch}");
        }
    }

    #[test]
    fn the_graph_is_that_of_the_paper() {
        let spec = spec();
        let ends: Vec<_> = spec.cells[0].edges.iter().map(|e| (e.to, e.from)).collect();
        assert_eq!(ends, [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]);
        let layout = spec.architecture();
        let alpha = &layout.entries()[0];
        assert_eq!((&*alpha.name, &*alpha.shape), ("arch_parameters", &[6, 5][..]));
        let blocks: Vec<_> = (0..17).filter(|i| spec.skeleton.is_reduction(*i)).collect();
        assert_eq!((blocks, spec.skeleton.positions()), (vec![5, 11], 17));
        for name in OPERATIONS {
            assert!(registry::find::<dyn Operation>(name).is_ok(), "{name}");
        }
    }

    /// A relaxation, since the real ones are another crate's.
    #[derive(Debug)]
    struct Identity;

    impl Relaxation for Identity {
        fn weights(&self, alpha: &Tensor, _: &mut Stream) -> Result<Tensor> {
            Ok(alpha.clone())
        }
    }

    #[test]
    fn weights_have_the_authors_names() {
        let space =
            NasBench201::from_options(NasBench201Options { channels: 4, cells: 1 }).unwrap();
        let spec = space.spec().validated().unwrap();
        let supernet = spec.supernet(IMAGE, 10, Arc::new(Identity)).unwrap();
        let names = |n: &dyn Network| {
            n.weights().entries().iter().map(|e| e.name.clone()).collect::<Vec<_>>()
        };
        let all = names(&supernet);
        let expected = [
            "stem.0.weight",
            "stem.1.weight",
            "stem.1.bias",
            "cells.0.edges.1<-0.2.op.1.weight",
            "cells.0.edges.1<-0.3.op.1.weight",
        ];
        assert_eq!(all[..5], expected);
        let block = [
            "conv_a.op.1.weight",
            "conv_a.op.2.weight",
            "conv_a.op.2.bias",
            "conv_b.op.1.weight",
            "conv_b.op.2.weight",
            "conv_b.op.2.bias",
            "downsample.1.weight",
        ];
        assert_eq!(all[15..22], block.map(|name| format!("cells.1.{name}")));
        let top = ["lastact.0.weight", "lastact.0.bias", "classifier.weight", "classifier.bias"];
        assert_eq!(all[all.len() - 4..], top);
        let genotype = Genotype::parse(
            "|none~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|none~1|nor_conv_3x3~2|",
        );
        let size = DerivedSize { channels: 4, cells: 1, auxiliary_head: false };
        let derived = spec.derived(&genotype.unwrap(), IMAGE, 10, size).unwrap();
        let cell = ["1.op.1.weight", "1.op.2.weight", "1.op.2.bias", "5.op.1.weight"];
        assert_eq!(names(&derived)[3..7], cell.map(|name| format!("cells.0.layers.{name}")));
    }

    /// Every cell is in the space, and samples are uniform.
    #[test]
    fn samples_are_uniform() {
        const SAMPLES: usize = 31_250; // two a cell
        let mut draws = Key::new(4, Purpose::Sample).stream();
        let mut seen = BTreeSet::new();
        let mut counts = [[0usize; 5]; 6];
        for _ in 0..SAMPLES {
            let genotype = spec().sample(&mut draws).unwrap();
            spec().check(&genotype).unwrap();
            for (count, edge) in counts.iter_mut().zip(&genotype.cell(SINGLE_CELL).unwrap().edges) {
                count[OPERATIONS.iter().position(|o| *o == edge.operation).unwrap()] += 1;
            }
            seen.insert(genotype.to_python());
        }
        // 15,625·(1 − e⁻²) = 13,510 ± 40 different ones; 6,250 ± 71 of each operation.
        assert!((13_350..13_670).contains(&seen.len()), "{}", seen.len());
        assert!(counts.as_flattened().iter().all(|n| n.abs_diff(6250) < 300), "{counts:?}");
    }

    #[test]
    fn what_is_not_in_the_space_is_said() {
        for (text, part) in [
            ("|nor_conv_3x3~0|+|skip_connect~0|none~1|", "the edge from node 0 to 3 has 0"),
            (
                "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|none~0|none~1|sep_conv_3x3~2|",
                "the edge from node 2 to 3 has the operation `sep_conv_3x3`",
            ),
            (
                "|none~0|none~0|+|skip_connect~0|none~1|+|none~0|none~1|none~2|",
                "the edge from node 0 to 1 has 2 operations",
            ),
            (
                "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|+|none~0|",
                "no edge from state 0 to state 4",
            ),
            ("{\"normal\": [], \"normal_concat\": [2]}", "found: normal"),
        ] {
            let error = spec().check(&Genotype::parse(text).unwrap()).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn options_out_of_range_name_the_key() {
        for (channels, cells, key) in [(0, 5, "`channels`"), (8, 0, "`cells`")] {
            let error = NasBench201::from_options(NasBench201Options { channels, cells });
            assert!(error.unwrap_err().to_string().contains(key));
        }
    }
}
