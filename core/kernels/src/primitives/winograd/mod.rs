//! 3x3 convolutions of stride 1 with fewer multiplications: Winograd's F(2x2, 3x3) takes 2.25 times
//! fewer, F(4x4, 3x3) 4 times.
//!
//! An output tile `m` pixels wide is `A' [(G g G') . (B' d B)] A` of the input tile `d` around it,
//! which is two pixels wider (Lavin and Gray, "Fast algorithms for convolutional neural networks",
//! 2016); the matrices are in [`tile`].
//!
//! The products are sums over channels of *elements*, each a pointwise mix of tiles. A channel is
//! a lane, so the transforms are plain arithmetic of registers. Work is done in bands of tiles whose
//! transforms stay in the first cache level or the second.

mod filters;
#[cfg(test)]
mod tests;
mod tile;
mod weight;

pub(crate) use filters::{Filters, Gather, filters, gather};
pub(crate) use weight::{WinogradWeight, winograd_weight};

use crate::simd::{Simd, zero};
use tile::{Four, MOST, Tile, Two};

/// Output pixels of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TileSize {
    TwoByTwo,
    TwoByFour,
    FourByFour,
}

impl TileSize {
    /// Rows and columns of output pixels.
    pub(crate) const fn out(self) -> (usize, usize) {
        match self {
            Self::TwoByTwo => (Two::OUT, Two::OUT),
            Self::TwoByFour => (Two::OUT, Four::OUT),
            Self::FourByFour => (Four::OUT, Four::OUT),
        }
    }

    /// Elements of a transformed tile.
    pub(crate) const fn elements(self) -> usize {
        let (rows, cols) = self.out();
        (rows + 2) * (cols + 2)
    }

    /// Tiles of an image.
    pub(crate) const fn tiles(self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(self.out().0) * cols.div_ceil(self.out().1)
    }
}

/// Calls a function with the transforms of columns and of rows of a tile.
macro_rules! with_tile {
    ($tile:expr, $f:ident, $V:ty $(, $n:ident)*; $a:expr) => {
        match $tile {
            TileSize::TwoByTwo => $f::<$V, Two, Two $(, $n)*>($a),
            TileSize::TwoByFour => $f::<$V, Two, Four $(, $n)*>($a),
            TileSize::FourByFour => $f::<$V, Four, Four $(, $n)*>($a),
        }
    };
}
use with_tile;

/// `out[co] (+)= sum over 3x3 taps, ci of w * x[ci]`, with statistics as in [`super::Mix`].
///
/// Reads reach one pixel beyond the last tile, which may be larger than the image: they must lie in
/// the allocation.
pub(crate) struct Winograd {
    pub tile: TileSize,
    pub images: usize,
    /// Floats between images.
    pub out_image: usize,
    pub x_image: usize,
    pub stats_image: usize,
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
    /// Transformed weights `[element][out block][in lane][16 out]`, elements [`weights_step`] apart.
    pub w: *const f32,
    /// Room for [`room`] floats.
    pub scratch: *mut f32,
    pub stats: *mut f32,
    /// How far ahead output lines are fetched for writing; 0: not at all.
    pub ahead: usize,
    pub add: bool,
}

/// Tiles that go through the transform together: with 16 channels they fill the first cache level.
const BAND: usize = 16;
/// Floats between elements of a block of a band: one cache line more than needed, so that the
/// elements of a tile lie in different sets of the cache.
const STEP: usize = (BAND + 1) * 16;

/// Floats of scratch memory that a convolution needs.
pub(crate) const fn room(tile: TileSize, blocks_in: usize, blocks_out: usize) -> usize {
    tile.elements() * (blocks_in + blocks_out) * STEP
}

/// Floats between elements of weights: a cache line more than they take, because powers of two apart
/// they would all lie in one set of the cache.
pub(crate) const fn weights_step(blocks_in: usize, blocks_out: usize) -> usize {
    blocks_in * blocks_out * 256 + 16
}

/// Images whose tiles fill a band: a power of two.
pub(crate) const fn team(tiles: usize) -> usize {
    if tiles < BAND { 1 << (BAND / tiles).ilog2() } else { 1 }
}

/// A run of tiles of an image in row-major order.
#[derive(Clone, Copy)]
struct Band {
    image: usize,
    first: usize,
    tiles: usize,
    /// Tiles of a row.
    across: usize,
}

impl Band {
    /// Tiles of the band that starts at tile `first` of `images` with `each`: of whole images or of
    /// one, so that sums over an image do not depend on which images are beside it.
    fn len(first: usize, images: usize, each: usize) -> usize {
        match BAND / each {
            0 => BAND.min(each - first % each),
            whole => (whole * each).min(images * each - first),
        }
    }

    /// The part from the `at`-th tile of a band on that lies in one image; the band starts at tile
    /// `first` and has `tiles`, and an image `each`.
    fn part(first: usize, at: usize, tiles: usize, each: usize, across: usize) -> Self {
        let (image, first) = ((first + at) / each, (first + at) % each);
        Self { image, first, tiles: (each - first).min(tiles - at), across }
    }
}

/// `B'` applied to a column of pixels.
#[inline(always)]
unsafe fn column<V: Simd, R: Tile>(x: *const f32, row: usize) -> [V; MOST] {
    let mut d = [zero::<V>(); MOST];
    for i in 0..R::SIDE {
        d[i] = V::load(x.add(i * row));
    }
    R::input(d)
}

/// `B' d B` of a band; neighbouring tiles share two columns.
#[inline(always)]
unsafe fn input<V: Simd, R: Tile, C: Tile>(band: Band, x: *const f32, x_row: usize, out: *mut f32) {
    let mut done = 0;
    while done < band.tiles {
        let (ty, tx) = ((band.first + done) / band.across, (band.first + done) % band.across);
        let run = (band.across - tx).min(band.tiles - done);
        let mut x = x.add(R::OUT * ty * x_row + C::OUT * tx * 16).wrapping_sub(x_row + 16);
        let mut columns = [[zero::<V>(); MOST]; MOST];
        columns[C::OUT] = column::<V, R>(x, x_row);
        columns[C::OUT + 1] = column::<V, R>(x.add(16), x_row);
        for t in done..done + run {
            (columns[0], columns[1]) = (columns[C::OUT], columns[C::OUT + 1]);
            for j in 2..C::SIDE {
                columns[j] = column::<V, R>(x.add(j * 16), x_row);
            }
            let out = out.add(t * 16);
            for i in 0..R::SIDE {
                let mut row = [zero::<V>(); MOST];
                for j in 0..C::SIDE {
                    row[j] = columns[j][i];
                }
                let row = C::input(row);
                for j in 0..C::SIDE {
                    row[j].store(out.add((C::SIDE * i + j) * STEP));
                }
            }
            x = x.add(C::OUT * 16);
        }
        done += run;
    }
}

/// Sums over channels of one element for `P` tiles and `Q` output blocks.
#[inline(always)]
unsafe fn products<V: Simd, R: Tile, C: Tile, const P: usize, const Q: usize>(
    a: &Winograd,
    v: *const f32,
    w: *const f32,
    m: *mut f32,
) {
    let (plane, w_block) = (R::SIDE * C::SIDE * STEP, a.blocks_in * 256);
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
unsafe fn blocks<V: Simd, R: Tile, C: Tile, const P: usize, const Q: usize>(
    a: &Winograd,
    tiles: usize,
    v: *const f32,
    w: *const f32,
    m: *mut f32,
) {
    let mut t = 0;
    while t + P <= tiles {
        products::<V, R, C, P, Q>(a, v.add(t * 16), w, m.add(t * 16));
        t += P;
    }
    if P > 8 && t + 8 <= tiles {
        products::<V, R, C, 8, Q>(a, v.add(t * 16), w, m.add(t * 16));
        t += 8;
    }
    if P > 4 && t + 4 <= tiles {
        products::<V, R, C, 4, Q>(a, v.add(t * 16), w, m.add(t * 16));
        t += 4;
    }
    while t < tiles {
        products::<V, R, C, 1, Q>(a, v.add(t * 16), w, m.add(t * 16));
        t += 1;
    }
}

/// Statistics of an output block on the way.
struct Sums<V> {
    k: V,
    sum: V,
    square: V,
}

/// `A' m A` of one tile, of which `rows` and `cols` pixels are inside the image: all with `FULL`.
#[inline(always)]
unsafe fn write<V: Simd, R: Tile, C: Tile, const FULL: bool>(
    a: &Winograd,
    m: *const f32,
    out: *mut f32,
    (rows, cols): (usize, usize),
    first: bool,
    sums: &mut Sums<V>,
) {
    let mut columns = [[zero::<V>(); 4]; MOST];
    for j in 0..C::SIDE {
        let mut column = [zero::<V>(); MOST];
        for i in 0..R::SIDE {
            column[i] = V::load(m.add((C::SIDE * i + j) * STEP));
        }
        columns[j] = R::output(column);
    }
    for i in 0..R::OUT {
        let mut row = [zero::<V>(); MOST];
        for j in 0..C::SIDE {
            row[j] = columns[j][i];
        }
        let mut y = C::output(row);
        if i == 0 && first {
            sums.k = y[0];
        }
        if !FULL && i >= rows {
            continue;
        }
        let out = out.add(i * a.out_row);
        // Of a row at first: long chains of sums would have to wait for each other.
        let (mut sum, mut square) = (zero::<V>(), zero::<V>());
        for j in 0..C::OUT {
            if FULL || j < cols {
                let out = out.add(j * 16);
                if a.add {
                    y[j] = V::load(out).add(y[j]);
                }
                y[j].store(out);
                if a.ahead > 0 {
                    V::soon_written(out.wrapping_add(a.ahead));
                }
                let d = y[j].sub(sums.k);
                sum = sum.add(d);
                square = V::fma(d, d, square);
            }
        }
        sums.sum = sums.sum.add(sum);
        sums.square = sums.square.add(square);
    }
}

/// `A' m A` of a band of one output block.
#[inline(always)]
unsafe fn output<V: Simd, R: Tile, C: Tile>(
    a: &Winograd,
    band: Band,
    m: *const f32,
    out: *mut f32,
    stats: *mut f32,
) {
    let shift = stats.wrapping_add(2 * a.blocks_out * 16);
    let mut sums = Sums { k: zero::<V>(), sum: zero::<V>(), square: zero::<V>() };
    if !stats.is_null() && band.first > 0 {
        sums.k = V::load(shift);
    }
    let (mut ty, mut tx) = (band.first / band.across, band.first % band.across);
    for t in 0..band.tiles {
        let m = m.add(t * 16);
        let out = out.add(R::OUT * ty * a.out_row + C::OUT * tx * 16);
        let (rows, cols) = (a.rows - R::OUT * ty, a.cols - C::OUT * tx);
        let first = !stats.is_null() && band.first + t == 0;
        if rows >= R::OUT && cols >= C::OUT {
            write::<V, R, C, true>(a, m, out, (rows, cols), first, &mut sums);
        } else {
            write::<V, R, C, false>(a, m, out, (rows, cols), first, &mut sums);
        }
        tx += 1;
        if tx == band.across {
            (ty, tx) = (ty + 1, 0);
        }
    }
    if !stats.is_null() {
        let square = stats.add(a.blocks_out * 16);
        sums.k.store(shift);
        V::load(stats).add(sums.sum).store(stats);
        V::load(square).add(sums.square).store(square);
    }
}

#[inline(always)]
pub(crate) unsafe fn winograd<V: Simd, const P: usize, const Q: usize>(a: &Winograd) {
    with_tile!(a.tile, bands, V, P, Q; a);
}

#[inline(always)]
unsafe fn bands<V: Simd, R: Tile, C: Tile, const P: usize, const Q: usize>(a: &Winograd) {
    let across = a.cols.div_ceil(C::OUT);
    let each = a.rows.div_ceil(R::OUT) * across;
    let all = a.images * each;
    let plane = R::SIDE * C::SIDE * STEP;
    let v = a.scratch;
    // One output block is written over the tiles that it was made from: less to keep in the cache.
    let m = if a.blocks_out == 1 { v } else { v.add(a.blocks_in * plane) };
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
            at += band.tiles;
        }
        let w_step = weights_step(a.blocks_in, a.blocks_out);
        for e in 0..R::SIDE * C::SIDE {
            let v = v.add(e * STEP).cast_const();
            let (w, m) = (a.w.add(e * w_step), m.add(e * STEP));
            let mut q = 0;
            // Few tiles: more output blocks keep as many sums in flight.
            while P == 8 && tiles <= 4 && q + 4 <= a.blocks_out {
                blocks::<V, R, C, 4, 4>(
                    a,
                    tiles,
                    v,
                    w.add(q * a.blocks_in * 256),
                    m.add(q * plane),
                );
                q += 4;
            }
            while q + Q <= a.blocks_out {
                blocks::<V, R, C, P, Q>(
                    a,
                    tiles,
                    v,
                    w.add(q * a.blocks_in * 256),
                    m.add(q * plane),
                );
                q += Q;
            }
            while q < a.blocks_out {
                let (w, m) = (w.add(q * a.blocks_in * 256), m.add(q * plane));
                if P == 8 {
                    blocks::<V, R, C, 16, 1>(a, tiles, v, w, m);
                } else {
                    blocks::<V, R, C, P, 1>(a, tiles, v, w, m);
                }
                q += 1;
            }
        }
        let mut at = 0;
        while at < tiles {
            let band = Band::part(first, at, tiles, each, across);
            for q in 0..a.blocks_out {
                let out = a.out.add(band.image * a.out_image + q * a.out_block);
                let mut stats = a.stats;
                if !stats.is_null() {
                    stats = stats.add(band.image * a.stats_image + q * 16);
                }
                output::<V, R, C>(a, band, m.add(q * plane + at * 16), out, stats);
            }
            at += band.tiles;
        }
        first += tiles;
    }
}
