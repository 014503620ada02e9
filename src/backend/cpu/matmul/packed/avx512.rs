//! AVX-512 with VNNI: one register each.

use super::{
    class::Layout,
    lanes::{Lanes, shift},
    panel,
    tile::Strip,
};
use std::arch::x86_64::*;

/// CPU features `avx512f`, `avx512bw`, `avx512dq`, `avx512vl`, `avx512vnni`; with `BITS` also
/// `avx512vbmi` and `gfni`, which move and look up bits in fewer steps.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const BITS: bool>;

/// Rows of bits that take bits `from..from + count` of a byte to bits `to..` of the result.
const fn matrix(from: usize, count: usize, to: usize) -> i64 {
    let (mut rows, mut i) = (0u64, 0);
    while i < count {
        // Row 7 makes bit 0.
        rows |= 1 << (8 * (7 - to - i) + from + i);
        i += 1;
    }
    rows as i64
}

// SAFETY (whole impl): the trait's contract gives the CPU features and the pointers' validity.
impl<const BITS: bool> Lanes for Avx512<BITS> {
    type F = __m512;
    type I = __m512i;
    const STREAMS: bool = true;
    const WIDE_AS_IS: bool = true;
    const LOOSE: bool = BITS;
    const PANELS: [usize; 2] = panel::WIDE;

    #[inline(always)]
    unsafe fn panels<P: Layout>(
        w: *const u8,
        count: usize,
        x: Strip,
        rows: usize,
        blocks: usize,
        c: *mut f32,
        step: usize,
    ) {
        // SAFETY: the caller's contract is the callee's.
        unsafe { panel::panels_avx512::<P>(w, count, x, rows, blocks, c, step) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        // SAFETY: see the impl.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fms(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_fmsub_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn izero() -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn iload(p: *const u8) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn istore(p: *mut u8, v: __m512i) {
        // SAFETY: see the impl.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn isplat(p: *const u8) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn bytes(b: u8) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_epi8(b as i8) }
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn or_and(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_ternarylogic_epi32::<0xf8>(a, b, mask) }
    }
    #[inline(always)]
    unsafe fn shr<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_srli_epi16::<N>(a) }
    }
    #[inline(always)]
    unsafe fn shl<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_slli_epi16::<N>(a) }
    }
    #[inline(always)]
    unsafe fn bits(a: __m512i, from: usize, count: usize, to: usize) -> __m512i {
        // SAFETY: see the impl.
        unsafe {
            if BITS && from != to {
                let matrix = _mm512_set1_epi64(matrix(from, count, to));
                return _mm512_gf2p8affine_epi64_epi8::<0>(a, matrix);
            }
            let mask = ((1 << count) - 1) << to;
            _mm512_and_si512(shift::<Self>(a, from, to), Self::bytes(mask))
        }
    }
    #[inline(always)]
    unsafe fn table(p: *const u8) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn lookup(table: __m512i, codes: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe {
            if BITS {
                // The table four times: of six bits of a code two do not matter.
                _mm512_permutexvar_epi8(codes, table)
            } else {
                _mm512_shuffle_epi8(table, codes)
            }
        }
    }
    #[inline(always)]
    unsafe fn dot(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn to_f32(x: __m512i) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(x) }
    }
    #[inline(always)]
    unsafe fn byte<const J: u32>(x: __m512i) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            let low = match J {
                0 => x,
                1 => _mm512_srli_epi32::<8>(x),
                2 => _mm512_srli_epi32::<16>(x),
                _ => _mm512_srli_epi32::<24>(x),
            };
            _mm512_cvtepi32_ps(_mm512_and_si512(low, _mm512_set1_epi32(255)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_u4(p: *const u8) -> [__m512; 2] {
        // SAFETY: see the impl.
        unsafe {
            let b = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            let low = _mm512_and_si512(b, _mm512_set1_epi32(15));
            [
                _mm512_cvtepi32_ps(low),
                _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(b)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            let e = _mm512_sub_ps(Self::load_u8(p), _mm512_set1_ps(128.0));
            _mm512_scalef_ps(_mm512_set1_ps(1.0), e)
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            // Exponent and mantissa where those of f16 are (small numbers as subnormals, which
            // are slow as f32 and not as f16); then the difference of the biases, less one for
            // the half.
            let b = _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()));
            let f = _mm512_cvtph_ps(_mm256_slli_epi16::<7>(b));
            _mm512_mul_ps(f, _mm512_set1_ps(128.0))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: see the impl; a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
