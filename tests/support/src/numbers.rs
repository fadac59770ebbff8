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

/// How exactly a plugin counts, and so how it is held against differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// In f64.
    Double,
    /// In f32, also where it is given f64: code of another language may.
    Single,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Double => "f64",
            Self::Single => "f32",
        })
    }
}

impl Precision {
    /// That of a function of tensors: one in f32 does not see what f32 cannot hold.
    pub(crate) fn of(at: &[Tensor], f: impl Fn(&[Tensor]) -> Check<f64>) -> Check<Self> {
        const UNSEEN: f64 = 1e-10;
        let rounded = |t: &Tensor| t.to_dtype(DType::F32)?.to_dtype(DType::F64);
        let start = at.iter().map(rounded).collect::<Result<Vec<_>, _>>()?;
        let moved = |(t, seed): (&Tensor, u64)| -> Check<Tensor> {
            Ok((t + (t * (normal(t.dims(), seed)? * UNSEEN)?)?)?)
        };
        let moved = start.iter().zip(70..).map(moved).collect::<Check<Vec<_>>>()?;
        let equal = f(&start)?.to_bits() == f(&moved)?.to_bits();
        Ok(if equal { Self::Single } else { Self::Double })
    }

    /// Differences of `f` at `at`, one a value.
    pub(crate) fn differences(
        self,
        at: &Tensor,
        f: impl Fn(&Tensor) -> Check<f64>,
    ) -> Check<Vec<f64>> {
        let start = values(at)?;
        let moved = |i: usize, step: f64| {
            let mut x = start.clone();
            x[i] += step;
            f(&Tensor::from_vec(x, at.dims(), at.device())?)
        };
        let central = |i: usize, step: f64| -> Check<f64> {
            Ok((moved(i, step)? - moved(i, -step)?) / (2.0 * step))
        };
        let one = |i: usize| match self {
            Self::Double => central(i, 1e-5),
            // Of fourth order: a step that f32 rounds well is too long for the second.
            Self::Single => Ok((4.0 * central(i, 4e-3)? - central(i, 8e-3)?) / 3.0),
        };
        (0..start.len()).map(one).collect()
    }

    /// A gradient against differences of a function of this value.
    pub(crate) fn close_to_differences(
        self,
        what: &str,
        gradient: &[f64],
        differences: &[f64],
        value: f64,
    ) -> Check {
        let what = format!("the gradient of {what} is not that of central differences");
        let (relative, absolute) = match self {
            Self::Double => (1e-5, 1e-8),
            Self::Single => (1e-2, 1e-4 * value.abs().max(1.0)),
        };
        close(&what, gradient, differences, relative, absolute)
    }
}

/// Central differences of `f` in f64 at `at`, one a value.
pub(crate) fn differences(at: &Tensor, f: impl Fn(&Tensor) -> Check<f64>) -> Check<Vec<f64>> {
    Precision::Double.differences(at, f)
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
    Precision::Double.close_to_differences(what, gradient, differences, 1.0)
}
