//! Activations rounded to 8 bits: one f32 scale per 32 values, sums per 32 and per 16.

use crate::backend::cpu::simd::{Avx2, Elem, Simd};
use std::arch::x86_64::*;

/// Rows of x as `d * code`. Rows are padded with zeros to whole pairs of 32.
#[derive(Debug, Default)]
pub(super) struct Q8Rows {
    /// Values per row, padded: a multiple of 64.
    pub k: usize,
    /// `[rows, k]`, in -127..=127.
    pub codes: Vec<i8>,
    /// `[rows, k / 32]`: scales.
    pub d: Vec<f32>,
    /// `[rows, k / 32]`: scale times sum of codes.
    pub s: Vec<f32>,
    /// `[rows, k / 32, 2]`: `d` and `s` side by side.
    pub ds: Vec<f32>,
    /// `[rows, k / 16]`: scale times sum of codes.
    pub s16: Vec<f32>,
    /// `[rows, k / 32]`: minus the sum of codes.
    pub n32: Vec<i32>,
    /// `[rows, k / 16]`: minus the sum of codes.
    pub n16: Vec<i32>,
}

impl Q8Rows {
    /// Room for `rows` rows of `k` values, all zero.
    pub fn resize(&mut self, rows: usize, k: usize) {
        fn zeros<T: Copy + Default>(v: &mut Vec<T>, len: usize) {
            v.clear();
            v.resize(len, T::default());
        }
        self.k = k.next_multiple_of(64);
        let len = rows * self.k;
        zeros(&mut self.codes, len);
        zeros(&mut self.d, len / 32);
        zeros(&mut self.s, len / 32);
        zeros(&mut self.ds, len / 16);
        zeros(&mut self.s16, len / 16);
        zeros(&mut self.n32, len / 32);
        zeros(&mut self.n16, len / 16);
    }

    /// Pointers to the rows.
    pub fn rows(&mut self) -> RowsPtr {
        RowsPtr {
            k: self.k,
            codes: self.codes.as_mut_ptr(),
            d: self.d.as_mut_ptr(),
            s: self.s.as_mut_ptr(),
            ds: self.ds.as_mut_ptr(),
            s16: self.s16.as_mut_ptr(),
            n32: self.n32.as_mut_ptr(),
            n16: self.n16.as_mut_ptr(),
        }
    }
}

/// Where the rows from some row on are; see [`Q8Rows`].
#[derive(Clone, Copy)]
pub(super) struct RowsPtr {
    pub k: usize,
    pub codes: *mut i8,
    pub d: *mut f32,
    pub s: *mut f32,
    pub ds: *mut f32,
    pub s16: *mut f32,
    pub n32: *mut i32,
    pub n16: *mut i32,
}

// SAFETY: tasks write rows of their own and only read once all are written.
unsafe impl Send for RowsPtr {}
// SAFETY: as above.
unsafe impl Sync for RowsPtr {}

impl RowsPtr {
    /// The same from value `k` (a multiple of 32) of row `m` on.
    ///
    /// # Safety
    /// Inside the rows.
    #[inline(always)]
    pub unsafe fn at(self, m: usize, k: usize) -> RowsPtr {
        let at = m * self.k + k;
        // SAFETY: the caller promises that the position exists.
        unsafe {
            RowsPtr {
                k: self.k,
                codes: self.codes.add(at),
                d: self.d.add(at / 32),
                s: self.s.add(at / 32),
                ds: self.ds.add(at / 16),
                s16: self.s16.add(at / 16),
                n32: self.n32.add(at / 32),
                n16: self.n16.add(at / 16),
            }
        }
    }

    /// Rounds the `k` values (a multiple of 32) at `x` into the first row.
    ///
    /// # Safety
    /// `x` holds them, the row exists, the CPU has AVX2, FMA and F16C.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn quantize<T: Elem>(self, x: *const T, k: usize) {
        // SAFETY: the caller promises k values and a row of self.k >= k.
        unsafe {
            for b in 0..k / 32 {
                let (codes, d, sum) = quantize_block(x.add(32 * b));
                self.codes
                    .add(32 * b)
                    .cast::<[i32; 8]>()
                    .write_unaligned(codes);
                for h in 0..2 {
                    *self.s16.add(2 * b + h) = d * sum[h] as f32;
                    *self.n16.add(2 * b + h) = -sum[h];
                }
                let s = d * (sum[0] + sum[1]) as f32;
                *self.d.add(b) = d;
                *self.s.add(b) = s;
                *self.ds.add(2 * b) = d;
                *self.ds.add(2 * b + 1) = s;
                *self.n32.add(b) = -(sum[0] + sum[1]);
            }
        }
    }
}

/// The 32 values at `x` as codes in -127..=127, four to a word; their scale; sums of the codes of
/// each half. A block with a value that is not finite gets the scale NaN.
///
/// # Safety
/// `x` holds them; the CPU has AVX2, FMA and F16C.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::backend::cpu::matmul) unsafe fn quantize_block<T: Elem>(
    x: *const T,
) -> ([i32; 8], f32, [i32; 2]) {
    let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
    // SAFETY: the caller promises 32 values.
    unsafe {
        let mut v = [_mm256_setzero_ps(); 4];
        let mut top = _mm256_setzero_si256();
        for i in 0..4 {
            v[i] = T::load::<Avx2>(x.add(8 * i));
            // As integers, so that infinities and NaN win.
            let abs = _mm256_castps_si256(_mm256_and_ps(v[i], magnitude));
            top = _mm256_max_epu32(top, abs);
        }
        let top = _mm256_castsi256_ps(top);
        let finite = {
            let inf = _mm256_set1_ps(f32::INFINITY);
            _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(top, inf)) == 0xff
        };
        let max = Avx2::max_lane(top);
        let (d, inverse) = if !finite {
            (f32::NAN, 0.0)
        } else if max < 127.0 * f32::MIN_POSITIVE {
            (0.0, 0.0)
        } else {
            (max / 127.0, 127.0 / max)
        };
        let inverse = _mm256_set1_ps(inverse);
        let mut q = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        }
        // The packs interleave 128-bit lanes; the permutation puts them in order.
        let lo = _mm256_packs_epi32(q[0], q[1]);
        let hi = _mm256_packs_epi32(q[2], q[3]);
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(lo, hi), order);
        let bytes = _mm256_max_epi8(bytes, _mm256_set1_epi8(-127));
        let mut codes = [0i32; 8];
        _mm256_storeu_si256(codes.as_mut_ptr().cast(), bytes);
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        let quads = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        let mut sum = [0i32; 2];
        for h in 0..2 {
            let part = if h == 0 {
                _mm256_castsi256_si128(quads)
            } else {
                _mm256_extracti128_si256::<1>(quads)
            };
            let two = _mm_add_epi32(part, _mm_shuffle_epi32::<0b0100_1110>(part));
            let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b1011_0001>(two));
            sum[h] = _mm_cvtsi128_si32(one);
        }
        (codes, d, sum)
    }
}

/// Rounds the `k` values at `x` into row `row`.
///
/// # Safety
/// As for [`RowsPtr::quantize`].
pub(super) unsafe fn quantize<T: Elem>(x: *const T, k: usize, row: usize, out: RowsPtr) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { out.at(row, 0).quantize(x, k) }
}
