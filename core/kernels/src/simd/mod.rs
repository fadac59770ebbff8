//! A logical vector of 16 `f32` lanes: one pixel of one block of channels, whatever the register
//! width.
//!
//! Every kernel is written once against [`Simd`]. A lane is a channel, and every sum over pixels,
//! taps or input channels runs in one order, so instruction sets differ only in fused multiply-adds
//! and in tile widths.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    clippy::inline_always,
    reason = "vector intrinsics and raw loads; each method needs its instruction set and 16 valid floats"
)]

mod array;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use array::Array;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Number of channels in a block.
pub(crate) const LANES: usize = 16;

/// 16 lanes of `f32`. Methods need the instruction set of the implementing type; pointers need 16
/// valid floats.
pub(crate) trait Simd: Copy {
    /// Which lane each lane takes, ready for [`Simd::permute`].
    type Lanes: Copy;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    /// `a * b + c`
    unsafe fn fma(a: Self, b: Self, c: Self) -> Self;
    unsafe fn add(self, o: Self) -> Self;
    unsafe fn sub(self, o: Self) -> Self;
    unsafe fn mul(self, o: Self) -> Self;
    /// The larger one; `o` if either is NaN (x86), so rectifiers write `zero.max(x)` and keep NaN.
    unsafe fn max(self, o: Self) -> Self;
    /// Lane by lane: `x > 0 ? g : 0`.
    unsafe fn where_positive(x: Self, g: Self) -> Self;
    /// Lane by lane: `a > b ? x : y`.
    unsafe fn where_greater(a: Self, b: Self, x: Self, y: Self) -> Self;
    /// Lane by lane: `a == b ? x : 0`.
    unsafe fn where_equal(a: Self, b: Self, x: Self) -> Self;
    /// -1: none.
    unsafe fn lanes(from: &[i32; LANES]) -> Self::Lanes;
    /// Each lane takes another one, or zero.
    unsafe fn permute(self, lanes: Self::Lanes) -> Self;
    /// The same where every lane takes one of its own half.
    #[inline(always)]
    unsafe fn permute_half(self, lanes: Self::Lanes) -> Self {
        self.permute(lanes)
    }
    /// Fetches a line that will be read soon. Any address is allowed.
    #[inline(always)]
    unsafe fn soon_read(_p: *const f32) {}
    /// Fetches a line that will be written soon. Any address is allowed.
    #[inline(always)]
    unsafe fn soon_written(_p: *mut f32) {}
}

#[inline(always)]
pub(crate) unsafe fn zero<V: Simd>() -> V {
    V::splat(0.0)
}
