//! Weights into the transformed domain, and their gradient back.

use super::tile::{Four, MOST, Tile, Two};
use super::{TileSize, with_tile};
use crate::simd::{Simd, zero};

/// `G g G'` of up to 16 filters: one row of transformed weights.
pub(crate) struct Filters {
    pub tile: TileSize,
    /// The nine taps of the first filter.
    pub w: *const f32,
    /// Floats between filters.
    pub w_step: usize,
    pub count: usize,
    /// Turns the filters by half a turn, for the input gradient.
    pub turned: bool,
    pub out: *mut f32,
    /// Floats between elements.
    pub out_step: usize,
}

#[inline(always)]
pub(crate) unsafe fn filters<V: Simd>(a: &Filters) {
    with_tile!(a.tile, transform, V; a);
}

#[inline(always)]
unsafe fn transform<V: Simd, R: Tile, C: Tile>(a: &Filters) {
    let mut taps = [[0.0f32; 16]; 9];
    for f in 0..a.count {
        for t in 0..9 {
            taps[if a.turned { 8 - t } else { t }][f] = *a.w.add(f * a.w_step + t);
        }
    }
    let mut rows = [[zero::<V>(); 3]; MOST];
    for j in 0..3 {
        let mut column = [zero::<V>(); 3];
        for i in 0..3 {
            column[i] = V::load(taps[3 * i + j].as_ptr());
        }
        let column = R::filter(column);
        for i in 0..R::SIDE {
            rows[i][j] = column[i];
        }
    }
    for i in 0..R::SIDE {
        let row = C::filter(rows[i]);
        for j in 0..C::SIDE {
            row[j].store(a.out.add((C::SIDE * i + j) * a.out_step));
        }
    }
}

/// `out[filter][tap] += G' (sum over chunks of dw) G` of up to 16 neighbouring filters: from the
/// gradient of transformed weights to that of the weights.
pub(crate) struct Gather {
    pub tile: TileSize,
    pub dw: *const f32,
    /// Floats between elements.
    pub dw_step: usize,
    pub chunks: usize,
    /// Floats between chunks.
    pub chunk_step: usize,
    pub out: *mut f32,
    pub count: usize,
}

#[inline(always)]
pub(crate) unsafe fn gather<V: Simd>(a: &Gather) {
    with_tile!(a.tile, back, V; a);
}

#[inline(always)]
unsafe fn back<V: Simd, R: Tile, C: Tile>(a: &Gather) {
    let mut columns = [[zero::<V>(); MOST]; 3];
    for j in 0..C::SIDE {
        let mut x = [zero::<V>(); MOST];
        for i in 0..R::SIDE {
            for chunk in 0..a.chunks {
                let from = a.dw.add((C::SIDE * i + j) * a.dw_step + chunk * a.chunk_step);
                x[i] = x[i].add(V::load(from));
            }
        }
        let column = R::gather(x);
        for i in 0..3 {
            columns[i][j] = column[i];
        }
    }
    let mut taps = [[0.0f32; 16]; 9];
    for i in 0..3 {
        let row = C::gather(columns[i]);
        for j in 0..3 {
            row[j].store(taps[3 * i + j].as_mut_ptr());
        }
    }
    for f in 0..a.count {
        for t in 0..9 {
            *a.out.add(f * 9 + t) += taps[t][f];
        }
    }
}
