//! Flat parameter vectors and the names of their parts.
//!
//! A network's weights are one flat tensor; a [`Layout`] says which name owns which range. So a
//! perturbed copy of a model is one `axpy`, an optimiser step one pass, a checkpoint one array.

use crate::rng::Stream;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

/// How a parameter is initialised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Uniform on [−bound, bound]; `PyTorch`'s default for convolutions and linear layers is
    /// bound = 1/√fan-in.
    Uniform {
        /// The bound.
        bound: f64,
    },
    /// Normal with mean zero.
    Normal {
        /// The standard deviation.
        std: f64,
    },
    /// All the same.
    Constant(f64),
}

impl Init {
    /// `PyTorch`'s default for a layer with this fan-in (Kaiming uniform with a = √5).
    pub fn fan_in(fan_in: usize) -> Self {
        Self::Uniform { bound: 1.0 / (fan_in as f64).sqrt() }
    }
}

/// A named part of a flat vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The name, as in the authors' `state_dict`.
    pub name: String,
    /// The shape.
    pub shape: Vec<usize>,
    /// Where it starts in the flat vector.
    pub offset: usize,
    /// How it is initialised.
    pub init: Init,
}

impl Entry {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// No values?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The names, shapes and places of the parts of a flat vector, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layout {
    entries: Vec<Entry>,
    len: usize,
}

impl Layout {
    /// An empty layout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a part and returns its offset.
    pub fn push(&mut self, name: impl Into<String>, shape: &[usize], init: Init) -> usize {
        let offset = self.len;
        let entry = Entry { name: name.into(), shape: shape.to_vec(), offset, init };
        self.len += entry.len();
        self.entries.push(entry);
        offset
    }

    /// Length of the flat vector.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No parameters at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parts in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The part of this name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }

    /// The part of this name of a flat tensor, in its shape; differentiable.
    ///
    /// # Errors
    /// The name is unknown, or `flat` is not of this layout.
    pub fn view(&self, flat: &Tensor, name: &str) -> Result<Tensor> {
        let entry =
            self.get(name).ok_or_else(|| Error::Invalid(format!("no parameter `{name}`")))?;
        Ok(flat.narrow(0, entry.offset, entry.len())?.reshape(entry.shape.as_slice())?)
    }

    /// Fresh values, drawn in order.
    pub fn initialise(&self, stream: &mut Stream) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.len);
        for entry in &self.entries {
            for _ in 0..entry.len() {
                values.push(match entry.init {
                    Init::Uniform { bound } => (bound * (2.0 * stream.uniform() - 1.0)) as f32,
                    Init::Normal { std } => (std * stream.normal()) as f32,
                    Init::Constant(c) => c as f32,
                });
            }
        }
        values
    }

    /// Fresh values as a flat f32 tensor on the CPU.
    pub fn initialise_tensor(&self, stream: &mut Stream) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.initialise(stream), self.len, &Device::Cpu)?)
    }

    /// Assembles the flat tensor from named ones (any float type, cast to `dtype`).
    ///
    /// # Errors
    /// A name is missing or has another shape; the message names it.
    pub fn gather(&self, named: &HashMap<String, Tensor>, dtype: DType) -> Result<Tensor> {
        let mut parts = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let tensor = named
                .get(&entry.name)
                .ok_or_else(|| Error::Invalid(format!("the array `{}` is missing", entry.name)))?;
            if tensor.dims() != entry.shape.as_slice() {
                return Err(Error::Invalid(format!(
                    "the array `{}` has shape {:?}, expected {:?}",
                    entry.name,
                    tensor.dims(),
                    entry.shape
                )));
            }
            parts.push(tensor.flatten_all()?.to_dtype(dtype)?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// The named parts of a flat tensor, in order.
    pub fn scatter(&self, flat: &Tensor) -> Result<Vec<(String, Tensor)>> {
        self.entries
            .iter()
            .map(|e| {
                let part = flat.narrow(0, e.offset, e.len())?.reshape(e.shape.as_slice())?;
                Ok((e.name.clone(), part.copy()?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Purpose};

    #[test]
    fn named_parts_round_trip() -> Result<()> {
        let mut layout = Layout::new();
        assert_eq!(layout.push("a", &[2, 3], Init::fan_in(4)), 0);
        assert_eq!(layout.push("b", &[4], Init::Constant(1.0)), 6);
        let flat = layout.initialise_tensor(&mut Key::new(0, Purpose::Weights).stream())?;
        assert_eq!(layout.view(&flat, "b")?.to_vec1::<f32>()?, vec![1.0; 4]);
        let named: HashMap<_, _> = layout.scatter(&flat)?.into_iter().collect();
        let again = layout.gather(&named, DType::F32)?;
        assert_eq!(again.to_vec1::<f32>()?, flat.to_vec1::<f32>()?);
        let values = flat.to_vec1::<f32>()?;
        assert!(values[..6].iter().all(|v| v.abs() <= 0.5));
        Ok(())
    }

    #[test]
    fn missing_and_misshapen_arrays_are_named() -> Result<()> {
        let mut layout = Layout::new();
        layout.push("a", &[2], Init::Constant(0.0));
        let none = layout.gather(&HashMap::new(), DType::F32).unwrap_err();
        assert_eq!(none.to_string(), "the array `a` is missing");
        let wrong = Tensor::zeros(3, DType::F32, &Device::Cpu)?;
        let named = HashMap::from([("a".to_owned(), wrong)]);
        let error = layout.gather(&named, DType::F32).unwrap_err();
        assert_eq!(error.to_string(), "the array `a` has shape [3], expected [2]");
        Ok(())
    }
}
