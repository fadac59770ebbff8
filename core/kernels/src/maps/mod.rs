//! Maps: primitives that are not convolutions. They read the activations of one image and write new
//! ones, without weights: pooling, moving channels about, whatever comes next.
//!
//! # How to add one
//! 1. A file in this folder with a type that implements [`MapPrimitive`]: its shape rule, the SIMD
//!    passes forward and backward, the same two as plain loops (the reference), and a test that hands
//!    the map to `testing::check`, which holds the SIMD passes of every instruction set against the
//!    reference, and the reference against finite differences.
//! 2. Below, its `mod` line and its line in `maps!`.
//!
//! The plan does the rest for every map: memory, sharing between terms that read the same map of the
//! same states, batch normalisation after it, operation weights, gradients summed over the readers
//! before one backward pass. A state that is nothing but a map is written in place.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    clippy::inline_always,
    reason = "kernel bodies over raw planes, under the contract of `primitives`"
)]

mod avg_pool_2x2;
mod gather;
mod max_pool_2x2;
mod same;
mod squares;

pub use avg_pool_2x2::AvgPool2x2;
pub use gather::Gather;
pub use max_pool_2x2::MaxPool2x2;
pub use same::Same;

use crate::graph::Shape;
use crate::primitives::pool::Moments;
use crate::reference::{Images, Scalar};
use crate::simd::Simd;

/// The most states that one map can read.
pub(crate) const INPUTS: usize = 16;

/// An image's activation: blocks of `height * width * 16` floats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plane {
    /// Null: not wanted (gradients of states that need none).
    pub data: *mut f32,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// The first lane of the image where several share a register; 0 for maps that do not pack.
    pub lane: usize,
}

impl Plane {
    /// Of an unused place in a fixed array.
    pub(crate) const NONE: Self =
        Self { data: std::ptr::null_mut(), channels: 0, height: 0, width: 0, lane: 0 };

    pub(crate) fn pixels(&self) -> usize {
        self.height * self.width
    }
    pub(crate) fn blocks(&self) -> usize {
        self.channels.div_ceil(16)
    }
    pub(crate) unsafe fn block(&self, b: usize) -> *mut f32 {
        self.data.add(b * self.pixels() * 16)
    }
}

/// What a map has to say. Inputs are states; the reference sees their concatenation along the
/// channels.
pub(crate) trait MapPrimitive {
    /// Its name in messages.
    fn name(&self) -> &'static str;

    /// The shape of the output, or why these inputs do not fit. They have one height and width.
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String>;

    /// Writes every float of `out`; lanes beyond its channels get zero if they are zero in `x`.
    ///
    /// # Safety
    /// The instruction set of `V`; planes as the shape rule says.
    unsafe fn forward<V: Simd>(&self, x: &[Plane], out: Plane);

    /// Adds the gradients to `dx`, except where its `data` is null.
    ///
    /// # Safety
    /// As for `forward`.
    unsafe fn backward<V: Simd>(&self, x: &[Plane], g: Plane, dx: &[Plane]);

    /// The same as `forward`, obviously.
    fn reference<T: Scalar>(&self, x: &Images<T>) -> Images<T>;

    /// The same as `backward`, obviously.
    fn reference_back<T: Scalar>(&self, x: &Images<T>, g: &Images<T>) -> Images<T>;

    /// Does each lane only see itself, whichever channel of whichever image it is? Then it runs on
    /// images that share registers too.
    fn is_lanewise(&self) -> bool;

    /// Can it read and write the lanes of one image among others ([`Plane::lane`])? Then it leads into
    /// states whose images share registers, and out of them.
    fn packs(&self) -> bool {
        false
    }

    /// What stands for it in the smooth variant of a graph ([`crate::reference::How::smooth`]); `None`:
    /// itself.
    fn smooth(&self) -> Option<Map> {
        None
    }

    /// Distance from the nearest point where the gradient jumps (see [`crate::reference::margin`]).
    fn margin<T: Scalar>(&self, _x: &Images<T>) -> f64 {
        f64::INFINITY
    }
}

/// One map on one image, with statistics for a normalisation after it (as in
/// [`crate::primitives::Mix`]) unless `stats` is null.
pub(crate) struct MapForward<'a> {
    pub map: &'a Map,
    pub x: &'a [Plane],
    pub out: Plane,
    pub stats: *mut f32,
    /// Floats between sums, squares and shifts.
    pub stats_row: usize,
}

/// Its gradient.
pub(crate) struct MapBackward<'a> {
    pub map: &'a Map,
    pub x: &'a [Plane],
    pub g: Plane,
    pub dx: &'a [Plane],
}

macro_rules! maps {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A primitive that is not a convolution.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Map {
            $($(#[$doc])* $name($name),)*
        }

        impl Map {
            pub(crate) fn name(&self) -> &'static str {
                match self { $(Self::$name(m) => m.name(),)* }
            }
            pub(crate) fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
                match self { $(Self::$name(m) => m.output(inputs),)* }
            }
            pub(crate) fn packs(&self) -> bool {
                match self { $(Self::$name(m) => m.packs(),)* }
            }
            pub(crate) fn is_lanewise(&self) -> bool {
                match self { $(Self::$name(m) => m.is_lanewise(),)* }
            }
            pub(crate) fn reference<T: Scalar>(&self, x: &Images<T>) -> Images<T> {
                match self { $(Self::$name(m) => m.reference(x),)* }
            }
            pub(crate) fn reference_back<T: Scalar>(&self, x: &Images<T>, g: &Images<T>) -> Images<T> {
                match self { $(Self::$name(m) => m.reference_back(x, g),)* }
            }
            pub(crate) fn smooth(&self) -> Option<Self> {
                match self { $(Self::$name(m) => m.smooth(),)* }
            }
            pub(crate) fn margin<T: Scalar>(&self, x: &Images<T>) -> f64 {
                match self { $(Self::$name(m) => m.margin(x),)* }
            }
        }

        #[inline(always)]
        pub(crate) unsafe fn map<V: Simd>(a: &MapForward<'_>) {
            match a.map { $(Map::$name(m) => m.forward::<V>(a.x, a.out),)* }
            if !a.stats.is_null() {
                statistics::<V>(a);
            }
        }

        #[inline(always)]
        pub(crate) unsafe fn map_back<V: Simd>(a: &MapBackward<'_>) {
            match a.map { $(Map::$name(m) => m.backward::<V>(a.x, a.g, a.dx),)* }
        }
    };
}

maps! {
    /// Channels of the inputs in another order.
    Gather,
    /// Largest of each 2x2 square.
    MaxPool2x2,
    /// Mean of each 2x2 square.
    AvgPool2x2,
    /// The input, to be normalised.
    Same,
}

/// Sums for a normalisation, of what has just been written.
#[inline(always)]
unsafe fn statistics<V: Simd>(a: &MapForward<'_>) {
    for b in 0..a.out.blocks() {
        let z = a.out.block(b);
        let mut moments = Moments::<V>::new();
        for r in 0..a.out.height {
            for p in r * a.out.width..(r + 1) * a.out.width {
                moments.add(V::load(z.add(p * 16)), p == 0);
            }
            moments.end_row();
        }
        moments.store(a.stats.add(b * 16), a.stats_row);
    }
}

#[cfg(test)]
mod testing;
