//! Panels: the weights of a few columns as steps along k, from rows, from columns, or packed.

use super::{tile::columns, unit::Unit};
use crate::backend::cpu::simd::{
    Eight, Simd,
    cells::{self, Cells},
};
use half::{bf16, f16};

/// How weights of a plain type become words.
///
/// # Safety
/// Pointers lead to the numbers that are asked for; the CPU has the features
/// of [`Eight`].
pub(super) trait Words: Copy + 'static {
    /// Type of a number.
    type T: Copy;
    /// Numbers in a word.
    const K: usize;
    /// Eight words of `n <= 8 K` numbers side by side, zeros beyond them.
    unsafe fn along(p: *const Self::T, n: usize) -> Cells;
    /// A word of each of `n <= 8` columns side by side from `k <= K` rows that are `step` numbers
    /// apart, zeros beyond them.
    unsafe fn across(p: *const Self::T, step: usize, k: usize, n: usize) -> Cells;
}

/// Floats as f32.
#[derive(Clone, Copy)]
pub(super) struct Wide<T>(std::marker::PhantomData<T>);
/// Pairs of bf16.
#[derive(Clone, Copy)]
pub(super) struct Pairs;
/// Four bytes.
#[derive(Clone, Copy)]
pub(super) struct Quads;

/// `n` numbers and zeros up to 32 bytes.
#[inline(always)]
pub(super) unsafe fn bytes<T: Copy>(p: *const T, n: usize) -> Cells {
    // SAFETY: n numbers are there, and at most 32 bytes.
    unsafe {
        match n * size_of::<T>() {
            32 => return cells::load(p.cast()),
            16 => return cells::load_half(p.cast()),
            8 => return cells::load_quarter(p.cast()),
            _ => {}
        }
        let mut buffer = [0u8; 32];
        std::ptr::copy_nonoverlapping(p.cast::<u8>(), buffer.as_mut_ptr(), n * size_of::<T>());
        cells::load(buffer.as_ptr())
    }
}

macro_rules! wide {
    ($t:ty, $load:ident, $load_n:ident) => {
        impl Words for Wide<$t> {
            type T = $t;
            const K: usize = 1;
            #[inline(always)]
            unsafe fn along(p: *const $t, n: usize) -> Cells {
                // SAFETY: the caller's contract is the callee's.
                unsafe {
                    cells::of_f32(if n == 8 {
                        Eight::$load(p)
                    } else {
                        Eight::$load_n(p, n)
                    })
                }
            }
            #[inline(always)]
            unsafe fn across(p: *const $t, _: usize, _: usize, n: usize) -> Cells {
                // SAFETY: the caller's contract is the callee's.
                unsafe { Self::along(p, n) }
            }
        }
    };
}
wide!(f32, load, load_n);
wide!(f16, load_f16, load_f16_n);
wide!(bf16, load_bf16, load_bf16_n);

impl Words for Pairs {
    type T = bf16;
    const K: usize = 2;
    #[inline(always)]
    unsafe fn along(p: *const bf16, n: usize) -> Cells {
        // SAFETY: the caller's contract is the callee's.
        unsafe { bytes(p, n) }
    }
    #[inline(always)]
    unsafe fn across(p: *const bf16, step: usize, k: usize, n: usize) -> Cells {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let low = cells::from_u16(bytes(p, n));
            if k < 2 {
                return low;
            }
            let high = cells::from_u16(bytes(p.add(step), n));
            cells::or(low, cells::shl(high, 16))
        }
    }
}

/// A weight matrix in memory.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    /// First number.
    pub start: *const u8,
    /// Numbers from column to column of y (row to row of `[N, K]`).
    pub n_step: usize,
    /// Numbers from k to k.
    pub k_step: usize,
}

/// Writes `len` numbers along k, from `k0` on, of columns `n0..n0 + n` to
/// `out[panels][len / K][columns]` as words, panels `step` words apart. Columns of the last panel
/// beyond `n` are zero.
///
/// # Safety
/// One of the matrix's steps is 1 and the numbers exist; `out` has room for whole steps of
/// `columns`, a multiple of 8; the CPU has the features
/// of [`Eight`].
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
pub(super) unsafe fn fill<W: Words>(
    w: Matrix,
    n0: usize,
    n: usize,
    k0: usize,
    len: usize,
    out: *mut u32,
    columns: usize,
    step: usize,
) {
    // SAFETY: only columns below n and k below k0 + len are read.
    unsafe {
        let start = w.start.cast::<W::T>().add(n0 * w.n_step + k0 * w.k_step);
        if w.k_step == 1 {
            for (i, c) in (0..n).step_by(columns).enumerate() {
                let (start, out) = (start.add(c * w.n_step), out.add(i * step));
                rows::<W>(start, w.n_step, columns.min(n - c), len, out, columns);
            }
            return;
        }
        for (i, k) in (0..len).step_by(W::K).enumerate() {
            for c in (0..n.next_multiple_of(columns)).step_by(8) {
                let some = n.saturating_sub(c).min(8);
                let words = if some == 0 {
                    cells::zero()
                } else {
                    let p = start.add(k * w.k_step + c);
                    if c * size_of::<W::T>() % 64 == 0 {
                        // Each row is a page or more away from the last.
                        for r in 4 * W::K..5 * W::K {
                            cells::prefetch(p.wrapping_add(r * w.k_step).cast(), true);
                        }
                    }
                    W::across(p, w.k_step, W::K.min(len - k), some)
                };
                let to = out.add(c / columns * step + i * columns + c % columns);
                cells::store(to, words);
            }
        }
    }
}

/// [`fill`] from rows that are contiguous along k.
///
/// # Safety
/// As for [`fill`].
#[inline(always)]
unsafe fn rows<W: Words>(
    start: *const W::T,
    step: usize,
    n: usize,
    len: usize,
    out: *mut u32,
    columns: usize,
) {
    let at_once = 8 * W::K;
    // SAFETY: as for `fill`; rows beyond n are not read.
    unsafe {
        // Two cells of each row are a cache line or part of one; steps are written whole.
        for k0 in (0..len).step_by(2 * at_once) {
            for c in (0..columns).step_by(8) {
                let some = n.saturating_sub(c).min(8);
                let from = start.wrapping_add(c * step);
                for k in (k0..len.min(k0 + 2 * at_once)).step_by(at_once) {
                    let count = (len - k).min(at_once);
                    let mut rows = [cells::zero(); 8];
                    if some == 8 && count == at_once {
                        for r in 0..8 {
                            rows[r] = W::along(from.wrapping_add(r * step + k), at_once);
                        }
                    } else {
                        for r in 0..some {
                            rows[r] = W::along(from.wrapping_add(r * step + k), count);
                        }
                    }
                    let turned = cells::transpose8(rows);
                    let to = out.add(k / W::K * columns + c);
                    if count == at_once {
                        for i in 0..8 {
                            cells::store(to.add(i * columns), turned[i]);
                        }
                    } else {
                        for i in 0..count.div_ceil(W::K) {
                            cells::store(to.add(i * columns), turned[i]);
                        }
                    }
                }
            }
        }
    }
}

/// Steps of a panel of `k` numbers along k.
pub(super) const fn steps<U: Unit>(k: usize) -> usize {
    k.div_ceil(U::K * U::STEP)
}

/// Bytes of a packed panel: the steps, then what zeros of x add to each column where words of x
/// are offset.
pub(super) const fn panel_bytes<U: Unit>(k: usize) -> usize {
    let zeros = if U::ZERO.is_some() { 4 } else { 0 };
    columns::<U>() * (steps::<U>(k) * U::BYTES + zeros)
}

/// Adds to `sums[columns]` what words of x that stand for zeros make of `steps` steps.
///
/// # Safety
/// The pointers lead to that many; the CPU has the features of `U`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn add_zeros<U: Unit>(panel: *const u8, steps: usize, sums: *mut f32) {
    let Some(word) = U::ZERO else { return };
    let lanes = U::S::LANES;
    // SAFETY: the caller's contract.
    unsafe {
        let x = U::splat(&word);
        for v in 0..2 {
            let mut acc = U::load(sums.add(v * lanes));
            for i in 0..steps {
                let at = panel.add((i * columns::<U>() + v * lanes) * U::BYTES);
                acc = U::mac(acc, x, U::step(at)[0]);
            }
            U::store(sums.add(v * lanes), acc);
        }
    }
}

/// Writes `steps` steps of a panel as f32 `[words][columns]`.
///
/// # Safety
/// The pointers lead to that many; the CPU has the features of `U`.
#[inline(always)]
pub(super) unsafe fn widen<U: Unit<Word = <<U as Unit>::S as Simd>::F>>(
    panel: *const u8,
    steps: usize,
    out: *mut f32,
) {
    let (lanes, columns) = (U::S::LANES, columns::<U>());
    // SAFETY: the caller's contract.
    unsafe {
        for i in 0..steps {
            for v in 0..2 {
                let words = U::step(panel.add((i * columns + v * lanes) * U::BYTES));
                for s in 0..U::STEP {
                    let at = (i * U::STEP + s) * columns + v * lanes;
                    U::S::store(out.add(at), words[s]);
                }
            }
        }
    }
}
