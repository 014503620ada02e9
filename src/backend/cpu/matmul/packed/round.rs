//! Rows of x rounded to 8 bits by AVX-512, for strips of four rows and of eight.

use super::{
    acts::{Place, To},
    class::BLOCK,
};
use crate::backend::cpu::simd::{Avx512, Elem};
use std::arch::x86_64::*;

/// 32 numbers of each of four rows.
struct Four {
    /// Groups of four k: the first four groups, then the others, four rows side by side in each.
    codes: [__m512i; 2],
    /// Scales.
    d: __m128,
    /// Sums of the codes of each half.
    sums: [__m128i; 2],
}

impl Four {
    /// The same as `quantize_block` of each row.
    ///
    /// # Safety
    /// The numbers are there; the CPU has AVX-512 F, BW, DQ, VL and VNNI.
    #[inline(always)]
    unsafe fn new<T: Elem>(x: [*const T; 4]) -> Four {
        // SAFETY: 32 numbers of each row.
        unsafe {
            let magnitude = _mm512_set1_epi32(0x7fff_ffff);
            let mut v = [[_mm512_setzero_ps(); 2]; 4];
            let mut top = [_mm256_setzero_si256(); 4];
            for r in 0..4 {
                v[r] = [T::load::<Avx512>(x[r]), T::load::<Avx512>(x[r].add(16))];
                // As integers, so that infinities and NaN win.
                let abs0 = _mm512_and_si512(_mm512_castps_si512(v[r][0]), magnitude);
                let abs1 = _mm512_and_si512(_mm512_castps_si512(v[r][1]), magnitude);
                let abs = _mm512_max_epu32(abs0, abs1);
                let upper = _mm512_extracti64x4_epi64::<1>(abs);
                top[r] = _mm256_max_epu32(_mm512_castsi512_si256(abs), upper);
            }
            // Of each row in a lane of its own.
            let mut two = [top[0]; 2];
            for i in 0..2 {
                let (a, b) = (top[2 * i], top[2 * i + 1]);
                two[i] = _mm256_max_epu32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            }
            let four = _mm256_max_epu32(
                _mm256_unpacklo_epi64(two[0], two[1]),
                _mm256_unpackhi_epi64(two[0], two[1]),
            );
            let upper = _mm256_extracti128_si256::<1>(four);
            let top = _mm_castsi128_ps(_mm_max_epu32(_mm256_castsi256_si128(four), upper));

            let most = _mm_set1_ps(127.0);
            let finite = _mm_cmp_ps_mask::<_CMP_LT_OQ>(top, _mm_set1_ps(f32::INFINITY));
            let least = _mm_set1_ps(127.0 * f32::MIN_POSITIVE);
            let some = _mm_cmp_ps_mask::<_CMP_GE_OQ>(top, least) & finite;
            let d = _mm_maskz_div_ps(some, top, most);
            let d = _mm_mask_mov_ps(_mm_set1_ps(f32::NAN), finite, d);
            let inverse = _mm512_castps128_ps512(_mm_maskz_div_ps(some, most, top));

            let mut words = [_mm512_setzero_si512(); 4];
            for r in 0..4 {
                let inverse = _mm512_permutexvar_ps(_mm512_set1_epi32(r as i32), inverse);
                words[r] = _mm512_packs_epi32(
                    _mm512_cvtps_epi32(_mm512_mul_ps(v[r][0], inverse)),
                    _mm512_cvtps_epi32(_mm512_mul_ps(v[r][1], inverse)),
                );
            }
            // In lane i of 128 bits: group i and group 4 + i of one row, then of the next.
            let mut rows = [words[0]; 2];
            for i in 0..2 {
                let bytes = _mm512_packs_epi16(words[2 * i], words[2 * i + 1]);
                rows[i] = _mm512_max_epi8(bytes, _mm512_set1_epi8(-127));
            }
            let [a, b] = [_mm512_castsi512_ps(rows[0]), _mm512_castsi512_ps(rows[1])];
            let codes = [
                _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(a, b)),
                _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(a, b)),
            ];
            let mut sums = [_mm_setzero_si128(); 2];
            for h in 0..2 {
                let ones = _mm512_set1_epi8(1);
                let groups = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, codes[h]);
                let two = _mm256_add_epi32(
                    _mm512_castsi512_si256(groups),
                    _mm512_extracti64x4_epi64::<1>(groups),
                );
                sums[h] = _mm_add_epi32(
                    _mm256_castsi256_si128(two),
                    _mm256_extracti128_si256::<1>(two),
                );
            }
            Four { codes, d, sums }
        }
    }

    /// Zeros.
    #[inline(always)]
    unsafe fn zero() -> Four {
        // SAFETY: the caller has the features.
        unsafe {
            Four {
                codes: [_mm512_setzero_si512(); 2],
                d: _mm_setzero_ps(),
                sums: [_mm_setzero_si128(); 2],
            }
        }
    }
}

/// k `start..end` of one strip of `R` rows, four or eight; the arguments are those of `fill`.
///
/// # Safety
/// As for [`super::acts::Acts::fill`]; the CPU has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn fill<T: Elem, const R: usize>(
    rows: &[Option<*const T>; R],
    k: usize,
    strip: &Place,
    padded: usize,
    start: usize,
    end: usize,
    to: &To,
) {
    const { assert!(R == 4 || R == 8) };
    let base = strip.slot * padded;
    // SAFETY: rows are read up to k; a row that does not exist is zeros that are read again and
    // again. Strips are written where they are.
    unsafe {
        let zeros = [std::mem::zeroed::<T>(); BLOCK];
        let (mut x, mut step) = ([zeros.as_ptr(); R], [0; R]);
        for r in 0..R {
            if let Some(row) = rows[r] {
                (x[r], step[r]) = (row.add(start), BLOCK);
            }
        }
        for b in start / BLOCK..end / BLOCK {
            let out = to.codes.add(base + b * BLOCK * R);
            let mut part = [Four::zero(), Four::zero()];
            for i in 0..R / 4 {
                if b * BLOCK < k {
                    let r = 4 * i;
                    part[i] = Four::new([x[r], x[r + 1], x[r + 2], x[r + 3]]);
                }
                to.four(
                    base / BLOCK + b * R + 4 * i,
                    2 * (base / BLOCK + b * R) + 4 * i,
                    R,
                    &part[i].d,
                    &part[i].sums,
                );
            }
            for h in 0..2 {
                let out = out.add(h * 16 * R);
                if R == 4 {
                    _mm512_storeu_si512(out.cast(), part[0].codes[h]);
                } else {
                    let (a, b) = (part[0].codes[h], part[1].codes[h]);
                    let low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
                    let high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
                    _mm512_storeu_si512(out.cast(), _mm512_permutex2var_epi64(a, low, b));
                    let out = out.add(64);
                    _mm512_storeu_si512(out.cast(), _mm512_permutex2var_epi64(a, high, b));
                }
            }
            for r in 0..R {
                x[r] = x[r].wrapping_add(step[r]);
            }
        }
    }
}

impl To {
    /// Writes scales and sums of four rows from row block `block` on, and from `half` on where
    /// halves of blocks have their own, `rows` apart.
    ///
    /// # Safety
    /// They are there, and this task's own.
    #[inline(always)]
    unsafe fn four(&self, block: usize, half: usize, rows: usize, d: &__m128, sums: &[__m128i; 2]) {
        // SAFETY: the caller's contract.
        unsafe {
            let (d, both) = (*d, _mm_add_epi32(sums[0], sums[1]));
            _mm_storeu_ps(self.d.add(block), d);
            if let Some(one) = self.sums[0] {
                _mm_storeu_ps(one.add(block), _mm_mul_ps(d, _mm_cvtepi32_ps(both)));
            }
            if let Some(two) = self.sums[1] {
                for h in 0..2 {
                    let s = _mm_mul_ps(d, _mm_cvtepi32_ps(sums[h]));
                    _mm_storeu_ps(two.add(half + h * rows), s);
                }
            }
            for &(zero, subs, init) in &self.inits {
                let zero = _mm_set1_epi32(-zero);
                if subs == 1 {
                    _mm_storeu_si128(init.add(block).cast(), _mm_mullo_epi32(zero, both));
                } else {
                    for h in 0..2 {
                        let s = _mm_mullo_epi32(zero, sums[h]);
                        _mm_storeu_si128(init.add(half + h * rows).cast(), s);
                    }
                }
            }
        }
    }
}
