//! Keys and values in memory: where the rows of a cache lie, and their numbers as vectors.

use super::{super::seqs::Cache, lanes::Lanes};
use crate::backend::cpu::simd::Elem;

/// First byte of each of keys `key..key + rows.len()` of a sequence in a KV head; null for those
/// on no page. False when there is one.
///
/// # Safety
/// The keys are below the capacity.
#[inline(always)]
pub(super) unsafe fn locate(
    cache: &Cache<'_>,
    sequence: usize,
    head: usize,
    key: usize,
    rows: &mut [*const u8],
) -> bool {
    let mut all = true;
    let mut j = 0;
    while j < rows.len() {
        let (offset, left) = cache.run(sequence, head, key + j);
        let n = left.min(rows.len() - j);
        for (i, row) in rows[j..j + n].iter_mut().enumerate() {
            *row = match offset {
                // SAFETY: rows of the cache.
                Some(offset) => unsafe { cache.view.ptr().add(offset + i * cache.step()) },
                None => std::ptr::null(),
            };
        }
        all &= offset.is_some();
        j += n;
    }
    all
}

/// Numbers of a row of keys or values.
///
/// # Safety
/// `row` is the first byte of a row that has elements `i..i + n`, `i` a multiple of 16, `n` at
/// most `LANES`, and the CPU has the features of `S`.
pub(super) trait Numbers: Copy {
    /// Bytes of the row before element `i`, a multiple of 16.
    fn bytes(i: usize) -> usize;
    /// `n` of them from `i` on, the rest zero.
    unsafe fn load_n<S: Lanes>(row: *const u8, i: usize, n: usize) -> S::F;
    /// `LANES` of them from `i` on.
    unsafe fn load<S: Lanes>(row: *const u8, i: usize) -> S::F;
    /// `2 LANES` of them from `i` on; `i` is a multiple of 32 where `LANES` is 16.
    #[inline(always)]
    unsafe fn load_two<S: Lanes>(row: *const u8, i: usize) -> [S::F; 2] {
        // SAFETY: the caller's contract is the callee's.
        unsafe { [Self::load::<S>(row, i), Self::load::<S>(row, i + S::LANES)] }
    }
    /// True when the row holds bf16.
    #[cfg(target_arch = "x86_64")]
    fn are_bf16() -> bool {
        false
    }
}

/// Plain numbers.
#[derive(Clone, Copy)]
pub(super) struct Plain<T>(std::marker::PhantomData<T>);

impl<T: Elem> Numbers for Plain<T> {
    #[inline(always)]
    fn bytes(i: usize) -> usize {
        i * size_of::<T>()
    }
    #[inline(always)]
    unsafe fn load_n<S: Lanes>(row: *const u8, i: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract is the callee's.
        unsafe { T::load_n::<S>(row.cast::<T>().add(i), n) }
    }
    #[inline(always)]
    unsafe fn load<S: Lanes>(row: *const u8, i: usize) -> S::F {
        // SAFETY: the caller's contract is the callee's.
        unsafe { T::load::<S>(row.cast::<T>().add(i)) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn are_bf16() -> bool {
        std::any::TypeId::of::<T>() == std::any::TypeId::of::<half::bf16>()
    }
}

/// Blocks of 32 signed bytes after a scale in f16.
#[derive(Clone, Copy)]
pub(super) struct Q8;

/// Bytes of a block of [`Q8`].
const Q8_BYTES: usize = 34;

impl Numbers for Q8 {
    #[inline(always)]
    fn bytes(i: usize) -> usize {
        i / 32 * Q8_BYTES + i % 32
    }
    #[inline(always)]
    unsafe fn load_n<S: Lanes>(row: *const u8, i: usize, _: usize) -> S::F {
        // SAFETY: rows are whole blocks; the caller's contract is the callee's.
        unsafe { Self::load::<S>(row, i) }
    }
    #[inline(always)]
    unsafe fn load<S: Lanes>(row: *const u8, i: usize) -> S::F {
        // SAFETY: a block of the row.
        unsafe {
            let block = row.add(i / 32 * Q8_BYTES);
            S::mul(S::load_i8(block.add(2 + i % 32)), S::splat_f16(block))
        }
    }
    #[inline(always)]
    unsafe fn load_two<S: Lanes>(row: *const u8, i: usize) -> [S::F; 2] {
        // SAFETY: one block of the row.
        unsafe {
            let block = row.add(i / 32 * Q8_BYTES);
            let (scale, codes) = (S::splat_f16(block), block.add(2 + i % 32));
            [
                S::mul(S::load_i8(codes), scale),
                S::mul(S::load_i8(codes.add(S::LANES)), scale),
            ]
        }
    }
}
