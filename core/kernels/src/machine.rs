//! Measures what this machine can do at best, with the kernels and the threads in use.
#![expect(unsafe_code, reason = "calls kernels on memory that it owns")]

use crate::arena::Arena;
use crate::error::Result;
use crate::primitives::{self, Kernels, MOST_SUMS, Peak, Read};
use crate::threads::Workers;
use std::time::Instant;

/// The roof of this machine for the kernels and the number of threads in use.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MachinePeak {
    /// Floating-point operations a second in 1e9, a fused multiply-add being two.
    pub gflops: f64,
    /// Bytes read from memory a second in 1e9.
    pub memory_gb_s: f64,
}

/// Repetitions; the fastest counts, since everything that disturbs one makes it slower.
const TRIES: usize = 12;
/// A repetition takes at least this long, in seconds.
const LONG: f64 = 4e-3;
/// Floats that are read: far more than a cache holds.
const MEMORY: usize = 64 << 20;

/// Measures the rate of fused multiply-adds, with enough of them in flight and all operands in
/// registers, and that of reading memory. Takes about a fifth of a second and 256 MiB.
///
/// # Errors
/// The memory to be read cannot be allocated.
pub fn machine_peak() -> Result<MachinePeak> {
    let workers = Workers::acquire();
    let kernels = primitives::default_table();
    Ok(MachinePeak {
        gflops: multiply_adds(&workers, kernels) / 1e9,
        memory_gb_s: reads(&workers, kernels)? / 1e9,
    })
}

/// The shortest time of a call of `f` on each thread, in seconds.
fn shortest(workers: &Workers, tries: usize, f: &(dyn Fn(usize, usize) + Sync)) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..tries {
        let began = Instant::now();
        workers.run(workers.threads(), f);
        best = best.min(began.elapsed().as_secs_f64());
    }
    best
}

fn multiply_adds(workers: &Workers, kernels: &Kernels) -> f64 {
    let turn = |rounds: usize| {
        move |_, _| {
            // x <- x / 2 + 1 stays between 1 and 2.
            let mut values = [1f32; 16 * (2 + MOST_SUMS)];
            values[..16].fill(0.5);
            // SAFETY: the table is one of this machine, and `values` is as long as it may be.
            unsafe { (kernels.peak)(&Peak { values: values.as_mut_ptr(), rounds }) };
            std::hint::black_box(&values);
        }
    };
    let mut rounds = 1 << 12;
    while shortest(workers, 1, &turn(rounds)) < LONG && rounds < 1 << 40 {
        rounds *= 2;
    }
    let seconds = shortest(workers, TRIES, &turn(rounds));
    (rounds * kernels.sums * 16 * 2 * workers.threads()) as f64 / seconds
}

fn reads(workers: &Workers, kernels: &Kernels) -> Result<f64> {
    let memory = Arena::new(MEMORY)?;
    // SAFETY: the arena has this many floats, and nobody else knows it. Untouched pages would all be
    // one page of zeros.
    let floats = unsafe {
        memory.ptr().write_bytes(1, MEMORY);
        std::slice::from_raw_parts(memory.ptr().cast_const(), MEMORY)
    };
    let part = MEMORY / workers.threads() / 128 * 128;
    let seconds = shortest(workers, TRIES, &|_, item| {
        let mut out = [0f32; 16];
        let x = floats[item * part..(item + 1) * part].as_ptr();
        // SAFETY: the table is one of this machine, and the part lies inside the slice.
        unsafe { (kernels.read)(&Read { x, floats: part, out: out.as_mut_ptr() }) };
        std::hint::black_box(&out);
    });
    Ok((part * workers.threads() * size_of::<f32>()) as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernels do what they are said to do: the rates are computed from their arguments.
    #[test]
    fn peak_kernels_by_hand() {
        for kernels in primitives::available() {
            let mut values = [1f32; 16 * (2 + MOST_SUMS)];
            values[..16].fill(0.5);
            // SAFETY: as above.
            unsafe { (kernels.peak)(&Peak { values: values.as_mut_ptr(), rounds: 3 }) };
            // 1, 1.5, 1.75, 1.875.
            let (touched, rest) = values[32..].split_at(16 * kernels.sums);
            assert!(touched.iter().all(|v| (v - 1.875).abs() < 1e-6), "{}", kernels.name);
            assert!(rest.iter().all(|v| (v - 1.0).abs() < 1e-6), "{}", kernels.name);
            let x: Vec<f32> = (0..256).map(|i| (i / 16) as f32).collect();
            let mut out = [0f32; 16];
            // SAFETY: as above.
            unsafe {
                (kernels.read)(&Read { x: x.as_ptr(), floats: 256, out: out.as_mut_ptr() });
            }
            assert!(out.iter().all(|v| (v - 120.0).abs() < 1e-6), "{}", kernels.name);
        }
    }
}
