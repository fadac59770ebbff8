//! The supernet and the derived network of a space, built from its description.
//!
//! Parameter names are those of the authors' `PyTorch` code, so weights travel both ways.

use super::head::AuxiliaryHead;
use super::lower::NetworkBuilder;
use super::mixing::{Mixed, OperationWeights, Places};
use super::model::{KernelNetwork, MASK_STRIDE, Resolutions, Top};
use super::recipe::{Recipe, Site, Step};
use super::skeleton::Skeleton;
use super::spec::SpaceSpec;
use crate::genotype::{Genotype, GenotypeCell};
use crate::kinds::{Operation, Relaxation};
use crate::layout::Layout;
use crate::network::ImageShape;
use crate::registry;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use tetlo_kernels::{Gather, StateId, Weight};

/// How a derived network differs from the skeleton it was searched with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DerivedSize {
    /// Initial channels.
    pub channels: usize,
    /// Number of cells (of each stage where there are stages).
    pub cells: usize,
    /// With the auxiliary head?
    pub auxiliary_head: bool,
}

/// The operations that a space names, built once.
#[derive(Debug)]
struct Operations<'a> {
    options: &'a BTreeMap<String, serde_json::Value>,
    built: BTreeMap<String, Box<dyn Operation>>,
}

impl Operations<'_> {
    fn recipe(&mut self, name: &str, site: Site) -> Result<Recipe> {
        if !self.built.contains_key(name) {
            let options = self.options.get(name).unwrap_or(&serde_json::Value::Null);
            self.built.insert(name.to_owned(), registry::build::<dyn Operation>(name, options)?);
        }
        Ok(self.built[name].recipe(site))
    }
}

/// The stack of cells both networks share: stem, preprocessing, reductions, residual blocks.
struct Stack<'a> {
    spec: &'a SpaceSpec,
    builder: NetworkBuilder,
    operations: Operations<'a>,
    affine: bool,
    /// Outputs of the cell before the last and of the last, as lists of states to concatenate.
    before: Vec<StateId>,
    last: Vec<StateId>,
    reduced: bool,
    channels: usize,
    /// Outputs at the ends of the resolutions before this one.
    finer: Vec<Vec<StateId>>,
}

impl<'a> Stack<'a> {
    fn new(spec: &'a SpaceSpec, image: ImageShape, channels: usize, affine: bool) -> Result<Self> {
        let mut builder = NetworkBuilder::new((image.channels, image.height, image.width));
        let input = builder.graph.input();
        let out = spec.skeleton.stem(channels);
        let stem = builder.chain(
            "stem",
            vec![
                Step::Dense { name: "0".into(), out, kernel: 3, stride: 1 },
                Step::BatchNorm { name: "1".into(), affine: true },
            ],
            &[input],
        )?;
        Ok(Self {
            spec,
            builder,
            operations: Operations { options: &spec.operation_options, built: BTreeMap::new() },
            affine,
            before: vec![stem],
            last: vec![stem],
            reduced: false,
            channels,
            finer: vec![],
        })
    }

    /// The inputs of cell `i`, brought to its channels and resolution.
    fn inputs(&mut self, i: usize) -> Result<Vec<StateId>> {
        if self.spec.skeleton.inputs() == 1 {
            return Ok(self.last.clone());
        }
        let (c, affine) = (self.channels, self.affine);
        let before = self.before.clone();
        let name = format!("cells.{i}.preprocess0");
        let first = if self.reduced {
            let steps = factorized_reduce(c, affine);
            self.builder.chain(&name, steps, &before)?
        } else {
            self.builder.chain(&name, relu_conv_bn(c, affine), &before)?
        };
        let last = self.last.clone();
        let name = format!("cells.{i}.preprocess1");
        let second = self.builder.chain(&name, relu_conv_bn(c, affine), &last)?;
        Ok(vec![first, second])
    }

    /// The residual block at position `i`, which halves the resolution and doubles the channels:
    /// two convolutions beside a 2 × 2 average pool and a 1 × 1 convolution.
    fn residual_block(&mut self, i: usize) -> Result<Vec<StateId>> {
        let (name, out, input) = (format!("cells.{i}"), self.channels, self.last.clone());
        let convolution = |branch: &str, stride| {
            [
                Step::Relu,
                Step::Dense { name: format!("{branch}.op.1"), out, kernel: 3, stride },
                Step::BatchNorm { name: format!("{branch}.op.2"), affine: true },
            ]
        };
        let main = [convolution("conv_a", 2), convolution("conv_b", 1)].concat();
        let pooled = self.builder.chain(&name, vec![Step::AvgPool2], &input)?;
        let shortcut = vec![Step::Pointwise { name: "downsample.1".into(), out, stride: 1 }];
        let mut terms = Vec::new();
        for (steps, input) in [(main, input), (shortcut, vec![pooled])] {
            let recipe = Recipe::Chain(steps);
            terms.extend(self.builder.term(&name, &recipe, &input, Weight::One)?);
        }
        Ok(vec![self.builder.graph.state(terms)?])
    }

    /// What is pooled to the embedding, and whether it is rectified first.
    fn features(&mut self) -> Result<(Vec<StateId>, bool)> {
        match self.spec.skeleton {
            Skeleton::TwoInputs { .. } => Ok((self.last.clone(), false)),
            Skeleton::ResidualStages { .. } => {
                let norm = vec![Step::BatchNorm { name: "0".into(), affine: true }];
                let last = self.last.clone();
                Ok((vec![self.builder.chain("lastact", norm, &last)?], true))
            }
        }
    }

    /// The next cell or block halves the resolution and doubles the channels.
    fn reduce(&mut self) {
        self.channels *= 2;
        self.finer.push(self.last.clone());
    }

    /// The ends of all resolutions, as they are read by others.
    fn resolutions(&self) -> Resolutions {
        let states = [self.finer.as_slice(), std::slice::from_ref(&self.last)].concat();
        Resolutions { states, relu: false }
    }

    fn push(&mut self, output: Vec<StateId>, reduction: bool) {
        self.before = std::mem::replace(&mut self.last, output);
        self.reduced = reduction;
    }
}

fn relu_conv_bn(out: usize, affine: bool) -> Vec<Step> {
    vec![
        Step::Relu,
        Step::Pointwise { name: "op.1".into(), out, stride: 1 },
        Step::BatchNorm { name: "op.2".into(), affine },
    ]
}

fn factorized_reduce(out: usize, affine: bool) -> Vec<Step> {
    vec![
        Step::Relu,
        Step::FactorizedReduce { even: "conv_1".into(), odd: "conv_2".into(), out },
        Step::BatchNorm { name: "bn".into(), affine },
    ]
}

/// Stride of an edge out of state `from` (states 0 and 1 are the cell's inputs).
fn stride(reduction: bool, from: usize) -> usize {
    if reduction && from < 2 { 2 } else { 1 }
}

impl SpaceSpec {
    /// The weight-sharing one-shot model: every edge carries all its operations, weighted by the
    /// relaxed architecture parameters.
    ///
    /// # Errors
    /// An operation is unknown, or the images do not fit the reductions.
    pub fn supernet(
        &self,
        image: ImageShape,
        classes: usize,
        relaxation: Arc<dyn Relaxation>,
    ) -> Result<KernelNetwork> {
        self.mixing.check(self.skeleton.channels()).map_err(Error::config)?;
        let places = Places::new(self);
        let mut stack = Stack::new(self, image, self.skeleton.channels(), false)?;
        for i in 0..self.skeleton.positions() {
            let reduction = self.skeleton.is_reduction(i);
            if reduction {
                stack.reduce();
            }
            let output = match self.skeleton.kind_at(i) {
                Some(name) => mixed_cell(&mut stack, i, name, reduction, &places)?,
                None => stack.residual_block(i)?,
            };
            stack.push(output, reduction);
        }
        let (features, relu) = stack.features()?;
        let top = Top {
            features,
            relu,
            classes,
            classifier: "classifier",
            architecture: self.architecture(),
            operation_weights: Some(OperationWeights::new(self, relaxation)),
            auxiliary: None,
            droppable: 0,
            resolutions: stack.resolutions(),
        };
        KernelNetwork::finish(stack.builder, top)
    }

    /// The derived network of a genotype: one operation an edge, batch normalisation with scale and
    /// shift, drop-path on everything but identities, perhaps an auxiliary head.
    ///
    /// # Errors
    /// The genotype is not of this space, or the images do not fit.
    pub fn derived(
        &self,
        genotype: &Genotype,
        image: ImageShape,
        classes: usize,
        size: DerivedSize,
    ) -> Result<KernelNetwork> {
        self.check(genotype)?;
        if size.channels == 0 || size.cells == 0 {
            return Err(Error::config("a derived network needs at least 1 channel and 1 cell"));
        }
        let skeleton = self.skeleton.resized(size.channels, size.cells);
        let mut stack = Stack::new(self, image, size.channels, true)?;
        let (mut droppable, mut auxiliary) = (0, None);
        for i in 0..skeleton.positions() {
            let reduction = skeleton.is_reduction(i);
            if reduction {
                stack.reduce();
            }
            let output = match skeleton.kind_at(i) {
                Some(name) => {
                    let cell = genotype
                        .cell(name)
                        .ok_or_else(|| Error::Genotype(format!("the cell `{name}` is missing")))?;
                    derived_cell(&mut stack, i, cell, reduction, &mut droppable)?
                }
                None => stack.residual_block(i)?,
            };
            stack.push(output, reduction);
            if size.auxiliary_head && i == skeleton.auxiliary_position() {
                let shape = stack.builder.joint_shape(&stack.last);
                auxiliary = Some((shape, stack.last.clone()));
            }
        }
        let (features, relu) = stack.features()?;
        // The head's parameters stand after all the cells', as in the authors' code.
        let auxiliary = match auxiliary {
            None => None,
            Some((shape, states)) => {
                let NetworkBuilder { weights, buffers, .. } = &mut stack.builder;
                Some((AuxiliaryHead::new(shape, classes, weights, buffers)?, states))
            }
        };
        let top = Top {
            features,
            relu,
            classes,
            classifier: "classifier",
            architecture: Layout::new(),
            operation_weights: None,
            auxiliary,
            droppable,
            resolutions: stack.resolutions(),
        };
        KernelNetwork::finish(stack.builder, top)
    }
}

fn mixed_cell(
    stack: &mut Stack<'_>,
    i: usize,
    name: &str,
    reduction: bool,
    places: &Places,
) -> Result<Vec<StateId>> {
    let spec = stack.spec;
    let cell = spec
        .cell(name)
        .ok_or_else(|| Error::config(format!("space `{}` has no cell `{name}`", spec.name)))?;
    let mut states = stack.inputs(i)?;
    // Between gathers the kernels run several images of so few channels in one register.
    let packed = spec.mixing.factor == 1 && tetlo_kernels::packs(stack.channels);
    if packed {
        states = states.iter().map(|s| stack.builder.joined(&[*s])).collect::<Result<_>>()?;
    }
    let mut mixed = Mixed::new(spec.mixing, stack.channels);
    // Parameters stand in edge order, whatever the order of the nodes.
    for to in cell.inputs..cell.states() {
        let (mut terms, mut edges) = (Vec::new(), Vec::new());
        for (row, edge) in cell.edges.iter().enumerate().filter(|(_, e)| e.to == to) {
            let edge_name = spec.skeleton.mixed_edge(i, row, (edge.from, edge.to));
            let stride = stride(reduction, edge.from);
            let site = Site { channels: mixed.channels(), stride, affine: stack.affine };
            let input = [mixed.input(&mut stack.builder, &states, edge.from)?];
            for (column, operation) in edge.operations.iter().enumerate() {
                let recipe = stack.operations.recipe(operation, site)?;
                let prefix = format!("{edge_name}.{column}");
                let weight = places.operation(cell, row, column);
                terms.extend(stack.builder.term(&prefix, &recipe, &input, weight)?);
            }
            edges.push((states[edge.from], stride, places.edge(cell, row)));
        }
        let sum = node(stack, (mixed.channels(), states[0]), reduction, terms)?;
        states.push(mixed.node(&mut stack.builder, sum, &edges)?);
    }
    let outputs: Vec<StateId> = cell.concat().iter().map(|s| states[*s]).collect();
    if packed {
        let groups = outputs.chunks(Gather::MOST_INPUTS);
        return groups.map(|group| stack.builder.joined(group)).collect();
    }
    Ok(outputs)
}

fn derived_cell(
    stack: &mut Stack<'_>,
    i: usize,
    cell: &GenotypeCell,
    reduction: bool,
    droppable: &mut usize,
) -> Result<Vec<StateId>> {
    let mut states = stack.inputs(i)?;
    let nodes = cell.edges.iter().map(|e| e.to).chain(cell.concat.iter().copied()).max();
    for to in cell.inputs..nodes.map_or(0, |last| last + 1) {
        let mut terms = Vec::new();
        for (index, edge) in cell.edges.iter().enumerate().filter(|(_, e)| e.to == to) {
            let stride = stride(reduction, edge.from);
            let site = Site { channels: stack.channels, stride, affine: true };
            let recipe = stack.operations.recipe(&edge.operation, site)?;
            let identity = matches!(&recipe, Recipe::Chain(steps) if steps.is_empty());
            let weight = if identity {
                Weight::One
            } else {
                *droppable += 1;
                Weight::PerImage((*droppable - 1) * MASK_STRIDE)
            };
            let prefix = stack.spec.skeleton.derived_edge(i, index);
            let input = [states[edge.from]];
            terms.extend(stack.builder.term(&prefix, &recipe, &input, weight)?);
        }
        states.push(node(stack, (stack.channels, states[0]), reduction, terms)?);
    }
    Ok(cell.concat.iter().map(|s| states[*s]).collect())
}

/// A node: the sum of its terms; zero where all its operations are `none`.
fn node(
    stack: &mut Stack<'_>,
    (channels, input): (usize, StateId),
    reduction: bool,
    terms: Vec<tetlo_kernels::Term>,
) -> Result<StateId> {
    if terms.is_empty() {
        let (_, h, w) = stack.builder.graph.shape(input);
        let half = |side: usize| if reduction { side.div_ceil(2) } else { side };
        return Ok(stack.builder.graph.state_with_shape(channels, half(h), half(w), terms)?);
    }
    Ok(stack.builder.graph.state(terms)?)
}
