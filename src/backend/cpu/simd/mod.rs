//! What the SIMD kernels share: one vector abstraction with a face per instruction set.
//!
//! A kernel is written once over [`Simd`] as an `#[inline(always)]` function and entered through a
//! `#[target_feature]` function per instruction set, where the intrinsics are inlined. Kernels
//! must not use closures on their hot paths: a closure does not inherit the target features.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod cells;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod fetch;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Dots, Neon, Sdot, Widening};

/// Eight lanes that every CPU with SIMD kernels has: what data is rearranged with.
#[cfg(target_arch = "x86_64")]
pub(crate) type Eight = Avx2;
/// Eight lanes that every CPU with SIMD kernels has: what data is rearranged with.
#[cfg(target_arch = "aarch64")]
pub(crate) type Eight = Neon;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use fetch::{Fetch, LONG_STREAM, stream};

use half::{bf16, f16};

/// Makes the frame of the caller start at a multiple of 64 bytes, where the compiler would take
/// what the system guarantees, 16, and vectors that leave registers for a while would lie in two
/// cache lines. It reserves the registers for that only if some variable asks for it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn align_frame() {
    #[repr(align(64))]
    struct Line(#[expect(dead_code, reason = "there for its alignment")] [u8; 64]);
    let line = std::mem::MaybeUninit::<Line>::uninit();
    std::hint::black_box(&line);
}

/// f32 and byte vectors of one instruction set.
///
/// # Safety
/// Every method needs the CPU features that the implementing type names, and pointers that are
/// valid for what is read or written: `LANES` elements, or `n <= LANES` for the `_n` methods. No
/// pointer needs alignment.
pub(crate) trait Simd: Copy + 'static {
    /// f32 lanes in a vector.
    const LANES: usize;
    /// True when [`Simd::dot`] takes weights of the full unsigned range; else 7 bits at most, and
    /// signed weights go through [`Simd::dot_signed`].
    #[cfg(target_arch = "x86_64")]
    const DOT_U8: bool;
    /// Rows of the int8 tile that fit the register file.
    #[cfg(target_arch = "x86_64")]
    const Q8_ROWS: usize;
    /// f32 lanes.
    type F: Copy;
    /// i32 lanes, or four bytes in each.
    type I: Copy;

    unsafe fn zero() -> Self::F;
    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn load_n(p: *const f32, n: usize) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    unsafe fn store_n(p: *mut f32, n: usize, v: Self::F);
    unsafe fn load_f16(p: *const f16) -> Self::F;
    unsafe fn load_f16_n(p: *const f16, n: usize) -> Self::F;
    unsafe fn store_f16_n(p: *mut f16, n: usize, v: Self::F);
    unsafe fn load_bf16(p: *const bf16) -> Self::F;
    unsafe fn load_bf16_n(p: *const bf16, n: usize) -> Self::F;
    unsafe fn store_bf16_n(p: *mut bf16, n: usize, v: Self::F);

    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` when either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` when either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// Nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `a * 2^n` for integral `n` in -252..=254.
    unsafe fn scale2(a: Self::F, n: Self::F) -> Self::F;
    unsafe fn sum(a: Self::F) -> f32;
    unsafe fn max_lane(a: Self::F) -> f32;
    /// Lanes `0..n` of `a`, the others from `b`.
    unsafe fn first_n(n: usize, a: Self::F, b: Self::F) -> Self::F;

    unsafe fn izero() -> Self::I;
    unsafe fn iload(p: *const u8) -> Self::I;
    unsafe fn istore(p: *mut u8, x: Self::I);
    /// The four bytes at `p` in every lane.
    unsafe fn isplat(p: *const u8) -> Self::I;
    unsafe fn isub(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn to_f32(x: Self::I) -> Self::F;
    /// `x << bits` per lane.
    #[cfg(target_arch = "x86_64")]
    unsafe fn shl(x: Self::I, bits: u32) -> Self::I;
    /// Adds to each lane of `acc` the dot product of its four unsigned bytes of `w` and four
    /// signed bytes of `x` (`-127..=127`).
    #[cfg(target_arch = "x86_64")]
    unsafe fn dot(acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// [`Simd::dot`] with signed bytes of `w`.
    #[cfg(target_arch = "x86_64")]
    unsafe fn dot_signed(acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
}

/// A float type that vectors are loaded from and stored to.
///
/// # Safety
/// As for [`Simd`].
pub(crate) trait Elem: Copy + 'static {
    unsafe fn load<S: Simd>(p: *const Self) -> S::F;
    unsafe fn load_n<S: Simd>(p: *const Self, n: usize) -> S::F;
    #[cfg(test)]
    unsafe fn store_n<S: Simd>(p: *mut Self, n: usize, v: S::F);
}

macro_rules! elem {
    ($t:ty, $load:ident, $load_n:ident, $store_n:ident) => {
        impl Elem for $t {
            #[inline(always)]
            unsafe fn load<S: Simd>(p: *const Self) -> S::F {
                // SAFETY: the caller's contract is the callee's.
                unsafe { S::$load(p) }
            }
            #[inline(always)]
            unsafe fn load_n<S: Simd>(p: *const Self, n: usize) -> S::F {
                // SAFETY: the caller's contract is the callee's.
                unsafe { S::$load_n(p, n) }
            }
            #[cfg(test)]
            #[inline(always)]
            unsafe fn store_n<S: Simd>(p: *mut Self, n: usize, v: S::F) {
                // SAFETY: the caller's contract is the callee's.
                unsafe { S::$store_n(p, n, v) }
            }
        }
    };
}
elem!(f32, load, load_n, store_n);
elem!(f16, load_f16, load_f16_n, store_f16_n);
elem!(bf16, load_bf16, load_bf16_n, store_bf16_n);

/// A pointer that tasks of one op share. Each task writes rows or columns of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub *mut T);

// SAFETY: the kernels that share it partition what they write.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

/// Memory of a thread for panels and sums, kept between ops.
#[derive(Default)]
pub(crate) struct Scratch(Vec<[f32; 16]>);

impl Scratch {
    /// `floats` of undefined content, on a cache line.
    pub fn take(&mut self, floats: usize) -> *mut f32 {
        let lines = floats.div_ceil(16) + 4;
        if self.0.len() < lines {
            self.0.resize(lines, [0.0; 16]);
        }
        let start = self.0.as_mut_ptr().cast::<f32>();
        let skip = start.cast::<u8>().align_offset(64) / 4;
        // SAFETY: `skip` is below 16 floats, which the four spare lines include.
        unsafe { start.add(skip.min(16)) }
    }
}

#[cfg(test)]
mod tests;
