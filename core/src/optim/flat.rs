//! Single-pass arithmetic on flat vectors of weights.

use crate::{Error, Result};
use candle_core::{CpuStorage, DType, Storage, Tensor, WithDType};
use tetlo_kernels::flat::{self, Real};

/// Runs `f` on the values of a contiguous CPU tensor.
fn with_slice<T: WithDType, R>(t: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = t.storage_and_layout();
    let Storage::Cpu(cpu) = &*storage else {
        return Err(Error::Invalid("flat vectors are on the CPU here".into()));
    };
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::Invalid("a flat vector must be contiguous".into()))?;
    Ok(f(&cpu.as_slice::<T>()?[start..end]))
}

/// Σ c_i · t_i in one pass over memory, in the order given; not differentiable.
///
/// # Errors
/// No tensor, or lengths or types differ.
pub(super) fn linear_combination(parts: &[(f64, &Tensor)]) -> Result<Tensor> {
    let Some((first, rest)) = parts.split_first() else {
        return Err(Error::Invalid("a sum of no vectors".into()));
    };
    for (_, t) in rest {
        if t.dims() != first.1.dims() || t.dtype() != first.1.dtype() {
            return Err(Error::Invalid(format!(
                "vectors of shapes {:?} {:?} and {:?} {:?} cannot be added",
                first.1.dims(),
                first.1.dtype(),
                t.dims(),
                t.dtype()
            )));
        }
    }
    match first.1.dtype() {
        DType::F64 => combine::<f64>(parts),
        DType::F32 => combine::<f32>(parts),
        other => Err(Error::Invalid(format!("flat vectors are f32 or f64, not {other:?}"))),
    }
}

fn combine<T: WithDType + Real>(parts: &[(f64, &Tensor)]) -> Result<Tensor> {
    let contiguous: Vec<Tensor> =
        parts.iter().map(|(_, t)| t.contiguous()).collect::<candle_core::Result<_>>()?;
    let guards: Vec<_> = contiguous.iter().map(|t| t.storage_and_layout()).collect();
    let mut slices: Vec<(T, &[T])> = Vec::with_capacity(parts.len());
    let len = parts[0].1.elem_count();
    for ((storage, layout), (factor, _)) in guards.iter().zip(parts) {
        let Storage::Cpu(cpu) = &**storage else {
            return Err(Error::Invalid("flat vectors are on the CPU here".into()));
        };
        let start = layout.start_offset();
        slices.push((T::from_f64(*factor), &CpuStorage::as_slice::<T>(cpu)?[start..start + len]));
    }
    let (shape, device) = (parts[0].1.shape().clone(), parts[0].1.device());
    Ok(Tensor::from_vec(flat::linear_combination(&slices), shape, device)?)
}

/// a + factor·b; not differentiable.
pub fn add_scaled(a: &Tensor, factor: f64, b: &Tensor) -> Result<Tensor> {
    linear_combination(&[(1.0, a), (factor, b)])
}

fn dot(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    match a.dtype() {
        DType::F64 => with_slice(&a, |x: &[f64]| with_slice(&b, |y: &[f64]| flat::dot(x, y)))?,
        _ => with_slice(&a, |x: &[f32]| with_slice(&b, |y: &[f32]| flat::dot(x, y)))?,
    }
}

/// Euclidean norm, in f64.
pub fn norm(t: &Tensor) -> Result<f64> {
    Ok(dot(t, t)?.sqrt())
}

/// Cosine of the angle between two vectors; `None` where one is zero.
pub fn cosine(a: &Tensor, b: &Tensor) -> Result<Option<f64>> {
    let scale = norm(a)? * norm(b)?;
    Ok(if scale > 0.0 { Some(dot(a, b)? / scale) } else { None })
}
