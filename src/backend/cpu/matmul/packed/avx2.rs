//! AVX2, FMA and F16C: two registers each.

use super::{class::Layout, lanes::Lanes, panel, tile::Strip};
use std::{arch::x86_64::*, marker::PhantomData};

/// CPU features `avx2`, `fma`, `f16c`, and those of the dot products.
#[derive(Clone, Copy)]
pub(super) struct Two<D>(PhantomData<D>);

/// Dot products by way of pairs.
pub(super) type Avx2 = Two<Pairs>;

/// Dot products of four unsigned and four signed bytes.
///
/// # Safety
/// The CPU has the features that the implementing type names.
pub(super) trait Dots: Copy + 'static {
    /// As [`Lanes::WIDE_AS_IS`].
    const WIDE_AS_IS: bool;
    /// Unsigned bytes are at most 127.
    unsafe fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// As [`Lanes::dot_wide`].
    unsafe fn dot_wide(acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// As [`Lanes::panels`].
    unsafe fn panels<P: Layout>(
        w: *const u8,
        count: usize,
        x: Strip,
        rows: usize,
        blocks: usize,
        c: *mut f32,
        step: usize,
    );
}

/// No features of its own.
#[derive(Clone, Copy)]
pub(super) struct Pairs;
/// CPU feature `avxvnni`.
#[derive(Clone, Copy)]
pub(super) struct Vnni;

type F = [__m256; 2];
type I = [__m256i; 2];

/// `$f` of both halves of the arguments.
macro_rules! both {
    ($f:expr, $a:expr) => {
        [$f($a[0]), $f($a[1])]
    };
    ($f:expr, $a:expr, $b:expr) => {
        [$f($a[0], $b[0]), $f($a[1], $b[1])]
    };
    ($f:expr, $a:expr, $b:expr, $c:expr) => {
        [$f($a[0], $b[0], $c[0]), $f($a[1], $b[1], $c[1])]
    };
}

/// 16 bytes, each in a lane of its own.
#[inline(always)]
unsafe fn widened(p: *const u8) -> I {
    // SAFETY: the caller promises 16 bytes and AVX2.
    unsafe {
        let b = _mm_loadu_si128(p.cast());
        [
            _mm256_cvtepu8_epi32(b),
            _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(b)),
        ]
    }
}

// SAFETY (whole impl): no memory is touched; the trait's contract gives the CPU features.
impl Dots for Pairs {
    const WIDE_AS_IS: bool = false;
    #[inline(always)]
    unsafe fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see the impl. Pairs of 127 * 127 fit in 16 bits.
        unsafe {
            let pairs = _mm256_maddubs_epi16(w, x);
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see the impl. Pairs of 128 * 127 fit in 16 bits.
        unsafe {
            let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
            Self::dot(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
        }
    }
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
        unsafe { panel::panels_avx2::<P>(w, count, x, rows, blocks, c, step) }
    }
}

// SAFETY (whole impl): as above.
impl Dots for Vnni {
    const WIDE_AS_IS: bool = true;
    #[inline(always)]
    unsafe fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see the impl.
        unsafe { _mm256_dpbusd_avx_epi32(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see the impl.
        unsafe { Self::dot(acc, w, x) }
    }
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
        unsafe { panel::panels_avxvnni::<P>(w, count, x, rows, blocks, c, step) }
    }
}

// SAFETY (whole impl): the trait's contract gives the CPU features and the pointers' validity.
impl<D: Dots> Lanes for Two<D> {
    type F = F;
    type I = I;
    const STREAMS: bool = true;
    const WIDE_AS_IS: bool = D::WIDE_AS_IS;
    const PANELS: [usize; 2] = [1; 2];

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
        unsafe { D::panels::<P>(w, count, x, rows, blocks, c, step) }
    }

    #[inline(always)]
    unsafe fn zero() -> F {
        // SAFETY: see the impl.
        unsafe { [_mm256_setzero_ps(); 2] }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        // SAFETY: see the impl.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: see the impl.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        // SAFETY: see the impl.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> F {
        // SAFETY: see the impl.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast())),
            ]
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(_mm256_add_ps, a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(_mm256_sub_ps, a, b) }
    }
    #[inline(always)]
    unsafe fn fms(a: F, b: F, c: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(_mm256_fmsub_ps, a, b, c) }
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(_mm256_mul_ps, a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(_mm256_fmadd_ps, a, b, c) }
    }
    #[inline(always)]
    unsafe fn fnma(a: F, b: F, c: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(_mm256_fnmadd_ps, a, b, c) }
    }

    #[inline(always)]
    unsafe fn izero() -> I {
        // SAFETY: see the impl.
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    unsafe fn iload(p: *const u8) -> I {
        // SAFETY: see the impl.
        unsafe {
            [
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.add(32).cast()),
            ]
        }
    }
    #[inline(always)]
    unsafe fn istore(p: *mut u8, v: I) {
        // SAFETY: see the impl.
        unsafe {
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(32).cast(), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn isplat(p: *const u8) -> I {
        // SAFETY: see the impl.
        unsafe { [_mm256_set1_epi32(p.cast::<i32>().read_unaligned()); 2] }
    }
    #[inline(always)]
    unsafe fn bytes(b: u8) -> I {
        // SAFETY: see the impl.
        unsafe { [_mm256_set1_epi8(b as i8); 2] }
    }
    #[inline(always)]
    unsafe fn and(a: I, b: I) -> I {
        // SAFETY: see the impl.
        unsafe { both!(_mm256_and_si256, a, b) }
    }
    #[inline(always)]
    unsafe fn or_and(a: I, b: I, mask: I) -> I {
        // SAFETY: see the impl.
        unsafe { both!(_mm256_or_si256, a, both!(_mm256_and_si256, b, mask)) }
    }
    #[inline(always)]
    unsafe fn shr<const N: u32>(a: I) -> I {
        // SAFETY: see the impl.
        unsafe { both!(_mm256_srl_epi16, a, [_mm_cvtsi32_si128(N as i32); 2]) }
    }
    #[inline(always)]
    unsafe fn shl<const N: u32>(a: I) -> I {
        // SAFETY: see the impl.
        unsafe { both!(_mm256_sll_epi16, a, [_mm_cvtsi32_si128(N as i32); 2]) }
    }
    #[inline(always)]
    unsafe fn table(p: *const u8) -> I {
        // SAFETY: see the impl.
        unsafe { [_mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast())); 2] }
    }
    #[inline(always)]
    unsafe fn lookup(table: I, codes: I) -> I {
        // SAFETY: see the impl.
        unsafe { both!(_mm256_shuffle_epi8, table, codes) }
    }
    #[inline(always)]
    unsafe fn dot(acc: I, w: I, x: I) -> I {
        // SAFETY: see the impl.
        unsafe { both!(D::dot, acc, w, x) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: I, w: I, x: I) -> I {
        // SAFETY: see the impl.
        unsafe { both!(D::dot_wide, acc, w, x) }
    }
    #[inline(always)]
    unsafe fn to_f32(x: I) -> F {
        // SAFETY: see the impl.
        unsafe { both!(_mm256_cvtepi32_ps, x) }
    }
    #[inline(always)]
    unsafe fn byte<const J: u32>(x: I) -> F {
        // SAFETY: see the impl.
        unsafe {
            let low = match J {
                0 => x,
                1 => both!(_mm256_srli_epi32::<8>, x),
                2 => both!(_mm256_srli_epi32::<16>, x),
                _ => both!(_mm256_srli_epi32::<24>, x),
            };
            let mask = [_mm256_set1_epi32(255); 2];
            Self::to_f32(both!(_mm256_and_si256, low, mask))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> F {
        // SAFETY: see the impl.
        unsafe {
            let b = _mm_loadu_si128(p.cast());
            Self::to_f32([
                _mm256_cvtepi8_epi32(b),
                _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(b)),
            ])
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> F {
        // SAFETY: see the impl.
        unsafe { Self::to_f32(widened(p)) }
    }
    #[inline(always)]
    unsafe fn load_u4(p: *const u8) -> [F; 2] {
        // SAFETY: see the impl.
        unsafe {
            let b = widened(p);
            let low = both!(_mm256_and_si256, b, [_mm256_set1_epi32(15); 2]);
            let high = both!(_mm256_srli_epi32::<4>, b);
            [Self::to_f32(low), Self::to_f32(high)]
        }
    }
    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> F {
        // SAFETY: see the impl.
        unsafe {
            // Two factors, so that powers below the normal range come out too:
            // 2^(e / 2 - 64) 2^(e - e / 2 - 64).
            let e = widened(p);
            let half = both!(_mm256_srli_epi32::<1>, e);
            let rest = both!(_mm256_sub_epi32, e, half);
            let bias = [_mm256_set1_epi32(63); 2];
            let half = both!(_mm256_add_epi32, half, bias);
            let rest = both!(_mm256_add_epi32, rest, bias);
            let half = both!(_mm256_slli_epi32::<23>, half);
            let rest = both!(_mm256_slli_epi32::<23>, rest);
            Self::mul(
                both!(_mm256_castsi256_ps, half),
                both!(_mm256_castsi256_ps, rest),
            )
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> F {
        // SAFETY: see the impl.
        unsafe {
            // As in AVX-512.
            let b = _mm256_slli_epi16::<7>(_mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast())));
            let halves = [_mm256_castsi256_si128(b), _mm256_extracti128_si256::<1>(b)];
            Self::mul(both!(_mm256_cvtph_ps, halves), Self::splat(128.0))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: see the impl; a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
