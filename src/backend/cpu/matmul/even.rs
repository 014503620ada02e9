//! Rows of sums that leave AMX for y as they are or rounded, without a stop on the way.

use super::simd::epilogue::Matrix;
use crate::backend::cpu::simd::{
    Avx512,
    amx::{Leave, Product, Sums},
};
use std::{arch::x86_64::*, marker::PhantomData};

/// How a row of sums is stored.
///
/// # Safety
/// The CPU has AVX-512; `y` has room for 32 numbers.
pub(super) trait Store: Copy {
    unsafe fn store(y: *mut u8, sums: [__m512i; 2]);
}

/// Four bytes each.
#[derive(Clone, Copy)]
pub(super) struct Words;
#[derive(Clone, Copy)]
pub(super) struct Bf16;
#[derive(Clone, Copy)]
pub(super) struct F16;

impl Store for Words {
    #[inline(always)]
    unsafe fn store(y: *mut u8, sums: [__m512i; 2]) {
        // SAFETY: the caller's contract.
        unsafe {
            _mm512_storeu_si512(y.cast(), sums[0]);
            _mm512_storeu_si512(y.add(64).cast(), sums[1]);
        }
    }
}

/// # Safety
/// As for [`Store`].
#[inline(always)]
unsafe fn store_halves(y: *mut u8, low: __m256i, high: __m256i) {
    // SAFETY: the caller's contract.
    unsafe {
        let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
        _mm512_storeu_si512(y.cast(), both);
    }
}

impl Store for Bf16 {
    #[inline(always)]
    unsafe fn store(y: *mut u8, sums: [__m512i; 2]) {
        // SAFETY: the caller's contract.
        unsafe {
            let low = Avx512::to_bf16(_mm512_castsi512_ps(sums[0]));
            let high = Avx512::to_bf16(_mm512_castsi512_ps(sums[1]));
            store_halves(y, low, high);
        }
    }
}

impl Store for F16 {
    #[inline(always)]
    unsafe fn store(y: *mut u8, sums: [__m512i; 2]) {
        // SAFETY: the caller's contract.
        unsafe {
            let low = _mm512_cvtps_ph::<0>(_mm512_castsi512_ps(sums[0]));
            let high = _mm512_cvtps_ph::<0>(_mm512_castsi512_ps(sums[1]));
            store_halves(y, low, high);
        }
    }
}

/// Rows of 32 sums, whole, that go to rows of y one after the other.
#[derive(Clone, Copy)]
pub(super) struct Even<P, T> {
    sums: Sums<P>,
    /// The next row, and bytes between rows.
    y: *mut u8,
    step: usize,
    store: PhantomData<T>,
}

impl<P: Product, T: Store> Even<P, T> {
    /// To columns from `n` on of rows from `m` on.
    #[inline(always)]
    pub fn new(sums: Sums<P>, y: &Matrix, m: usize, n: usize) -> Self {
        let size = y.data.dtype.size();
        Even {
            sums,
            y: y.data.start.wrapping_add((m * y.stride + n) * size),
            step: y.stride * size,
            store: PhantomData,
        }
    }

    /// The sums of the next row and its place.
    ///
    /// # Safety
    /// As for [`Sums::next`].
    #[inline(always)]
    pub unsafe fn next(&mut self) -> ([__m512i; 2], *mut u8) {
        let y = self.y;
        self.y = y.wrapping_add(self.step);
        // SAFETY: the caller's contract.
        (unsafe { self.sums.next().0 }, y)
    }
}

impl<P: Product, T: Store> Leave for Even<P, T> {
    #[inline(always)]
    fn rows(&self) -> usize {
        self.sums.rows()
    }

    #[inline(always)]
    unsafe fn row(&mut self) {
        // SAFETY: the caller's contract; y has the row.
        unsafe {
            let (sums, y) = self.next();
            T::store(y, sums);
        }
    }
}

/// Does the same with the rows of each kind of an enum, or with no rows, so that loops are made for
/// each.
macro_rules! each {
    ($before:expr, $enum:ident::[$($kind:ident)*], $rows:ident => $do:expr) => {
        match $before {
            $enum::Nothing => {
                let $rows = $crate::backend::cpu::simd::amx::Nothing;
                $do
            }
            $($enum::$kind($rows) => $do,)*
        }
    };
}
pub(super) use each;
