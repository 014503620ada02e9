//! AVX2 with FMA and F16C.

use super::Simd;
use half::{bf16, f16};
use std::arch::x86_64::*;

/// CPU features `avx2`, `fma` and `f16c`.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Window of it with `n` set lanes first: `MASK[8 - n..]`.
static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    // SAFETY: `8 - n + 8 <= 16` for n in 0..=8.
    unsafe { _mm256_loadu_si256(MASK.as_ptr().add(8 - n).cast()) }
}

/// The first `n` halfwords at `p`, the rest 0.
#[inline(always)]
unsafe fn halves(p: *const u16, n: usize) -> __m128i {
    let mut t = [0u16; 8];
    // SAFETY: the caller promises n readable elements at p; n <= 8.
    unsafe {
        std::ptr::copy_nonoverlapping(p, t.as_mut_ptr(), n.min(8));
        _mm_loadu_si128(t.as_ptr().cast())
    }
}

#[inline(always)]
unsafe fn put_halves(p: *mut u16, n: usize, v: __m128i) {
    let mut t = [0u16; 8];
    // SAFETY: the caller promises n writable elements at p; n <= 8.
    unsafe {
        _mm_storeu_si128(t.as_mut_ptr().cast(), v);
        std::ptr::copy_nonoverlapping(t.as_ptr(), p, n.min(8));
    }
}

// SAFETY (whole impl): the trait's contract gives the CPU features and the pointers' validity.
impl Simd for Avx2 {
    const LANES: usize = 8;
    const DOT_U8: bool = false;
    const Q8_ROWS: usize = 4;
    type F = __m256;
    type I = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_maskload_ps(p, mask(n)) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        // SAFETY: see the impl.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, n: usize, v: __m256) {
        // SAFETY: see the impl.
        unsafe { _mm256_maskstore_ps(p, mask(n), v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_f16_n(p: *const f16, n: usize) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_cvtph_ps(halves(p.cast(), n)) }
    }
    #[inline(always)]
    unsafe fn store_f16_n(p: *mut f16, n: usize, v: __m256) {
        // SAFETY: see the impl.
        unsafe { put_halves(p.cast(), n, _mm256_cvtps_ph::<0>(v)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> __m256 {
        // SAFETY: see the impl.
        unsafe {
            let h = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(h))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_n(p: *const bf16, n: usize) -> __m256 {
        // SAFETY: see the impl.
        unsafe {
            let h = _mm256_cvtepu16_epi32(halves(p.cast(), n));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(h))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_n(p: *mut bf16, n: usize, v: __m256) {
        // SAFETY: see the impl.
        unsafe {
            let u = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(u), _mm256_set1_epi32(1));
            let bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(u, bias));
            // A NaN keeps its upper half, made quiet: rounding could carry it to infinity.
            let quiet = _mm256_or_si256(_mm256_srli_epi32::<16>(u), _mm256_set1_epi32(0x40));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let h = _mm256_blendv_epi8(rounded, quiet, nan);
            let (lo, hi) = (_mm256_castsi256_si128(h), _mm256_extracti128_si256::<1>(h));
            put_halves(p.cast(), n, _mm_packus_epi32(lo, hi));
        }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale2(a: __m256, n: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe {
            // Two factors, so that results below the normal range round once and above it
            // overflow to infinity.
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let rest = _mm256_sub_epi32(n, half);
            let one = _mm256_set1_epi32(127);
            let f = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, one));
            let g = _mm256_slli_epi32::<23>(_mm256_add_epi32(rest, one));
            let a = _mm256_mul_ps(a, _mm256_castsi256_ps(f));
            _mm256_mul_ps(a, _mm256_castsi256_ps(g))
        }
    }
    #[inline(always)]
    unsafe fn sum(a: __m256) -> f32 {
        // SAFETY: see the impl.
        unsafe {
            let q = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let d = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    unsafe fn max_lane(a: __m256) -> f32 {
        // SAFETY: see the impl.
        unsafe {
            let q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let d = _mm_max_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    unsafe fn first_n(n: usize, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask(n))) }
    }

    #[inline(always)]
    unsafe fn izero() -> __m256i {
        // SAFETY: see the impl.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn iload(p: *const u8) -> __m256i {
        // SAFETY: see the impl.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn isplat(p: *const u8) -> __m256i {
        // SAFETY: see the impl.
        unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn shl(x: __m256i, bits: u32) -> __m256i {
        // SAFETY: see the impl.
        unsafe { _mm256_sll_epi32(x, _mm_cvtsi32_si128(bits as i32)) }
    }
    #[inline(always)]
    unsafe fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see the impl.
        unsafe {
            let pairs = _mm256_maddubs_epi16(w, x);
            let quads = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            _mm256_add_epi32(acc, quads)
        }
    }
    #[inline(always)]
    unsafe fn dot_signed(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see the impl.
        unsafe { Self::dot(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w)) }
    }
    #[inline(always)]
    unsafe fn istore(p: *mut u8, x: __m256i) {
        // SAFETY: see the impl.
        unsafe { _mm256_storeu_si256(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn isub(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see the impl.
        unsafe { _mm256_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn to_f32(x: __m256i) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_cvtepi32_ps(x) }
    }
}
