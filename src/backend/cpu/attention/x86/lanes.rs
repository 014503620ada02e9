//! What attention needs of vectors beyond [`Simd`].

use crate::backend::cpu::simd::{Avx2, Avx512, Simd};
use std::arch::x86_64::*;

/// 2^f on 0..1 as a polynomial, highest power first: minimax, relative error below 2^-28.
const FLOOR: [f32; 7] = [
    2.161_291_5e-4,
    1.246_784_7e-3,
    9.675_452e-3,
    5.548_528e-2,
    2.402_293e-1,
    6.931_470_6e-1,
    1.0,
];
/// The same on -0.5..=0.5.
const NEAR: [f32; 7] = [
    1.559_467_8e-4,
    1.340_664_3e-3,
    9.617_693e-3,
    5.550_310_4e-2,
    2.402_265_2e-1,
    6.931_472_4e-1,
    1.0,
];

/// More methods of vectors.
///
/// # Safety
/// As for [`Simd`].
pub(super) trait Lanes: Simd {
    /// `x` where `a <= b`, else `y` (also where either is NaN).
    unsafe fn where_le(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// `x` where `p` is not zero, else zero.
    unsafe fn where_nonzero(p: Self::F, x: Self::F) -> Self::F;
    /// True when some lane of `a` is above that of `b`.
    unsafe fn any_gt(a: Self::F, b: Self::F) -> bool;
    /// 2^x within 2 ulp for `x <= 127`; 0 at -inf, NaN at NaN.
    unsafe fn exp2(x: Self::F) -> Self::F;
    /// `LANES` signed bytes.
    unsafe fn load_i8(p: *const u8) -> Self::F;
    /// Sums of `LANES` vectors, in order.
    unsafe fn sums(a: &[Self::F]) -> Self::F;
}

// SAFETY (whole impl): the trait's contract gives the CPU features and the pointers' validity.
impl Lanes for Avx512 {
    #[inline(always)]
    unsafe fn where_le(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    unsafe fn where_nonzero(p: __m512, x: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(p, _mm512_setzero_ps());
            _mm512_maskz_mov_ps(some, x)
        }
    }
    #[inline(always)]
    unsafe fn any_gt(a: __m512, b: __m512) -> bool {
        // SAFETY: see the impl.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) != 0 }
    }
    #[inline(always)]
    unsafe fn exp2(x: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            // x - floor(x), which is 0 for infinities; the scaling takes the floor by itself.
            let f = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF }>(x);
            let mut p = _mm512_set1_ps(FLOOR[0]);
            let mut i = 1;
            while i < FLOOR.len() {
                p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(FLOOR[i]));
                i += 1;
            }
            _mm512_scalef_ps(p, x)
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn sums(a: &[__m512]) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            // Each step adds halves of two vectors into one; the pairs are chosen so that the
            // order comes out right.
            let mut four = [_mm512_setzero_ps(); 4];
            for q in 0..4 {
                let [a, b, c, d] = [a[4 * q], a[4 * q + 1], a[4 * q + 2], a[4 * q + 3]];
                let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                // a0 b0 a1 b1 and c0 c1 d0 d1 in each quarter.
                let low = _mm512_shuffle_ps::<0x44>(ab, cd);
                let high = _mm512_shuffle_ps::<0xee>(ab, cd);
                four[q] = _mm512_add_ps(low, high);
            }
            let [a, b, c, d] = four;
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0x88>(a, b),
                _mm512_shuffle_f32x4::<0xdd>(a, b),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0x88>(c, d),
                _mm512_shuffle_f32x4::<0xdd>(c, d),
            );
            _mm512_add_ps(
                _mm512_shuffle_f32x4::<0x88>(ab, cd),
                _mm512_shuffle_f32x4::<0xdd>(ab, cd),
            )
        }
    }
}

// SAFETY (whole impl): the trait's contract gives the CPU features and the pointers' validity.
impl Lanes for Avx2 {
    #[inline(always)]
    unsafe fn where_le(a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LE_OQ>(a, b)) }
    }
    #[inline(always)]
    unsafe fn where_nonzero(p: __m256, x: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NEQ_UQ>(p, _mm256_setzero_ps()), x) }
    }
    #[inline(always)]
    unsafe fn any_gt(a: __m256, b: __m256) -> bool {
        // SAFETY: see the impl.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) != 0 }
    }
    #[inline(always)]
    unsafe fn exp2(x: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe {
            // The second operand wins where one is NaN.
            let x = _mm256_max_ps(_mm256_set1_ps(-160.0), x);
            let n = Avx2::round(x);
            let f = _mm256_sub_ps(x, n);
            let mut p = _mm256_set1_ps(NEAR[0]);
            let mut i = 1;
            while i < NEAR.len() {
                p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(NEAR[i]));
                i += 1;
            }
            Avx2::scale2(p, n)
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn sums(a: &[__m256]) -> __m256 {
        // SAFETY: see the impl.
        unsafe {
            let [a, b, c, d] = [
                _mm256_hadd_ps(a[0], a[1]),
                _mm256_hadd_ps(a[2], a[3]),
                _mm256_hadd_ps(a[4], a[5]),
                _mm256_hadd_ps(a[6], a[7]),
            ];
            let (a, b) = (_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(a, b),
                _mm256_permute2f128_ps::<0x31>(a, b),
            )
        }
    }
}

/// Rows become columns.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn transpose8(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller's contract.
    unsafe {
        let lo = |a, b| _mm256_unpacklo_ps(a, b);
        let hi = |a, b| _mm256_unpackhi_ps(a, b);
        let a = [
            lo(r[0], r[1]),
            hi(r[0], r[1]),
            lo(r[2], r[3]),
            hi(r[2], r[3]),
            lo(r[4], r[5]),
            hi(r[4], r[5]),
            lo(r[6], r[7]),
            hi(r[6], r[7]),
        ];
        let low = |a, b| _mm256_shuffle_ps::<0x44>(a, b);
        let high = |a, b| _mm256_shuffle_ps::<0xee>(a, b);
        let b = [
            low(a[0], a[2]),
            high(a[0], a[2]),
            low(a[1], a[3]),
            high(a[1], a[3]),
            low(a[4], a[6]),
            high(a[4], a[6]),
            low(a[5], a[7]),
            high(a[5], a[7]),
        ];
        let first = |a, b| _mm256_permute2f128_ps::<0x20>(a, b);
        let second = |a, b| _mm256_permute2f128_ps::<0x31>(a, b);
        [
            first(b[0], b[4]),
            first(b[1], b[5]),
            first(b[2], b[6]),
            first(b[3], b[7]),
            second(b[0], b[4]),
            second(b[1], b[5]),
            second(b[2], b[6]),
            second(b[3], b[7]),
        ]
    }
}
