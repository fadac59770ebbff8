//! Arrays that cross the border, and their way back into the graph.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// Numbers of one type, row by row.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Single precision.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
}

impl Values {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
        }
    }

    /// Are all of them finite?
    pub fn is_finite(&self) -> bool {
        match self {
            Self::F32(v) => v.iter().all(|x| x.is_finite()),
            Self::F64(v) => v.iter().all(|x| x.is_finite()),
        }
    }

    /// The values of a tensor, as `dtype` (f32 or f64).
    ///
    /// # Errors
    /// Those of the conversion.
    pub fn of(tensor: &Tensor, dtype: DType) -> Result<Self> {
        let flat = tensor.detach().flatten_all()?.to_dtype(dtype)?;
        Ok(match dtype {
            DType::F32 => Self::F32(flat.to_vec1()?),
            _ => Self::F64(flat.to_dtype(DType::F64)?.to_vec1()?),
        })
    }

    /// As a tensor.
    ///
    /// # Errors
    /// The shape does not hold so many values.
    pub fn tensor(self, shape: &[usize], device: &Device) -> Result<Tensor> {
        Ok(match self {
            Self::F32(v) => Tensor::from_vec(v, shape, device)?,
            Self::F64(v) => Tensor::from_vec(v, shape, device)?,
        })
    }
}

/// What an array is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The main model's embedding, N × D.
    Main,
    /// The auxiliary model's embedding, N × D'.
    Aux,
    /// The main model's logits, N × classes.
    MainLogits,
    /// The auxiliary model's logits, N × classes.
    AuxLogits,
    /// A feature map of the main model, N × C × H × W, counted from the finest resolution.
    MainMap(usize),
    /// A feature map of the auxiliary model.
    AuxMap(usize),
    /// Architecture parameters of a kind of cell, edges × operations.
    Alpha(usize),
}

impl std::fmt::Display for Role {
    /// The name that arrays have in files and frames, such as `main_maps_0`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Main => f.write_str("main"),
            Self::Aux => f.write_str("aux"),
            Self::MainLogits => f.write_str("main_logits"),
            Self::AuxLogits => f.write_str("aux_logits"),
            Self::MainMap(i) => write!(f, "main_maps_{i}"),
            Self::AuxMap(i) => write!(f, "aux_maps_{i}"),
            Self::Alpha(i) => write!(f, "alphas_{i}"),
        }
    }
}

/// An array that foreign code sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// What it is.
    pub role: Role,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Values,
    /// Is its gradient wanted?
    pub wanted: bool,
}

impl Input {
    pub(super) fn new(role: Role, tensor: &Tensor, dtype: DType) -> Result<Self> {
        let values = Values::of(tensor, dtype)?;
        Ok(Self { role, shape: tensor.dims().to_vec(), values, wanted: tensor.track_op() })
    }
}

/// What foreign code answers.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueAndGradients {
    /// The value.
    pub value: f64,
    /// The gradient in each input, in their order; `None`: zero, or not wanted.
    pub gradients: Vec<Option<Values>>,
}

impl ValueAndGradients {
    /// The value as a scalar whose gradient in `tensors` (those the inputs were made of) is the one
    /// that came with it: `value + Σ ((x − x) · g)`, with the second x detached. The value is exact,
    /// since x − x is zero.
    ///
    /// # Errors
    /// A value or gradient that is not finite, or gradients of other sizes than the inputs.
    pub(super) fn attach(self, inputs: &[Input], tensors: &[&Tensor]) -> Result<Tensor> {
        if self.gradients.len() != inputs.len() {
            return Err(Error::Foreign(format!(
                "it returned {} gradients for {} arrays",
                self.gradients.len(),
                inputs.len()
            )));
        }
        let Some(first) = tensors.first() else {
            return Err(Error::Foreign("it was given nothing".into()));
        };
        // As the search counts: what is finite in f64 need not be so in f32.
        let seen =
            if first.dtype() == DType::F64 { self.value } else { f64::from(self.value as f32) };
        if !seen.is_finite() {
            return Err(Error::Foreign(format!("it returned the value {}", self.value)));
        }
        let mut result = Tensor::new(self.value, first.device())?.to_dtype(first.dtype())?;
        for ((gradient, input), tensor) in self.gradients.into_iter().zip(inputs).zip(tensors) {
            if !input.wanted {
                continue;
            }
            let Some(gradient) = gradient else { continue };
            if gradient.len() != input.values.len() {
                return Err(Error::Foreign(format!(
                    "its gradient in `{}` has {} values, the array has {}",
                    input.role,
                    gradient.len(),
                    input.values.len()
                )));
            }
            let gradient = match (gradient, tensor.dtype()) {
                (Values::F64(v), DType::F32) => {
                    Values::F32(v.into_iter().map(|x| x as f32).collect())
                }
                (gradient, _) => gradient,
            };
            if !gradient.is_finite() {
                return Err(Error::Foreign(format!(
                    "its gradient in `{}` is not finite",
                    input.role
                )));
            }
            let gradient = gradient.tensor(&input.shape, tensor.device())?;
            let gradient = gradient.to_dtype(tensor.dtype())?;
            result = (result + ((*tensor - tensor.detach())? * gradient)?.sum_all()?)?;
        }
        Ok(result)
    }
}
