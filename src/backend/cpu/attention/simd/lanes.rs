//! What attention needs of vectors beyond [`Simd`].

use crate::backend::cpu::simd::Simd;
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd::{Avx2, Avx512};
#[cfg(target_arch = "aarch64")]
use crate::backend::cpu::simd::{Neon, cells};
#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// 2^f on 0..1 as a polynomial, highest power first: minimax, relative error below 2^-28.
#[cfg(target_arch = "x86_64")]
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
    /// True unless every lane of `a` is at most that of `b`; NaN is not.
    unsafe fn any_not_le(a: Self::F, b: Self::F) -> bool;
    /// True when some lane of `a` is above that of `b`.
    unsafe fn any_gt(a: Self::F, b: Self::F) -> bool;
    /// 2^x within 2 ulp for `x <= 127`; 0 at -inf, NaN at NaN.
    unsafe fn exp2(x: Self::F) -> Self::F;
    /// `LANES` signed bytes.
    unsafe fn load_i8(p: *const u8) -> Self::F;
    /// The f16 at `p` in every lane.
    unsafe fn splat_f16(p: *const u8) -> Self::F;
    /// Sums of `LANES` vectors, in order.
    unsafe fn sums(a: &[Self::F]) -> Self::F;
}

#[cfg(target_arch = "x86_64")]
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
    unsafe fn any_not_le(a: __m512, b: __m512) -> bool {
        // SAFETY: see the impl.
        unsafe { _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(a, b) != 0 }
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
    unsafe fn splat_f16(p: *const u8) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            let half = _mm256_set1_epi16(p.cast::<i16>().read_unaligned());
            _mm512_cvtph_ps(half)
        }
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

#[cfg(target_arch = "x86_64")]
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
    unsafe fn any_not_le(a: __m256, b: __m256) -> bool {
        // SAFETY: see the impl.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(a, b)) != 0 }
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
    unsafe fn splat_f16(p: *const u8) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_cvtph_ps(_mm_set1_epi16(p.cast::<i16>().read_unaligned())) }
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

// SAFETY (whole impl): the trait's contract gives the CPU features and the pointers' validity.
#[cfg(target_arch = "aarch64")]
impl Lanes for Neon {
    #[inline(always)]
    unsafe fn where_le(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            [
                vbslq_f32(vcleq_f32(a[0], b[0]), x[0], y[0]),
                vbslq_f32(vcleq_f32(a[1], b[1]), x[1], y[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn where_nonzero(p: Self::F, x: Self::F) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            let zero = vdupq_n_f32(0.0);
            [
                vbslq_f32(vceqzq_f32(p[0]), zero, x[0]),
                vbslq_f32(vceqzq_f32(p[1]), zero, x[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn any_not_le(a: Self::F, b: Self::F) -> bool {
        // SAFETY: see the impl.
        unsafe {
            let all = vandq_u32(vcleq_f32(a[0], b[0]), vcleq_f32(a[1], b[1]));
            vminvq_u32(all) == 0
        }
    }
    #[inline(always)]
    unsafe fn any_gt(a: Self::F, b: Self::F) -> bool {
        // SAFETY: see the impl.
        unsafe {
            let any = vorrq_u32(vcgtq_f32(a[0], b[0]), vcgtq_f32(a[1], b[1]));
            vmaxvq_u32(any) != 0
        }
    }
    #[inline(always)]
    unsafe fn exp2(x: Self::F) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            // The second operand wins where one is NaN.
            let x = Self::max(Self::splat(-160.0), x);
            let n = Self::round(x);
            let f = Self::sub(x, n);
            let mut p = Self::splat(NEAR[0]);
            let mut i = 1;
            while i < NEAR.len() {
                p = Self::fma(p, f, Self::splat(NEAR[i]));
                i += 1;
            }
            Self::scale2(p, n)
        }
    }
    #[inline(always)]
    unsafe fn splat_f16(p: *const u8) -> Self::F {
        // SAFETY: see the impl.
        unsafe { Self::splat(cells::f16_at(p)) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            let h = vmovl_s8(vld1_s8(p.cast()));
            Self::to_f32([vmovl_s16(vget_low_s16(h)), vmovl_high_s16(h)])
        }
    }
    #[inline(always)]
    unsafe fn sums(a: &[Self::F]) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            let mut two = [vdupq_n_f32(0.0); 4];
            for i in 0..4 {
                let first = vaddq_f32(a[2 * i][0], a[2 * i][1]);
                let second = vaddq_f32(a[2 * i + 1][0], a[2 * i + 1][1]);
                two[i] = vpaddq_f32(first, second);
            }
            [vpaddq_f32(two[0], two[1]), vpaddq_f32(two[2], two[3])]
        }
    }
}
