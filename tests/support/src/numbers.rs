//! Test numbers, and what they are held against.

use crate::report::{Check, Failure, ensure};
use candle_core::{DType, Device, Tensor, Var};
use tetlo_core::rng::{Key, Purpose, Stream};

/// A stream of draws for a test.
pub(crate) fn draws(seed: u64) -> Stream {
    Key::new(seed, Purpose::Problem).stream()
}

/// Standard normal numbers in f64.
pub(crate) fn normal(shape: &[usize], seed: u64) -> Check<Tensor> {
    let mut draws = draws(seed);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| draws.normal()).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// All values as f64.
pub(crate) fn values(tensor: &Tensor) -> Check<Vec<f64>> {
    Ok(tensor.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// All values, which must be finite.
pub(crate) fn finite(what: &str, tensor: &Tensor) -> Check<Vec<f64>> {
    let values = values(tensor)?;
    ensure!(values.iter().all(|v| v.is_finite()), "{what} has a value that is not finite");
    Ok(values)
}

/// The value of a scalar of the type of its inputs.
pub(crate) fn scalar(value: &Tensor, dtype: DType) -> Check<f64> {
    ensure!(value.rank() == 0, "must be a scalar, has shape {:?}", value.dims());
    ensure!(value.dtype() == dtype, "is {:?} of inputs in {dtype:?}", value.dtype());
    Ok(value.to_dtype(DType::F64)?.to_scalar()?)
}

/// Equal to the bit.
pub(crate) fn same(what: &str, a: &[f64], b: &[f64]) -> Check {
    let bits = |v: &[f64]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    ensure!(bits(a) == bits(b), "{what} differs between two equal calls");
    Ok(())
}

/// The gradient of `value` in `var`; zeros where it does not reach.
pub(crate) fn gradient(value: &Tensor, vars: &[&Var]) -> Check<Vec<Vec<f64>>> {
    let gradients = if value.track_op() { Some(value.backward()?) } else { None };
    let of = |var: &&Var| match gradients.as_ref().and_then(|g| g.get(var)) {
        Some(gradient) => values(gradient),
        None => Ok(vec![0.0; var.elem_count()]),
    };
    vars.iter().map(of).collect()
}

/// Central differences of `f` at `at`, one a value.
pub(crate) fn differences(at: &Tensor, f: impl Fn(&Tensor) -> Check<f64>) -> Check<Vec<f64>> {
    const STEP: f64 = 1e-5;
    let start = values(at)?;
    let moved = |i: usize, step: f64| {
        let mut x = start.clone();
        x[i] += step;
        f(&Tensor::from_vec(x, at.dims(), at.device())?)
    };
    (0..start.len()).map(|i| Ok((moved(i, STEP)? - moved(i, -STEP)?) / (2.0 * STEP))).collect()
}

pub(crate) fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |a, v| a.max(v.abs()))
}

/// |a − b| ≤ relative · max|b| + absolute, value by value.
pub(crate) fn close(what: &str, a: &[f64], b: &[f64], relative: f64, absolute: f64) -> Check {
    let bound = relative * largest(b) + absolute;
    // Not `max`, which loses NaN.
    let wrong = a.iter().zip(b).find(|(x, y)| (*x - *y).abs() > bound || (*x - *y).is_nan());
    match wrong {
        None => Ok(()),
        Some((x, y)) => Err(Failure(format!("{what}: {x:e}, expected {y:e} within {bound:e}"))),
    }
}

/// A gradient against central differences in f64.
pub(crate) fn close_to_differences(what: &str, gradient: &[f64], differences: &[f64]) -> Check {
    let what = format!("the gradient of {what} is not that of central differences");
    close(&what, gradient, differences, 1e-5, 1e-8)
}
