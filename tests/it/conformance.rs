//! Every registered plugin of every kind against the conformance suite of its kind, and the suites
//! against plugins that are wrong on purpose.

mod losses;

use candle_core::{DType, Tensor};
use schemars::Schema;
use serde_json::{Value, json};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use tetlo_core::data::{Data, Images, Pixels};
use tetlo_core::genotype::{Genotype, GenotypeCell, GenotypeEdge};
use tetlo_core::kinds::{
    Auxiliary, BlackBoxSearch, CheckProblem, Dataset, Evaluated, Evaluator, Hypergradient,
    MultilevelOptimizer, Needs, Operation, Progress, Regularizer, Relaxation, SearchSpace, Seen,
    Selection, Stop, StopRule, SupernetTransform, Trace, TransferBatch, TransferLoss,
};
use tetlo_core::layout::{Init, Layout};
use tetlo_core::network::ImageShape;
use tetlo_core::registry::catalog::KINDS;
use tetlo_core::registry::{self, Describe, Entry, Factory, Kind};
use tetlo_core::rng::{Key, Purpose, Stream};
use tetlo_core::space::{
    ArchValues, CellSpec, Grammar, Mixing, Recipe, Site, Skeleton, SpaceSpec, Step, TensorCode,
    TensorPass, TensorStep,
};
use tetlo_core::{Error, Result};
use tetlo_plugins as _;
use tetlo_search_spaces as _;
use tetlo_test_support::{Suite, check, check_with, every};
use tetlo_tests as _;
use toml::de::ValueDeserializer;

macro_rules! suites {
    ($($test:ident: $kind:ident,)+) => {
        $(
            #[test]
            fn $test() {
                every::<dyn $kind>();
            }
        )+

        #[test]
        fn every_kind_has_a_suite() {
            let mut tested = vec![$(<dyn $kind as Kind>::NAME),+];
            tested.sort_unstable();
            assert_eq!(tested, KINDS.map(|k| k.name));
        }
    };
}

suites! {
    auxiliaries: Auxiliary,
    black_box_searches: BlackBoxSearch,
    check_problems: CheckProblem,
    datasets: Dataset,
    evaluators: Evaluator,
    hypergradients: Hypergradient,
    multilevel_optimizers: MultilevelOptimizer,
    operations: Operation,
    regularizers: Regularizer,
    relaxations: Relaxation,
    search_spaces: SearchSpace,
    selections: Selection,
    stop_rules: StopRule,
    supernet_transforms: SupernetTransform,
    transfer_losses: TransferLoss,
}

/// Options that change what a loss needs or is.
#[test]
fn transfer_losses_with_other_options() {
    let find = registry::find::<dyn TransferLoss>;
    for (name, options) in [
        ("qrs", json!({"sampler": "all"})),
        ("qrs", json!({"sampler": "disjoint", "similarity": "dot", "center": true})),
        ("qrs", json!({"sampler": "stratified", "similarity": "euclidean"})),
        ("qrs", json!({"sampler": "all", "target": "hard-forward"})),
        ("qrs", json!({"sampler": "all", "form": "margin", "min-gap": 0.05})),
        ("kd", json!({"temperature": 1.0})),
        ("pseudo-label", json!({"target": "hard"})),
        ("triplet-relation", json!({"sampler": "all", "similarity": "euclidean"})),
        ("triplet-relation", json!({"sampler": "all", "similarity": "dot"})),
        ("similarity-preserving", json!({"features": "map"})),
        ("hint", json!({"features": "map"})),
        ("hint", json!({"features": "map", "map": 0, "reduction": "mean"})),
        ("attention", json!({"maps": "last", "power": 1.5})),
        ("contrastive", json!({"symmetric": false, "width": 3})),
        ("mistake-weights", json!({"normalisation": "softmax"})),
    ] {
        let result = check_with(find(name).expect("registered"), &options);
        assert_eq!(result, Ok(()), "{name} {options}");
    }
}

/// A plugin that is wrong on purpose; `BUG` says how.
#[derive(Debug)]
struct Wrong<const BUG: usize>;

/// Builds by a function; its description of options does not hold together.
struct WrongFactory<T: ?Sized>(fn(&Value) -> Result<Box<T>>);

impl<T: ?Sized> Describe for WrongFactory<T> {
    fn resolve(&self, _: ValueDeserializer<'_>) -> Result<Value, toml::de::Error> {
        Ok(json!({"kept": 1}))
    }

    fn defaults(&self) -> Value {
        json!({"lost": 1})
    }

    fn schema(&self) -> Schema {
        json!({"properties": {"bare": {}}, "additionalProperties": false})
            .try_into()
            .expect("an object")
    }

    fn check(&self, options: &Value) -> Result<()> {
        (self.0)(options).map(drop)
    }
}

impl<T: ?Sized> Factory<T> for WrongFactory<T> {
    fn build(&self, options: &Value) -> Result<Box<T>> {
        (self.0)(options)
    }
}

fn wrong<T: ?Sized>(build: fn(&Value) -> Result<Box<T>>) -> Entry<T> {
    Entry {
        name: "Wrong",
        summary: " ",
        origin: ("here", "0"),
        code: None,
        factory: Box::leak(Box::new(WrongFactory(build))),
    }
}

/// The suite must find something, and name it.
#[track_caller]
fn found<T: Suite + ?Sized>(build: fn(&Value) -> Result<Box<T>>, parts: &[&str]) {
    let found = check_with(&wrong(build), &json!({})).expect_err("a bug is planted");
    for part in parts {
        assert!(found.contains(part), "`{part}` is not in\n{found}");
    }
}

impl<const BUG: usize> TransferLoss for Wrong<BUG> {
    fn needs(&self) -> Needs {
        let needs = Needs::embeddings(4);
        if BUG == 6 { needs.with_labels() } else { needs }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let (teacher, student) = batch.embeddings()?;
        if BUG == 2 {
            teacher.get(3).expect("four images");
        } else if BUG != 6 {
            batch.check(self.needs())?;
        }
        let norms = |z: &Tensor| z.sqr()?.mean(1);
        let aux = if BUG == 7 { teacher.ones_like()? } else { student.clone() };
        let aux = norms(&aux)?;
        let loss = (norms(teacher)? - &aux)?.sqr()?.mean_all()?;
        Ok(match BUG {
            1 => (&loss * loss.detach())?,
            3 if loss.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_nan() => loss.zeros_like()?,
            4 => (loss * f64::from(1 + CALLS.fetch_add(1, Relaxed)))?,
            5 => loss.reshape(1)?,
            8 => loss.to_dtype(DType::F64)?,
            _ => loss,
        })
    }
}

#[test]
fn planted_transfer_losses_are_found() {
    assert_eq!(
        check_with::<dyn TransferLoss>(&wrong(|_| Ok(Box::new(Wrong::<0>))), &json!({})),
        Ok(())
    );
    found::<dyn TransferLoss>(
        |_| Ok(Box::new(Wrong::<1>)),
        &["the gradient of aux is not that of"],
    );
    found::<dyn TransferLoss>(
        |_| Ok(Box::new(Wrong::<2>)),
        &["a batch of 3 must be an error, not a panic"],
    );
    found::<dyn TransferLoss>(
        |_| Ok(Box::new(Wrong::<3>)),
        &["with NaN in main", "which hides it"],
    );
    found::<dyn TransferLoss>(
        |_| Ok(Box::new(Wrong::<4>)),
        &["the loss differs between two equal calls"],
    );
    found::<dyn TransferLoss>(|_| Ok(Box::new(Wrong::<5>)), &["must be a scalar, has shape [1]"]);
    found::<dyn TransferLoss>(|_| Ok(Box::new(Wrong::<6>)), &["a batch of 3 must be refused"]);
    found::<dyn TransferLoss>(
        |_| Ok(Box::new(Wrong::<7>)),
        &["nothing of the loss depends on aux"],
    );
    found::<dyn TransferLoss>(|_| Ok(Box::new(Wrong::<8>)), &["is F64 of inputs in F32"]);
}

/// A loss on maps and labels with parameters of its own, wrong on purpose.
#[derive(Debug)]
struct WrongMaps<const BUG: usize>;

impl<const BUG: usize> TransferLoss for WrongMaps<BUG> {
    fn needs(&self) -> Needs {
        Needs::batch(2).with_maps().with_logits().with_labels().with_parameters()
    }

    fn parameters(&self, main: &Seen, _: &Seen) -> Result<Layout> {
        let mut layout = Layout::new();
        if BUG != 1 {
            layout.push("scale", &[main.maps.len()], Init::Uniform { bound: 1.0 });
            layout.push("shift", &[1], Init::Uniform { bound: 1.0 });
        }
        Ok(layout)
    }

    fn reaches_main(&self) -> bool {
        BUG != 7
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        if BUG == 2 {
            batch.parameters.as_ref().expect("parameters");
        }
        batch.check(self.needs())?;
        let (main, aux) = batch.maps()?;
        let flat = batch.parameters()?;
        let layout = self.parameters(&batch.main, &batch.aux)?;
        let scale = layout.view(flat, "scale")?;
        let shift = layout.view(flat, "shift")?;
        let shift = if BUG == 3 { shift.zeros_like()? } else { shift };
        let (scores, other) = batch.logits()?;
        if scores.dim(1)? != other.dim(1)? {
            return Err(Error::Invalid("other classes".into()));
        }
        let labels = batch.labels()?;
        if BUG != 8 && labels.iter().any(|l| *l as usize >= scores.dims()[1]) {
            return Err(Error::Invalid("no such class".into()));
        }
        let mut loss = (scores.sqr()?.mean_all()? * other.sqr()?.mean_all()?)?;
        for (i, (main, aux)) in main.iter().zip(aux).enumerate() {
            let power = |map: &Tensor| map.sqr()?.flatten_from(1)?.mean(1);
            let scale = scale.narrow(0, i, 1)?;
            let scale = if BUG == 4 { (&scale * scale.detach())? } else { scale };
            let aux = if BUG == 5 && i == 1 { (aux * aux.detach())? } else { aux.clone() };
            let main = if BUG == 6 && i == 0 {
                let hidden = main.ne(main)?;
                hidden.where_cond(&main.zeros_like()?, main)?
            } else {
                main.clone()
            };
            let apart = (power(&main)?.broadcast_mul(&scale)? - power(&aux)?)?;
            loss = (loss + apart.broadcast_add(&shift)?.sqr()?.mean_all()?)?;
        }
        Ok(loss)
    }
}

#[test]
fn planted_losses_on_maps_with_parameters_are_found() {
    type Loss = dyn TransferLoss;
    assert_eq!(check_with::<Loss>(&wrong(|_| Ok(Box::new(WrongMaps::<0>))), &json!({})), Ok(()));
    found::<Loss>(|_| Ok(Box::new(WrongMaps::<1>)), &["says that it has parameters, but has none"]);
    found::<Loss>(
        |_| Ok(Box::new(WrongMaps::<2>)),
        &["a batch without the loss's parameters must be an error, not a panic"],
    );
    found::<Loss>(
        |_| Ok(Box::new(WrongMaps::<3>)),
        &["nothing of the loss depends on its parameter `shift`"],
    );
    found::<Loss>(
        |_| Ok(Box::new(WrongMaps::<4>)),
        &["the gradient of its parameters is not that of"],
    );
    found::<Loss>(|_| Ok(Box::new(WrongMaps::<5>)), &["the gradient of aux map 1 is not that of"]);
    found::<Loss>(|_| Ok(Box::new(WrongMaps::<6>)), &["with NaN in main map 0", "which hides it"]);
    found::<Loss>(|_| Ok(Box::new(WrongMaps::<7>)), &["reaches main, but `reaches_main` is false"]);
    found::<Loss>(|_| Ok(Box::new(WrongMaps::<8>)), &["the label 5 of 5 classes must be refused"]);
}

impl<const BUG: usize> Operation for Wrong<BUG> {
    fn recipe(&self, site: Site) -> Recipe {
        let point = |name: &str| Step::Pointwise {
            name: name.into(),
            out: site.channels,
            stride: if BUG == 1 || name == "b" { 1 } else { site.stride },
        };
        let second = point(if BUG == 2 { "a" } else { "b" });
        let affine = if BUG == 3 { false } else { site.affine };
        let norm = Step::BatchNorm { name: "c".into(), affine };
        let code = TensorStep::new(Self).parameter("d", &[site.channels], Init::Constant(1.0));
        let last = if BUG < 4 { vec![norm] } else { vec![norm, Step::Tensor(code)] };
        Recipe::Chain([vec![point("a"), second], last].concat())
    }
}

impl<const BUG: usize> TensorCode for Wrong<BUG> {
    fn forward(&self, x: &Tensor, parameters: &[Tensor], pass: &TensorPass) -> Result<Tensor> {
        let scale = parameters[0].reshape((1, (), 1, 1))?;
        let y = x.broadcast_mul(&scale)?;
        Ok(match BUG {
            5 => (y * x.detach())?,
            6 => x.tanh()?,
            7 => y.narrow(1, 0, 1)?,
            8 if x.dtype() == DType::F32 => (y * 1.01)?,
            9 => (y * pass.draw.stream().uniform())?,
            _ => y,
        })
    }
}

impl<const BUG: usize> Relaxation for Wrong<BUG> {
    fn weights(&self, alpha: &Tensor, _: &mut Stream) -> Result<Tensor> {
        let weights = alpha.exp()?;
        let sum = weights.sum_keepdim(1)?;
        // Without the largest α subtracted it overflows.
        Ok(weights.broadcast_div(&sum)?)
    }
}

impl<const BUG: usize> Regularizer for Wrong<BUG> {
    fn penalty(&self, alphas: &[Tensor], progress: Progress) -> Result<Tensor> {
        let first = alphas.first().ok_or_else(|| Error::Invalid("no α".into()))?;
        Ok(((first * first.detach())?.sum_all()? * progress.fraction())?)
    }
}

impl<const BUG: usize> Selection for Wrong<BUG> {
    fn select(&self, space: &SpaceSpec, alphas: &ArchValues) -> Result<Genotype> {
        if BUG == 1 {
            return space.sample(&mut Key::new(0, Purpose::Sample).stream());
        }
        let cells = space.cells.iter().map(|c| {
            let (rows, columns) = (c.edges.len(), c.edges[0].operations.len());
            alphas.matrix(&format!("alphas_{}", c.name), rows, columns)?;
            let edges = c.edges.iter().map(|e| {
                let operation = e.operations[0].clone();
                GenotypeEdge { operation, from: e.from, to: e.to }
            });
            Ok((
                c.name.clone(),
                GenotypeCell { inputs: c.inputs, edges: edges.collect(), concat: c.concat() },
            ))
        });
        Ok(Genotype::new(cells.collect::<Result<Vec<_>>>()?))
    }
}

impl<const BUG: usize> BlackBoxSearch for Wrong<BUG> {
    fn evaluations(&self) -> Option<usize> {
        Some(0)
    }

    fn propose(&self, space: &SpaceSpec, _: &[Evaluated], _: &mut Stream) -> Result<Genotype> {
        space.sample(&mut Key::new(0, Purpose::Sample).stream())
    }
}

impl<const BUG: usize> StopRule for Wrong<BUG> {
    fn stop(&self, trace: &Trace) -> Result<Option<Stop>> {
        Ok(Some(Stop { stop_epoch: trace.genotypes.len(), return_epoch: 0 }))
    }
}

impl<const BUG: usize> SupernetTransform for Wrong<BUG> {
    fn transform(&self, mut space: SpaceSpec) -> Result<SpaceSpec> {
        space.cells[0].edges[0].operations.pop();
        Ok(space)
    }
}

impl<const BUG: usize> SearchSpace for Wrong<BUG> {
    fn spec(&self) -> SpaceSpec {
        let cell = |name| CellSpec::complete(name, 1, &["skip_connect", "no_such_operation"]);
        SpaceSpec {
            name: "wrong".into(),
            cells: vec![cell("normal"), cell("reduce")],
            skeleton: Skeleton::TwoInputs { channels: 2, cells: 2, stem_multiplier: 1 },
            grammar: Grammar::TwoInputsANode,
            mixing: Mixing::default(),
            operation_options: std::collections::BTreeMap::new(),
        }
    }
}

impl<const BUG: usize> Dataset for Wrong<BUG> {
    fn load(&self) -> Result<Data> {
        let images = Images {
            shape: ImageShape { channels: 1, height: 1, width: 1 },
            pixels: Pixels::F32(vec![0.5; 2]),
            labels: vec![0, 1],
        };
        let (train, test) = (images.clone(), images);
        let (name, notice) = ("wrong".into(), "none".into());
        let (mean, std) = (vec![f32::NAN], vec![1.0]);
        Ok(Data { name, notice, synthetic: true, classes: 2, train, test, mean, std })
    }
}

#[test]
fn planted_bugs_of_other_kinds_are_found() {
    type Op = dyn Operation;
    assert_eq!(check_with::<Op>(&wrong(|_| Ok(Box::new(Wrong::<0>))), &json!({})), Ok(()));
    found::<Op>(|_| Ok(Box::new(Wrong::<1>)), &["stride 2, affine true: gives (5, 8, 8)"]);
    found::<Op>(|_| Ok(Box::new(Wrong::<2>)), &["two parameters share a name"]);
    found::<Op>(|_| Ok(Box::new(Wrong::<3>)), &["affine true: `c` is affine: false"]);
    for good in [wrong::<Op>(|_| Ok(Box::new(Wrong::<4>))), wrong(|_| Ok(Box::new(Wrong::<9>)))] {
        assert_eq!(check_with::<Op>(&good, &json!({})), Ok(()));
    }
    found::<Op>(
        |_| Ok(Box::new(Wrong::<5>)),
        &["stride 1, affine false, differences: the gradient of", "is off differences by"],
    );
    found::<Op>(
        |_| Ok(Box::new(Wrong::<6>)),
        &["the tensor code Wrong of `operation`: no gradient reaches its weights"],
    );
    found::<Op>(
        |_| Ok(Box::new(Wrong::<7>)),
        &[
            "3 channels, stride 2, affine true: panicked: the tensor code Wrong of `operation`: it gives",
        ],
    );
    found::<Op>(|_| Ok(Box::new(Wrong::<8>)), &["fused on", "one primitive after another"]);
    found::<dyn Relaxation>(|_| Ok(Box::new(Wrong::<0>)), &["not finite"]);
    found::<dyn Regularizer>(|_| Ok(Box::new(Wrong::<0>)), &["epoch 4: the gradient of α is not"]);
    found::<dyn Selection>(|_| Ok(Box::new(Wrong::<0>)), &["not two inputs"]);
    found::<dyn Selection>(|_| Ok(Box::new(Wrong::<1>)), &["α with a row too few must be refused"]);
    found::<dyn BlackBoxSearch>(
        |_| Ok(Box::new(Wrong::<0>)),
        &["empty budget", "one architecture"],
    );
    found::<dyn StopRule>(|_| Ok(Box::new(Wrong::<0>)), &["before any epoch", "after 1 epochs"]);
    found::<dyn SupernetTransform>(|_| Ok(Box::new(Wrong::<0>)), &["edge 1 of cell `normal`"]);
    found::<dyn SearchSpace>(|_| Ok(Box::new(Wrong::<0>)), &["no_such_operation", "supernet"]);
    found::<dyn Dataset>(|_| Ok(Box::new(Wrong::<0>)), &["mean or std is not finite"]);
}

#[test]
fn planted_descriptions_are_found() {
    let entry: Entry<dyn TransferLoss> = wrong(|_| Ok(Box::new(Wrong::<0>)));
    let found = check(&entry).expect_err("everything is wrong");
    for part in [
        "transfer-loss `Wrong`: name: write it as lower-case words joined by `-`",
        "summary: must be one line of text",
        "an empty table resolves to {\"kept\":1}",
        "the default option `lost` is not in the schema",
        "an unknown option: it must be refused, but is accepted",
    ] {
        assert!(found.contains(part), "`{part}` is not in\n{found}");
    }
}
