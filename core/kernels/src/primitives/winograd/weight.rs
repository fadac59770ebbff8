//! The gradient of transformed weights.

use super::tile::{Four, MOST, Tile, Two};
use super::{Band, STEP, TileSize, input, weights_step, with_tile};
use crate::simd::{Simd, zero};

/// `dw[element][co][ci] (+)= sum over tiles of (A g A') . (B' x B)`: the gradient of the transformed
/// weights, a row of `16 * blocks_in` floats for each padded `co`, elements [`weights_step`] apart.
///
/// Elements may have the opposite sign, which saves negations; [`super::Gather`] knows.
pub(crate) struct WinogradWeight {
    pub tile: TileSize,
    pub images: usize,
    /// Floats between images.
    pub g_image: usize,
    pub x_image: usize,
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
    pub add: bool,
}

/// `A g A'` of a band of one block, up to signs.
#[inline(always)]
unsafe fn gradient<V: Simd, R: Tile, C: Tile>(
    band: Band,
    g: *const f32,
    g_row: usize,
    out: *mut f32,
) {
    let (mut ty, mut tx) = (band.first / band.across, band.first % band.across);
    for t in 0..band.tiles {
        let g = g.add(R::OUT * ty * g_row + C::OUT * tx * 16);
        let mut columns = [[zero::<V>(); MOST]; 4];
        for j in 0..C::OUT {
            let mut column = [zero::<V>(); 4];
            for i in 0..R::OUT {
                column[i] = V::load(g.add(i * g_row + j * 16));
            }
            columns[j] = R::gradient(column);
        }
        for i in 0..R::SIDE {
            let mut row = [zero::<V>(); 4];
            for j in 0..C::OUT {
                row[j] = columns[j][i];
            }
            let row = C::gradient(row);
            for j in 0..C::SIDE {
                row[j].store(out.add((C::SIDE * i + j) * STEP + t * 16));
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
unsafe fn outer<V: Simd, R: Tile, C: Tile, const M: usize, const N: usize>(
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
            xv[j] = V::load(v.add(j * R::SIDE * C::SIDE * STEP + t * 16));
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
unsafe fn element<V: Simd, R: Tile, C: Tile, const M: usize, const N: usize>(
    a: &WinogradWeight,
    tiles: usize,
    add: bool,
    g: *const f32,
    v: *const f32,
    dw: *mut f32,
) {
    let plane = R::SIDE * C::SIDE * STEP;
    for ob in 0..a.blocks_out {
        let lanes = *a.lanes.add(ob) as usize;
        let (g, dw) = (g.add(ob * plane), dw.add(ob * a.blocks_in * 256));
        let mut j = 0;
        while j + N <= a.blocks_in {
            let mut i = 0;
            while i < lanes {
                let dw = dw.add((i * a.blocks_in + j) * 16);
                outer::<V, R, C, M, N>(a, tiles, add, g.add(i), v.add(j * plane), dw);
                i += M;
            }
            j += N;
        }
        while j < a.blocks_in {
            let (v, dw) = (v.add(j * plane), dw.add(j * 16));
            if M == 8 {
                outer::<V, R, C, 16, 1>(a, tiles, add, g, v, dw);
            } else {
                let mut i = 0;
                while i < lanes {
                    outer::<V, R, C, M, 1>(
                        a,
                        tiles,
                        add,
                        g.add(i),
                        v,
                        dw.add(i * a.blocks_in * 16),
                    );
                    i += M;
                }
            }
            j += 1;
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn winograd_weight<V: Simd, const M: usize, const N: usize>(a: &WinogradWeight) {
    with_tile!(a.tile, bands, V, M, N; a);
}

#[inline(always)]
unsafe fn bands<V: Simd, R: Tile, C: Tile, const M: usize, const N: usize>(a: &WinogradWeight) {
    let across = a.cols.div_ceil(C::OUT);
    let each = a.rows.div_ceil(R::OUT) * across;
    let all = a.images * each;
    let plane = R::SIDE * C::SIDE * STEP;
    let (v, g) = (a.scratch, a.scratch.add(a.blocks_in * plane));
    let mut first = 0;
    while first < all {
        let tiles = Band::len(first, a.images, each);
        let mut at = 0;
        while at < tiles {
            let band = Band::part(first, at, tiles, each, across);
            for b in 0..a.blocks_in {
                let x = a.x.add(band.image * a.x_image + b * a.x_block);
                input::<V, R, C>(band, x, a.x_row, v.add(b * plane + at * 16));
            }
            for b in 0..a.blocks_out {
                let from = a.g.add(band.image * a.g_image + b * a.g_block);
                gradient::<V, R, C>(band, from, a.g_row, g.add(b * plane + at * 16));
            }
            at += band.tiles;
        }
        let dw_step = weights_step(a.blocks_in, a.blocks_out);
        for e in 0..R::SIDE * C::SIDE {
            let dw = a.dw.add(e * dw_step);
            let (g, v) = (g.add(e * STEP), v.add(e * STEP));
            element::<V, R, C, M, N>(a, tiles, a.add || first > 0, g, v, dw);
        }
        first += tiles;
    }
}
