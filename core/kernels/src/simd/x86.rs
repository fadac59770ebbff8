//! AVX-512 (one register) and AVX2 with FMA (two registers).

use core::arch::x86_64::{
    __m256, __m256i, __m512, __m512i, __mmask16, _CMP_EQ_OQ, _CMP_GT_OQ, _MM_HINT_ET0, _MM_HINT_T0,
    _mm_prefetch, _mm256_add_ps, _mm256_and_ps, _mm256_andnot_ps, _mm256_blendv_ps,
    _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_max_ps, _mm256_mul_ps, _mm256_permutevar8x32_ps, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_slli_epi32, _mm256_srai_epi32, _mm256_storeu_ps, _mm256_sub_ps, _mm512_add_ps,
    _mm512_cmp_ps_mask, _mm512_cmpge_epi32_mask, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_mov_ps, _mm512_maskz_mov_ps, _mm512_maskz_permutexvar_ps,
    _mm512_max_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_storeu_ps, _mm512_sub_ps,
};

use super::{LANES, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

impl Simd for Avx512 {
    type Lanes = (__m512i, __mmask16);

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        _mm512_storeu_ps(p, self.0);
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn fma(a: Self, b: Self, c: Self) -> Self {
        Self(_mm512_fmadd_ps(a.0, b.0, c.0))
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        Self(_mm512_add_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        Self(_mm512_sub_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        Self(_mm512_mul_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        Self(_mm512_max_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn where_positive(x: Self, g: Self) -> Self {
        let mask = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x.0, _mm512_setzero_ps());
        Self(_mm512_maskz_mov_ps(mask, g.0))
    }
    #[inline(always)]
    unsafe fn where_greater(a: Self, b: Self, x: Self, y: Self) -> Self {
        Self(_mm512_mask_mov_ps(y.0, _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a.0, b.0), x.0))
    }
    #[inline(always)]
    unsafe fn where_equal(a: Self, b: Self, x: Self) -> Self {
        Self(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a.0, b.0), x.0))
    }
    #[inline(always)]
    unsafe fn lanes(from: &[i32; LANES]) -> Self::Lanes {
        let index = _mm512_loadu_si512(from.as_ptr().cast());
        (index, _mm512_cmpge_epi32_mask(index, _mm512_setzero_si512()))
    }
    #[inline(always)]
    unsafe fn permute(self, (index, used): Self::Lanes) -> Self {
        Self(_mm512_maskz_permutexvar_ps(used, index, self.0))
    }
    #[inline(always)]
    unsafe fn soon_written(p: *mut f32) {
        _mm_prefetch::<_MM_HINT_ET0>(p.cast::<i8>().cast_const());
    }
    #[inline(always)]
    unsafe fn soon_read(p: *const f32) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast::<i8>());
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

impl Simd for Avx2 {
    /// An index below 8 is a lane of the first register, else of the second; the sign of an unused one
    /// is set.
    type Lanes = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8)))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        _mm256_storeu_ps(p, self.0);
        _mm256_storeu_ps(p.add(8), self.1);
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        let v = _mm256_set1_ps(x);
        Self(v, v)
    }
    #[inline(always)]
    unsafe fn fma(a: Self, b: Self, c: Self) -> Self {
        Self(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1))
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        Self(_mm256_add_ps(self.0, o.0), _mm256_add_ps(self.1, o.1))
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        Self(_mm256_sub_ps(self.0, o.0), _mm256_sub_ps(self.1, o.1))
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        Self(_mm256_mul_ps(self.0, o.0), _mm256_mul_ps(self.1, o.1))
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        Self(_mm256_max_ps(self.0, o.0), _mm256_max_ps(self.1, o.1))
    }
    #[inline(always)]
    unsafe fn where_positive(x: Self, g: Self) -> Self {
        let zero = _mm256_setzero_ps();
        Self(
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(x.0, zero), g.0),
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(x.1, zero), g.1),
        )
    }
    #[inline(always)]
    unsafe fn where_greater(a: Self, b: Self, x: Self, y: Self) -> Self {
        Self(
            _mm256_blendv_ps(y.0, x.0, _mm256_cmp_ps::<_CMP_GT_OQ>(a.0, b.0)),
            _mm256_blendv_ps(y.1, x.1, _mm256_cmp_ps::<_CMP_GT_OQ>(a.1, b.1)),
        )
    }
    #[inline(always)]
    unsafe fn where_equal(a: Self, b: Self, x: Self) -> Self {
        Self(
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(a.0, b.0), x.0),
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(a.1, b.1), x.1),
        )
    }
    #[inline(always)]
    unsafe fn lanes(from: &[i32; LANES]) -> Self::Lanes {
        let p = from.as_ptr();
        (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast()))
    }
    #[inline(always)]
    unsafe fn permute(self, lanes: Self::Lanes) -> Self {
        Self(self.pick(lanes.0), self.pick(lanes.1))
    }
    #[inline(always)]
    unsafe fn permute_half(self, lanes: Self::Lanes) -> Self {
        // The instruction looks at the lowest three bits of an index only.
        Self(_mm256_permutevar8x32_ps(self.0, lanes.0), _mm256_permutevar8x32_ps(self.1, lanes.1))
    }
}

impl Avx2 {
    #[inline(always)]
    unsafe fn pick(self, index: __m256i) -> __m256 {
        let first = _mm256_permutevar8x32_ps(self.0, index);
        let second = _mm256_permutevar8x32_ps(self.1, index);
        // Bit 3 says which register; blends look at the sign bit.
        let which = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
        let unused = _mm256_castsi256_ps(_mm256_srai_epi32::<31>(index));
        _mm256_andnot_ps(unused, _mm256_blendv_ps(first, second, which))
    }
}
