//! NEON: two registers of four lanes. Byte products come in two tiers.

use super::Simd;
use half::{bf16, f16};
use std::{arch::aarch64::*, arch::asm, marker::PhantomData};

/// CPU feature `neon` and those of `D`.
#[derive(Clone, Copy)]
pub(crate) struct Neon<D = Widening>(PhantomData<D>);

type F = [float32x4_t; 2];
type I = [int32x4_t; 2];

/// How four bytes in each lane are multiplied.
///
/// # Safety
/// The methods need the CPU features that the implementing type names.
pub(crate) trait Dots: Copy + 'static {
    /// True with CPU feature `dotprod`.
    const SDOT: bool;
    /// Adds to each lane of `acc` the dot product of its four signed bytes of `w` and of `x`
    /// (`-127..=127`).
    unsafe fn dot_signed(acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t;
    /// [`Dots::dot_signed`] with unsigned bytes of `w`, 127 at most.
    #[inline(always)]
    unsafe fn dot(acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        // SAFETY: the caller's contract is the callee's.
        unsafe { Self::dot_signed(acc, w, x) }
    }
    /// [`Dots::dot_signed`] for every signed byte of `x`, -128 too.
    #[inline(always)]
    unsafe fn dot_any(acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        // SAFETY: the caller's contract is the callee's.
        unsafe { Self::dot_signed(acc, w, x) }
    }
}

/// Products of 16 bits that are added in pairs: any AArch64.
#[derive(Clone, Copy)]
pub(crate) struct Widening;
/// SDOT: CPU feature `dotprod`.
#[derive(Clone, Copy)]
pub(crate) struct Sdot;

impl Dots for Widening {
    const SDOT: bool = false;
    #[inline(always)]
    unsafe fn dot_signed(acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        // SAFETY: no memory is touched. A pair is at most 2 * 128 * 127 in magnitude.
        unsafe {
            let (w, x) = (vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x));
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            let high = vmull_high_s8(w, x);
            let mut pairs = low;
            // As an instruction: of the intrinsic the compiler makes three.
            asm!(
                "addp {r:v}.8h, {r:v}.8h, {h:v}.8h",
                r = inout(vreg) pairs, h = in(vreg) high,
                options(pure, nomem, nostack, preserves_flags)
            );
            vpadalq_s16(acc, pairs)
        }
    }
    #[inline(always)]
    unsafe fn dot_any(acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        // SAFETY: no memory is touched. A product is at most 2^14.
        unsafe {
            let (w, x) = (vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x));
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
            let high = vpaddlq_s16(vmull_high_s8(w, x));
            let mut fours = low;
            asm!(
                "addp {r:v}.4s, {r:v}.4s, {h:v}.4s",
                r = inout(vreg) fours, h = in(vreg) high,
                options(pure, nomem, nostack, preserves_flags)
            );
            vaddq_s32(acc, fours)
        }
    }
}

impl Dots for Sdot {
    const SDOT: bool = true;
    #[inline(always)]
    unsafe fn dot_signed(acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        let mut r = acc;
        // SAFETY: only registers; the caller promises `dotprod`. The intrinsic is not stable.
        unsafe {
            asm!(
                "sdot {r:v}.4s, {w:v}.16b, {x:v}.16b",
                r = inout(vreg) r, w = in(vreg) w, x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        r
    }
}

/// `$f` of both registers of the arguments.
macro_rules! both {
    ($f:expr, $a:expr) => {
        [$f($a[0]), $f($a[1])]
    };
    ($f:expr, $a:expr, $b:expr) => {
        [$f($a[0], $b[0]), $f($a[1], $b[1])]
    };
    ($f:expr, $a:expr, $b:expr, $c:expr) => {
        [$f($a[0], $b[0], $c[0]), $f($a[1], $b[1], $c[1])]
    };
}

/// Window of it with `n` set lanes first: `MASK[8 - n..]`.
static MASK: [u32; 16] = [!0, !0, !0, !0, !0, !0, !0, !0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The first `n` floats at `p`, at most four, the rest 0.
#[inline(always)]
unsafe fn some(p: *const f32, n: usize) -> float32x4_t {
    // SAFETY: the caller promises n readable elements at p.
    unsafe {
        let zero = vdupq_n_f32(0.0);
        match n {
            0 => zero,
            1 => vld1q_lane_f32::<0>(p, zero),
            2 => vcombine_f32(vld1_f32(p), vdup_n_f32(0.0)),
            3 => vld1q_lane_f32::<2>(p.add(2), vcombine_f32(vld1_f32(p), vdup_n_f32(0.0))),
            _ => vld1q_f32(p),
        }
    }
}

/// Stores the first `n` lanes, at most four.
#[inline(always)]
unsafe fn put(p: *mut f32, n: usize, v: float32x4_t) {
    // SAFETY: the caller promises n writable elements at p.
    unsafe {
        match n {
            0 => {}
            1 => vst1q_lane_f32::<0>(p, v),
            2 => vst1_f32(p, vget_low_f32(v)),
            3 => {
                vst1_f32(p, vget_low_f32(v));
                vst1q_lane_f32::<2>(p.add(2), v);
            }
            _ => vst1q_f32(p, v),
        }
    }
}

/// The first `n` halfwords at `p`, at most eight, the rest 0.
#[inline(always)]
unsafe fn halves(p: *const u16, n: usize) -> uint16x8_t {
    let mut t = [0u16; 8];
    // SAFETY: the caller promises n readable elements at p.
    unsafe {
        std::ptr::copy_nonoverlapping(p, t.as_mut_ptr(), n.min(8));
        vld1q_u16(t.as_ptr())
    }
}

#[inline(always)]
unsafe fn put_halves(p: *mut u16, n: usize, v: uint16x8_t) {
    // SAFETY: the caller promises n writable elements at p.
    unsafe {
        if n >= 8 {
            return vst1q_u16(p, v);
        }
        let mut t = [0u16; 8];
        vst1q_u16(t.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(t.as_ptr(), p, n);
    }
}

/// f16 to f32. The type of four f16 is not stable, the instruction is plain NEON.
#[inline(always)]
unsafe fn widen_f16(h: uint16x8_t) -> F {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: only registers.
    unsafe {
        asm!(
            "fcvtl {o:v}.4s, {i:v}.4h",
            o = lateout(vreg) low, i = in(vreg) h,
            options(pure, nomem, nostack, preserves_flags)
        );
        asm!(
            "fcvtl2 {o:v}.4s, {i:v}.8h",
            o = lateout(vreg) high, i = in(vreg) h,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    [low, high]
}

/// f32 to f16, to nearest even.
#[inline(always)]
unsafe fn narrow_f16(v: F) -> uint16x8_t {
    // SAFETY: only registers.
    unsafe {
        let mut h = vdupq_n_u16(0);
        asm!(
            "fcvtn {o:v}.4h, {i:v}.4s",
            o = inout(vreg) h, i = in(vreg) v[0],
            options(pure, nomem, nostack, preserves_flags)
        );
        asm!(
            "fcvtn2 {o:v}.8h, {i:v}.4s",
            o = inout(vreg) h, i = in(vreg) v[1],
            options(pure, nomem, nostack, preserves_flags)
        );
        h
    }
}

/// bf16 to f32.
#[inline(always)]
unsafe fn widen_bf16(h: uint16x8_t) -> F {
    // SAFETY: no memory is touched.
    unsafe {
        [
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(h))),
            vreinterpretq_f32_u32(vshll_high_n_u16::<16>(h)),
        ]
    }
}

/// f32 to bf16 in the lower halves, to nearest even.
#[inline(always)]
unsafe fn round_bf16(v: float32x4_t) -> uint32x4_t {
    // SAFETY: no memory is touched.
    unsafe {
        let u = vreinterpretq_u32_f32(v);
        let odd = vandq_u32(vshrq_n_u32::<16>(u), vdupq_n_u32(1));
        let bias = vaddq_u32(odd, vdupq_n_u32(0x7fff));
        let rounded = vshrq_n_u32::<16>(vaddq_u32(u, bias));
        // A NaN keeps its upper half, made quiet: rounding could carry it to infinity.
        let quiet = vorrq_u32(vshrq_n_u32::<16>(u), vdupq_n_u32(0x40));
        vbslq_u32(vceqq_f32(v, v), rounded, quiet)
    }
}

// SAFETY (whole impl): the trait's contract gives the CPU features and the pointers' validity.
impl<D: Dots> Simd for Neon<D> {
    const LANES: usize = 8;
    type F = F;
    type I = I;

    #[inline(always)]
    unsafe fn zero() -> F {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_f32(0.0); 2] }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_f32(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: see the impl.
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4))] }
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> F {
        // SAFETY: see the impl.
        unsafe {
            if n >= 4 {
                [vld1q_f32(p), some(p.add(4), n - 4)]
            } else {
                [some(p, n), vdupq_n_f32(0.0)]
            }
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        // SAFETY: see the impl.
        unsafe {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, n: usize, v: F) {
        // SAFETY: see the impl.
        unsafe {
            if n >= 4 {
                vst1q_f32(p, v[0]);
                put(p.add(4), n - 4, v[1]);
            } else {
                put(p, n, v[0]);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> F {
        // SAFETY: see the impl.
        unsafe { widen_f16(vld1q_u16(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_f16_n(p: *const f16, n: usize) -> F {
        // SAFETY: see the impl.
        unsafe { widen_f16(halves(p.cast(), n)) }
    }
    #[inline(always)]
    unsafe fn store_f16_n(p: *mut f16, n: usize, v: F) {
        // SAFETY: see the impl.
        unsafe { put_halves(p.cast(), n, narrow_f16(v)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> F {
        // SAFETY: see the impl.
        unsafe { widen_bf16(vld1q_u16(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16_n(p: *const bf16, n: usize) -> F {
        // SAFETY: see the impl.
        unsafe { widen_bf16(halves(p.cast(), n)) }
    }
    #[inline(always)]
    unsafe fn store_bf16_n(p: *mut bf16, n: usize, v: F) {
        // SAFETY: see the impl.
        unsafe {
            let h = both!(round_bf16, v);
            put_halves(p.cast(), n, vmovn_high_u32(vmovn_u32(h[0]), h[1]));
        }
    }

    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(vaddq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(vsubq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(vmulq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(vdivq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(vfmaq_f32, c, a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(vbslq_f32, both!(vcgtq_f32, a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(vbslq_f32, both!(vcltq_f32, a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        // SAFETY: see the impl.
        unsafe { both!(vrndnq_f32, a) }
    }
    #[inline(always)]
    unsafe fn scale2(a: F, n: F) -> F {
        // SAFETY: see the impl.
        unsafe {
            // Two factors, so that results below the normal range round once and above it
            // overflow to infinity.
            let n = both!(vcvtnq_s32_f32, n);
            let half = both!(vshrq_n_s32::<1>, n);
            let rest = both!(vsubq_s32, n, half);
            let one = [vdupq_n_s32(127); 2];
            let f = both!(vshlq_n_s32::<23>, both!(vaddq_s32, half, one));
            let g = both!(vshlq_n_s32::<23>, both!(vaddq_s32, rest, one));
            let a = both!(vmulq_f32, a, both!(vreinterpretq_f32_s32, f));
            both!(vmulq_f32, a, both!(vreinterpretq_f32_s32, g))
        }
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        // SAFETY: see the impl.
        unsafe { vaddvq_f32(vaddq_f32(a[0], a[1])) }
    }
    #[inline(always)]
    unsafe fn max_lane(a: F) -> f32 {
        // SAFETY: see the impl.
        unsafe { vmaxvq_f32(vmaxq_f32(a[0], a[1])) }
    }
    #[inline(always)]
    unsafe fn first_n(n: usize, a: F, b: F) -> F {
        debug_assert!(n <= 8);
        // SAFETY: see the impl; `8 - n + 8 <= 16` for n in 0..=8.
        unsafe {
            let p = MASK.as_ptr().add(8 - n);
            both!(vbslq_f32, [vld1q_u32(p), vld1q_u32(p.add(4))], a, b)
        }
    }

    #[inline(always)]
    unsafe fn izero() -> I {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_s32(0); 2] }
    }
    #[inline(always)]
    unsafe fn iload(p: *const u8) -> I {
        // SAFETY: see the impl.
        unsafe {
            let b = [vld1q_u8(p), vld1q_u8(p.add(16))];
            both!(vreinterpretq_s32_u8, b)
        }
    }
    #[inline(always)]
    unsafe fn istore(p: *mut u8, x: I) {
        // SAFETY: see the impl.
        unsafe {
            vst1q_s32(p.cast(), x[0]);
            vst1q_s32(p.add(16).cast(), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn isplat(p: *const u8) -> I {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_s32(p.cast::<i32>().read_unaligned()); 2] }
    }
    #[inline(always)]
    unsafe fn isub(a: I, b: I) -> I {
        // SAFETY: see the impl.
        unsafe { both!(vsubq_s32, a, b) }
    }
    #[inline(always)]
    unsafe fn to_f32(x: I) -> F {
        // SAFETY: see the impl.
        unsafe { both!(vcvtq_f32_s32, x) }
    }
}
