//! The largest of each 2x2 square, stride 2, no padding (`nn.MaxPool2d(2, 2)`).

use super::squares::{halved, pooled, square, squares};
use super::{AvgPool2x2, Map, MapPrimitive, Plane};
use crate::graph::Shape;
use crate::reference::{Images, Scalar};
use crate::simd::Simd;

/// Largest of each 2x2 square. Among equals the first in scan order has the gradient. A last row or
/// column of an odd size is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool2x2;

#[inline(always)]
unsafe fn largest<V: Simd>(v: [V; 4]) -> V {
    v[3].max(v[2].max(v[1].max(v[0])))
}

impl MapPrimitive for MaxPool2x2 {
    fn name(&self) -> &'static str {
        "MaxPool2x2"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        halved(inputs)
    }

    #[inline(always)]
    unsafe fn forward<V: Simd>(&self, x: &[Plane], out: Plane) {
        let x = &x[0];
        for b in 0..out.blocks() {
            let (x_block, out_block) = (x.block(b), out.block(b));
            for r in 0..out.height {
                for c in 0..out.width {
                    let v = square::<V>(x_block.add((2 * r * x.width + 2 * c) * 16), x.width);
                    largest(v).store(out_block.add((r * out.width + c) * 16));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn backward<V: Simd>(&self, x: &[Plane], g: Plane, dx: &[Plane]) {
        let (x, dx) = (&x[0], &dx[0]);
        if dx.data.is_null() {
            return;
        }
        for b in 0..g.blocks() {
            let (x_block, dx_block, g_block) = (x.block(b), dx.block(b), g.block(b));
            for r in 0..g.height {
                for c in 0..g.width {
                    let at = (2 * r * x.width + 2 * c) * 16;
                    let v = square::<V>(x_block.add(at), x.width);
                    let max = largest(v);
                    // What the pixels before have not taken.
                    let mut rest = V::load(g_block.add((r * g.width + c) * 16));
                    for (q, v) in v.into_iter().enumerate() {
                        let taken = V::where_equal(v, max, rest);
                        let to = dx_block.add(at + (q / 2 * x.width + q % 2) * 16);
                        V::load(to).add(taken).store(to);
                        rest = rest.sub(taken);
                    }
                }
            }
        }
    }

    fn is_lanewise(&self) -> bool {
        true
    }

    fn reference<T: Scalar>(&self, x: &Images<T>) -> Images<T> {
        let mut out = pooled(x);
        squares(x, |o, square| out.data[o] = x.data[first_largest(x, square)]);
        out
    }

    fn reference_back<T: Scalar>(&self, x: &Images<T>, g: &Images<T>) -> Images<T> {
        let mut dx = Images::zeros(x.shape);
        squares(x, |o, square| dx.data[first_largest(x, square)] += g.data[o]);
        dx
    }

    fn smooth(&self) -> Option<Map> {
        Some(Map::AvgPool2x2(AvgPool2x2))
    }

    fn margin<T: Scalar>(&self, x: &Images<T>) -> f64 {
        let mut margin = f64::INFINITY;
        squares(x, |_, square| {
            let mut values = square.map(|i| x.data[i].to_f64());
            values.sort_by(f64::total_cmp);
            if values[3] > values[2] {
                margin = margin.min(values[3] - values[2]);
            }
        });
        margin
    }
}

fn first_largest<T: Scalar>(x: &Images<T>, square: [usize; 4]) -> usize {
    let value = |i: usize| x.data[i].to_f64();
    square.into_iter().reduce(|a, b| if value(b) > value(a) { b } else { a }).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::testing;

    #[test]
    fn agrees_with_the_reference() {
        for (c, h, w) in [(1, 2, 2), (3, 5, 7), (16, 4, 6), (20, 8, 3), (33, 2, 9)] {
            testing::check(&Map::MaxPool2x2(MaxPool2x2), &[(c, h, w)]);
        }
    }

    #[test]
    fn by_hand() {
        let x = Images { shape: (1, 1, 3, 4), data: (0..12).map(|v| f64::from(v % 7)).collect() };
        // Rows 0 1 2 3 / 4 5 6 0 / 1 2 3 4; the last is not read.
        assert_eq!(MaxPool2x2.reference(&x).data, [5.0, 6.0]);
        let g = Images { shape: (1, 1, 1, 2), data: vec![10.0, 20.0] };
        let mut expected = [0.0; 12];
        (expected[5], expected[6]) = (10.0, 20.0);
        assert_eq!(MaxPool2x2.reference_back(&x, &g).data, expected);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        assert!(MaxPool2x2.output(&[(3, 1, 4)]).unwrap_err().contains("1 x 4"));
        assert!(MaxPool2x2.output(&[(3, 4, 4), (3, 4, 4)]).unwrap_err().contains("concatenated"));
    }
}
