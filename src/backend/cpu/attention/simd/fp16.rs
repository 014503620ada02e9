//! Products of attention of few rows over caches of f16, in f16: AVX512-FP16.

use super::{
    lanes::Lanes,
    numbers::Numbers,
    products::{Coming, KEYS, Products},
};
use crate::backend::cpu::simd::{Avx512, Simd};
use std::arch::x86_64::*;

/// CPU feature `avx512fp16`; for numbers of f16 alone. Few products are summed in f16 (one for every
/// 32 numbers of a head, then one more time as many; those of a step's values) before they go on
/// in f32. Queries and weights are scaled by powers of two: up to keys of 2048 and values of 1024
/// no sum leaves the range of f16, and of smaller ones as little as can be gets lost below it.
pub(super) struct Fp16;

/// Numbers of a vector.
const LANES: usize = 32;

/// `2^power`, or the nearest number of normal range.
#[inline(always)]
fn power(power: i32) -> f32 {
    f32::from_bits(((127 + power.clamp(-120, 120)) as u32) << 23)
}

/// The least power of two above `x`, which is not negative.
#[inline(always)]
fn above(x: f32) -> i32 {
    (x.to_bits() >> 23) as i32 - 126
}

/// The first `n` numbers at `p`, zeros behind them.
#[inline(always)]
unsafe fn load(p: *const u8, n: usize) -> __m512h {
    // SAFETY: n numbers of two bytes; the caller has the features.
    unsafe {
        _mm512_castsi512_ph(if n >= LANES {
            _mm512_loadu_si512(p.cast())
        } else {
            _mm512_maskz_loadu_epi16((1 << n) - 1, p.cast())
        })
    }
}

/// The two halves as f32.
#[inline(always)]
unsafe fn wide(x: __m512h) -> [__m512; 2] {
    // SAFETY: the caller has the features.
    unsafe {
        let x = _mm512_castph_si512(x);
        [
            _mm512_cvtph_ps(_mm512_castsi512_si256(x)),
            _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(x)),
        ]
    }
}

// SAFETY (whole impl): the trait's contract, with the CPU feature that the type names.
impl Products<Avx512> for Fp16 {
    const MAY_FAIL: bool = true;

    #[inline(always)]
    unsafe fn pack_query(q: *mut f32, dk: usize) -> f32 {
        let count = dk.div_ceil(LANES);
        // SAFETY: whole vectors, written in front of what is still to be read.
        unsafe {
            let mut top = Avx512::zero();
            for i in 0..2 * count {
                top = Avx512::max(_mm512_abs_ps(Avx512::load(q.add(16 * i))), top);
            }
            let sums = count.next_power_of_two().trailing_zeros() as i32;
            let scale = (above(_mm512_reduce_max_ps(top)) + sums - 4).clamp(-120, 120);
            let down = Avx512::splat(power(-scale));
            for i in 0..2 * count {
                let x = Avx512::mul(Avx512::load(q.add(16 * i)), down);
                let x = _mm256_castph_si256(_mm512_cvtxps_ph(x));
                _mm256_storeu_si256(q.add(8 * i).cast(), x);
            }
            power(scale)
        }
    }

    #[inline(always)]
    unsafe fn pack_weights(w: *mut f32) -> f32 {
        const { assert!(KEYS == 16) };
        // SAFETY: one vector.
        unsafe {
            let x = Avx512::load(w);
            let scale = (above(_mm512_reduce_max_ps(x)) - 2).clamp(-120, 120);
            let x = _mm512_cvtxps_ph(Avx512::mul(x, Avx512::splat(power(-scale))));
            _mm256_storeu_si256(w.cast(), _mm256_castph_si256(x));
            power(scale)
        }
    }

    #[inline(always)]
    unsafe fn scores<N: Numbers, const R: usize, const G: usize>(
        q: [*const f32; R],
        k: [*const u8; G],
        dk: usize,
        factors: [f32; R],
        s: [*mut f32; R],
        ahead: Option<(&Coming<'_>, usize)>,
    ) {
        // SAFETY: dk numbers of each row; R * G is 16; G scores of each row.
        unsafe {
            let mut acc = [_mm512_setzero_ph(); 16];
            let mut i = 0;
            while i < dk {
                let mut x = [_mm512_setzero_ph(); R];
                for r in 0..R {
                    x[r] = load(q[r].add(i / 2).cast(), LANES);
                }
                for j in 0..G {
                    if let Some((ahead, first)) = ahead {
                        ahead.fetch::<N>(first + j, i, LANES.min(dk - i));
                    }
                    let k = load(k[j].add(N::bytes(i)), dk - i);
                    for r in 0..R {
                        acc[r * G + j] = _mm512_fmadd_ph(k, x[r], acc[r * G + j]);
                    }
                }
                i += LANES;
            }
            let mut half = [Avx512::zero(); 16];
            for i in 0..8 {
                let a = _mm512_castph_si512(acc[2 * i]);
                let b = _mm512_castph_si512(acc[2 * i + 1]);
                let low = _mm512_castsi512_ph(_mm512_shuffle_i64x2::<0x44>(a, b));
                let high = _mm512_castsi512_ph(_mm512_shuffle_i64x2::<0xee>(a, b));
                [half[2 * i], half[2 * i + 1]] = wide(_mm512_add_ph(low, high));
            }
            let factors = _mm512_maskz_loadu_ps((1 << R) - 1, factors.as_ptr());
            let mut row = [0; 16];
            for i in 0..16 {
                row[i] = (i / G) as i32;
            }
            let row = _mm512_loadu_si512(row.as_ptr().cast());
            let x = Avx512::mul(Avx512::sums(&half), _mm512_permutexvar_ps(row, factors));
            let mut sums = [0f32; 16];
            Avx512::store(sums.as_mut_ptr(), x);
            for r in 0..R {
                std::ptr::copy_nonoverlapping(sums.as_ptr().add(r * G), s[r], G);
            }
        }
    }

    #[inline(always)]
    unsafe fn weigh<N: Numbers, const R: usize, const C: usize>(
        w: [*const f32; R],
        v: &[*const u8],
        i: usize,
        n: usize,
        factors: [f32; R],
        sums: [*mut f32; R],
        ahead: Option<&Coming<'_>>,
    ) {
        const { assert!(C == 1 || C == 2 || C == 4) };
        // SAFETY: columns of the values, weights of the keys, sums of the rows.
        unsafe {
            // Of one vector of f32, or of vectors that are whole.
            let (count, n) = if C == 1 { (1, n) } else { (C / 2, LANES) };
            let mut acc = [[_mm512_setzero_ph(); 2]; R];
            for (j, &v) in v.iter().enumerate() {
                if let Some(ahead) = ahead {
                    ahead.fetch::<N>(j, i, C * 16);
                }
                let mut x = [_mm512_setzero_ph(); 2];
                for c in 0..count {
                    x[c] = load(v.add(N::bytes(i + c * LANES)), n);
                }
                for r in 0..R {
                    let w = _mm512_set1_epi16(w[r].cast::<i16>().add(j).read());
                    for c in 0..count {
                        acc[r][c] = _mm512_fmadd_ph(_mm512_castsi512_ph(w), x[c], acc[r][c]);
                    }
                }
            }
            // Rows may stand for the last one: all are read before any is written.
            let halves = if C == 1 { 1 } else { 2 };
            let mut out = [[[Avx512::zero(); 2]; 2]; R];
            for r in 0..R {
                let factor = Avx512::splat(factors[r]);
                for c in 0..count {
                    let x = wide(acc[r][c]);
                    for h in 0..halves {
                        let old = Avx512::load(sums[r].add(i + c * LANES + h * 16));
                        out[r][c][h] = Avx512::fma(x[h], factor, old);
                    }
                }
            }
            for r in 0..R {
                for c in 0..count {
                    for h in 0..halves {
                        Avx512::store(sums[r].add(i + c * LANES + h * 16), out[r][c][h]);
                    }
                }
            }
        }
    }
}
