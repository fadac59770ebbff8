//! Arithmetic on flat vectors on the process's workers, with the same bytes for any number of threads.
#![expect(unsafe_code, reason = "items write disjoint stretches of one new vector")]

use crate::threads::Workers;
use std::mem::MaybeUninit;
use std::ops::{AddAssign, Mul};

/// Elements of an item: the running sum stays in the first cache level.
const BLOCK: usize = 4096;
/// Blocks of an item of a dot product.
const DOT: usize = 1 << 16;

/// The two types of flat vectors.
pub trait Real: Copy + Send + Sync + Mul<Output = Self> + AddAssign + Into<f64> + 'static {}
impl Real for f32 {}
impl Real for f64 {}

struct Place<T>(*mut T);
// SAFETY: each item writes elements of its own.
unsafe impl<T> Sync for Place<T> {}

impl<T> Place<T> {
    fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

/// Runs `f` on stretches of `0..len`, on all workers.
fn stretches(len: usize, size: usize, f: &(dyn Fn(usize, std::ops::Range<usize>) + Sync)) {
    let workers = Workers::acquire();
    workers.run(len.div_ceil(size), &|_, i| f(i, i * size..len.min((i + 1) * size)));
}

/// Σ factor · values in one pass over memory, in the order given.
///
/// # Panics
/// If the vectors are not of one length.
pub fn linear_combination<T: Real>(parts: &[(T, &[T])]) -> Vec<T> {
    let Some(((first, values), rest)) = parts.split_first() else { return Vec::new() };
    let len = values.len();
    assert!(rest.iter().all(|(_, v)| v.len() == len), "vectors of different lengths");
    let mut out: Vec<T> = Vec::with_capacity(len);
    let place = Place(out.as_mut_ptr().cast::<MaybeUninit<T>>());
    stretches(len, BLOCK, &|_, range| {
        // SAFETY: inside the capacity, and only this item's.
        let to = unsafe { std::slice::from_raw_parts_mut(place.at(range.start), range.len()) };
        for (o, v) in to.iter_mut().zip(&values[range.clone()]) {
            o.write(*v * *first);
        }
        // SAFETY: just written.
        let to = unsafe { &mut *(std::ptr::from_mut(to) as *mut [T]) };
        for (factor, values) in rest {
            for (o, v) in to.iter_mut().zip(&values[range.clone()]) {
                *o += *v * *factor;
            }
        }
    });
    // SAFETY: the stretches cover all elements.
    unsafe { out.set_len(len) };
    out
}

/// Σ a·b in f64, in 16 interleaved sums a stretch: a fixed order that vectorises.
///
/// # Panics
/// If the vectors are not of one length.
pub fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len(), "vectors of different lengths");
    let mut parts = vec![0f64; a.len().div_ceil(DOT)];
    let place = Place(parts.as_mut_ptr());
    stretches(a.len(), DOT, &|i, range| {
        let mut sums = [0f64; 16];
        for (x, y) in a[range.clone()].chunks(16).zip(b[range].chunks(16)) {
            for (s, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
                *s += (*x).into() * (*y).into();
            }
        }
        // SAFETY: one element an item.
        unsafe { *place.at(i) = sums.iter().sum() };
    });
    parts.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_for_any_number_of_threads() {
        let n = 3 * DOT + 77;
        let vector = |k: usize| (0..n).map(|i| ((i * k) % 1009) as f32 / 37.0).collect::<Vec<_>>();
        let (a, b) = (vector(7), vector(31));
        let both = |threads| {
            crate::set_threads(threads);
            (linear_combination(&[(0.5, &a), (-3.0, &b)]), dot(&a, &b))
        };
        let one = both(1);
        assert_eq!(one, both(3));
        crate::set_threads(1);
        for i in [0, 5, BLOCK, n - 1] {
            assert_eq!(one.0[i].to_bits(), (0.5 * a[i] - 3.0 * b[i]).to_bits());
        }
        let plain: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!((one.1 - plain).abs() < 1e-9 * plain);
    }

    #[test]
    fn nothing_and_short_vectors() {
        assert!(linear_combination::<f64>(&[]).is_empty());
        assert_eq!(linear_combination(&[(2.0, &[1.5f64][..])]), [3.0]);
        assert!(dot::<f32>(&[], &[]).abs() < f64::MIN_POSITIVE);
    }
}
