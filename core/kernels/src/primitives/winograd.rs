//! 3x3 convolutions of stride 1 with 2.25 times fewer multiplications: Winograd's F(2x2, 3x3).
//!
//! An output tile of 2x2 pixels is `A' [(G g G') . (B' d B)] A` of the 4x4 input tile `d` around it
//! (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016), with
//!
//! ```text
//!      1  0 -1  0         1    0    0
//! B' = 0  1  1  0     G = 1/2  1/2  1/2     A' = 1  1  1  0
//!      0 -1  1  0         1/2 -1/2  1/2          0  1 -1 -1
//!      0  1  0 -1         0    0    1
//! ```
//!
//! The products are sums over channels of 16 *elements*, each a pointwise mix of tiles. A channel is
//! a lane, so the transforms are plain additions of registers. Work is done in bands of tiles whose
//! transforms stay in the first cache level or the second.

use crate::simd::{Simd, zero};

/// Elements of a transformed tile.
pub(crate) const ELEMENTS: usize = 16;

/// `out[co] (+)= sum over 3x3 taps, ci of w * x[ci]`, with statistics as in [`super::Mix`].
///
/// A tile may reach two pixels beyond the last one: they must lie in the allocation.
pub(crate) struct Winograd {
    pub out: *mut f32,
    pub out_row: usize,
    pub out_block: usize,
    pub x: *const f32,
    pub x_row: usize,
    pub x_block: usize,
    pub rows: usize,
    pub cols: usize,
    pub blocks_in: usize,
    pub blocks_out: usize,
    /// Channels in use of each input block.
    pub lanes: *const u32,
    /// Transformed weights `[element][out block][in lane][16 out]`.
    pub w: *const f32,
    /// Room for [`room`] floats.
    pub scratch: *mut f32,
    /// Tiles of a band.
    pub band: usize,
    pub stats: *mut f32,
    /// How far ahead output lines are fetched for writing; 0: not at all.
    pub ahead: usize,
    pub add: bool,
}

/// Floats between elements of a band: one cache line more than needed, so that the elements of a
/// tile lie in different sets of the cache.
const fn element_step(blocks: usize, band: usize) -> usize {
    (blocks * band + 1) * 16
}

/// Floats of scratch memory that a convolution needs.
pub(crate) const fn room(blocks_in: usize, blocks_out: usize, band: usize) -> usize {
    ELEMENTS * (element_step(blocks_in, band) + element_step(blocks_out, band))
}

/// A run of tiles in row-major order, and the transforms of one block of channels.
#[derive(Clone, Copy)]
struct Band {
    first: usize,
    tiles: usize,
    /// Tiles of a row.
    across: usize,
    /// Floats between elements.
    step: usize,
}

/// `B'` applied to a column of four.
#[inline(always)]
unsafe fn column<V: Simd>(x: *const f32, row: usize) -> [V; 4] {
    let (a, b) = (V::load(x), V::load(x.add(row)));
    let (c, d) = (V::load(x.add(2 * row)), V::load(x.add(3 * row)));
    [a.sub(c), b.add(c), c.sub(b), b.sub(d)]
}

/// `B' d B` of a band; neighbouring tiles share two columns.
#[inline(always)]
unsafe fn input<V: Simd>(band: Band, x: *const f32, x_row: usize, out: *mut f32) {
    let mut done = 0;
    while done < band.tiles {
        let (ty, tx) = ((band.first + done) / band.across, (band.first + done) % band.across);
        let run = (band.across - tx).min(band.tiles - done);
        let mut x = x.add(2 * ty * x_row + 2 * tx * 16).wrapping_sub(x_row + 16);
        let (mut a, mut b) = (column::<V>(x, x_row), column::<V>(x.add(16), x_row));
        for t in done..done + run {
            x = x.add(32);
            let (c, d) = (column::<V>(x, x_row), column::<V>(x.add(16), x_row));
            let out = out.add(t * 16);
            for i in 0..4 {
                a[i].sub(c[i]).store(out.add(4 * i * band.step));
                b[i].add(c[i]).store(out.add((4 * i + 1) * band.step));
                c[i].sub(b[i]).store(out.add((4 * i + 2) * band.step));
                b[i].sub(d[i]).store(out.add((4 * i + 3) * band.step));
            }
            (a, b) = (c, d);
        }
        done += run;
    }
}

/// Sums over channels of one element for `P` tiles and `Q` output blocks.
#[inline(always)]
unsafe fn products<V: Simd, const P: usize, const Q: usize>(
    a: &Winograd,
    v: *const f32,
    w: *const f32,
    m: *mut f32,
) {
    let (plane, w_block) = (a.band * 16, a.blocks_in * 256);
    let mut acc = [[zero::<V>(); P]; Q];
    for b in 0..a.blocks_in {
        let (v, w) = (v.add(b * plane), w.add(b * 256));
        for c in 0..*a.lanes.add(b) as usize {
            let mut wv = [zero::<V>(); Q];
            for q in 0..Q {
                wv[q] = V::load(w.add(q * w_block + c * 16));
            }
            for p in 0..P {
                let xv = V::splat(*v.add(p * 16 + c));
                for q in 0..Q {
                    acc[q][p] = V::fma(wv[q], xv, acc[q][p]);
                }
            }
        }
    }
    for q in 0..Q {
        for p in 0..P {
            acc[q][p].store(m.add(q * plane + p * 16));
        }
    }
}

#[inline(always)]
unsafe fn blocks<V: Simd, const P: usize, const Q: usize>(
    a: &Winograd,
    tiles: usize,
    v: *const f32,
    w: *const f32,
    m: *mut f32,
) {
    let mut t = 0;
    while t + P <= tiles {
        products::<V, P, Q>(a, v.add(t * 16), w, m.add(t * 16));
        t += P;
    }
    if P > 8 && t + 8 <= tiles {
        products::<V, 8, Q>(a, v.add(t * 16), w, m.add(t * 16));
        t += 8;
    }
    if P > 4 && t + 4 <= tiles {
        products::<V, 4, Q>(a, v.add(t * 16), w, m.add(t * 16));
        t += 4;
    }
    while t < tiles {
        products::<V, 1, Q>(a, v.add(t * 16), w, m.add(t * 16));
        t += 1;
    }
}

/// `A' m A` of a band of one output block.
#[inline(always)]
unsafe fn output<V: Simd>(a: &Winograd, band: Band, m: *const f32, out: *mut f32, stats: *mut f32) {
    let mut k = zero::<V>();
    if !stats.is_null() && band.first > 0 {
        k = V::load(stats.add(2 * a.blocks_out * 16));
    }
    let (mut sum, mut square) = ([zero::<V>(); 2], [zero::<V>(); 2]);
    let (mut ty, mut tx) = (band.first / band.across, band.first % band.across);
    for t in 0..band.tiles {
        let m = m.add(t * 16);
        let (mut left, mut right) = ([zero::<V>(); 4], [zero::<V>(); 4]);
        for i in 0..4 {
            let m = m.add(4 * i * band.step);
            let (m0, m1) = (V::load(m), V::load(m.add(band.step)));
            let (m2, m3) = (V::load(m.add(2 * band.step)), V::load(m.add(3 * band.step)));
            left[i] = m0.add(m1).add(m2);
            right[i] = m1.sub(m2).sub(m3);
        }
        let mut y = [[zero::<V>(); 2]; 2];
        y[0][0] = left[0].add(left[1]).add(left[2]);
        y[0][1] = right[0].add(right[1]).add(right[2]);
        y[1][0] = left[1].sub(left[2]).sub(left[3]);
        y[1][1] = right[1].sub(right[2]).sub(right[3]);
        let out = out.add(2 * ty * a.out_row + 2 * tx * 16);
        if !stats.is_null() && band.first + t == 0 {
            k = y[0][0];
            k.store(stats.add(2 * a.blocks_out * 16));
        }
        let (rows, cols) = ((a.rows - 2 * ty).min(2), (a.cols - 2 * tx).min(2));
        for i in 0..2 {
            for j in 0..2 {
                if i < rows && j < cols {
                    let at = out.add(i * a.out_row + j * 16);
                    if a.add {
                        y[i][j] = V::load(at).add(y[i][j]);
                    }
                    y[i][j].store(at);
                    if a.ahead > 0 {
                        V::soon_written(at.wrapping_add(a.ahead));
                    }
                    let d = y[i][j].sub(k);
                    sum[i] = sum[i].add(d);
                    square[i] = V::fma(d, d, square[i]);
                }
            }
        }
        tx += 1;
        if tx == band.across {
            (ty, tx) = (ty + 1, 0);
        }
    }
    if !stats.is_null() {
        let to = stats.add(a.blocks_out * 16);
        V::load(stats).add(sum[0].add(sum[1])).store(stats);
        V::load(to).add(square[0].add(square[1])).store(to);
    }
}

#[inline(always)]
pub(crate) unsafe fn winograd<V: Simd, const P: usize, const Q: usize>(a: &Winograd) {
    let across = a.cols.div_ceil(2);
    let all = a.rows.div_ceil(2) * across;
    let plane = a.band * 16;
    let v = a.scratch;
    let v_step = element_step(a.blocks_in, a.band);
    // One output block is written over the tiles that it was made from: less to keep in the cache.
    let (m, m_step) = match a.blocks_out {
        1 => (v, v_step),
        _ => (v.add(ELEMENTS * v_step), element_step(a.blocks_out, a.band)),
    };
    let mut first = 0;
    while first < all {
        let tiles = a.band.min(all - first);
        let band = Band { first, tiles, across, step: v_step };
        for b in 0..a.blocks_in {
            input::<V>(band, a.x.add(b * a.x_block), a.x_row, v.add(b * plane));
        }
        for e in 0..ELEMENTS {
            let v = v.add(e * v_step).cast_const();
            let (w, m) = (a.w.add(e * a.blocks_out * a.blocks_in * 256), m.add(e * m_step));
            let mut q = 0;
            while q + Q <= a.blocks_out {
                blocks::<V, P, Q>(a, tiles, v, w.add(q * a.blocks_in * 256), m.add(q * plane));
                q += Q;
            }
            while q < a.blocks_out {
                let (w, m) = (w.add(q * a.blocks_in * 256), m.add(q * plane));
                if P == 8 {
                    blocks::<V, 16, 1>(a, tiles, v, w, m);
                } else {
                    blocks::<V, P, 1>(a, tiles, v, w, m);
                }
                q += 1;
            }
        }
        let band = Band { step: m_step, ..band };
        for q in 0..a.blocks_out {
            let stats = if a.stats.is_null() { a.stats } else { a.stats.add(q * 16) };
            output::<V>(a, band, m.add(q * plane), a.out.add(q * a.out_block), stats);
        }
        first += tiles;
    }
}

/// `dw[element][co][ci] (+)= sum over tiles of (A g A') . (B' x B)`: the gradient of the transformed
/// weights, a row of `16 * blocks_in` floats for each padded `co`.
///
/// Elements in the last row or column have the opposite sign, which saves negations; [`Gather`]
/// knows.
pub(crate) struct WinogradWeight {
    pub dw: *mut f32,
    /// Zero outside the image.
    pub g: *const f32,
    pub g_row: usize,
    pub g_block: usize,
    pub x: *const f32,
    pub x_row: usize,
    pub x_block: usize,
    pub rows: usize,
    pub cols: usize,
    pub blocks_out: usize,
    pub blocks_in: usize,
    /// Channels in use of each output block.
    pub lanes: *const u32,
    /// Room for [`room`] floats.
    pub scratch: *mut f32,
    pub band: usize,
    pub add: bool,
}

/// `A g A'` of a band of one block, up to signs.
#[inline(always)]
unsafe fn gradient<V: Simd>(band: Band, g: *const f32, g_row: usize, out: *mut f32) {
    let (mut ty, mut tx) = (band.first / band.across, band.first % band.across);
    for t in 0..band.tiles {
        let g = g.add(2 * ty * g_row + 2 * tx * 16);
        let rise = |a: V, b: V| [a, a.add(b), a.sub(b), b];
        let left = rise(V::load(g), V::load(g.add(g_row)));
        let right = rise(V::load(g.add(16)), V::load(g.add(g_row + 16)));
        for i in 0..4 {
            let row = rise(left[i], right[i]);
            for j in 0..4 {
                row[j].store(out.add((4 * i + j) * band.step + t * 16));
            }
        }
        tx += 1;
        if tx == band.across {
            (ty, tx) = (ty + 1, 0);
        }
    }
}

/// Sums over the tiles of a band for `M` output channels and `N` input blocks.
#[inline(always)]
unsafe fn outer<V: Simd, const M: usize, const N: usize>(
    a: &WinogradWeight,
    tiles: usize,
    add: bool,
    g: *const f32,
    v: *const f32,
    dw: *mut f32,
) {
    let mut acc = [[zero::<V>(); M]; N];
    for t in 0..tiles {
        let mut xv = [zero::<V>(); N];
        for j in 0..N {
            xv[j] = V::load(v.add((j * a.band + t) * 16));
        }
        for i in 0..M {
            let gv = V::splat(*g.add(t * 16 + i));
            for j in 0..N {
                acc[j][i] = V::fma(gv, xv[j], acc[j][i]);
            }
        }
    }
    for j in 0..N {
        for i in 0..M {
            let out = dw.add((i * a.blocks_in + j) * 16);
            if add {
                acc[j][i] = V::load(out).add(acc[j][i]);
            }
            acc[j][i].store(out);
        }
    }
}

/// One element of a band: all output and input channels.
#[inline(always)]
unsafe fn element<V: Simd, const M: usize, const N: usize>(
    a: &WinogradWeight,
    tiles: usize,
    add: bool,
    g: *const f32,
    v: *const f32,
    dw: *mut f32,
) {
    let plane = a.band * 16;
    for ob in 0..a.blocks_out {
        let lanes = *a.lanes.add(ob) as usize;
        let (g, dw) = (g.add(ob * plane), dw.add(ob * a.blocks_in * 256));
        let mut j = 0;
        while j + N <= a.blocks_in {
            let mut i = 0;
            while i < lanes {
                let dw = dw.add((i * a.blocks_in + j) * 16);
                outer::<V, M, N>(a, tiles, add, g.add(i), v.add(j * plane), dw);
                i += M;
            }
            j += N;
        }
        while j < a.blocks_in {
            let (v, dw) = (v.add(j * plane), dw.add(j * 16));
            if M == 8 {
                outer::<V, 16, 1>(a, tiles, add, g, v, dw);
            } else {
                let mut i = 0;
                while i < lanes {
                    outer::<V, M, 1>(a, tiles, add, g.add(i), v, dw.add(i * a.blocks_in * 16));
                    i += M;
                }
            }
            j += 1;
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn winograd_weight<V: Simd, const M: usize, const N: usize>(a: &WinogradWeight) {
    let across = a.cols.div_ceil(2);
    let all = a.rows.div_ceil(2) * across;
    let plane = a.band * 16;
    let (v_step, g_step) = (element_step(a.blocks_in, a.band), element_step(a.blocks_out, a.band));
    let (v, g) = (a.scratch, a.scratch.add(ELEMENTS * v_step));
    let mut first = 0;
    while first < all {
        let tiles = a.band.min(all - first);
        let band = Band { first, tiles, across, step: v_step };
        for b in 0..a.blocks_in {
            input::<V>(band, a.x.add(b * a.x_block), a.x_row, v.add(b * plane));
        }
        let band = Band { step: g_step, ..band };
        for b in 0..a.blocks_out {
            gradient::<V>(band, a.g.add(b * a.g_block), a.g_row, g.add(b * plane));
        }
        for e in 0..ELEMENTS {
            let dw = a.dw.add(e * a.blocks_out * a.blocks_in * 256);
            let (g, v) = (g.add(e * g_step), v.add(e * v_step));
            element::<V, M, N>(a, tiles, a.add || first > 0, g, v, dw);
        }
        first += tiles;
    }
}

/// `G g G'` of up to 16 filters: one row of transformed weights.
pub(crate) struct Filters {
    /// The nine taps of the first filter.
    pub w: *const f32,
    /// Floats between filters.
    pub w_step: usize,
    pub filters: usize,
    /// Turns the filters by half a turn, for the input gradient.
    pub turned: bool,
    pub out: *mut f32,
    /// Floats between elements.
    pub out_step: usize,
}

#[inline(always)]
pub(crate) unsafe fn filters<V: Simd>(a: &Filters) {
    let mut taps = [[0.0f32; 16]; 9];
    for f in 0..a.filters {
        for t in 0..9 {
            taps[if a.turned { 8 - t } else { t }][f] = *a.w.add(f * a.w_step + t);
        }
    }
    let half = V::splat(0.5);
    let expand = |x: V, y: V, z: V| {
        let (ends, middle) = (x.add(z).mul(half), y.mul(half));
        [x, ends.add(middle), ends.sub(middle), z]
    };
    let mut rows = [[zero::<V>(); 3]; 4];
    for j in 0..3 {
        let tap = |i: usize| V::load(taps[3 * i + j].as_ptr());
        let column = expand(tap(0), tap(1), tap(2));
        for i in 0..4 {
            rows[i][j] = column[i];
        }
    }
    for i in 0..4 {
        let row = expand(rows[i][0], rows[i][1], rows[i][2]);
        for j in 0..4 {
            row[j].store(a.out.add((4 * i + j) * a.out_step));
        }
    }
}

/// `out[filter][tap] += G' (sum over chunks of dw) G` of up to 16 neighbouring filters: from the
/// gradient of transformed weights to that of the weights.
pub(crate) struct Gather {
    pub dw: *const f32,
    /// Floats between elements.
    pub dw_step: usize,
    pub chunks: usize,
    /// Floats between chunks.
    pub chunk_step: usize,
    pub out: *mut f32,
    pub filters: usize,
}

#[inline(always)]
pub(crate) unsafe fn gather<V: Simd>(a: &Gather) {
    let half = V::splat(0.5);
    let reduce = |x: [V; 4]| {
        let (sum, difference) = (x[1].add(x[2]).mul(half), x[1].sub(x[2]).mul(half));
        [x[0].add(sum), difference, sum.sub(x[3])]
    };
    let mut columns = [[zero::<V>(); 4]; 3];
    for j in 0..4 {
        let mut x = [zero::<V>(); 4];
        for i in 0..4 {
            for chunk in 0..a.chunks {
                let from = a.dw.add((4 * i + j) * a.dw_step + chunk * a.chunk_step);
                x[i] = x[i].add(V::load(from));
            }
        }
        let column = reduce(x);
        for i in 0..3 {
            columns[i][j] = column[i];
        }
    }
    let mut taps = [[0.0f32; 16]; 9];
    for i in 0..3 {
        let row = reduce(columns[i]);
        for j in 0..3 {
            row[j].store(taps[3 * i + j].as_mut_ptr());
        }
    }
    for f in 0..a.filters {
        for t in 0..9 {
            *a.out.add(f * 9 + t) += taps[t][f];
        }
    }
}
