//! Regularisers in foreign code.

use super::arrays::{Input, Role, ValueAndGradients};
use super::cost;
use crate::kinds::{Progress, Regularizer};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use std::fmt::Debug;
use std::time::Instant;

/// One call of a regulariser.
#[derive(Debug)]
pub struct PenaltyCall<'a> {
    /// The architecture parameters of each kind of cell.
    pub inputs: &'a [Input],
    /// How far the search is.
    pub progress: Progress,
}

/// Carries a regulariser's arrays to foreign code and back.
pub trait PenaltyCode: Debug + Send + Sync {
    /// The type of numbers (f32 or f64) that it takes, for tensors of this type.
    fn dtype(&self, of: DType) -> DType;

    /// The penalty and its gradients in the inputs that want one.
    ///
    /// # Errors
    /// The code failed; the message says how.
    fn call(&self, call: &PenaltyCall<'_>) -> Result<ValueAndGradients>;
}

/// A regulariser whose value and gradients come from foreign code.
#[derive(Debug)]
pub struct ForeignRegularizer<C> {
    name: String,
    code: C,
}

impl<C: PenaltyCode> ForeignRegularizer<C> {
    /// The regulariser of this name, which errors tell.
    pub fn new(name: &str, code: C) -> Self {
        Self { name: name.to_owned(), code }
    }

    fn call(&self, alphas: &[Tensor], progress: Progress) -> Result<Tensor> {
        let Some(first) = alphas.first() else {
            return Err(Error::Invalid("there are no architecture parameters".into()));
        };
        let began = Instant::now();
        let dtype = self.code.dtype(first.dtype());
        let of = |(i, t)| Input::new(Role::Alpha(i), t, dtype);
        let inputs = alphas.iter().enumerate().map(of).collect::<Result<Vec<_>>>()?;
        let tensors: Vec<&Tensor> = alphas.iter().collect();
        let result = self
            .code
            .call(&PenaltyCall { inputs: &inputs, progress })?
            .attach(&inputs, &tensors)?;
        cost::call(began.elapsed());
        Ok(result)
    }
}

impl<C: PenaltyCode> Regularizer for ForeignRegularizer<C> {
    fn penalty(&self, alphas: &[Tensor], progress: Progress) -> Result<Tensor> {
        self.call(alphas, progress).map_err(|e| e.in_plugin(&self.name))
    }
}
