//! Tensor functions in a reference pass.

use candle_core::{DType, Device, Tensor, Var};

use super::{Images, Scalar};
use crate::error::{Error, Result};
use crate::function::{self, FunctionPass, TensorFunction};

/// A tensor function at work.
pub(super) struct Call<'a> {
    code: &'a dyn TensorFunction,
    x: Var,
    weights: Var,
    output: Tensor,
    dtype: DType,
}

impl<'a> Call<'a> {
    /// `weights` begin with those of the function.
    pub(super) fn new<T: Scalar>(
        code: &'a dyn TensorFunction,
        x: &Images<T>,
        weights: &[T],
        how: FunctionPass,
    ) -> Result<Self> {
        let failed = |reason: &dyn ToString| Error::Function {
            name: code.name().to_owned(),
            reason: reason.to_string(),
        };
        let Some(dtype) = T::DTYPE else {
            let reason = "candle tensor code inside a network has no exact second derivatives";
            return Err(failed(&reason));
        };
        let (n, c, h, w) = x.shape;
        let shape = code.output((c, h, w)).map_err(|e| failed(&e))?;
        let var = |values: &[T], shape: &[usize]| {
            let values: Vec<f64> = values.iter().map(|v| v.to_f64()).collect();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?;
            Var::from_tensor(&tensor)
        };
        let len = code.weights((c, h, w));
        let x = var(&x.data, &[n, c, h, w]).map_err(|e| failed(&e))?;
        let weights = var(&weights[..len], &[len]).map_err(|e| failed(&e))?;
        let output = function::run(code, &x, &weights, how, shape)?;
        Ok(Self { code, x, weights, output, dtype })
    }

    pub(super) fn output<T: Scalar>(&self) -> Images<T> {
        images(&self.output)
    }

    /// The gradients of `x` and of the weights.
    pub(super) fn back<T: Scalar>(
        &self,
        x: &Images<T>,
        g: &Images<T>,
    ) -> Result<(Images<T>, Vec<T>)> {
        let g: Vec<f64> = g.data.iter().map(|v| v.to_f64()).collect();
        let g = Tensor::from_vec(g, self.output.shape(), &Device::Cpu)
            .and_then(|g| g.to_dtype(self.dtype))
            .expect("the gradient of the output has its shape");
        let (of_x, of_weights) =
            function::pull_back(self.code, &self.output, &g, Some(&self.x), Some(&self.weights))?;
        let of_x = of_x.map_or_else(|| Images::zeros(x.shape), |found| images(&found));
        Ok((of_x, of_weights.map_or_else(Vec::new, |found| values(&found))))
    }
}

fn images<T: Scalar>(tensor: &Tensor) -> Images<T> {
    let shape = tensor.dims4().expect("checked when it ran");
    Images { shape, data: values(tensor) }
}

fn values<T: Scalar>(tensor: &Tensor) -> Vec<T> {
    let wide = tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all());
    let wide: Vec<f64> = wide.and_then(|t| t.to_vec1()).expect("a tensor of floats on the CPU");
    wide.into_iter().map(T::from_f64).collect()
}
