//! What one step along k multiplies, per element type and instruction set.
//!
//! Along k, numbers travel in words of four bytes: one f32, a pair of bf16, four bytes. A word of
//! x is spread over all lanes and meets the words of as many columns, so one loop nest serves all
//! types.

use crate::backend::cpu::x86::{Avx2, Avx512, Simd};
use half::f16;
use std::{arch::x86_64::*, marker::PhantomData};

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

/// f32.
#[derive(Clone, Copy)]
pub(super) struct F32<S>(PhantomData<S>);
/// f32 by f16 panels.
#[derive(Clone, Copy)]
pub(super) struct F16<S>(PhantomData<S>);
/// f32 by panels of bf16 pairs.
#[derive(Clone, Copy)]
pub(super) struct Bf16<S>(PhantomData<S>);
/// Pairs of bf16 by AVX512-BF16.
#[derive(Clone, Copy)]
pub(super) struct Bf16Dot;
/// Four i8 of w by i8 of x plus 128, by AVX512-VNNI.
#[derive(Clone, Copy)]
pub(super) struct I8Dot;
/// Pairs of i16 by AVX2.
#[derive(Clone, Copy)]
pub(super) struct I16Dot;

/// Loads of bf16 pairs.
///
/// # Safety
/// As for [`Simd`].
pub(super) trait Pairs: Simd {
    /// The first and the second numbers of `LANES` pairs, exact.
    unsafe fn pairs(p: *const u8) -> [Self::F; 2];
}

impl Pairs for Avx512 {
    #[inline(always)]
    unsafe fn pairs(p: *const u8) -> [__m512; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let pairs = _mm512_loadu_si512(p.cast());
            let high = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000u32 as i32));
            let low = _mm512_slli_epi32::<16>(pairs);
            [_mm512_castsi512_ps(low), _mm512_castsi512_ps(high)]
        }
    }
}

impl Pairs for Avx2 {
    #[inline(always)]
    unsafe fn pairs(p: *const u8) -> [__m256; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let pairs = _mm256_loadu_si256(p.cast());
            let high = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000u32 as i32));
            let low = _mm256_slli_epi32::<16>(pairs);
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
    }
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
    #[inline(always)]
    unsafe fn step(p: *const u8) -> [S::F; 2] {
        // SAFETY: the caller's contract is the callee's.
        unsafe { [S::load(p.cast()); 2] }
    }
}

impl<S: Simd> Unit for F16<S> {
    words_of_f32!(S);
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn step(p: *const u8) -> [S::F; 2] {
        // SAFETY: the caller's contract is the callee's.
        unsafe { [S::load_f16(p.cast::<f16>()); 2] }
    }
}

impl<S: Pairs> Unit for Bf16<S> {
    words_of_f32!(S);
    const STEP: usize = 2;
    #[inline(always)]
    unsafe fn step(p: *const u8) -> [S::F; 2] {
        // SAFETY: the caller's contract is the callee's.
        unsafe { S::pairs(p) }
    }
}

impl Unit for Bf16Dot {
    sums_of_f32!(Avx512);
    type Word = __m512i;
    const K: usize = 2;
    #[inline(always)]
    unsafe fn splat(p: *const u32) -> __m512i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm512_set1_epi32(*p.cast::<i32>()) }
    }
    #[inline(always)]
    unsafe fn step(p: *const u8) -> [__m512i; 2] {
        // SAFETY: the caller's contract is the callee's.
        unsafe { [_mm512_loadu_si512(p.cast()); 2] }
    }
    #[inline(always)]
    unsafe fn mac(acc: __m512, x: __m512i, w: __m512i) -> __m512 {
        // SAFETY: AVX512-BF16 by the caller's contract; both types are 64 bytes of any content.
        unsafe {
            let x = std::mem::transmute::<__m512i, __m512bh>(x);
            let w = std::mem::transmute::<__m512i, __m512bh>(w);
            _mm512_dpbf16_ps(acc, x, w)
        }
    }
}

impl Unit for I8Dot {
    type S = Avx512;
    type Acc = __m512i;
    type Word = __m512i;
    const K: usize = 4;
    const ZERO: Option<u32> = Some(0x8080_8080);
    const INTEGERS: bool = true;
    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512i) {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn splat(p: *const u32) -> __m512i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm512_set1_epi32(*p.cast::<i32>()) }
    }
    #[inline(always)]
    unsafe fn step(p: *const u8) -> [__m512i; 2] {
        // SAFETY: the caller's contract is the callee's.
        unsafe { [_mm512_loadu_si512(p.cast()); 2] }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn to_f32(a: __m512i) -> __m512 {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn mac(acc: __m512i, x: __m512i, w: __m512i) -> __m512i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm512_dpbusd_epi32(acc, x, w) }
    }
}

impl Unit for I16Dot {
    type S = Avx2;
    type Acc = __m256i;
    type Word = __m256i;
    const K: usize = 2;
    const INTEGERS: bool = true;
    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256i) {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn splat(p: *const u32) -> __m256i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm256_set1_epi32(*p.cast::<i32>()) }
    }
    #[inline(always)]
    unsafe fn step(p: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's contract is the callee's.
        unsafe { [_mm256_loadu_si256(p.cast()); 2] }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm256_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn to_f32(a: __m256i) -> __m256 {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm256_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn mac(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(x, w)) }
    }
}
