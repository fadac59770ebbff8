//! 3x3 pooling with padding 1: maximum (first in scan order among equals) and average (without the
//! padding).

use crate::simd::{Simd, zero};

/// Both pools of one plane in one pass. Null outputs are not computed.
///
/// Statistics as in [`super::mix::Mix`]: `[sum, square, k]`, each `stats_row` floats apart.
pub(crate) struct Pool {
    pub x: *const f32,
    pub height: usize,
    pub width: usize,
    pub stride: usize,
    pub max: *mut f32,
    /// Which of the nine taps gave the maximum.
    pub index: *mut f32,
    pub average: *mut f32,
    pub max_stats: *mut f32,
    pub average_stats: *mut f32,
    pub stats_row: usize,
}

/// `dx +=` the gradients of both pools; null gradients are left out.
pub(crate) struct PoolBack {
    pub dx: *mut f32,
    pub height: usize,
    pub width: usize,
    pub stride: usize,
    pub max: *const f32,
    pub index: *const f32,
    pub average: *const f32,
}

/// The part of a 3x3 window around `at` that lies inside `0..size`.
#[inline(always)]
fn window(at: usize, size: usize) -> (usize, usize) {
    (at.saturating_sub(1), if at + 2 > size { size } else { at + 2 })
}

/// Sums of `v - k` and `(v - k)^2`: of a row, and of the rows before, with what rounding took from
/// the latter. One running sum over a plane would be off by more than everything else in a pass
/// together (1024 pixels: 3e-7 standard deviations of the mean), the same for all pixels.
pub(crate) struct Moments<V> {
    shift: V,
    row: [V; 2],
    sum: [V; 2],
    lost: [V; 2],
}

impl<V: Simd> Moments<V> {
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        let zeros = [zero(); 2];
        Self { shift: zero(), row: zeros, sum: zeros, lost: zeros }
    }
    #[inline(always)]
    pub(crate) unsafe fn add(&mut self, v: V, first: bool) {
        if first {
            self.shift = v;
        }
        let d = v.sub(self.shift);
        self.row = [self.row[0].add(d), V::fma(d, d, self.row[1])];
    }
    #[inline(always)]
    pub(crate) unsafe fn end_row(&mut self) {
        for q in 0..2 {
            // Knuth's two-sum: `total + lost` is exactly `sum + row`.
            let (sum, row) = (self.sum[q], self.row[q]);
            let total = sum.add(row);
            let of_row = total.sub(sum);
            let lost = sum.sub(total.sub(of_row)).add(row.sub(of_row));
            (self.sum[q], self.lost[q]) = (total, self.lost[q].add(lost));
        }
        self.row = [zero(); 2];
    }
    #[inline(always)]
    pub(crate) unsafe fn store(self, stats: *mut f32, step: usize) {
        self.sum[0].add(self.lost[0]).store(stats);
        self.sum[1].add(self.lost[1]).store(stats.add(step));
        self.shift.store(stats.add(2 * step));
    }
}

/// One window: rows and columns of `x` and the number of its first tap.
#[inline(always)]
unsafe fn pixel<V: Simd, const MAX: bool, const AVG: bool>(
    x: *const f32,
    width: usize,
    (y0, y1): (usize, usize),
    (x0, x1): (usize, usize),
    first_tap: (usize, usize),
) -> (V, V, V) {
    let (mut max, mut index, mut sum) = (V::splat(f32::NEG_INFINITY), zero::<V>(), zero::<V>());
    let mut y = y0;
    while y < y1 {
        let mut c = x0;
        while c < x1 {
            let v = V::load(x.add((y * width + c) * 16));
            if MAX {
                let tap = V::splat((3 * (y - y0 + first_tap.0) + (c - x0 + first_tap.1)) as f32);
                index = V::where_greater(v, max, tap, index);
                max = v.max(max);
            }
            if AVG {
                sum = sum.add(v);
            }
            c += 1;
        }
        y += 1;
    }
    (max, index, sum)
}

#[inline(always)]
unsafe fn plane<V: Simd, const MAX: bool, const AVG: bool>(k: &Pool) {
    let (h, w) = (k.height, k.width);
    let (rows, cols) = ((h - 1) / k.stride + 1, (w - 1) / k.stride + 1);
    let (mut max_moments, mut avg_moments) = (Moments::<V>::new(), Moments::<V>::new());
    for r in 0..rows {
        let y = r * k.stride;
        let ys = window(y, h);
        for c in 0..cols {
            let x = c * k.stride;
            let out = (r * cols + c) * 16;
            let (max, index, sum, count) = if y > 0 && x > 0 && y + 2 <= h && x + 2 <= w {
                let corner = k.x.add(((y - 1) * w + x - 1) * 16);
                let (m, i, s) = pixel::<V, MAX, AVG>(corner, w, (0, 3), (0, 3), (0, 0));
                (m, i, s, 9)
            } else {
                let xs = window(x, w);
                let first = (usize::from(y == 0), usize::from(x == 0));
                let (m, i, s) = pixel::<V, MAX, AVG>(k.x, w, ys, xs, first);
                (m, i, s, (ys.1 - ys.0) * (xs.1 - xs.0))
            };
            if MAX {
                max.store(k.max.add(out));
                index.store(k.index.add(out));
                max_moments.add(max, r + c == 0);
            }
            if AVG {
                let average = sum.mul(V::splat(1.0 / count as f32));
                average.store(k.average.add(out));
                avg_moments.add(average, r + c == 0);
            }
        }
        if MAX {
            max_moments.end_row();
        }
        if AVG {
            avg_moments.end_row();
        }
    }
    if MAX {
        max_moments.store(k.max_stats, k.stats_row);
    }
    if AVG {
        avg_moments.store(k.average_stats, k.stats_row);
    }
}

#[inline(always)]
pub(crate) unsafe fn pool<V: Simd>(k: &Pool) {
    match (k.max.is_null(), k.average.is_null()) {
        (false, false) => plane::<V, true, true>(k),
        (false, true) => plane::<V, true, false>(k),
        (true, _) => plane::<V, false, true>(k),
    }
}

#[inline(always)]
unsafe fn plane_back<V: Simd, const MAX: bool, const AVG: bool>(k: &PoolBack) {
    let (h, w) = (k.height, k.width);
    let (rows, cols) = ((h - 1) / k.stride + 1, (w - 1) / k.stride + 1);
    for r in 0..rows {
        let y = r * k.stride;
        let (y0, y1) = window(y, h);
        for c in 0..cols {
            let x = c * k.stride;
            let (x0, x1) = window(x, w);
            let at = (r * cols + c) * 16;
            let (mut max, mut index, mut average) = (zero::<V>(), zero::<V>(), zero::<V>());
            if MAX {
                (max, index) = (V::load(k.max.add(at)), V::load(k.index.add(at)));
            }
            if AVG {
                let share = 1.0 / ((y1 - y0) * (x1 - x0)) as f32;
                average = V::load(k.average.add(at)).mul(V::splat(share));
            }
            let give = |d: *mut f32, tap: usize| {
                let mut v = V::load(d);
                if AVG {
                    v = v.add(average);
                }
                if MAX {
                    v = v.add(V::where_equal(index, V::splat(tap as f32), max));
                }
                v.store(d);
            };
            let corner = k.dx.add((y0 * w + x0) * 16);
            if y1 - y0 == 3 && x1 - x0 == 3 {
                for i in 0..3 {
                    for j in 0..3 {
                        give(corner.add((i * w + j) * 16), 3 * i + j);
                    }
                }
            } else {
                for i in 0..y1 - y0 {
                    for j in 0..x1 - x0 {
                        let tap = 3 * (i + usize::from(y == 0)) + j + usize::from(x == 0);
                        give(corner.add((i * w + j) * 16), tap);
                    }
                }
            }
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn pool_back<V: Simd>(k: &PoolBack) {
    match (k.max.is_null(), k.average.is_null()) {
        (false, false) => plane_back::<V, true, true>(k),
        (false, true) => plane_back::<V, true, false>(k),
        (true, _) => plane_back::<V, false, true>(k),
    }
}
