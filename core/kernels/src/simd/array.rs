//! Plain arrays: for machines without a table of their own. No `mul_add`: without FMA it is a
//! library call.

use super::{LANES, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Array([f32; LANES]);

#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> Array {
    let mut r = [0.0; LANES];
    for (i, r) in r.iter_mut().enumerate() {
        *r = f(i);
    }
    Array(r)
}

impl Simd for Array {
    type Lanes = [i32; LANES];

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(p.cast::<[f32; LANES]>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        p.cast::<[f32; LANES]>().write_unaligned(self.0);
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    unsafe fn fma(a: Self, b: Self, c: Self) -> Self {
        lanes(|i| a.0[i] * b.0[i] + c.0[i])
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        lanes(|i| self.0[i] + o.0[i])
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        lanes(|i| self.0[i] - o.0[i])
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        lanes(|i| self.0[i] * o.0[i])
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        lanes(|i| if self.0[i] > o.0[i] { self.0[i] } else { o.0[i] })
    }
    #[inline(always)]
    unsafe fn where_positive(x: Self, g: Self) -> Self {
        lanes(|i| if x.0[i] > 0.0 { g.0[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn where_greater(a: Self, b: Self, x: Self, y: Self) -> Self {
        lanes(|i| if a.0[i] > b.0[i] { x.0[i] } else { y.0[i] })
    }
    #[inline(always)]
    #[expect(clippy::float_cmp, reason = "small integers stored as floats: exact by construction")]
    unsafe fn where_equal(a: Self, b: Self, x: Self) -> Self {
        lanes(|i| if a.0[i] == b.0[i] { x.0[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn lanes(from: &[i32; LANES]) -> Self::Lanes {
        *from
    }
    #[inline(always)]
    unsafe fn permute(self, from: Self::Lanes) -> Self {
        // No branches: a lane is read in any case.
        lanes(|i| if from[i] < 0 { 0.0 } else { self.0[from[i] as usize % LANES] })
    }
}
