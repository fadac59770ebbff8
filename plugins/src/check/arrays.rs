//! Reading the arrays of a check problem, and drawing them.

use candle_core::{DType, Device, Tensor};
use tetlo_core::layout::Layout;
use tetlo_core::multilevel::Batch;
use tetlo_core::multilevel::check::Arrays;
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::{Error, Result};

fn array<'a>(arrays: &'a Arrays, name: &str) -> Result<&'a Tensor> {
    arrays.get(name).ok_or_else(|| Error::Invalid(format!("the array `{name}` is missing")))
}

/// The shape of a matrix.
pub(super) fn dims2(arrays: &Arrays, name: &str) -> Result<(usize, usize)> {
    match array(arrays, name)?.dims() {
        [rows, columns] if *rows > 0 && *columns > 0 => Ok((*rows, *columns)),
        other => {
            Err(Error::Invalid(format!("the array `{name}` has shape {other:?}, not a matrix")))
        }
    }
}

/// An array of this shape, in f64.
pub(super) fn shaped(arrays: &Arrays, name: &str, shape: &[usize]) -> Result<Tensor> {
    let tensor = array(arrays, name)?;
    if tensor.dims() != shape {
        return Err(Error::Invalid(format!(
            "the array `{name}` has shape {:?}, expected {shape:?}",
            tensor.dims()
        )));
    }
    Ok(tensor.to_dtype(DType::F64)?)
}

/// The values of a vector of this length.
pub(super) fn vector(arrays: &Arrays, name: &str, len: usize) -> Result<Vec<f64>> {
    Ok(shaped(arrays, name, &[len])?.to_vec1()?)
}

/// The flat vector of a layout from the arrays `prefix` + name.
pub(super) fn flat(arrays: &Arrays, prefix: &str, layout: &Layout) -> Result<Tensor> {
    let parts = layout.entries().iter().map(|entry| {
        let part = shaped(arrays, &format!("{prefix}{}", entry.name), &entry.shape)?;
        Ok(part.flatten_all()?)
    });
    Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
}

/// `batch/<split>/y`: one class a row of `batch/<split>/x`.
pub(super) fn labels(
    arrays: &Arrays,
    split: &str,
    images: usize,
    classes: usize,
) -> Result<Vec<u32>> {
    let y = format!("batch/{split}/y");
    let labels = vector(arrays, &y, images)?.into_iter().map(|label| {
        if label >= 0.0 && label < classes as f64 && label.fract() == 0.0 {
            return Ok(label as u32);
        }
        Err(Error::Invalid(format!(
            "the array `{y}` has label {label}, expected 0 to {}",
            classes - 1
        )))
    });
    labels.collect()
}

/// `batch/<split>/{x,y}`: rows of `inputs` numbers and their classes.
pub(super) fn batch(arrays: &Arrays, split: &str, inputs: usize, classes: usize) -> Result<Batch> {
    let x = format!("batch/{split}/x");
    let images = dims2(arrays, &x)?.0;
    let labels = labels(arrays, split, images, classes)?;
    Ok(Batch { images: shaped(arrays, &x, &[images, inputs])?, labels })
}

/// Arrays drawn from a seed: each has numbers of its own.
#[derive(Debug)]
pub(super) struct Drawn {
    key: Key,
    arrays: Arrays,
}

impl Drawn {
    pub(super) fn new(seed: u64) -> Self {
        Self { key: Key::new(seed, Purpose::Problem), arrays: Arrays::new() }
    }

    /// Normal numbers.
    pub(super) fn normal(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        std: f64,
    ) -> Result<()> {
        let mut stream = self.key.role(self.arrays.len() as u32).stream();
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| std * stream.normal()).collect();
        self.put(name, shape, values)
    }

    /// Classes.
    pub(super) fn classes(
        &mut self,
        name: impl Into<String>,
        n: usize,
        classes: usize,
    ) -> Result<()> {
        let mut stream = self.key.role(self.arrays.len() as u32).stream();
        let values: Vec<i64> = (0..n).map(|_| stream.below(classes) as i64).collect();
        self.arrays.insert(name.into(), Tensor::from_vec(values, n, &Device::Cpu)?);
        Ok(())
    }

    /// These numbers.
    pub(super) fn put(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        values: Vec<f64>,
    ) -> Result<()> {
        self.arrays.insert(name.into(), Tensor::from_vec(values, shape, &Device::Cpu)?);
        Ok(())
    }

    pub(super) fn arrays(self) -> Arrays {
        self.arrays
    }
}
