//! The 2x2 squares that pools of stride 2 without padding read.

use crate::graph::Shape;
use crate::reference::{Images, Scalar};
use crate::simd::Simd;

/// The four pixels of a square.
#[inline(always)]
pub(super) unsafe fn square<V: Simd>(x: *const f32, width: usize) -> [V; 4] {
    let below = x.add(width * 16);
    [V::load(x), V::load(x.add(16)), V::load(below), V::load(below.add(16))]
}

/// The shape rule of 2x2 pools.
pub(super) fn halved(inputs: &[Shape]) -> Result<Shape, String> {
    let &[(channels, height, width)] = inputs else {
        return Err("a pool of concatenated states is not supported; use one term a state".into());
    };
    if height < 2 || width < 2 {
        return Err(format!(
            "a 2x2 pool needs at least 2 rows and columns, not {height} x {width}"
        ));
    }
    Ok((channels, height / 2, width / 2))
}

/// Zeros of the output's shape.
pub(super) fn pooled<T: Scalar>(x: &Images<T>) -> Images<T> {
    let (n, c, h, w) = x.shape;
    Images::zeros((n, c, h / 2, w / 2))
}

/// Calls `f(output, positions of its square)` in scan order.
pub(super) fn squares<T: Scalar>(x: &Images<T>, mut f: impl FnMut(usize, [usize; 4])) {
    let (n, c, h, w) = x.shape;
    let mut output = 0;
    for plane in 0..n * c {
        for (r, col) in (0..h / 2).flat_map(|r| (0..w / 2).map(move |col| (r, col))) {
            let at = (plane * h + 2 * r) * w + 2 * col;
            f(output, [at, at + 1, at + w, at + w + 1]);
            output += 1;
        }
    }
}
