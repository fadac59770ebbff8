//! Convolutions that mix channels: pointwise, dense and factorised reduction are one kernel over a
//! list of taps.

use super::depthwise::Tap;
use crate::simd::{Simd, zero};

/// `out[co] (+)= sum over taps, ci of w[tap][co block][ci][16] * x[ci](tap)`, with optional
/// statistics.
///
/// Statistics are sums of `z - k` and `(z - k)^2`, `k` being the image's first pixel: no
/// cancellation. Their layout is `[sum, square, k][channels]`; `first` says that this call holds
/// the first pixel and sets `k`.
#[derive(Clone, Copy)]
pub(crate) struct Mix {
    pub out: *mut f32,
    /// 16 or 32.
    pub out_step: usize,
    pub out_row: usize,
    pub out_block: usize,
    pub x: *const f32,
    /// 16 or 32; not both steps may be 32.
    pub x_step: usize,
    pub x_row: usize,
    pub x_block: usize,
    pub rows: usize,
    pub cols: usize,
    pub blocks_in: usize,
    pub blocks_out: usize,
    /// Channels in use of each input block.
    pub lanes: *const u32,
    pub taps: *const Tap,
    pub n_taps: usize,
    pub w: *const f32,
    pub stats: *mut f32,
    pub first: bool,
    /// How far ahead output lines are fetched for writing; 0: not at all.
    pub ahead: usize,
    pub add: bool,
}

/// `dw[co][ci] (+)= sum over pixels of g[co] * x[ci]`, a row of `16 * blocks_in` floats for each
/// padded `co`.
pub(crate) struct MixWeight {
    pub dw: *mut f32,
    pub g: *const f32,
    pub g_row: usize,
    pub g_block: usize,
    pub x: *const f32,
    /// 16 or 32.
    pub x_step: usize,
    pub x_row: usize,
    pub x_block: usize,
    pub rows: usize,
    pub cols: usize,
    pub blocks_out: usize,
    pub blocks_in: usize,
    /// Channels in use of each output block.
    pub lanes: *const u32,
    pub add: bool,
}

/// Sums of a tile's statistics that run side by side.
const CHAINS: usize = 4;

#[inline(always)]
unsafe fn tile<V: Simd, const P: usize, const Q: usize, const S: usize, const O: usize>(
    a: &Mix,
    out: *mut f32,
    x: *const f32,
    w: *const f32,
    stats: *mut f32,
    first: bool,
) {
    let mut acc = [[zero::<V>(); P]; Q];
    if a.add {
        for q in 0..Q {
            for p in 0..P {
                acc[q][p] = V::load(out.add(q * a.out_block + p * 16 * O));
            }
        }
    }
    let w_block = a.blocks_in * 256;
    for t in 0..a.n_taps {
        let tap = &*a.taps.add(t);
        let (x, w) = (x.offset(tap.offset), w.add(tap.weight));
        for b in 0..a.blocks_in {
            let (x, w) = (x.add(b * a.x_block), w.add(b * 256));
            for c in 0..*a.lanes.add(b) as usize {
                let mut wv = [zero::<V>(); Q];
                for q in 0..Q {
                    wv[q] = V::load(w.add(q * w_block + c * 16));
                }
                for p in 0..P {
                    let xv = V::splat(*x.add(p * 16 * S + c));
                    for q in 0..Q {
                        acc[q][p] = V::fma(wv[q], xv, acc[q][p]);
                    }
                }
            }
        }
    }
    for q in 0..Q {
        for p in 0..P {
            acc[q][p].store(out.add(q * a.out_block + p * 16 * O));
        }
        if a.ahead > 0 {
            for p in 0..P {
                V::soon_written(out.wrapping_add(q * a.out_block + p * 16 * O + a.ahead));
            }
        }
        if !stats.is_null() {
            let shift = stats.add((2 * a.blocks_out + q) * 16);
            if first {
                acc[q][0].store(shift);
            }
            let k = V::load(shift);
            // Sums side by side: one after the other they would wait for each other.
            let (mut sum, mut square) = ([zero::<V>(); CHAINS], [zero::<V>(); CHAINS]);
            for p in 0..P {
                let d = acc[q][p].sub(k);
                sum[p % CHAINS] = sum[p % CHAINS].add(d);
                square[p % CHAINS] = V::fma(d, d, square[p % CHAINS]);
            }
            let (s0, s1) = (stats.add(q * 16), stats.add((a.blocks_out + q) * 16));
            let all = |s: [V; CHAINS]| s[0].add(s[1]).add(s[2].add(s[3]));
            V::load(s0).add(all(sum)).store(s0);
            V::load(s1).add(all(square)).store(s1);
        }
    }
}

#[inline(always)]
unsafe fn blocks<V: Simd, const P: usize, const Q: usize, const S: usize, const O: usize>(
    a: &Mix,
    q: usize,
) {
    let w = a.w.add(q * a.blocks_in * 256);
    let stats = if a.stats.is_null() { a.stats } else { a.stats.add(q * 16) };
    for r in 0..a.rows {
        let (out, x) = (a.out.add(q * a.out_block + r * a.out_row), a.x.add(r * a.x_row));
        let at = |c: usize| (out.add(c * 16 * O), x.add(c * 16 * S), a.first && r + c == 0);
        let mut c = 0;
        while c + P <= a.cols {
            let (out, x, first) = at(c);
            tile::<V, P, Q, S, O>(a, out, x, w, stats, first);
            c += P;
        }
        if P > 8 && c + 8 <= a.cols {
            let (out, x, first) = at(c);
            tile::<V, 8, Q, S, O>(a, out, x, w, stats, first);
            c += 8;
        }
        if P > 4 && c + 4 <= a.cols {
            let (out, x, first) = at(c);
            tile::<V, 4, Q, S, O>(a, out, x, w, stats, first);
            c += 4;
        }
        if P > 2 && c + 2 <= a.cols {
            let (out, x, first) = at(c);
            tile::<V, 2, Q, S, O>(a, out, x, w, stats, first);
            c += 2;
        }
        while c < a.cols {
            let (out, x, first) = at(c);
            tile::<V, 1, Q, S, O>(a, out, x, w, stats, first);
            c += 1;
        }
    }
}

#[inline(always)]
unsafe fn steps<V: Simd, const P: usize, const Q: usize, const S: usize, const O: usize>(a: &Mix) {
    let mut q = 0;
    while q + Q <= a.blocks_out {
        blocks::<V, P, Q, S, O>(a, q);
        q += Q;
    }
    // What is left has one output block: twice the pixels keep as many sums in flight.
    while q < a.blocks_out {
        if P == 8 {
            blocks::<V, 16, 1, S, O>(a, q);
        } else {
            blocks::<V, P, 1, S, O>(a, q);
        }
        q += 1;
    }
}

#[inline(always)]
pub(crate) unsafe fn mix<V: Simd, const P: usize, const Q: usize>(a: &Mix) {
    match (a.x_step / 16, a.out_step / 16) {
        (1, 1) => steps::<V, P, Q, 1, 1>(a),
        (2, _) => steps::<V, P, Q, 2, 1>(a),
        _ => steps::<V, P, Q, 1, 2>(a),
    }
}

#[inline(always)]
unsafe fn weight_tile<V: Simd, const M: usize, const N: usize, const S: usize>(
    a: &MixWeight,
    dw: *mut f32,
    g: *const f32,
    x: *const f32,
) {
    let mut acc = [[zero::<V>(); M]; N];
    for r in 0..a.rows {
        let (g, x) = (g.add(r * a.g_row), x.add(r * a.x_row));
        for p in 0..a.cols {
            let mut xv = [zero::<V>(); N];
            for j in 0..N {
                xv[j] = V::load(x.add(j * a.x_block + p * 16 * S));
            }
            for i in 0..M {
                let gv = V::splat(*g.add(p * 16 + i));
                for j in 0..N {
                    acc[j][i] = V::fma(gv, xv[j], acc[j][i]);
                }
            }
        }
    }
    for j in 0..N {
        for i in 0..M {
            let out = dw.add((i * a.blocks_in + j) * 16);
            if a.add {
                acc[j][i] = V::load(out).add(acc[j][i]);
            }
            acc[j][i].store(out);
        }
    }
}

#[inline(always)]
unsafe fn weight_step<V: Simd, const M: usize, const N: usize, const S: usize>(a: &MixWeight) {
    for ob in 0..a.blocks_out {
        let lanes = *a.lanes.add(ob) as usize;
        let mut i = 0;
        while i < lanes {
            let dw = a.dw.add((ob * 16 + i) * a.blocks_in * 16);
            let g = a.g.add(ob * a.g_block + i);
            let mut j = 0;
            while j + N <= a.blocks_in {
                weight_tile::<V, M, N, S>(a, dw.add(j * 16), g, a.x.add(j * a.x_block));
                j += N;
            }
            while j < a.blocks_in {
                weight_tile::<V, M, 1, S>(a, dw.add(j * 16), g, a.x.add(j * a.x_block));
                j += 1;
            }
            i += M;
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn mix_weight<V: Simd, const M: usize, const N: usize>(a: &MixWeight) {
    if a.x_step == 16 {
        weight_step::<V, M, N, 1>(a);
    } else {
        weight_step::<V, M, N, 2>(a);
    }
}
