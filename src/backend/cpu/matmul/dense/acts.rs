//! Rows of x as lines of words that tiles read one word at a time.

use super::tile::LINE;
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd::Avx512;
use crate::backend::cpu::simd::{Eight, Elem, Simd};
use half::bf16;

/// How numbers of x become words.
///
/// # Safety
/// Pointers lead to the numbers that are asked for, and to a line; the CPU has the features of
/// [`Eight`] and those of the kernel that the lines are for.
pub(super) trait Line: Copy + 'static {
    /// Type of a number.
    type T: Copy;
    /// Numbers in a word.
    const K: usize;
    /// A line of `n <= LINE * K` numbers, zeros beyond them.
    unsafe fn line(p: *const Self::T, n: usize, out: *mut u32);
}

/// f32 from floats.
#[derive(Clone, Copy)]
pub(super) struct Wide<T>(std::marker::PhantomData<T>);
/// Pairs of bf16 from floats.
#[derive(Clone, Copy)]
pub(super) struct Pairs<T>(std::marker::PhantomData<T>);
/// Four i8, their bits flipped where `FLIP` has ones.
#[derive(Clone, Copy)]
pub(super) struct Quads<const FLIP: u8>;

impl<T: Elem> Line for Wide<T> {
    type T = T;
    const K: usize = 1;
    #[inline(always)]
    unsafe fn line(p: *const T, n: usize, out: *mut u32) {
        let out = out.cast::<f32>();
        // SAFETY: n numbers, and a line.
        unsafe {
            for i in (0..LINE).step_by(8) {
                let v = if n >= i + 8 {
                    T::load::<Eight>(p.add(i))
                } else if n > i {
                    T::load_n::<Eight>(p.add(i), n - i)
                } else {
                    Eight::zero()
                };
                Eight::store(out.add(i), v);
            }
        }
    }
}

impl Line for Pairs<bf16> {
    type T = bf16;
    const K: usize = 2;
    #[inline(always)]
    unsafe fn line(p: *const bf16, n: usize, out: *mut u32) {
        // SAFETY: n numbers, and a line.
        unsafe {
            if n == 2 * LINE {
                // A length that is known takes no call.
                let whole = p.cast::<[u32; LINE]>().read_unaligned();
                return out.cast::<[u32; LINE]>().write_unaligned(whole);
            }
            out.write_bytes(0, LINE);
            std::ptr::copy_nonoverlapping(p.cast::<u8>(), out.cast::<u8>(), 2 * n);
        }
    }
}

impl<const FLIP: u8> Line for Quads<FLIP> {
    type T = i8;
    const K: usize = 4;
    #[inline(always)]
    unsafe fn line(p: *const i8, n: usize, out: *mut u32) {
        // SAFETY: n numbers, and a line.
        unsafe {
            if n == 4 * LINE {
                let mut whole = p.cast::<[u32; LINE]>().read_unaligned();
                for word in &mut whole {
                    *word ^= u32::from_ne_bytes([FLIP; 4]);
                }
                return out.cast::<[u32; LINE]>().write_unaligned(whole);
            }
            let out = out.cast::<u8>();
            // Zeros of x; what they meet in the panel is zero too.
            out.write_bytes(FLIP, 4 * LINE);
            for i in 0..n {
                *out.add(i) = *p.add(i).cast::<u8>() ^ FLIP;
            }
        }
    }
}

/// `n` numbers as f32, of 16 at most, zeros beyond them.
///
/// # Safety
/// They exist; the CPU has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn wide16<T: Elem>(p: *const T, n: usize) -> <Avx512 as Simd>::F {
    // SAFETY: the caller's contract.
    unsafe {
        match n {
            0 => Avx512::zero(),
            16 => T::load::<Avx512>(p),
            _ => T::load_n::<Avx512>(p, n),
        }
    }
}

/// Words of a row of `k` numbers, whole lines.
pub(super) const fn row_words(k: usize, per_word: usize) -> usize {
    k.div_ceil(per_word).next_multiple_of(LINE)
}

/// Writes `rows.len()` rows of `k` numbers as `out[row_words / LINE][rows][LINE]`.
///
/// # Safety
/// `x` plus each of `rows`, in bytes, starts a row of numbers that are side by side; `out` has
/// room; the CPU has the features of `L`.
#[inline(always)]
pub(super) unsafe fn fill<L: Line>(x: *const u8, rows: &[usize], k: usize, out: *mut u32) {
    let at_once = LINE * L::K;
    // SAFETY: the caller's contract.
    unsafe {
        for (r, &row) in rows.iter().enumerate() {
            let row = x.add(row).cast::<L::T>();
            let mut to = out.add(r * LINE);
            let mut i = 0;
            while i < k {
                L::line(row.add(i), (k - i).min(at_once), to);
                to = to.add(rows.len() * LINE);
                i += at_once;
            }
        }
    }
}

/// [`fill`] for lines that need the features of [`Eight`] alone.
///
/// # Safety
/// As for [`fill`].
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
pub(super) unsafe fn lines<L: Line>(x: *const u8, rows: &[usize], k: usize, out: *mut u32) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { fill::<L>(x, rows, k, out) }
}
