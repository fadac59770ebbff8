//! `plugins eval` of a transfer loss: its value and its gradient in every array it takes.

use super::eval::Files;
use super::{array, labels};
use crate::commands::setup;
use crate::exit::{Exit, Usage};
use anyhow::{Result, bail};
use candle_core::{DType, Tensor, Var};
use std::collections::BTreeMap;
use std::path::Path;
use tetlo_core::kinds::{Needs, Seen, TransferBatch, TransferLoss};
use tetlo_core::layout::Layout;
use tetlo_core::rng::{Key, Purpose};
use tetlo_engine::npz;

/// The arrays of features of both models, tracked, in f64.
struct Features<'a> {
    arrays: &'a npz::Arrays,
    file: &'a Path,
    tracked: BTreeMap<String, Var>,
}

/// An array in f64, all of it finite.
fn finite(file: &Path, name: &str, tensor: &Tensor) -> Result<Tensor> {
    let tensor = tensor.to_dtype(DType::F64)?;
    if tensor.flatten_all()?.to_vec1::<f64>()?.iter().all(|v| v.is_finite()) {
        return Ok(tensor);
    }
    bail!("{}: the array `{name}` has a value that is not a finite number", file.display())
}

/// Is this the name of an array of features?
fn is_feature(name: &str) -> bool {
    let of = |whose: &str| {
        let rest = name.strip_prefix(whose)?;
        let number = rest.strip_prefix("_maps_").is_some_and(|n| n.parse::<usize>().is_ok());
        Some(number || ["", "_logits", "_maps"].contains(&rest))
    };
    of("main").or_else(|| of("aux")).unwrap_or(false)
}

impl<'a> Features<'a> {
    fn read(arrays: &'a npz::Arrays, file: &'a Path) -> Result<Self> {
        let mut tracked = BTreeMap::new();
        for (name, tensor) in arrays.iter().filter(|(name, _)| is_feature(name)) {
            tracked.insert(name.clone(), Var::from_tensor(&finite(file, name, tensor)?)?);
        }
        Ok(Self { arrays, file, tracked })
    }

    fn get(&self, name: &str) -> Option<Tensor> {
        self.tracked.get(name).map(|v| v.as_tensor().clone())
    }

    /// The first of these arrays that is there.
    fn first(&self, names: &[String]) -> Result<Tensor> {
        match names.iter().find_map(|n| self.get(n)) {
            Some(found) => Ok(found),
            // Says which are there.
            None => Ok(array(self.arrays, self.file, &names.join("` or `"))?.clone()),
        }
    }

    /// What a loss with these needs sees of the model `whose`.
    fn seen(&self, whose: &str, needs: Needs) -> Result<Seen> {
        let mut seen = Seen::default();
        let plain = whose.to_owned();
        if needs.embeddings {
            seen.embedding = Some(self.first(std::slice::from_ref(&plain))?);
        }
        if needs.logits {
            let mut names = vec![format!("{whose}_logits")];
            names.extend((!needs.embeddings).then(|| plain.clone()));
            seen.logits = Some(self.first(&names)?);
        }
        if needs.maps {
            let numbered = |i: usize| self.get(&format!("{whose}_maps_{i}"));
            seen.maps.extend((0..).map_while(numbered));
            if seen.maps.is_empty() {
                let mut names = vec![format!("{whose}_maps"), format!("{whose}_maps_0")];
                names.extend((!needs.embeddings && !needs.logits).then_some(plain));
                seen.maps.push(self.first(&names)?);
            }
        }
        Ok(seen)
    }
}

/// The loss's own parameters, by name: from the file, where they are there, or as they are drawn at
/// first with seed 0.
fn parameters(layout: &Layout, arrays: &npz::Arrays, file: &Path) -> Result<Vec<(String, Var)>> {
    let initial = layout.initialise_tensor(&mut Key::new(0, Purpose::Weights).stream())?;
    let mut list = Vec::new();
    for (name, initial) in layout.scatter(&initial)? {
        let value = match arrays.get(&name) {
            None => initial.to_dtype(DType::F64)?,
            Some(given) if given.dims() == initial.dims() => finite(file, &name, given)?,
            Some(given) => bail!(Usage(format!(
                "{}: the array `{name}` has shape {:?}, expected {:?}",
                file.display(),
                given.dims(),
                initial.dims()
            ))),
        };
        list.push((name, Var::from_tensor(&value)?));
    }
    Ok(list)
}

/// Writes the loss and its gradients.
pub(super) fn eval(
    name: &str,
    loss: &dyn TransferLoss,
    Files { input, output }: Files<'_>,
) -> Result<Exit> {
    let needs = loss.needs();
    let arrays = npz::read(input)?;
    let features = Features::read(&arrays, input)?;
    let (main, aux) = (features.seen("main", needs)?, features.seen("aux", needs)?);
    let mut own = Vec::new();
    if needs.parameters {
        let layout = loss.parameters(&main, &aux).map_err(|e| e.in_plugin(name))?;
        own = parameters(&layout, &arrays, input)?;
    }
    let flat: Vec<Tensor> = own.iter().map(|(_, v)| v.flatten_all()).collect::<Result<_, _>>()?;
    let flat = if flat.is_empty() { None } else { Some(Tensor::cat(&flat, 0)?) };
    let labels = arrays.get("labels").map(|l| labels(l, "labels")).transpose()?;
    let batch = TransferBatch::new(main, aux, Key::new(0, Purpose::Transfer).stream())?
        .with_labels(labels.as_deref())
        .with_parameters(flat);
    batch.check(needs).map_err(|e| e.in_plugin(name))?;
    let value = loss.loss(&batch).map_err(|e| e.in_plugin(name))?;
    if value.elem_count() != 1 {
        bail!("`{name}` gave {:?} values, a loss is one number", value.dims());
    }
    let value = value.reshape(())?;
    let number = value.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    if !number.is_finite() {
        bail!("`{name}` gave the loss {number}");
    }
    let gradients = if value.track_op() { Some(value.backward()?) } else { None };
    // A loss that does not reach an input has gradient zero there.
    let gradient = |(name, var): (&String, &Var)| -> Result<(String, Tensor)> {
        let found = gradients.as_ref().and_then(|g| g.get(var)).map(Tensor::detach);
        Ok((format!("grad_{name}"), found.map_or_else(|| var.zeros_like(), Ok)?))
    };
    let mut result = vec![("loss".to_owned(), value.detach())];
    let inputs = features.tracked.iter().chain(own.iter().map(|(name, var)| (name, var)));
    for input in inputs {
        result.push(gradient(input)?);
    }
    result.extend(own.iter().map(|(name, var)| (name.clone(), var.as_tensor().detach())));
    setup::write(output, &npz::to_bytes(&result)?)?;
    Ok(Exit::Ok)
}
