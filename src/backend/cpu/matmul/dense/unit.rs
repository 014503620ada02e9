//! What one step along k multiplies, per element type and instruction set.
//!
//! Along k, numbers travel in words of four bytes: one f32, a pair of bf16, four bytes. A word of
//! x is spread over all lanes and meets the words of as many columns, so one loop nest serves all
//! types.

use crate::backend::cpu::simd::Simd;
use half::f16;
use std::marker::PhantomData;

/// # Safety
/// Every method needs the CPU features of `S` (and those that the implementing type names) and
/// pointers that are valid for `LANES` lanes.
pub(super) trait Unit: Copy + 'static {
    /// The vectors that finish sums.
    type S: Simd;
    /// Sums.
    type Acc: Copy;
    /// Words.
    type Word: Copy;
    /// k in a word of x.
    const K: usize;
    /// Bytes per column and step in a panel.
    const BYTES: usize = 4;
    /// Words of x that one step of a panel meets.
    const STEP: usize = 1;
    /// Sums are i32.
    const INTEGERS: bool = false;
    /// A word of x that stands for zeros, where it is not zero.
    const ZERO: Option<u32> = None;
    /// Most rows of a tile of two vectors, and of four: the accumulators, a step of the panel and
    /// what is read of x fit the registers.
    const ROWS: [usize; 2] = most_rows::<Self::S>(6);

    unsafe fn zero() -> Self::Acc;
    unsafe fn load(p: *const f32) -> Self::Acc;
    unsafe fn store(p: *mut f32, v: Self::Acc);
    /// The word at `p` in every lane.
    unsafe fn splat(p: *const u32) -> Self::Word;
    /// The words of a step of a panel; the first [`Unit::STEP`] count.
    unsafe fn step(p: *const u8) -> [Self::Word; 2];
    unsafe fn mac(acc: Self::Acc, x: Self::Word, w: Self::Word) -> Self::Acc;
    unsafe fn sub(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    unsafe fn to_f32(a: Self::Acc) -> <Self::S as Simd>::F;
}

/// [`Unit::ROWS`]; NEON, whose vectors are two registers, has `of_neon` rows.
pub(super) const fn most_rows<S: Simd>(of_neon: usize) -> [usize; 2] {
    match S::LANES {
        16 => [12, 6],
        _ if cfg!(target_arch = "aarch64") => [of_neon, 2],
        _ => [6, 2],
    }
}

/// f32.
#[derive(Clone, Copy)]
pub(super) struct F32<S>(PhantomData<S>);
/// f32 by f16 panels.
#[derive(Clone, Copy)]
pub(super) struct F16<S>(PhantomData<S>);
/// f32 by panels of bf16 pairs.
#[derive(Clone, Copy)]
pub(super) struct Bf16<S>(PhantomData<S>);
/// Loads of bf16 pairs.
///
/// # Safety
/// As for [`Simd`].
pub(super) trait Pairs: Simd {
    /// The first and the second numbers of `LANES` pairs, exact.
    unsafe fn pairs(p: *const u8) -> [Self::F; 2];
}

macro_rules! sums_of_f32 {
    ($s:ty) => {
        type S = $s;
        type Acc = <$s as Simd>::F;
        #[inline(always)]
        unsafe fn zero() -> Self::Acc {
            // SAFETY: the caller's contract is the callee's.
            unsafe { <$s>::zero() }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::Acc {
            // SAFETY: the caller's contract is the callee's.
            unsafe { <$s>::load(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::Acc) {
            // SAFETY: the caller's contract is the callee's.
            unsafe { <$s>::store(p, v) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::Acc, b: Self::Acc) -> Self::Acc {
            // SAFETY: the caller's contract is the callee's.
            unsafe { <$s>::sub(a, b) }
        }
        #[inline(always)]
        unsafe fn to_f32(a: Self::Acc) -> Self::Acc {
            a
        }
    };
}

macro_rules! sums_of_i32 {
    ($s:ty) => {
        type S = $s;
        type Acc = <$s as Simd>::I;
        const INTEGERS: bool = true;
        #[inline(always)]
        unsafe fn zero() -> Self::Acc {
            // SAFETY: the caller's contract is the callee's.
            unsafe { <$s>::izero() }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::Acc {
            // SAFETY: the caller's contract is the callee's.
            unsafe { <$s>::iload(p.cast()) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::Acc) {
            // SAFETY: the caller's contract is the callee's.
            unsafe { <$s>::istore(p.cast(), v) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::Acc, b: Self::Acc) -> Self::Acc {
            // SAFETY: the caller's contract is the callee's.
            unsafe { <$s>::isub(a, b) }
        }
        #[inline(always)]
        unsafe fn to_f32(a: Self::Acc) -> <$s as Simd>::F {
            // SAFETY: the caller's contract is the callee's.
            unsafe { <$s>::to_f32(a) }
        }
    };
}

/// Words of pairs or of four bytes.
macro_rules! words_of_parts {
    ($s:ty) => {
        type Word = <$s as Simd>::I;
        #[inline(always)]
        unsafe fn splat(p: *const u32) -> Self::Word {
            // SAFETY: the caller's contract is the callee's.
            unsafe { <$s>::isplat(p.cast()) }
        }
        #[inline(always)]
        unsafe fn step(p: *const u8) -> [Self::Word; 2] {
            // SAFETY: the caller's contract is the callee's.
            unsafe { [<$s>::iload(p); 2] }
        }
    };
}

pub(super) use {sums_of_f32, sums_of_i32, words_of_parts};

macro_rules! words_of_f32 {
    ($s:ty) => {
        sums_of_f32!($s);
        type Word = <$s as Simd>::F;
        const K: usize = 1;
        #[inline(always)]
        unsafe fn splat(p: *const u32) -> Self::Word {
            // SAFETY: the caller's contract is the callee's.
            unsafe { <$s>::splat(*p.cast::<f32>()) }
        }
        #[inline(always)]
        unsafe fn mac(acc: Self::Acc, x: Self::Word, w: Self::Word) -> Self::Acc {
            // SAFETY: the caller's contract is the callee's.
            unsafe { <$s>::fma(x, w, acc) }
        }
    };
}

impl<S: Simd> Unit for F32<S> {
    words_of_f32!(S);
    // On AArch64 four words of each row are in a register of their own.
    const ROWS: [usize; 2] = most_rows::<S>(5);
    #[inline(always)]
    unsafe fn step(p: *const u8) -> [S::F; 2] {
        // SAFETY: the caller's contract is the callee's.
        unsafe { [S::load(p.cast()); 2] }
    }
}

impl<S: Simd> Unit for F16<S> {
    words_of_f32!(S);
    const ROWS: [usize; 2] = most_rows::<S>(5);
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn step(p: *const u8) -> [S::F; 2] {
        // SAFETY: the caller's contract is the callee's.
        unsafe { [S::load_f16(p.cast::<f16>()); 2] }
    }
}

impl<S: Pairs> Unit for Bf16<S> {
    words_of_f32!(S);
    const ROWS: [usize; 2] = most_rows::<S>(4);
    const STEP: usize = 2;
    #[inline(always)]
    unsafe fn step(p: *const u8) -> [S::F; 2] {
        // SAFETY: the caller's contract is the callee's.
        unsafe { S::pairs(p) }
    }
}
