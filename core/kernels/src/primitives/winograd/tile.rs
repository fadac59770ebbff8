//! The transforms of Winograd's minimal filtering in one dimension, for tiles of 2 and 4 outputs.
//!
//! `F(m, 3)` computes `m` neighbouring outputs of three taps with `m + 2` products:
//! `y = A' [(G g) . (B' d)]`, where row `k` of `A` and `G` holds powers of the `k`-th of `m + 1`
//! points and infinity. The points of `F(2, 3)` are 0, 1, -1; those of `F(4, 3)` 0, ±5/8, ±3/2,
//! which oneDNN uses: with them errors are half of those with ±1, ±2 (see the test), because
//! powers and their inverses stay near one, and each is an exact float.

use crate::simd::Simd;

/// Most products in one dimension; smaller tiles use the first ones.
pub(super) const MOST: usize = 6;

pub(super) trait Tile {
    /// Outputs in one dimension.
    const OUT: usize;
    /// Inputs, products.
    const SIDE: usize = Self::OUT + 2;

    /// `B'`
    unsafe fn input<V: Simd>(d: [V; MOST]) -> [V; MOST];
    /// `A'`
    unsafe fn output<V: Simd>(m: [V; MOST]) -> [V; 4];
    /// `A`, up to signs that [`Tile::gather`] knows.
    unsafe fn gradient<V: Simd>(g: [V; 4]) -> [V; MOST];
    /// `G`
    unsafe fn filter<V: Simd>(w: [V; 3]) -> [V; MOST];
    /// `G'`
    unsafe fn gather<V: Simd>(m: [V; MOST]) -> [V; 3];
}

/// ```text
///      1  0 -1  0         1    0    0
/// B' = 0  1  1  0     G = 1/2  1/2  1/2     A' = 1  1  1  0
///      0 -1  1  0         1/2 -1/2  1/2          0  1 -1 -1
///      0  1  0 -1         0    0    1
/// ```
pub(super) struct Two;

impl Tile for Two {
    const OUT: usize = 2;

    #[inline(always)]
    unsafe fn input<V: Simd>([a, b, c, d, ..]: [V; MOST]) -> [V; MOST] {
        [a.sub(c), b.add(c), c.sub(b), b.sub(d), a, a]
    }
    #[inline(always)]
    unsafe fn output<V: Simd>(m: [V; MOST]) -> [V; 4] {
        [m[0].add(m[1]).add(m[2]), m[1].sub(m[2]).sub(m[3]), m[0], m[0]]
    }
    /// The last one has the opposite sign, which saves a negation.
    #[inline(always)]
    unsafe fn gradient<V: Simd>([a, b, ..]: [V; 4]) -> [V; MOST] {
        [a, a.add(b), a.sub(b), b, a, a]
    }
    #[inline(always)]
    unsafe fn filter<V: Simd>([x, y, z]: [V; 3]) -> [V; MOST] {
        let half = V::splat(0.5);
        let (ends, middle) = (x.add(z).mul(half), y.mul(half));
        [x, ends.add(middle), ends.sub(middle), z, x, x]
    }
    #[inline(always)]
    unsafe fn gather<V: Simd>(m: [V; MOST]) -> [V; 3] {
        let half = V::splat(0.5);
        let (sum, difference) = (m[1].add(m[2]).mul(half), m[1].sub(m[2]).mul(half));
        [m[0].add(sum), difference, sum.sub(m[3])]
    }
}

/// With points 0, ±a, ±b:
///
/// ```text
///      a²b²   0    -a²-b²  0      1  0         1/(a²b²)  0     0
///      0    -ab²   -b²     a      1  0         1/f       a/f   a²/f
/// B' = 0     ab²   -b²    -a      1  0     G = 1/f      -a/f   a²/f       f = 2a²(a²-b²)
///      0    -a²b   -a²     b      1  0         1/g       b/g   b²/g       g = 2b²(b²-a²)
///      0     a²b   -a²    -b      1  0         1/g      -b/g   b²/g
///      0     a²b²   0     -a²-b²  0  1         0         0     1
///
///      1  1   1   1   1   0
/// A' = 0  a  -a   b  -b   0
///      0  a²  a²  b²  b²  0
///      0  a³ -a³  b³ -b³  1
/// ```
pub(super) struct Four;

const A: f32 = 0.625;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;
const F: f32 = 2.0 * A2 * (A2 - B2);
const G: f32 = 2.0 * B2 * (B2 - A2);

impl Tile for Four {
    const OUT: usize = 4;

    #[inline(always)]
    unsafe fn input<V: Simd>(d: [V; MOST]) -> [V; MOST] {
        let (even_a, odd_a) = (less(d[4], B2, d[2]), less(d[3], B2, d[1]));
        let (even_b, odd_b) = (less(d[4], A2, d[2]), less(d[3], A2, d[1]));
        let (a, a_minus) = both(even_a, A, odd_a);
        let (b, b_minus) = both(even_b, B, odd_b);
        [all(d[0], d[2], d[4]), a, a_minus, b, b_minus, all(d[1], d[3], d[5])]
    }
    #[inline(always)]
    unsafe fn output<V: Simd>(m: [V; MOST]) -> [V; 4] {
        let (even_a, odd_a) = (m[1].add(m[2]), m[1].sub(m[2]));
        let (even_b, odd_b) = (m[3].add(m[4]), m[3].sub(m[4]));
        [
            m[0].add(even_a).add(even_b),
            V::fma(V::splat(A), odd_a, odd_b.mul(V::splat(B))),
            V::fma(V::splat(A2), even_a, even_b.mul(V::splat(B2))),
            V::fma(V::splat(A2 * A), odd_a, V::fma(V::splat(B2 * B), odd_b, m[5])),
        ]
    }
    #[inline(always)]
    unsafe fn gradient<V: Simd>(g: [V; 4]) -> [V; MOST] {
        let (a2, b2) = (V::splat(A2), V::splat(B2));
        let (a, a_minus) = both(V::fma(a2, g[2], g[0]), A, V::fma(a2, g[3], g[1]));
        let (b, b_minus) = both(V::fma(b2, g[2], g[0]), B, V::fma(b2, g[3], g[1]));
        [g[0], a, a_minus, b, b_minus, g[3]]
    }
    #[inline(always)]
    unsafe fn filter<V: Simd>(w: [V; 3]) -> [V; MOST] {
        let (f, g) = (V::splat(1.0 / F), V::splat(1.0 / G));
        let (a2, b2) = (V::splat(A2), V::splat(B2));
        let (a, a_minus) = both(V::fma(a2, w[2], w[0]).mul(f), A, w[1].mul(f));
        let (b, b_minus) = both(V::fma(b2, w[2], w[0]).mul(g), B, w[1].mul(g));
        [w[0].mul(V::splat(1.0 / (A2 * B2))), a, a_minus, b, b_minus, w[2]]
    }
    #[inline(always)]
    unsafe fn gather<V: Simd>(m: [V; MOST]) -> [V; 3] {
        let (f, g) = (V::splat(1.0 / F), V::splat(1.0 / G));
        let (even_a, odd_a) = (m[1].add(m[2]).mul(f), m[1].sub(m[2]).mul(f));
        let (even_b, odd_b) = (m[3].add(m[4]).mul(g), m[3].sub(m[4]).mul(g));
        [
            V::fma(V::splat(1.0 / (A2 * B2)), m[0], even_a.add(even_b)),
            V::fma(V::splat(A), odd_a, odd_b.mul(V::splat(B))),
            V::fma(V::splat(A2), even_a, V::fma(V::splat(B2), even_b, m[5])),
        ]
    }
}

/// `a²b² x - (a² + b²) y + z`
#[inline(always)]
unsafe fn all<V: Simd>(x: V, y: V, z: V) -> V {
    V::fma(V::splat(A2 * B2), x, V::fma(V::splat(-A2 - B2), y, z))
}

/// `x - factor * y`
#[inline(always)]
unsafe fn less<V: Simd>(x: V, factor: f32, y: V) -> V {
    V::fma(V::splat(-factor), y, x)
}

/// `x + factor * y` and `x - factor * y`
#[inline(always)]
unsafe fn both<V: Simd>(x: V, factor: f32, y: V) -> (V, V) {
    (V::fma(V::splat(factor), y, x), less(x, factor, y))
}
