//! Depthwise convolution: forward, input gradient, weight gradient.

use crate::simd::{Simd, zero};

/// One kernel tap: where it reads, relative to the pixel, and where its weights lie. In floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tap {
    pub offset: isize,
    pub weight: usize,
}

/// Depthwise correlation over a list of taps. It serves the forward pass (any stride or dilation)
/// and the input gradient (stride 1: negated offsets; stride 2: one call for each parity class of
/// the input, no zero insertion).
pub(crate) struct Depthwise {
    pub out: *mut f32,
    pub out_step: usize,
    pub out_row: usize,
    pub x: *const f32,
    /// 16 or 32.
    pub x_step: usize,
    pub x_row: usize,
    pub rows: usize,
    pub cols: usize,
    pub taps: *const Tap,
    pub n_taps: usize,
    pub w: *const f32,
    /// Adds to `out` instead of overwriting it.
    pub add: bool,
}

/// `dw[tap][16] (+)= sum over output pixels of g * x(tap)` for `k * k` taps.
pub(crate) struct DepthwiseWeight {
    pub dw: *mut f32,
    pub g: *const f32,
    pub g_row: usize,
    pub x: *const f32,
    pub x_row: usize,
    /// 16 or 32.
    pub x_step: usize,
    pub rows: usize,
    pub cols: usize,
    pub k: usize,
    pub dilation: usize,
    pub add: bool,
}

/// `R` rows of `P` pixels: enough independent sums to hide the latency of the multiply-add. The tap
/// loop is unrolled `U` times: a branch for each tap would cost more than the tap.
#[inline(always)]
unsafe fn tile<V: Simd, const R: usize, const P: usize, const S: usize, const U: usize>(
    a: &Depthwise,
    out: *mut f32,
    x: *const f32,
) {
    let mut acc = [[zero::<V>(); P]; R];
    if a.add {
        for r in 0..R {
            for p in 0..P {
                acc[r][p] = V::load(out.add(r * a.out_row + p * a.out_step));
            }
        }
    }
    let mut t = 0;
    while t < a.n_taps {
        for i in 0..U {
            let tap = &*a.taps.add(t + i);
            let w = V::load(a.w.add(tap.weight));
            let xt = x.offset(tap.offset);
            for r in 0..R {
                let xr = xt.add(r * a.x_row);
                for p in 0..P {
                    acc[r][p] = V::fma(w, V::load(xr.add(p * 16 * S)), acc[r][p]);
                }
            }
        }
        t += U;
    }
    for r in 0..R {
        for p in 0..P {
            acc[r][p].store(out.add(r * a.out_row + p * a.out_step));
        }
    }
}

#[inline(always)]
unsafe fn rows<V: Simd, const R: usize, const P: usize, const S: usize, const U: usize>(
    a: &Depthwise,
    out: *mut f32,
    x: *const f32,
) {
    let at = |c: usize| (out.add(c * a.out_step), x.add(c * 16 * S));
    let mut c = 0;
    while c + P <= a.cols {
        let (out, x) = at(c);
        tile::<V, R, P, S, U>(a, out, x);
        c += P;
    }
    if c + 4 <= a.cols {
        let (out, x) = at(c);
        tile::<V, R, 4, S, U>(a, out, x);
        c += 4;
    }
    while c < a.cols {
        let (out, x) = at(c);
        tile::<V, R, 1, S, U>(a, out, x);
        c += 1;
    }
}

#[inline(always)]
unsafe fn plane<V: Simd, const R: usize, const P: usize, const S: usize, const U: usize>(
    a: &Depthwise,
) {
    let mut r = 0;
    while r + R <= a.rows {
        rows::<V, R, P, S, U>(a, a.out.add(r * a.out_row), a.x.add(r * a.x_row));
        r += R;
    }
    if R > 1 {
        while r < a.rows {
            rows::<V, 1, P, S, U>(a, a.out.add(r * a.out_row), a.x.add(r * a.x_row));
            r += 1;
        }
    }
}

/// One input pixel `J` of a kernel row, added to every output it reaches. All index arithmetic is
/// constant.
#[inline(always)]
unsafe fn slide<V: Simd, const P: usize, const K: usize, const D: usize, const J: usize>(
    acc: &mut [V; P],
    w: &[V; K],
    x: *const f32,
) {
    if J < P + (K - 1) * D {
        let xv = V::load(x.add(J * 16));
        for m in 0..K {
            if J >= m * D && J - m * D < P {
                acc[J - m * D] = V::fma(w[m], xv, acc[J - m * D]);
            }
        }
    }
}

/// Full stencils with stride 1 on machines with 32 wide registers: each input is loaded once a
/// kernel row.
#[inline(always)]
unsafe fn sliding_tile<V: Simd, const R: usize, const P: usize, const K: usize, const D: usize>(
    a: &Depthwise,
    out: *mut f32,
    x: *const f32,
) {
    let mut acc = [[zero::<V>(); P]; R];
    if a.add {
        for r in 0..R {
            for p in 0..P {
                acc[r][p] = V::load(out.add(r * a.out_row + p * 16));
            }
        }
    }
    // Forward: rising offsets in a kernel row; gradient: falling.
    let rising = (*a.taps.add(1)).offset > (*a.taps).offset;
    let mut t = 0;
    while t < K * K {
        let mut w = [zero::<V>(); K];
        for m in 0..K {
            let tap = if rising { t + m } else { t + K - 1 - m };
            w[m] = V::load(a.w.add((*a.taps.add(tap)).weight));
        }
        let x = x.offset((*a.taps.add(if rising { t } else { t + K - 1 })).offset);
        macro_rules! each {
            ($($j:literal)*) => { $(
                slide::<V, P, K, D, $j>(&mut acc[0], &w, x);
                if R == 2 {
                    slide::<V, P, K, D, $j>(&mut acc[R - 1], &w, x.add(a.x_row));
                }
            )* };
        }
        each!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23);
        t += K;
    }
    for r in 0..R {
        for p in 0..P {
            acc[r][p].store(out.add(r * a.out_row + p * 16));
        }
    }
}

#[inline(always)]
unsafe fn sliding_plane<V: Simd, const K: usize, const D: usize>(a: &Depthwise) {
    let wide = a.cols / 16 * 16;
    for r in 0..a.rows {
        let (out, x) = (a.out.add(r * a.out_row), a.x.add(r * a.x_row));
        let mut c = 0;
        while c < wide {
            sliding_tile::<V, 1, 16, K, D>(a, out.add(c * 16), x.add(c * 16));
            c += 16;
        }
    }
    if wide == a.cols {
        return;
    }
    let mut r = 0;
    while r < a.rows {
        let (out, x) = (a.out.add(r * a.out_row), a.x.add(r * a.x_row));
        let mut c = wide;
        if r + 2 <= a.rows {
            if c + 8 <= a.cols {
                sliding_tile::<V, 2, 8, K, D>(a, out.add(c * 16), x.add(c * 16));
                c += 8;
            }
            if c + 4 <= a.cols {
                sliding_tile::<V, 2, 4, K, D>(a, out.add(c * 16), x.add(c * 16));
                c += 4;
            }
            while c < a.cols {
                sliding_tile::<V, 2, 1, K, D>(a, out.add(c * 16), x.add(c * 16));
                c += 1;
            }
            r += 2;
        } else {
            while c < a.cols {
                sliding_tile::<V, 1, 1, K, D>(a, out.add(c * 16), x.add(c * 16));
                c += 1;
            }
            r += 1;
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn depthwise<V: Simd, const R: usize, const P: usize, const WIDE: bool>(
    a: &Depthwise,
) {
    if WIDE && a.x_step == 16 && a.out_step == 16 && (a.n_taps == 9 || a.n_taps == 25) {
        let spacing = ((*a.taps.add(1)).offset - (*a.taps).offset).unsigned_abs() / 16;
        match (a.n_taps, spacing) {
            (9, 1) => return sliding_plane::<V, 3, 1>(a),
            (9, 2) => return sliding_plane::<V, 3, 2>(a),
            (25, 1) => return sliding_plane::<V, 5, 1>(a),
            (25, 2) => return sliding_plane::<V, 5, 2>(a),
            _ => {}
        }
    }
    match (a.x_step / 16, a.n_taps % 5, a.n_taps % 3) {
        (1, 0, _) => plane::<V, R, P, 1, 5>(a),
        (1, _, 0) => plane::<V, R, P, 1, 3>(a),
        (1, _, _) => plane::<V, R, P, 1, 1>(a),
        (_, 0, _) => plane::<V, R, P, 2, 5>(a),
        (_, _, 0) => plane::<V, R, P, 2, 3>(a),
        _ => plane::<V, R, P, 2, 1>(a),
    }
}

/// `R` kernel rows at a time, all their sums in registers.
#[inline(always)]
unsafe fn weight_rows<V: Simd, const K: usize, const R: usize, const D: usize, const S: usize>(
    a: &DepthwiseWeight,
) {
    let half = (K / 2) as isize;
    let mut first = 0;
    while first < K {
        let mut acc = [[zero::<V>(); K]; R];
        let corner = (first as isize - half) * (D * a.x_row) as isize - half * (D * 16) as isize;
        for y in 0..a.rows {
            let g = a.g.add(y * a.g_row);
            let x = a.x.add(y * a.x_row * S).offset(corner);
            for c in 0..a.cols {
                let gv = V::load(g.add(c * 16));
                let xc = x.add(c * 16 * S);
                for i in 0..R {
                    let xr = xc.add(i * D * a.x_row);
                    for j in 0..K {
                        acc[i][j] = V::fma(gv, V::load(xr.add(j * D * 16)), acc[i][j]);
                    }
                }
            }
        }
        for i in 0..R {
            for j in 0..K {
                let out = a.dw.add(((first + i) * K + j) * 16);
                if a.add {
                    acc[i][j] = V::load(out).add(acc[i][j]);
                }
                acc[i][j].store(out);
            }
        }
        first += R;
    }
}

/// Any kernel size and dilation, one tap at a time.
#[inline(always)]
unsafe fn weight_taps<V: Simd>(a: &DepthwiseWeight) {
    let half = (a.k / 2) as isize;
    let at = |i: usize| (i as isize - half) * a.dilation as isize;
    for i in 0..a.k {
        for j in 0..a.k {
            let mut acc = zero::<V>();
            for y in 0..a.rows {
                let g = a.g.add(y * a.g_row);
                let x = a.x.add(y * a.x_row * (a.x_step / 16));
                let x = x.offset(at(i) * a.x_row as isize + at(j) * 16);
                for c in 0..a.cols {
                    acc = V::fma(V::load(g.add(c * 16)), V::load(x.add(c * a.x_step)), acc);
                }
            }
            let out = a.dw.add((i * a.k + j) * 16);
            if a.add {
                acc = V::load(out).add(acc);
            }
            acc.store(out);
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn depthwise_weight<V: Simd, const R3: usize, const R5: usize>(
    a: &DepthwiseWeight,
) {
    match (a.k, a.dilation, a.x_step / 16) {
        (3, 1, 1) => weight_rows::<V, 3, R3, 1, 1>(a),
        (3, 1, 2) => weight_rows::<V, 3, R3, 1, 2>(a),
        (3, 2, 1) => weight_rows::<V, 3, R3, 2, 1>(a),
        (3, 2, 2) => weight_rows::<V, 3, R3, 2, 2>(a),
        (5, 1, 1) => weight_rows::<V, 5, R5, 1, 1>(a),
        (5, 1, 2) => weight_rows::<V, 5, R5, 1, 2>(a),
        (5, 2, 1) => weight_rows::<V, 5, R5, 2, 1>(a),
        (5, 2, 2) => weight_rows::<V, 5, R5, 2, 2>(a),
        _ => weight_taps::<V>(a),
    }
}
