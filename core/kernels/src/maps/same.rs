//! A state as it is: what a normalisation without anything before it reads.

use super::{MapPrimitive, Plane};
use crate::graph::Shape;
use crate::reference::{Images, Scalar};
use crate::simd::Simd;

/// The input. A [`crate::Primitive::BatchNorm`] alone in a chain follows it, so that the sums it needs
/// are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Same;

impl MapPrimitive for Same {
    fn name(&self) -> &'static str {
        "Same"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        match inputs {
            [shape] => Ok(*shape),
            _ => {
                Err("a normalisation of concatenated states is not supported; use one term a state"
                    .into())
            }
        }
    }

    #[inline(always)]
    unsafe fn forward<V: Simd>(&self, x: &[Plane], out: Plane) {
        for p in 0..out.blocks() * out.pixels() {
            V::load(x[0].data.add(p * 16)).store(out.data.add(p * 16));
        }
    }

    #[inline(always)]
    unsafe fn backward<V: Simd>(&self, _: &[Plane], g: Plane, dx: &[Plane]) {
        if dx[0].data.is_null() {
            return;
        }
        for p in 0..g.blocks() * g.pixels() {
            let to = dx[0].data.add(p * 16);
            V::load(to).add(V::load(g.data.add(p * 16))).store(to);
        }
    }

    fn is_lanewise(&self) -> bool {
        true
    }

    fn reference<T: Scalar>(&self, x: &Images<T>) -> Images<T> {
        Images { shape: x.shape, data: x.data.clone() }
    }

    fn reference_back<T: Scalar>(&self, _: &Images<T>, g: &Images<T>) -> Images<T> {
        Images { shape: g.shape, data: g.data.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::{Map, testing};

    #[test]
    fn agrees_with_the_reference() {
        for (c, h, w) in [(1, 1, 1), (3, 5, 7), (16, 4, 6), (33, 2, 9)] {
            testing::check(&Map::Same(Same), &[(c, h, w)]);
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        assert!(Same.output(&[(3, 4, 4), (3, 4, 4)]).unwrap_err().contains("concatenated"));
    }
}
