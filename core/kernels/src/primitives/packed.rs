//! Channel mixing on packed states: one register holds a pixel of several images, `width` lanes each.
//!
//! Weights are repeated for every image; an input channel is spread over its image's lanes by a
//! permutation that stays within half a register.

use super::mix::{Mix, MixWeight};
use crate::simd::{LANES, Simd, zero};

/// [`Mix`] of one block in and out.
pub(crate) struct PackedMix {
    pub mix: Mix,
    /// Lanes of an image: 1, 2, 4 or 8.
    pub width: usize,
}

/// [`MixWeight`] of one block in and out: `dw[s][lane] (+)= sum over pixels of g[lane] * x[lane + s]`,
/// lanes counted round within an image. Row s is 16 floats.
pub(crate) struct PackedMixWeight {
    pub mix: MixWeight,
    pub width: usize,
}

/// The lane that each lane takes: `within` its image's lanes.
fn lanes(width: usize, within: impl Fn(usize) -> usize) -> [i32; LANES] {
    std::array::from_fn(|l| (l / width * width + within(l % width)) as i32)
}

#[inline(always)]
unsafe fn tile<V: Simd, const P: usize, const S: usize, const O: usize>(
    a: &Mix,
    spread: &[V::Lanes],
    (out, x): (*mut f32, *const f32),
    first: bool,
) {
    let mut acc = [zero::<V>(); P];
    if a.add {
        for p in 0..P {
            acc[p] = V::load(out.add(p * 16 * O));
        }
    }
    for t in 0..a.n_taps {
        let tap = &*a.taps.add(t);
        let (x, w) = (x.offset(tap.offset), a.w.add(tap.weight));
        let mut xs = [zero::<V>(); P];
        for p in 0..P {
            xs[p] = V::load(x.add(p * 16 * S));
        }
        for (c, lanes) in spread.iter().enumerate() {
            let wv = V::load(w.add(c * 16));
            for p in 0..P {
                acc[p] = V::fma(wv, xs[p].permute_half(*lanes), acc[p]);
            }
        }
    }
    for p in 0..P {
        acc[p].store(out.add(p * 16 * O));
    }
    if !a.stats.is_null() {
        let shift = a.stats.add(32);
        if first {
            acc[0].store(shift);
        }
        let k = V::load(shift);
        let (mut sum, mut square) = (zero::<V>(), zero::<V>());
        for p in 0..P {
            let d = acc[p].sub(k);
            sum = sum.add(d);
            square = V::fma(d, d, square);
        }
        V::load(a.stats).add(sum).store(a.stats);
        V::load(a.stats.add(16)).add(square).store(a.stats.add(16));
    }
}

#[inline(always)]
unsafe fn rows<V: Simd, const P: usize, const S: usize, const O: usize>(a: &PackedMix) {
    let mut spread = [V::lanes(&[-1; LANES]); 8];
    // Only channels in use.
    let used = *a.mix.lanes as usize;
    for (c, s) in spread[..used].iter_mut().enumerate() {
        *s = V::lanes(&lanes(a.width, |_| c));
    }
    let (spread, a) = (&spread[..used], &a.mix);
    for r in 0..a.rows {
        let (out, x) = (a.out.add(r * a.out_row), a.x.add(r * a.x_row));
        let at = |c: usize| (out.add(c * 16 * O), x.add(c * 16 * S));
        let mut c = 0;
        while c + P <= a.cols {
            tile::<V, P, S, O>(a, spread, at(c), a.first && r + c == 0);
            c += P;
        }
        while c < a.cols {
            tile::<V, 1, S, O>(a, spread, at(c), a.first && r + c == 0);
            c += 1;
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn packed_mix<V: Simd, const P: usize>(a: &PackedMix) {
    match (a.mix.x_step / 16, a.mix.out_step / 16) {
        (1, 1) => rows::<V, P, 1, 1>(a),
        (2, _) => rows::<V, P, 2, 1>(a),
        _ => rows::<V, P, 1, 2>(a),
    }
}

/// Shifts `from` to `from + N`.
#[inline(always)]
unsafe fn shifts<V: Simd, const N: usize>(a: &PackedMixWeight, from: usize) {
    let turned: [V::Lanes; N] =
        std::array::from_fn(|n| V::lanes(&lanes(a.width, |l| (l + from + n) % a.width)));
    let a = &a.mix;
    // Two sums a shift, so that more of them are in flight.
    let mut acc = [[zero::<V>(); N]; 2];
    for r in 0..a.rows {
        let (g, x) = (a.g.add(r * a.g_row), a.x.add(r * a.x_row));
        for p in 0..a.cols {
            let (gv, xv) = (V::load(g.add(p * 16)), V::load(x.add(p * a.x_step)));
            for n in 0..N {
                acc[p % 2][n] = V::fma(gv, xv.permute_half(turned[n]), acc[p % 2][n]);
            }
        }
    }
    for n in 0..N {
        let out = a.dw.add((from + n) * 16);
        let mut sum = acc[0][n].add(acc[1][n]);
        if a.add {
            sum = V::load(out).add(sum);
        }
        sum.store(out);
    }
}

#[inline(always)]
pub(crate) unsafe fn packed_mix_weight<V: Simd>(a: &PackedMixWeight) {
    match a.width {
        1 => shifts::<V, 1>(a, 0),
        2 => shifts::<V, 2>(a, 0),
        _ => (0..a.width).step_by(4).for_each(|from| shifts::<V, 4>(a, from)),
    }
}
