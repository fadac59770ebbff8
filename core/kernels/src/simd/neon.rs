//! NEON: four registers of four lanes.

use core::arch::aarch64::{
    float32x4_t, uint8x16_t, uint8x16x4_t, vaddq_f32, vbslq_f32, vceqq_f32, vcgtq_f32, vcgtzq_f32,
    vdupq_n_f32, vfmaq_f32, vld1q_f32, vld1q_u8, vmaxq_f32, vmulq_f32, vqtbl4q_u8,
    vreinterpretq_f32_u8, vreinterpretq_u8_f32, vst1q_f32, vsubq_f32,
};

use super::{LANES, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Neon([float32x4_t; 4]);

macro_rules! each {
    ($i:ident => $e:expr) => {
        Neon([
            {
                let $i = 0;
                $e
            },
            {
                let $i = 1;
                $e
            },
            {
                let $i = 2;
                $e
            },
            {
                let $i = 3;
                $e
            },
        ])
    };
}

impl Simd for Neon {
    /// Bytes to look up; 255 gives zero.
    type Lanes = [uint8x16_t; 4];

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        each!(i => vld1q_f32(p.add(4 * i)))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        for (i, v) in self.0.into_iter().enumerate() {
            vst1q_f32(p.add(4 * i), v);
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([vdupq_n_f32(x); 4])
    }
    #[inline(always)]
    unsafe fn fma(a: Self, b: Self, c: Self) -> Self {
        each!(i => vfmaq_f32(c.0[i], a.0[i], b.0[i]))
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        each!(i => vaddq_f32(self.0[i], o.0[i]))
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        each!(i => vsubq_f32(self.0[i], o.0[i]))
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        each!(i => vmulq_f32(self.0[i], o.0[i]))
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        each!(i => vmaxq_f32(self.0[i], o.0[i]))
    }
    #[inline(always)]
    unsafe fn where_positive(x: Self, g: Self) -> Self {
        each!(i => vbslq_f32(vcgtzq_f32(x.0[i]), g.0[i], vdupq_n_f32(0.0)))
    }
    #[inline(always)]
    unsafe fn where_greater(a: Self, b: Self, x: Self, y: Self) -> Self {
        each!(i => vbslq_f32(vcgtq_f32(a.0[i], b.0[i]), x.0[i], y.0[i]))
    }
    #[inline(always)]
    unsafe fn where_equal(a: Self, b: Self, x: Self) -> Self {
        each!(i => vbslq_f32(vceqq_f32(a.0[i], b.0[i]), x.0[i], vdupq_n_f32(0.0)))
    }
    #[inline(always)]
    unsafe fn lanes(from: &[i32; LANES]) -> Self::Lanes {
        let mut bytes = [255u8; 4 * LANES];
        for (i, byte) in bytes.iter_mut().enumerate() {
            if from[i / 4] >= 0 {
                *byte = (4 * from[i / 4]) as u8 + (i % 4) as u8;
            }
        }
        let p = bytes.as_ptr();
        [vld1q_u8(p), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48))]
    }
    #[inline(always)]
    unsafe fn permute(self, lanes: Self::Lanes) -> Self {
        let table = uint8x16x4_t(
            vreinterpretq_u8_f32(self.0[0]),
            vreinterpretq_u8_f32(self.0[1]),
            vreinterpretq_u8_f32(self.0[2]),
            vreinterpretq_u8_f32(self.0[3]),
        );
        each!(i => vreinterpretq_f32_u8(vqtbl4q_u8(table, lanes[i])))
    }
}
