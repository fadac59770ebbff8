//! Transfer losses by name: against `PyTorch`, by hand, invariances, edges.

mod by_hand;
mod edges;
mod fixtures;
mod invariances;
mod second;

use candle_core::{DType, Device, Tensor, Var};
use serde_json::Value;
use std::collections::BTreeMap;
use tetlo_core::kinds::{Needs, Seen, TransferBatch, TransferLoss};
use tetlo_core::registry;
use tetlo_core::rng::{Key, Purpose, Stream};

/// Arrays by the names of `tetlo plugins eval`.
type Arrays = BTreeMap<String, Tensor>;

fn build(plugin: &str, options: &Value) -> Box<dyn TransferLoss> {
    registry::build::<dyn TransferLoss>(plugin, options).unwrap()
}

fn stream(seed: u64) -> Stream {
    Key::new(seed, Purpose::Transfer).stream()
}

fn normal(shape: &[usize], seed: u64) -> Tensor {
    let mut stream = stream(seed);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Two arrays, as `main` and `aux`.
fn pair(main: Tensor, aux: Tensor) -> Arrays {
    Arrays::from([("main".to_owned(), main), ("aux".to_owned(), aux)])
}

/// What a loss sees of the model `whose`.
fn seen(arrays: &Arrays, whose: &str, needs: Needs) -> Seen {
    let mut seen = Seen::default();
    let plain = arrays.get(whose).cloned();
    match needs {
        _ if needs.embeddings => seen.embedding = plain,
        _ if needs.logits => seen.logits = plain,
        _ => seen.maps.extend(plain),
    }
    let of = |i: usize| arrays.get(&format!("{whose}_maps_{i}")).cloned();
    seen.maps.extend((0..).map_while(of));
    seen
}

struct Evaluated {
    loss: f64,
    /// In every float array; a missing gradient is zero.
    gradients: BTreeMap<String, Vec<f64>>,
}

/// The float arrays as variables, and the loss as a function of them.
fn tracked(
    loss: &dyn TransferLoss,
    arrays: &Arrays,
) -> tetlo_core::Result<(BTreeMap<String, Var>, Tensor)> {
    let needs = loss.needs();
    let vars: BTreeMap<String, Var> = arrays
        .iter()
        .filter(|(_, t)| t.dtype().is_float())
        .map(|(name, t)| (name.clone(), Var::from_tensor(t).unwrap()))
        .collect();
    let tracked: Arrays =
        vars.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
    let (main, aux) = (seen(&tracked, "main", needs), seen(&tracked, "aux", needs));
    let parameters = needs.parameters.then(|| {
        let layout = loss.parameters(&main, &aux).unwrap();
        let parts: Vec<Tensor> =
            layout.entries().iter().map(|e| tracked[&e.name].flatten_all().unwrap()).collect();
        Tensor::cat(&parts, 0).unwrap()
    });
    let labels: Option<Vec<u32>> = arrays.get("labels").map(|l| {
        let labels = l.to_dtype(DType::I64).unwrap().to_vec1::<i64>().unwrap();
        labels.into_iter().map(|l| l as u32).collect()
    });
    let batch = TransferBatch::new(main, aux, stream(0))?
        .with_labels(labels.as_deref())
        .with_parameters(parameters);
    Ok((vars, loss.loss(&batch)?))
}

fn evaluate(loss: &dyn TransferLoss, arrays: &Arrays) -> tetlo_core::Result<Evaluated> {
    let (vars, value) = tracked(loss, arrays)?;
    let gradients = value.backward()?;
    let gradient = |v: &Var| match gradients.get(v) {
        Some(g) => numbers(g),
        None => vec![0.0; v.elem_count()],
    };
    let gradients = vars.iter().map(|(name, v)| (name.clone(), gradient(v))).collect();
    Ok(Evaluated { loss: numbers(&value)[0], gradients })
}

/// The loss alone.
fn value(loss: &dyn TransferLoss, arrays: &Arrays) -> f64 {
    evaluate(loss, arrays).unwrap().loss
}

/// Every built-in transfer loss on `n` images, with the arrays it takes and options of another sort.
fn all_on(n: usize) -> Vec<(String, Box<dyn TransferLoss>, Arrays)> {
    let embeddings = || pair(normal(&[n, 6], 1), normal(&[n, 5], 2));
    let logits = || pair(normal(&[n, 4], 3), normal(&[n, 4], 4));
    let maps = || pair(normal(&[n, 3, 4, 2], 5), normal(&[n, 2, 2, 2], 6));
    let labels = |arrays: Arrays| {
        let labels: Vec<i64> = (0..n as i64).map(|i| i * 3 % 4).collect();
        let labels = Tensor::from_vec(labels, n, &Device::Cpu).unwrap();
        arrays.into_iter().chain([("labels".to_owned(), labels)]).collect::<Arrays>()
    };
    let and = |arrays: Arrays, parameters: &[(&str, &[usize])]| {
        let drawn = parameters.iter().enumerate();
        let drawn =
            drawn.map(|(i, (name, shape))| ((*name).to_owned(), normal(shape, 7 + i as u64)));
        arrays.into_iter().chain(drawn).collect::<Arrays>()
    };
    let projectors: [(&str, &[usize]); 2] =
        [("main.projector.weight", &[3, 6]), ("aux.projector.weight", &[3, 5])];
    [
        ("qrs", r#"{"sampler": "all"}"#, embeddings()),
        ("triplet-relation", r#"{"sampler": "all"}"#, embeddings()),
        ("triplet-relation", r#"{"sampler": "all", "similarity": "euclidean"}"#, embeddings()),
        ("kd", "{}", logits()),
        ("pseudo-label", "{}", logits()),
        ("pseudo-label", r#"{"target": "hard"}"#, logits()),
        ("similarity-preserving", "{}", embeddings()),
        ("similarity-preserving", r#"{"features": "map"}"#, maps()),
        ("rkd-distance", "{}", embeddings()),
        ("rkd-angle", "{}", embeddings()),
        ("hint", "{}", and(embeddings(), &[("projector.weight", &[6, 5])])),
        ("hint", r#"{"features": "map"}"#, and(maps(), &[("projector.weight", &[3, 2, 1, 1])])),
        ("attention", "{}", maps()),
        ("pkt", "{}", embeddings()),
        ("contrastive", r#"{"width": 3}"#, and(embeddings(), &projectors)),
        ("mistake-weights", "{}", labels(logits())),
        ("mistake-weights", r#"{"normalisation": "softmax"}"#, labels(logits())),
        ("none", "{}", embeddings()),
    ]
    .map(|(name, options, arrays)| {
        let options: Value = serde_json::from_str(options).unwrap();
        (format!("{name} {options}"), build(name, &options), arrays)
    })
    .into()
}

#[test]
fn every_built_in_loss_is_tested_here() {
    let listed = all_on(4);
    for entry in registry::entries::<dyn TransferLoss>() {
        let here = listed.iter().any(|(name, ..)| name.split(' ').next() == Some(entry.name));
        assert!(here || entry.name == "similarity-mse", "{}", entry.name);
    }
}
