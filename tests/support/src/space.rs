//! Search spaces, and the spaces that other suites work on.

use crate::Suite;
use crate::network;
use crate::numbers::draws;
use crate::report::{Check, Report, ensure};
use candle_core::{D, Tensor};
use std::collections::BTreeSet;
use std::sync::Arc;
use tetlo_core::Result;
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{Operation, Relaxation, SearchSpace};
use tetlo_core::network::{ImageShape, Network};
use tetlo_core::registry::{entries, find};
use tetlo_core::rng::Stream;
use tetlo_core::space::{CellSpec, DerivedSize, Grammar, Mixing, Skeleton, SpaceSpec};

/// A small network has one cell before, between and after its reductions.
const CELLS: usize = 3;
const CHANNELS: usize = 4;
const IMAGE: ImageShape = ImageShape { channels: 3, height: 16, width: 16 };
const CLASSES: usize = 5;

/// Is a search space linked in?
pub(crate) fn registered() -> bool {
    !entries::<dyn SearchSpace>().is_empty()
}

fn small(spec: SpaceSpec) -> SpaceSpec {
    // Stages have their reductions between them, however short they are.
    let cells = if spec.skeleton.inputs() == 1 { 1 } else { CELLS };
    SpaceSpec { skeleton: spec.skeleton.resized(CHANNELS, cells), ..spec }
}

/// The registered spaces in a small size, or a small one of two nodes.
pub(crate) fn spaces() -> Vec<SpaceSpec> {
    // One that does not build fails its own suite.
    let built =
        entries::<dyn SearchSpace>().into_iter().filter_map(|e| e.build(&e.defaults()).ok());
    let list: Vec<SpaceSpec> = built.map(|space| small(space.spec())).collect();
    if !list.is_empty() {
        return list;
    }
    let operations = ["none", "skip_connect", "max_pool_3x3", "sep_conv_3x3"];
    vec![SpaceSpec {
        name: "small".into(),
        cells: ["normal", "reduce"].map(|c| CellSpec::complete(c, 2, &operations)).to_vec(),
        skeleton: Skeleton::TwoInputs { channels: CHANNELS, cells: CELLS, stem_multiplier: 3 },
        grammar: Grammar::TwoInputsANode,
        mixing: Mixing::default(),
        operation_options: std::collections::BTreeMap::new(),
    }]
}

/// Is the genotype one of the space: its edges, their operations and its grammar?
pub(crate) fn belongs(space: &SpaceSpec, genotype: &Genotype) -> Check {
    space.check(genotype)?;
    let names: Vec<&str> = genotype.cells().map(|(name, _)| name).collect();
    ensure!(names.len() == space.cells.len(), "the genotype has the cells {names:?}");
    for spec in &space.cells {
        let Some(cell) = genotype.cell(&spec.name) else { continue };
        for e in &cell.edges {
            let edge = spec.edges.iter().find(|s| s.from == e.from && s.to == e.to);
            let offered = edge.is_some_and(|s| s.operations.contains(&e.operation));
            ensure!(offered, "no edge from {} to {} offers `{}`", e.from, e.to, e.operation);
        }
        match space.grammar {
            Grammar::TwoInputsANode => {
                for state in 2..spec.nodes + 2 {
                    let from: BTreeSet<usize> = cell.into_state(state).map(|e| e.from).collect();
                    let two = from.len() == 2 && cell.into_state(state).count() == 2;
                    ensure!(two, "state {state} of `{}` takes {from:?}, not two inputs", spec.name);
                }
                let none = cell.edges.iter().any(|e| e.operation == "none");
                ensure!(!none, "cell `{}` contains `none`", spec.name);
            }
            Grammar::OneOperationAnEdge => {
                let (kept, all) = (cell.edges.len(), spec.edges.len());
                ensure!(kept == all, "cell `{}` has {kept} of {all} edges", spec.name);
            }
        }
    }
    Ok(())
}

/// The relaxation of DARTS, for suites of other kinds.
#[derive(Debug)]
pub(crate) struct Softmax;

impl Relaxation for Softmax {
    fn weights(&self, alpha: &Tensor, _: &mut Stream) -> Result<Tensor> {
        let exponentials = alpha.exp()?;
        Ok(exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)?)
    }
}

impl Suite for dyn SearchSpace {
    fn suite(space: &Self, report: &mut Report<'_>) {
        let spec = space.spec();
        report.check("description", || {
            ensure!(space.spec() == spec, "two calls differ");
            spec.clone().validated()?;
            for operation in spec.cells.iter().flat_map(|c| &c.edges).flat_map(|e| &e.operations) {
                find::<dyn Operation>(operation)?;
            }
            Ok(())
        });
        report.check("samples", || samples(&spec));
        report.check("the networks of default size", || {
            let image = ImageShape { channels: 3, height: 32, width: 32 };
            let supernet = spec.supernet(image, 10, Arc::new(Softmax))?;
            let (channels, cells) = (spec.skeleton.channels(), spec.skeleton.cells());
            let size = DerivedSize { channels, cells, auxiliary_head: true };
            let derived = spec.derived(&spec.sample(&mut draws(0))?, image, 10, size)?;
            let (all, one) = (supernet.weights().len(), derived.weights().len());
            ensure!(all > 0 && one > 0, "no weights");
            // Where only some channels go through the operations, either may cost more.
            ensure!(
                spec.mixing.factor > 1 || supernet.multiply_adds() > derived.multiply_adds(),
                "the supernet costs less than one of its networks"
            );
            Ok(())
        });
        let small = small(spec);
        let cells = small.skeleton.cells();
        let mut supernet = None;
        report.check("supernet", || {
            supernet = Some(small.supernet(IMAGE, CLASSES, Arc::new(Softmax))?.with_maps()?);
            Ok(())
        });
        if let Some(supernet) = supernet {
            network::check(report, "supernet", &supernet, IMAGE, CLASSES);
            report.check("supernet", || network::gives_maps(&supernet, IMAGE, true));
        }
        for auxiliary_head in [false, true] {
            let what = if auxiliary_head { "derived network with head" } else { "derived network" };
            let mut derived = None;
            report.check(what, || {
                let genotype = small.sample(&mut draws(1))?;
                let size = DerivedSize { channels: CHANNELS, cells, auxiliary_head };
                let network = small.derived(&genotype, IMAGE, CLASSES, size)?;
                derived = Some(if auxiliary_head { network.with_maps()? } else { network });
                Ok(())
            });
            if let Some(derived) = derived {
                network::check(report, what, &derived, IMAGE, CLASSES);
                report.check(what, || network::gives_maps(&derived, IMAGE, auxiliary_head));
            }
        }
    }
}

fn samples(spec: &SpaceSpec) -> Check {
    let mut seen = Vec::new();
    for seed in 0..50 {
        let genotype = spec.sample(&mut draws(seed))?;
        ensure!(spec.sample(&mut draws(seed))? == genotype, "equal draws give two genotypes");
        belongs(spec, &genotype)?;
        for text in [genotype.to_json().to_string(), genotype.to_python()] {
            let read = Genotype::parse(&text)?;
            ensure!(read == genotype, "{text} is read as {}", read.to_json());
        }
        if !seen.contains(&genotype) {
            seen.push(genotype);
        }
    }
    ensure!(seen.len() > 1, "50 samples are one genotype");
    Ok(())
}
