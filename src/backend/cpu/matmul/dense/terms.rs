//! Exact products of floats by tiles of bf16: each number is a sum of bf16 terms, and the terms
//! are multiplied each with each, sums in f32.
//!
//! Three terms, each the rest rounded to a nearest bf16, hold every f32, two every f16. The first
//! that is left out of a product of two numbers is at most 2^-24 of it, so that with the other of
//! its size an f32 product is off by 2^-23 at most, and seldom by as much as one that is rounded.
//! (Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for
//! higher-precision computations", 2019.)
//! Terms below 2^-126 count as zero. Where a sum is not finite, another kernel takes over: an
//! infinity has no terms.

use super::{
    acts::{self, Line},
    amx,
    kernel::{Block, Kernel, Lines, Source, Terms, Tiles},
    panel::Matrix,
    tile::{self, LINE},
    unit::F32,
};
use crate::backend::cpu::simd::{
    Avx512, Elem, Simd,
    amx::{Bf16, STEP},
    avx512::transpose,
};
use std::arch::x86_64::*;

const COLUMNS: usize = tile::columns::<F32<Avx512>>();
/// k of a line.
const K: usize = 2 * LINE;

/// The kernel for numbers of so many terms of x and weights.
pub(super) const fn kernel(
    exact: &'static Kernel,
    lines: Lines,
    (x, w): (usize, usize),
    source: Source,
    tiles: Tiles,
) -> Kernel {
    Kernel {
        most: amx::MOST,
        packed: amx::OF_TERMS,
        per_word: 2,
        step: 1,
        // In a word of two numbers.
        step_bytes: exact.step_bytes * 2 / exact.step,
        tiles,
        wide: None,
        terms: Some(Terms {
            x,
            w,
            source,
            exact,
            lines,
        }),
        ..*exact
    }
}

/// The nearest bf16 to each number, as f32.
#[inline(always)]
unsafe fn rounded(v: __m512) -> __m512i {
    // SAFETY: no memory is touched; the caller has AVX-512.
    unsafe {
        // Half a unit of the last place up. What an infinity or a NaN leaves is NaN, whatever
        // becomes of it here.
        let v = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
        _mm512_and_si512(v, _mm512_set1_epi32(0xffff_0000u32 as i32))
    }
}

/// The next term of two vectors of numbers, those of `order`, and what it leaves of them. What is
/// left before the last of all terms is a bf16.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn term(a: &mut __m512, b: &mut __m512, order: __m512i, last: bool) -> __m512i {
    // SAFETY: no memory is touched.
    unsafe {
        if last {
            let (a, b) = (_mm512_castps_si512(*a), _mm512_castps_si512(*b));
            return _mm512_permutex2var_epi16(a, order, b);
        }
        let (high, low) = (rounded(*a), rounded(*b));
        *a = _mm512_sub_ps(*a, _mm512_castsi512_ps(high));
        *b = _mm512_sub_ps(*b, _mm512_castsi512_ps(low));
        _mm512_permutex2var_epi16(high, order, low)
    }
}

/// Upper halves of two vectors, one after the other, and in turns.
#[inline(always)]
fn orders() -> [[i16; 32]; 2] {
    [
        std::array::from_fn(|i| 2 * i as i16 + 1),
        std::array::from_fn(|i| (i / 2 * 2 + i % 2 * 32) as i16 + 1),
    ]
}

/// Stores `W` terms of two k of 16 columns at `out`, terms [`LINE`] steps apart.
///
/// # Safety
/// There is room; the CPU has AVX-512.
#[inline(always)]
unsafe fn store<const W: usize>(mut a: __m512, mut b: __m512, order: __m512i, out: *mut u32) {
    for t in 0..W {
        // SAFETY: the caller's contract.
        unsafe {
            let v = term(&mut a, &mut b, order, t + 1 == W);
            _mm512_storeu_si512(out.add(t * LINE * COLUMNS).cast(), v);
        }
    }
}

/// Where a step of weights is, `word` words of two k from the first.
const fn at<const W: usize>(word: usize) -> usize {
    (word / LINE * W * LINE + word % LINE) * COLUMNS
}

/// Writes `k` steps `[k][32]` of a panel as `[k / 32][W][16][32]` pairs of terms; zeros up to whole
/// steps.
///
/// # Safety
/// The pointers lead to that many; the CPU has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn split<T: Elem, const W: usize>(panel: *const u8, k: usize, out: *mut u32) {
    let panel = panel.cast::<T>();
    // SAFETY: rows below k are read, whole steps written.
    unsafe {
        let order = _mm512_loadu_si512(orders()[1].as_ptr().cast());
        for word in 0..k.next_multiple_of(K) / 2 {
            for v in [0, 16] {
                let from = panel.wrapping_add(2 * word * COLUMNS + v);
                let (mut a, mut b) = (Avx512::zero(), Avx512::zero());
                if 2 * word < k {
                    a = T::load::<Avx512>(from);
                }
                if 2 * word + 1 < k {
                    b = T::load::<Avx512>(from.wrapping_add(COLUMNS));
                }
                store::<W>(a, b, order, out.add(at::<W>(word) + v));
            }
        }
    }
}

/// Fills panels as [`panel::fill`](super::panel::fill), with terms: `[k / 32][W][16][32]` pairs,
/// zeros up to whole steps.
///
/// # Safety
/// As for `fill`; the CPU has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn fill<T: Elem, const W: usize>(
    w: Matrix,
    n0: usize,
    n: usize,
    k0: usize,
    len: usize,
    out: *mut u32,
    columns: usize,
    step: usize,
) {
    debug_assert_eq!(columns, COLUMNS);
    // SAFETY: only columns below n and k below k0 + len are read, whole steps written.
    unsafe {
        let order = _mm512_loadu_si512(orders()[1].as_ptr().cast());
        let start = w.start.cast::<T>();
        let start = start.add(n0 * w.n_step + k0 * w.k_step);
        for k in (0..len.next_multiple_of(K)).step_by(16) {
            for c in (0..n.next_multiple_of(COLUMNS)).step_by(16) {
                let from = start.wrapping_add(c * w.n_step + k * w.k_step);
                let (some, ks) = (n.saturating_sub(c).min(16), len.saturating_sub(k).min(16));
                let mut x = [_mm512_setzero_si512(); 16];
                let (rows, count, far) = if w.k_step == 1 {
                    (some, ks, w.n_step)
                } else {
                    (ks, some, w.k_step)
                };
                for r in 0..16 {
                    if r < rows {
                        let v = acts::wide16(from.wrapping_add(r * far), count);
                        x[r] = _mm512_castps_si512(v);
                    }
                }
                if w.k_step == 1 {
                    transpose(&mut x);
                }
                let to = out.add(c / COLUMNS * step + c % COLUMNS);
                for i in 0..8 {
                    let [a, b] = [x[2 * i], x[2 * i + 1]].map(|v| _mm512_castsi512_ps(v));
                    store::<W>(a, b, order, to.add(at::<W>(k / 2 + i)));
                }
            }
        }
    }
}

/// [`split`] of panels that are pairs of bf16: one term.
///
/// # Safety
/// As for [`split`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn copy(panel: *const u8, k: usize, out: *mut u32) {
    let (words, whole) = (k.div_ceil(2), k.next_multiple_of(K) / 2);
    // SAFETY: the caller's contract.
    unsafe {
        std::ptr::copy_nonoverlapping(panel.cast::<u32>(), out, words * COLUMNS);
        out.add(words * COLUMNS)
            .write_bytes(0, (whole - words) * COLUMNS);
    }
}

/// Lines of terms: `[k / 32][X][rows][32]` of rows that start at bytes of x.
///
/// # Safety
/// As for [`acts::fill`]; the CPU has AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn lines<T: Elem, const X: usize>(
    x: *const u8,
    rows: &[usize],
    k: usize,
    out: *mut u32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let order = _mm512_loadu_si512(orders()[0].as_ptr().cast());
        for (r, &row) in rows.iter().enumerate() {
            let row = x.add(row).cast::<T>();
            for i in (0..k).step_by(K) {
                let (p, n) = (row.add(i), (k - i).min(K));
                let mut a = acts::wide16(p, n.min(16));
                let mut b = acts::wide16(p.wrapping_add(16), n.saturating_sub(16));
                let to = out.add((i / K * X * rows.len() + r) * LINE);
                for t in 0..X {
                    let v = term(&mut a, &mut b, order, t + 1 == X);
                    _mm512_storeu_si512(to.add(t * rows.len() * LINE).cast(), v);
                }
            }
        }
    }
}

/// Lines of pairs of bf16.
///
/// # Safety
/// As for [`lines`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn lines_of_pairs<L: Line>(
    x: *const u8,
    rows: &[usize],
    k: usize,
    out: *mut u32,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { acts::fill::<L>(x, rows, k, out) }
}

/// Tiles of terms.
///
/// # Safety
/// As for [`amx::block`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn tiles<const X: usize, const W: usize>(b: Block<'_>) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { amx::block::<F32<Avx512>, Bf16, X, W, true>(b) }
}

const _: () = assert!(STEP == LINE * COLUMNS * 4);
