//! 8-bit activations times quantized weights, one to four rows of x: the blocks are multiplied as
//! they are stored, several rows of w at once. Sums stay in vectors until the end of the row.

use super::{
    codes::{Codes, Q4_0, Q4_1, Q4K, Q5_0, Q6K, Q8_0, half_at},
    f32_gemm::AHEAD,
    q8_rows::RowsPtr,
};
use crate::backend::cpu::simd::{Avx2, Simd};
use std::arch::x86_64::*;

/// Most rows of x.
pub(super) const MAX_M: usize = 4;

/// Dot products of `R` rows of w with `M` rows of x.
///
/// # Safety
/// The rows exist and hold `k` values; the CPU has the implementor's features.
pub(super) trait Rows {
    unsafe fn rows<const R: usize, const M: usize>(
        x: [RowsPtr; M],
        w: [*const u8; R],
        k: usize,
    ) -> [[f32; M]; R];
}

/// AVX2: any format, 32 codes at a time.
pub(super) struct ByAvx2<F>(F);

impl<F: Codes> Rows for ByAvx2<F> {
    #[inline(always)]
    unsafe fn rows<const R: usize, const M: usize>(
        x: [RowsPtr; M],
        w: [*const u8; R],
        k: usize,
    ) -> [[f32; M]; R] {
        let (block_len, block_bytes) = (F::FORMAT.block_len(), F::FORMAT.block_bytes());
        let per_block = block_len / 32;
        // SAFETY: the caller promises R rows of whole blocks and M rows of x.
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); M]; R];
            let mut low = [[0f32; M]; R];
            for b in 0..k / block_len {
                for r in 0..R {
                    let block = w[r].add(b * block_bytes);
                    let (mut scale, mut min) = ([0f32; 16], [0f32; 16]);
                    F::scales(block, scale.as_mut_ptr(), min.as_mut_ptr());
                    for i in 0..per_block {
                        let at = b * per_block + i;
                        let codes = F::codes(block, i);
                        let scales = if F::SUBS == 2 {
                            let lo = _mm_set1_ps(scale[(2 * i) & 15]);
                            let hi = _mm_set1_ps(scale[(2 * i + 1) & 15]);
                            _mm256_set_m128(hi, lo)
                        } else {
                            _mm256_set1_ps(scale[i & 15])
                        };
                        for m in 0..M {
                            let v = Avx2::iload(x[m].codes.add(32 * at).cast());
                            let dots = if F::SIGNED {
                                Avx2::dot_signed(Avx2::izero(), codes, v)
                            } else {
                                Avx2::dot(Avx2::izero(), codes, v)
                            };
                            let d = Avx2::splat(*x[m].d.add(at));
                            let dots = _mm256_cvtepi32_ps(dots);
                            acc[r][m] = _mm256_fmadd_ps(dots, _mm256_mul_ps(scales, d), acc[r][m]);
                            if F::SUBS == 2 {
                                let s = x[m].s16.add(2 * at);
                                let zero = zero_point::<F>();
                                low[r][m] -= zero * scale[(2 * i) & 15] * *s;
                                low[r][m] -= zero * scale[(2 * i + 1) & 15] * *s.add(1);
                            } else if F::ZERO_LOG2.is_none() {
                                low[r][m] += min[i & 15] * *x[m].s.add(at);
                            } else if !F::SIGNED {
                                let s = *x[m].s.add(at);
                                low[r][m] -= zero_point::<F>() * scale[i & 15] * s;
                            }
                        }
                    }
                }
            }
            let mut out = [[0.0; M]; R];
            for r in 0..R {
                for m in 0..M {
                    out[r][m] = Avx2::sum(acc[r][m]) + low[r][m];
                }
            }
            out
        }
    }
}

const fn zero_point<F: Codes>() -> f32 {
    match F::ZERO_LOG2 {
        Some(log2) => (1u32 << log2) as f32,
        None => 0.0,
    }
}

/// A format of 32-code blocks for AVX-512: two blocks at a time.
///
/// # Safety
/// Both blocks exist; the CPU has AVX-512 F, BW and VL, and F16C.
pub(super) trait Pair: Codes + Sized {
    /// The 64 codes, unsigned, in order.
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i;

    /// `[d_a, m_a, d_b, m_b]` where an element is `d * code + m`.
    #[inline(always)]
    unsafe fn pair_scales(a: *const u8, b: *const u8) -> __m128 {
        // SAFETY: a block starts with its f16 scale.
        unsafe {
            let a = i32::from(a.cast::<u16>().read_unaligned());
            let b = i32::from(b.cast::<u16>().read_unaligned());
            let d = _mm_insert_epi32::<1>(_mm_cvtsi32_si128(a), b);
            let dd = _mm_or_si128(d, _mm_slli_epi32::<16>(d));
            let zero = -zero_point::<Self>();
            _mm_mul_ps(_mm_cvtph_ps(dd), _mm_setr_ps(1.0, zero, 1.0, zero))
        }
    }
}

/// Two times 16 bytes of nibbles in order.
#[inline(always)]
unsafe fn nibbles2(a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: the caller promises 16 readable bytes each, and the features.
    unsafe {
        let a = _mm_loadu_si128(a.cast());
        let both =
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), _mm_loadu_si128(b.cast()));
        let wide = _mm512_castsi256_si512(both);
        let twice = _mm512_shuffle_i64x2::<0b01_01_00_00>(wide, wide);
        let shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
        _mm512_and_si512(_mm512_srlv_epi64(twice, shift), _mm512_set1_epi8(15))
    }
}

impl Pair for Q4_0 {
    #[inline(always)]
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i {
        // SAFETY: blocks have 18 bytes.
        unsafe { nibbles2(a.add(2), b.add(2)) }
    }
}

impl Pair for Q4_1 {
    #[inline(always)]
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i {
        // SAFETY: blocks have 20 bytes.
        unsafe { nibbles2(a.add(4), b.add(4)) }
    }
    #[inline(always)]
    unsafe fn pair_scales(a: *const u8, b: *const u8) -> __m128 {
        // SAFETY: a block starts with its f16 scale and minimum.
        unsafe {
            let a = a.cast::<i32>().read_unaligned();
            let b = b.cast::<i32>().read_unaligned();
            _mm_cvtph_ps(_mm_insert_epi32::<1>(_mm_cvtsi32_si128(a), b))
        }
    }
}

impl Pair for Q5_0 {
    #[inline(always)]
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i {
        // SAFETY: blocks have 22 bytes.
        unsafe {
            let lo = u64::from(a.add(2).cast::<u32>().read_unaligned());
            let hi = u64::from(b.add(2).cast::<u32>().read_unaligned());
            let nibbles = nibbles2(a.add(6), b.add(6));
            _mm512_mask_add_epi8(nibbles, lo | hi << 32, nibbles, _mm512_set1_epi8(16))
        }
    }
}

impl Pair for Q8_0 {
    #[inline(always)]
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i {
        // SAFETY: blocks have 34 bytes.
        unsafe {
            let a = _mm512_castsi256_si512(_mm256_loadu_si256(a.add(2).cast()));
            let both = _mm512_inserti64x4::<1>(a, _mm256_loadu_si256(b.add(2).cast()));
            _mm512_xor_si512(both, _mm512_set1_epi8(-128))
        }
    }
}

/// AVX-512 VNNI, blocks of 32.
pub(super) struct ByPairs<F>(F);

impl<F: Pair> Rows for ByPairs<F> {
    #[inline(always)]
    unsafe fn rows<const R: usize, const M: usize>(
        x: [RowsPtr; M],
        w: [*const u8; R],
        k: usize,
    ) -> [[f32; M]; R] {
        let block_bytes = F::FORMAT.block_bytes();
        let blocks = k / 32;
        // SAFETY: the caller promises R rows of whole blocks and M rows of x, which are padded
        // with zeros to pairs; the missing block of the last pair is its first one again.
        unsafe {
            let spread = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
            let mut acc = [[_mm512_setzero_ps(); M]; R];
            let mut low = [[_mm_setzero_ps(); M]; R];
            for p in 0..blocks.div_ceil(2) {
                let second = if 2 * p + 1 < blocks { block_bytes } else { 0 };
                for r in 0..R {
                    let a = w[r].add(2 * p * block_bytes);
                    _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(AHEAD).cast());
                    let codes = F::pair(a, a.add(second));
                    let scales = F::pair_scales(a, a.add(second));
                    for m in 0..M {
                        let v = _mm512_loadu_si512(x[m].codes.add(64 * p).cast());
                        let ds = _mm_loadu_ps(x[m].ds.add(4 * p));
                        let scales = _mm_mul_ps(scales, ds);
                        low[r][m] = _mm_add_ps(low[r][m], scales);
                        let scales = _mm512_permutexvar_ps(spread, _mm512_castps128_ps512(scales));
                        let dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, v);
                        acc[r][m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scales, acc[r][m]);
                    }
                }
            }
            let mut out = [[0.0; M]; R];
            for r in 0..R {
                for m in 0..M {
                    let low = low[r][m];
                    let low = _mm_add_ps(low, _mm_movehl_ps(low, low));
                    let low = _mm_cvtss_f32(_mm_movehdup_ps(low));
                    out[r][m] = _mm512_reduce_add_ps(acc[r][m]) + low;
                }
            }
            out
        }
    }
}

/// A format of 256-code blocks for AVX-512.
///
/// # Safety
/// The block exists; the CPU has AVX-512 F, BW, DQ and VL, and F16C.
pub(super) trait Super: Codes {
    /// All codes, unsigned, in order.
    unsafe fn all(block: *const u8) -> [__m512i; 4];
    /// One scale per 16 codes, and the zero point times it or minus the minimum.
    unsafe fn all_scales(block: *const u8) -> (__m512, __m512);
}

/// Each of 8 floats twice.
#[inline(always)]
unsafe fn twice(x: __m256) -> __m512 {
    // SAFETY: the caller has AVX-512 F.
    unsafe {
        let index = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        _mm512_permutexvar_ps(index, _mm512_castps256_ps512(x))
    }
}

impl Super for Q4K {
    #[inline(always)]
    unsafe fn all(block: *const u8) -> [__m512i; 4] {
        // SAFETY: a block has 144 bytes, 128 of them codes.
        unsafe {
            let mut out = [_mm512_setzero_si512(); 4];
            for i in 0..4 {
                let b = _mm256_loadu_si256(block.add(16 + 32 * i).cast());
                let lo = _mm512_castsi256_si512(b);
                let both = _mm512_inserti64x4::<1>(lo, _mm256_srli_epi16::<4>(b));
                out[i] = _mm512_and_si512(both, _mm512_set1_epi8(15));
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn all_scales(block: *const u8) -> (__m512, __m512) {
        // SAFETY: a block starts with two f16 and 12 bytes of scales.
        unsafe {
            // Layout as in `scale_min_k4`, four pairs at a time.
            let words = block.add(4).cast::<u32>();
            let (a, b) = (words.read_unaligned(), words.add(1).read_unaligned());
            let c = words.add(2).read_unaligned();
            let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
            let sc = u64::from(a & six) | u64::from(c & four | (a >> 6 & two) << 4) << 32;
            let mn = u64::from(b & six) | u64::from(c >> 4 & four | (b >> 6 & two) << 4) << 32;
            let sc = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(sc as i64));
            let mn = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(mn as i64));
            let d = _mm256_mul_ps(_mm256_cvtepi32_ps(sc), _mm256_set1_ps(half_at(block)));
            let dmin = _mm256_set1_ps(half_at(block.add(2)));
            let m = _mm256_mul_ps(_mm256_cvtepi32_ps(mn), dmin);
            (twice(d), twice(m))
        }
    }
}

impl Super for Q6K {
    #[inline(always)]
    unsafe fn all(block: *const u8) -> [__m512i; 4] {
        // SAFETY: a block has 210 bytes, 128 of low and 64 of high bits.
        unsafe {
            let mut out = [_mm512_setzero_si512(); 4];
            let up = _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2);
            let down = _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2);
            let (low, high) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
            for half in 0..2 {
                let lo = _mm512_loadu_si512(block.add(64 * half).cast());
                let hi = _mm256_loadu_si256(block.add(128 + 32 * half).cast());
                let hi = _mm512_broadcast_i64x4(hi);
                let first = _mm512_and_si512(_mm512_sllv_epi64(hi, up), high);
                let then = _mm512_and_si512(_mm512_srlv_epi64(hi, down), high);
                out[2 * half] = _mm512_or_si512(_mm512_and_si512(lo, low), first);
                let lo = _mm512_and_si512(_mm512_srli_epi16::<4>(lo), low);
                out[2 * half + 1] = _mm512_or_si512(lo, then);
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn all_scales(block: *const u8) -> (__m512, __m512) {
        // SAFETY: a block has 16 signed scales from byte 192 and an f16 at 208.
        unsafe {
            let sc = _mm512_cvtepi8_epi32(_mm_loadu_si128(block.add(192).cast()));
            let d = _mm512_mul_ps(
                _mm512_cvtepi32_ps(sc),
                _mm512_set1_ps(half_at(block.add(208))),
            );
            (d, _mm512_mul_ps(d, _mm512_set1_ps(zero_point::<Q6K>())))
        }
    }
}

/// AVX-512 VNNI, blocks of 256.
pub(super) struct BySupers<F>(F);

impl<F: Super> Rows for BySupers<F> {
    #[inline(always)]
    unsafe fn rows<const R: usize, const M: usize>(
        x: [RowsPtr; M],
        w: [*const u8; R],
        k: usize,
    ) -> [[f32; M]; R] {
        let block_bytes = F::FORMAT.block_bytes();
        // SAFETY: the caller promises R rows of whole blocks and M rows of x.
        unsafe {
            // Lanes 4 i..4 i + 4 of the dot products of quarter q belong to scale 4 q + i.
            let spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            let mut acc = [[_mm512_setzero_ps(); M]; R];
            for b in 0..k / 256 {
                for r in 0..R {
                    let block = w[r].add(b * block_bytes);
                    for line in 0..block_bytes.div_ceil(64) {
                        let next = block.wrapping_add(AHEAD + 64 * line);
                        _mm_prefetch::<_MM_HINT_T0>(next.cast());
                    }
                    let codes = F::all(block);
                    let (scales, low) = F::all_scales(block);
                    for m in 0..M {
                        let x = x[m].at(0, 256 * b);
                        let d = _mm512_mul_ps(scales, twice(_mm256_loadu_ps(x.d)));
                        let s = _mm512_loadu_ps(x.s16);
                        acc[r][m] = _mm512_fnmadd_ps(low, s, acc[r][m]);
                        for q in 0..4 {
                            let v = _mm512_loadu_si512(x.codes.add(64 * q).cast());
                            let dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes[q], v);
                            let quarter = _mm512_add_epi32(spread, _mm512_set1_epi32(4 * q as i32));
                            let d = _mm512_permutexvar_ps(quarter, d);
                            acc[r][m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), d, acc[r][m]);
                        }
                    }
                }
            }
            let mut out = [[0.0; M]; R];
            for r in 0..R {
                for m in 0..M {
                    out[r][m] = _mm512_reduce_add_ps(acc[r][m]);
                }
            }
            out
        }
    }
}

/// `out[m][n] = x[m][k] . w[n][k]^T` for `m` rows of x, at most [`MAX_M`], `out` with rows of
/// `ld`.
///
/// # Safety
/// As for [`Rows`]; there is at least one row of each.
#[inline(always)]
pub(super) unsafe fn gemv<K: Rows>(
    x: RowsPtr,
    m: usize,
    w: *const u8,
    stride: usize,
    n: usize,
    k: usize,
    out: *mut f32,
    ld: usize,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match m {
            1 => span::<K, 4, 1>(x, m, w, stride, n, k, out, ld),
            2 => span::<K, 2, 2>(x, m, w, stride, n, k, out, ld),
            _ => span::<K, 2, 4>(x, m, w, stride, n, k, out, ld),
        }
    }
}

#[inline(always)]
unsafe fn span<K: Rows, const R: usize, const M: usize>(
    x: RowsPtr,
    m: usize,
    w: *const u8,
    stride: usize,
    n: usize,
    k: usize,
    out: *mut f32,
    ld: usize,
) {
    // SAFETY: rows beyond the last repeat it, of w and of x; the caller promises the others.
    unsafe {
        let mut xs = [x; M];
        for i in 0..M {
            xs[i] = x.at(i.min(m - 1), 0);
        }
        // Each of the R rows comes from a span of its own, so that memory sees R long streams.
        let step = n.div_ceil(R);
        for n0 in 0..step {
            let mut rows = [w; R];
            for r in 0..R {
                rows[r] = w.add((n0 + r * step).min(n - 1) * stride);
            }
            let sums = K::rows::<R, M>(xs, rows, k);
            for r in 0..R {
                if n0 + r * step < n {
                    for i in 0..M.min(m) {
                        *out.add(i * ld + n0 + r * step) = sums[r][i];
                    }
                }
            }
        }
    }
}
