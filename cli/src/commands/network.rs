//! `network eval|step`: networks and search steps on given arrays, for checks from outside.

use crate::args::{NetworkArgs, NetworkCommand};
use crate::commands::plugins::{array, labels};
use crate::commands::setup::{self, genotype, pick};
use crate::console;
use crate::exit::{Exit, Usage};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tetlo_core::config::OptimizerKind;
use tetlo_core::kinds::{Evaluator, Progress, Relaxation};
use tetlo_core::layout::Layout;
use tetlo_core::multilevel::reverse::Source;
use tetlo_core::multilevel::{Batch, Batches, ModelRole, cross_entropy};
use tetlo_core::network::{ImageShape, Network, Pass, update_running_statistics};
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::initial_values;
use tetlo_engine::method::{Method, SearchState, transformed};
use tetlo_engine::npz;
use tetlo_engine::plan::Trial;
use tetlo_engine::record::Silent;
use tetlo_engine::retrain::derived_network_of;
use tetlo_engine::trial::{load_data, space};

/// Named tensors of a safetensors file.
type Named = HashMap<String, Tensor>;

/// Runs a `network` command.
pub(crate) fn run(command: NetworkCommand) -> Result<Exit> {
    match command {
        NetworkCommand::Eval { network, grad, genotype, init } => {
            eval(&network, grad, genotype.as_deref(), init.as_deref())
        }
        NetworkCommand::Step { network } => step(&network),
    }
}

/// Prefix of the auxiliary model's arrays in weight files.
const AUXILIARY: &str = "aux.";

fn read_weights(path: &Path) -> Result<Named> {
    candle_core::safetensors::load(path, &Device::Cpu)
        .map_err(|e| Usage(format!("cannot read {}: {e}", path.display())).into())
}

fn need<'a>(path: Option<&'a PathBuf>, flag: &str) -> Result<&'a Path> {
    path.map(PathBuf::as_path).ok_or_else(|| Usage(format!("`{flag}` is missing")).into())
}

fn batch(arrays: &npz::Arrays, file: &Path, x: &str, y: &str) -> Result<Batch> {
    let images = array(arrays, file, x)?.to_dtype(DType::F32)?;
    let labels = labels(array(arrays, file, y)?, y)?;
    if images.rank() != 4 || images.dims()[0] != labels.len() {
        bail!(Usage(format!(
            "{}: `{x}` must be B × C × H × W with a label for each image in `{y}`",
            file.display()
        )));
    }
    Ok(Batch { images, labels })
}

fn image_shape(batch: &Batch) -> Result<ImageShape> {
    let (_, channels, height, width) = batch.images.dims4()?;
    Ok(ImageShape { channels, height, width })
}

/// The number of classes: that of the classifier in the weights, else the data set's.
fn classes(weights: Option<&Named>, trial: &Trial) -> Result<usize> {
    match weights.and_then(|w| w.get("classifier.weight")) {
        Some(classifier) => Ok(classifier.dims()[0]),
        None => Ok(load_data(trial)?.classes),
    }
}

fn check_labels(batch: &Batch, classes: usize) -> Result<()> {
    match batch.labels.iter().find(|l| **l as usize >= classes) {
        Some(label) => bail!(Usage(format!("label {label}, but there are {classes} classes"))),
        None => Ok(()),
    }
}

/// Values of a layout from named arrays; a missing array is an error that names the file.
fn gather(layout: &Layout, named: &Named, prefix: &str, path: &Path) -> Result<Option<Tensor>> {
    if layout.is_empty() {
        return Ok(None);
    }
    let own: Named = named
        .iter()
        .filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t.clone())))
        .collect();
    let flat = layout.gather(&own, DType::F32);
    let place = if prefix.is_empty() { String::new() } else { format!(" (below `{prefix}`)") };
    Ok(Some(flat.map_err(|e| Usage(format!("{}: {e}{place}", path.display())))?))
}

/// Says which arrays of a weights file nothing reads: a slip in a name would else go unseen.
fn note_unread(named: &Named, known: &[(&str, &Layout)], path: &Path) {
    let read = |name: &str| {
        let mut parts = known
            .iter()
            .filter_map(|(prefix, layout)| Some(layout.get(name.strip_prefix(prefix)?).is_some()));
        parts.any(|found| found) || name.ends_with(COUNTER)
    };
    let mut unread: Vec<&str> = named.keys().map(String::as_str).filter(|n| !read(n)).collect();
    unread.sort_unstable();
    if !unread.is_empty() {
        let few = unread[..unread.len().min(5)].join(", ");
        let count = unread.len();
        console::note(&format!("{}: {count} arrays are not read: {few} …", path.display()));
    }
}

/// What `PyTorch` counts beside the running statistics; one more after a training pass.
const COUNTER: &str = "num_batches_tracked";

fn counters(out: &mut Vec<(String, Tensor)>, prefix: &str, named: &Named) -> Result<()> {
    let mut names: Vec<&String> = named.keys().filter(|n| n.ends_with(COUNTER)).collect();
    names.sort();
    for name in names {
        let next = (named[name].to_dtype(DType::I64)? + 1.0)?;
        out.push((format!("{prefix}{name}"), next));
    }
    Ok(())
}

fn scatter(
    out: &mut Vec<(String, Tensor)>,
    prefix: &str,
    layout: &Layout,
    flat: &Tensor,
) -> Result<()> {
    for (name, tensor) in layout.scatter(flat)? {
        out.push((format!("{prefix}{name}"), tensor));
    }
    Ok(())
}

fn eval(
    arguments: &NetworkArgs,
    grad: bool,
    text: Option<&str>,
    init: Option<&Path>,
) -> Result<Exit> {
    let (_, trial, _) = pick(&arguments.pick)?;
    let weights = match &arguments.weights {
        Some(path) => Some(read_weights(path)?),
        None if init.is_some() => None,
        None => bail!(Usage("`--weights` is missing (or `--init` to draw fresh ones)".into())),
    };
    let input = match &arguments.input {
        Some(path) => Some(batch(&npz::read(path)?, path, "x", "y")?),
        None => None,
    };
    let image = match &input {
        Some(batch) => image_shape(batch)?,
        None => load_data(&trial)?.train.shape,
    };
    let classes = classes(weights.as_ref(), &trial)?;
    let space = space(&trial)?;
    let mut auxiliary_weight = 0.0;
    let network: Box<dyn Network> = if let Some(text) = text {
        let evaluator: Box<dyn Evaluator> = trial.task.evaluate.build()?;
        let protocol = evaluator.protocol().ok_or_else(|| {
            Usage("the evaluator does not retrain: the derived network has no size".into())
        })?;
        auxiliary_weight = protocol.auxiliary_weight;
        Box::new(derived_network_of(&space, &genotype(text)?, image, classes, protocol)?)
    } else {
        let relaxation: Box<dyn Relaxation> = match &trial.method.relaxation {
            Some(relaxation) => relaxation.build()?,
            None => bail!(Usage(format!(
                "method `{}` has no supernet; choose another `--method` or give a `--genotype`",
                trial.method.name
            ))),
        };
        let space = transformed(&trial.method, space)?;
        Box::new(space.supernet(image, classes, std::sync::Arc::from(relaxation))?)
    };
    let network = network.as_ref();
    if let Some(path) = init {
        let key = Key::new(trial.seed, Purpose::Weights);
        let (weights, buffers, architecture) = initial_values(network, key)?;
        let mut out = Vec::new();
        scatter(&mut out, "", network.weights(), &weights)?;
        for (layout, flat) in [(network.buffers(), buffers), (network.architecture(), architecture)]
        {
            if let Some(flat) = flat {
                scatter(&mut out, "", layout, &flat)?;
            }
        }
        let named: Named = out.into_iter().collect();
        let bytes = safetensors_bytes(&named)?;
        setup::write(path, &bytes)?;
        if arguments.weights.is_none() {
            return Ok(Exit::Ok);
        }
    }
    let (Some(named), Some(path)) = (weights, &arguments.weights) else { return Ok(Exit::Ok) };
    let batch = input.context("`--input` is missing").map_err(|e| Usage(e.to_string()))?;
    check_labels(&batch, classes)?;
    let output = need(arguments.output.as_ref(), "--output")?;
    let known = [network.weights(), network.buffers(), network.architecture()];
    note_unread(&named, &known.map(|layout| ("", layout)), path);
    let flat = gather(network.weights(), &named, "", path)?.context("a network without weights")?;
    let buffers = gather(network.buffers(), &named, "", path)?;
    let architecture = gather(network.architecture(), &named, "", path)?;

    let weights = Var::from_tensor(&flat)?;
    let architecture = architecture.map(|a| Var::from_tensor(&a)).transpose()?;
    let pass = Pass::train(Key::new(trial.seed, Purpose::Relaxation));
    let alpha = architecture.as_ref().map(Var::as_tensor);
    let said = network.forward(weights.as_tensor(), alpha, &batch.images, &pass)?;
    let mut loss = cross_entropy(&said.logits, &batch.labels)?;
    let mut out = vec![
        ("logits".to_owned(), said.logits.detach()),
        ("embedding".to_owned(), said.embedding.detach()),
        ("loss".to_owned(), loss.detach()),
    ];
    if let Some(deep) = &said.auxiliary_logits {
        // With an auxiliary head the gradients are those of the loss that training descends.
        let auxiliary = cross_entropy(deep, &batch.labels)?;
        out.push(("logits_aux".to_owned(), deep.detach()));
        out.push(("loss_aux".to_owned(), auxiliary.detach()));
        loss = (loss + (auxiliary * auxiliary_weight)?)?;
        out.push(("loss_total".to_owned(), loss.detach()));
    }
    if grad {
        let gradients = loss.backward()?;
        let of = |var: &Var| -> Result<Tensor> {
            Ok(gradients.get(var).context("the loss gives no gradient")?.detach())
        };
        scatter(&mut out, "grad/", network.weights(), &of(&weights)?)?;
        if let Some(var) = &architecture {
            scatter(&mut out, "grad/", network.architecture(), &of(var)?)?;
        }
    }
    if let Some(buffers) = buffers {
        let after = update_running_statistics(&buffers, said.statistics.as_ref())?;
        scatter(&mut out, "buffer/", network.buffers(), &after)?;
        counters(&mut out, "buffer/", &named)?;
    }
    setup::write(output, &npz::to_bytes(&out)?)?;
    Ok(Exit::Ok)
}

fn safetensors_bytes(named: &Named) -> Result<Vec<u8>> {
    let mut names: Vec<&String> = named.keys().collect();
    names.sort();
    let list: Vec<(&str, &Tensor)> = names.iter().map(|n| (n.as_str(), &named[*n])).collect();
    Ok(safetensors::serialize(list, None)?)
}

/// How the names of a stage's weights begin: plain names for the main model, `aux.` for the only other
/// one, the stage's name where there are more.
fn prefix(method: &Method, stage: usize) -> String {
    match (stage, method.networks.len()) {
        (0, _) => String::new(),
        (_, 2) => AUXILIARY.to_owned(),
        _ => format!("{}.", method.graph.stages[stage].name),
    }
}

/// The state of a search from a weights file: stage 0 by plain names, other stages with their
/// [`prefix`] (drawn from the seed where the file has none), momentum by `momentum/NAME`.
fn state_of(method: &Method, named: &Named, path: &Path) -> Result<SearchState> {
    let mut state = method.initial_state()?;
    let prefixes: Vec<[String; 2]> = (0..method.networks.len())
        .map(|stage| [prefix(method, stage), format!("momentum/{}", prefix(method, stage))])
        .collect();
    let mut known = vec![];
    for ([own, momentum], network) in prefixes.iter().zip(&method.networks) {
        known.extend([
            (own.as_str(), network.weights()),
            (own.as_str(), network.buffers()),
            (own.as_str(), network.architecture()),
            (momentum.as_str(), network.weights()),
        ]);
    }
    note_unread(named, &known, path);
    for (stage, network) in method.networks.iter().enumerate() {
        let [prefix, momentum] = &prefixes[stage];
        if stage > 0 && !named.keys().any(|n| n.starts_with(prefix)) {
            console::note(&format!(
                "{} has no `{prefix}…`: the model of stage `{}` is drawn from the seed",
                path.display(),
                method.graph.stages[stage].name
            ));
            continue;
        }
        if let Some(mut weights) = gather(network.weights(), named, prefix, path)? {
            let drawn = &state.point.weights[stage];
            let own = weights.elem_count();
            if drawn.elem_count() > own {
                // The parameters of the stage's transfer losses stand behind the network's.
                let rest = drawn.narrow(0, own, drawn.elem_count() - own)?;
                weights = Tensor::cat(&[&weights, &rest], 0)?;
            }
            state.point.weights[stage] = weights;
        }
        state.buffers[stage] = gather(network.buffers(), named, prefix, path)?;
        if let Some(group) = method.groups[stage]
            && method.graph.stages[stage].model != ModelRole::Twin
            && let Some(values) = gather(network.architecture(), named, prefix, path)?
        {
            state.point.architecture[group] = values;
        }
        if named.keys().any(|n| n.starts_with(momentum)) {
            state.inner[stage].first = gather(network.weights(), named, momentum, path)?;
        }
    }
    Ok(state)
}

fn step(arguments: &NetworkArgs) -> Result<Exit> {
    let (_, trial, _) = pick(&arguments.pick)?;
    if trial.method.optimizer_kind != OptimizerKind::MultilevelOptimizer {
        bail!(Usage(format!(
            "method `{}` is a black-box search: it has no step",
            trial.method.name
        )));
    }
    let path = need(arguments.weights.as_ref(), "--weights")?;
    let named = read_weights(path)?;
    let input = need(arguments.input.as_ref(), "--input")?;
    let output = need(arguments.output.as_ref(), "--output")?;
    let arrays = npz::read(input)?;
    let train = batch(&arrays, input, "train_x", "train_y")?;
    let valid = batch(&arrays, input, "val_x", "val_y")?;
    let classes = classes(Some(&named), &trial)?;
    check_labels(&train, classes)?;
    check_labels(&valid, classes)?;
    let image = image_shape(&train)?;
    let method = Method::new(&trial.method, space(&trial)?, image, classes, trial.seed)?;
    let transfer = if method.graph.uses_transfer_batch() {
        // Without images of its own the transfer sees the training batch.
        let own = arrays.contains_key("transfer_x");
        Some(if own { batch(&arrays, input, "transfer_x", "transfer_y")? } else { train.clone() })
    } else {
        None
    };
    let batches = Batches { train, valid, transfer };
    let mut state = state_of(&method, &named, path)?;
    let at = Progress { epoch: 0, epochs: trial.method.search.epochs, step: 0 };
    let outcome = method.step(&mut state, &batches, at, &mut Silent)?;

    let mut out = Vec::new();
    for (stage, network) in method.networks.iter().enumerate() {
        let prefix = prefix(&method, stage);
        // A twin's architecture is the main model's.
        let twin = method.graph.stages[stage].model == ModelRole::Twin;
        let group = method.groups[stage].filter(|_| !twin);
        if let (Some(group), Some(gradient)) = (group, &outcome.gradient) {
            let layout = network.architecture();
            let or_zero = |g: Option<Tensor>| -> Result<Tensor> {
                Ok(match g {
                    Some(g) => g,
                    None => state.point.architecture[group].zeros_like()?,
                })
            };
            // What Adam took; with separate states there is no such sum, only the parts.
            let total = match &outcome.combined {
                Some(combined) if group == 0 => combined.clone(),
                _ => or_zero(gradient.sum(group, |_| true)?)?,
            };
            scatter(&mut out, &format!("arch_grad/{prefix}"), layout, &total)?;
            if group == 0 && gradient.contributions.iter().any(|c| c.source == Source::Transfer) {
                for (name, source) in [("main", Source::Main), ("transfer", Source::Transfer)] {
                    let part = or_zero(gradient.sum(group, |c| c.source == source)?)?;
                    scatter(&mut out, &format!("arch_grad_{name}/"), layout, &part)?;
                }
            }
        }
        let after = format!("after/{prefix}");
        let own = |flat: &Tensor| flat.narrow(0, 0, network.weights().len());
        scatter(&mut out, &after, network.weights(), &own(&state.point.weights[stage])?)?;
        if let Some(buffers) = &state.buffers[stage] {
            scatter(&mut out, &after, network.buffers(), buffers)?;
        }
        if let Some(group) = group {
            let values = &state.point.architecture[group];
            scatter(&mut out, &after, network.architecture(), values)?;
            if let Some((m, v)) = state.arch.groups.get(group).and_then(|g| g.moments.as_ref()) {
                let layout = network.architecture();
                scatter(&mut out, &format!("after/adam/exp_avg/{prefix}"), layout, m)?;
                scatter(&mut out, &format!("after/adam/exp_avg_sq/{prefix}"), layout, v)?;
            }
        }
        if let Some(momentum) = &state.inner[stage].first {
            let name = format!("after/momentum/{prefix}");
            scatter(&mut out, &name, network.weights(), &own(momentum)?)?;
        }
    }
    counters(&mut out, "after/", &named)?;
    setup::write(output, &npz::to_bytes(&out)?)?;
    Ok(Exit::Ok)
}
