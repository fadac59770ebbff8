//! The mean of each 2x2 square, stride 2, no padding (`nn.AvgPool2d(2, 2)`).

use super::squares::{halved, pooled, square, squares};
use super::{MapPrimitive, Plane};
use crate::graph::Shape;
use crate::reference::{Images, Scalar};
use crate::simd::Simd;

/// Mean of each 2x2 square. A last row or column of an odd size is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AvgPool2x2;

impl MapPrimitive for AvgPool2x2 {
    fn name(&self) -> &'static str {
        "AvgPool2x2"
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
                    let sum = v[0].add(v[1]).add(v[2].add(v[3]));
                    sum.mul(V::splat(0.25)).store(out_block.add((r * out.width + c) * 16));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn backward<V: Simd>(&self, _: &[Plane], g: Plane, dx: &[Plane]) {
        let dx = &dx[0];
        if dx.data.is_null() {
            return;
        }
        for b in 0..g.blocks() {
            let (dx_block, g_block) = (dx.block(b), g.block(b));
            for r in 0..g.height {
                for c in 0..g.width {
                    let share = V::load(g_block.add((r * g.width + c) * 16)).mul(V::splat(0.25));
                    let first = dx_block.add((2 * r * dx.width + 2 * c) * 16);
                    let below = first.add(dx.width * 16);
                    for to in [first, first.add(16), below, below.add(16)] {
                        V::load(to).add(share).store(to);
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
        squares(x, |o, square| {
            let sum = square.into_iter().fold(T::default(), |sum, i| sum + x.data[i]);
            out.data[o] = sum / T::from_f64(4.0);
        });
        out
    }

    fn reference_back<T: Scalar>(&self, x: &Images<T>, g: &Images<T>) -> Images<T> {
        let mut dx = Images::zeros(x.shape);
        squares(x, |o, square| {
            for i in square {
                dx.data[i] += g.data[o] / T::from_f64(4.0);
            }
        });
        dx
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::{Map, testing};

    #[test]
    fn agrees_with_the_reference() {
        for (c, h, w) in [(1, 2, 2), (3, 5, 7), (16, 4, 6), (20, 8, 3), (33, 2, 9)] {
            testing::check(&Map::AvgPool2x2(AvgPool2x2), &[(c, h, w)]);
        }
    }

    #[test]
    fn by_hand() {
        let x = Images { shape: (1, 1, 2, 5), data: (0..10).map(f64::from).collect() };
        // Rows 0 1 2 3 4 / 5 6 7 8 9; the last column is not read.
        assert_eq!(AvgPool2x2.reference(&x).data, [3.0, 5.0]);
        let g = Images { shape: (1, 1, 1, 2), data: vec![4.0, 8.0] };
        let expected = [1.0, 1.0, 2.0, 2.0, 0.0, 1.0, 1.0, 2.0, 2.0, 0.0];
        assert_eq!(AvgPool2x2.reference_back(&x, &g).data, expected);
    }
}
