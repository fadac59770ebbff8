//! Kernels that stream over planes once: weighted sums, dots, rectified tiles, lazy gradients.

use crate::simd::{Simd, zero};

/// Floats ahead of a read that its line is fetched: the processor's own prefetching stops at the end
/// of a page, and bands are shorter.
const AHEAD: usize = 1024;

/// A plane and the 16 factors it is taken with.
pub(crate) type Scaled = (*const f32, *const f32);

/// `out (+)= bias + sum of plane * factors`.
pub(crate) struct Sum {
    pub out: *mut f32,
    pub n: usize,
    pub src: *const Scaled,
    pub n_src: usize,
    /// Null: zero.
    pub bias: *const f32,
    pub add: bool,
}

/// `dot[s] = sum over pixels of g * src[s]`, and `sum = sum of g` unless null.
pub(crate) struct Dots {
    pub g: *const f32,
    pub n: usize,
    pub src: *const *const f32,
    pub n_src: usize,
    pub dot: *const *mut f32,
    pub sum: *mut f32,
}

/// `out = s * x + t`, rectified if `relu`; without the affine map if `s` is null. Rows of `out` may
/// be padded.
pub(crate) struct Fill {
    pub out: *mut f32,
    pub out_row: usize,
    pub x: *const f32,
    pub rows: usize,
    pub cols: usize,
    pub s: *const f32,
    pub t: *const f32,
    pub relu: bool,
}

/// `out = a * g + b * z + c`: the gradient through a normalisation. Rows of `out` may be padded.
pub(crate) struct Lazy {
    pub out: *mut f32,
    pub out_row: usize,
    pub g: *const f32,
    pub z: *const f32,
    pub rows: usize,
    pub cols: usize,
    pub a: *const f32,
    pub b: *const f32,
    pub c: *const f32,
}

/// `out = (s * z + t > 0) ? g : 0` (everything passes unless `relu`), with `sums = [sum of out, sum
/// of out * z]`.
pub(crate) struct Mask {
    pub g: *const f32,
    pub out: *mut f32,
    pub z: *const f32,
    pub n: usize,
    pub s: *const f32,
    pub t: *const f32,
    pub relu: bool,
    pub sum: *mut f32,
    pub dot: *mut f32,
}

/// `dx += (x > 0) ? g : 0`; everything passes if `x` is null.
pub(crate) struct Rectify {
    pub dx: *mut f32,
    pub g: *const f32,
    pub x: *const f32,
    pub n: usize,
}

#[inline(always)]
unsafe fn sum_tile<V: Simd, const P: usize>(a: &Sum, i: usize) {
    let out = a.out.add(i * 16);
    let bias = if a.bias.is_null() { zero::<V>() } else { V::load(a.bias) };
    let mut acc = [bias; P];
    if a.add {
        for p in 0..P {
            acc[p] = bias.add(V::load(out.add(p * 16)));
        }
    }
    for s in 0..a.n_src {
        let (x, w) = *a.src.add(s);
        let (x, w) = (x.add(i * 16), V::load(w));
        for p in 0..P {
            V::soon_read(x.wrapping_add(p * 16 + AHEAD));
            acc[p] = V::fma(w, V::load(x.add(p * 16)), acc[p]);
        }
    }
    for p in 0..P {
        acc[p].store(out.add(p * 16));
    }
}

#[inline(always)]
pub(crate) unsafe fn sum<V: Simd, const P: usize>(a: &Sum) {
    let mut i = 0;
    while i + P <= a.n {
        sum_tile::<V, P>(a, i);
        i += P;
    }
    while i < a.n {
        sum_tile::<V, 1>(a, i);
        i += 1;
    }
}

/// Pixels that are summed before the sum is added to a total: short sums round less.
const STRETCH: usize = 64;

#[inline(always)]
unsafe fn dot_tile<V: Simd, const Q: usize>(a: &Dots, s: usize) {
    let mut total = [zero::<V>(); Q];
    let mut first = 0;
    while first < a.n {
        let end = a.n.min(first + STRETCH);
        let mut acc = [[zero::<V>(); 2]; Q];
        let mut i = first;
        while i < end {
            let g = V::load(a.g.add(i * 16));
            for q in 0..Q {
                V::soon_read((*a.src.add(s + q)).wrapping_add(i * 16 + AHEAD));
                V::soon_read((*a.src.add(s + q)).wrapping_add(i * 16 + 16 + AHEAD));
                acc[q][0] = V::fma(g, V::load((*a.src.add(s + q)).add(i * 16)), acc[q][0]);
            }
            if i + 1 < end {
                let g = V::load(a.g.add(i * 16 + 16));
                for q in 0..Q {
                    acc[q][1] = V::fma(g, V::load((*a.src.add(s + q)).add(i * 16 + 16)), acc[q][1]);
                }
            }
            i += 2;
        }
        for q in 0..Q {
            total[q] = total[q].add(acc[q][0].add(acc[q][1]));
        }
        first = end;
    }
    for q in 0..Q {
        total[q].store(*a.dot.add(s + q));
    }
}

#[inline(always)]
pub(crate) unsafe fn dots<V: Simd>(a: &Dots) {
    if !a.sum.is_null() {
        let mut total = zero::<V>();
        for first in (0..a.n).step_by(STRETCH) {
            let mut acc = [zero::<V>(); 4];
            for i in first..a.n.min(first + STRETCH) {
                acc[i % 4] = acc[i % 4].add(V::load(a.g.add(i * 16)));
            }
            total = total.add(acc[0].add(acc[1]).add(acc[2].add(acc[3])));
        }
        total.store(a.sum);
    }
    let mut s = 0;
    while s + 4 <= a.n_src {
        dot_tile::<V, 4>(a, s);
        s += 4;
    }
    while s < a.n_src {
        dot_tile::<V, 1>(a, s);
        s += 1;
    }
}

#[inline(always)]
unsafe fn fill_rows<V: Simd, const RELU: bool, const AFFINE: bool>(a: &Fill) {
    let (s, t) = if AFFINE { (V::load(a.s), V::load(a.t)) } else { (zero(), zero()) };
    for r in 0..a.rows {
        let (out, x) = (a.out.add(r * a.out_row), a.x.add(r * a.cols * 16));
        for c in 0..a.cols {
            V::soon_read(x.wrapping_add(c * 16 + AHEAD));
            let mut v = V::load(x.add(c * 16));
            if AFFINE {
                v = V::fma(v, s, t);
            }
            if RELU {
                v = zero::<V>().max(v);
            }
            v.store(out.add(c * 16));
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn fill<V: Simd>(a: &Fill) {
    match (a.relu, a.s.is_null()) {
        (true, true) => fill_rows::<V, true, false>(a),
        (true, false) => fill_rows::<V, true, true>(a),
        (false, true) => fill_rows::<V, false, false>(a),
        (false, false) => fill_rows::<V, false, true>(a),
    }
}

#[inline(always)]
pub(crate) unsafe fn lazy<V: Simd>(k: &Lazy) {
    let (a, b, c) = (V::load(k.a), V::load(k.b), V::load(k.c));
    for r in 0..k.rows {
        let at = r * k.cols * 16;
        let (out, g, z) = (k.out.add(r * k.out_row), k.g.add(at), k.z.add(at));
        for i in 0..k.cols {
            V::soon_read(z.wrapping_add(i * 16 + AHEAD));
            V::soon_read(g.wrapping_add(i * 16 + AHEAD));
            let bz = V::fma(b, V::load(z.add(i * 16)), c);
            V::fma(a, V::load(g.add(i * 16)), bz).store(out.add(i * 16));
        }
    }
}

#[inline(always)]
unsafe fn mask_plane<V: Simd, const RELU: bool>(k: &Mask) {
    let (s, t) = (V::load(k.s), V::load(k.t));
    let (mut sum, mut dot) = (zero::<V>(), zero::<V>());
    for first in (0..k.n).step_by(STRETCH) {
        let (mut sums, mut dots) = ([zero::<V>(); 4], [zero::<V>(); 4]);
        for i in first..k.n.min(first + STRETCH) {
            let (mut g, z) = (V::load(k.g.add(i * 16)), V::load(k.z.add(i * 16)));
            if RELU {
                g = V::where_positive(V::fma(z, s, t), g);
            }
            g.store(k.out.add(i * 16));
            sums[i % 4] = sums[i % 4].add(g);
            dots[i % 4] = V::fma(g, z, dots[i % 4]);
        }
        sum = sum.add(sums[0].add(sums[1]).add(sums[2].add(sums[3])));
        dot = dot.add(dots[0].add(dots[1]).add(dots[2].add(dots[3])));
    }
    sum.store(k.sum);
    dot.store(k.dot);
}

#[inline(always)]
pub(crate) unsafe fn mask<V: Simd>(k: &Mask) {
    if k.relu {
        mask_plane::<V, true>(k);
    } else {
        mask_plane::<V, false>(k);
    }
}

#[inline(always)]
pub(crate) unsafe fn rectify<V: Simd>(k: &Rectify) {
    for i in 0..k.n {
        let d = k.dx.add(i * 16);
        V::soon_read(d.wrapping_add(AHEAD));
        let mut g = V::load(k.g.add(i * 16));
        if !k.x.is_null() {
            g = V::where_positive(V::load(k.x.add(i * 16)), g);
        }
        V::load(d).add(g).store(d);
    }
}
