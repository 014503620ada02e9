//! NEON: four registers each, with and without SDOT.

use super::{class::Layout, lanes::Lanes, panel, tile::Strip};
use crate::backend::cpu::simd::{Dots, Elem, Neon, Simd, cells};
use std::{arch::aarch64::*, marker::PhantomData};

/// CPU feature `neon` and those of `D`.
#[derive(Clone, Copy)]
pub(super) struct Four<D>(PhantomData<D>);

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];

/// `$f` of all registers of the arguments.
macro_rules! all {
    ($f:expr, $a:expr) => {
        [$f($a[0]), $f($a[1]), $f($a[2]), $f($a[3])]
    };
    ($f:expr, $a:expr, $b:expr) => {
        [
            $f($a[0], $b[0]),
            $f($a[1], $b[1]),
            $f($a[2], $b[2]),
            $f($a[3], $b[3]),
        ]
    };
    ($f:expr, $a:expr, $b:expr, $c:expr) => {
        [
            $f($a[0], $b[0], $c[0]),
            $f($a[1], $b[1], $c[1]),
            $f($a[2], $b[2], $c[2]),
            $f($a[3], $b[3], $c[3]),
        ]
    };
}

/// 16 bytes, each in a lane of its own.
#[inline(always)]
unsafe fn widened(b: uint8x16_t) -> I {
    // SAFETY: no memory is touched.
    unsafe {
        let (low, high) = (vmovl_u8(vget_low_u8(b)), vmovl_high_u8(b));
        let wide = [
            vmovl_u16(vget_low_u16(low)),
            vmovl_high_u16(low),
            vmovl_u16(vget_low_u16(high)),
            vmovl_high_u16(high),
        ];
        all!(vreinterpretq_s32_u32, wide)
    }
}

/// 16-bit lanes to the left, or to the right where `bits` is negative.
#[inline(always)]
unsafe fn shifted(a: int32x4_t, bits: i16) -> int32x4_t {
    // SAFETY: no memory is touched.
    unsafe { vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), vdupq_n_s16(bits))) }
}

// SAFETY (whole impl): the trait's contract gives the CPU features and the pointers' validity.
impl<D: Dots> Lanes for Four<D> {
    type F = F;
    type I = I;
    const STREAMS: bool = true;
    const WIDE_AS_IS: bool = false;
    const PANELS: [usize; 2] = [1; 2];

    #[inline(always)]
    unsafe fn panels<P: Layout>(
        w: *const u8,
        count: usize,
        x: Strip,
        rows: usize,
        blocks: usize,
        c: *mut f32,
        step: usize,
    ) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            if D::SDOT {
                panel::panels_dotprod::<P>(w, count, x, rows, blocks, c, step);
            } else {
                panel::panels_neon::<P>(w, count, x, rows, blocks, c, step);
            }
        }
    }

    #[inline(always)]
    unsafe fn zero() -> F {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_f32(0.0); 4] }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: see the impl.
        unsafe {
            [
                vld1q_f32(p),
                vld1q_f32(p.add(4)),
                vld1q_f32(p.add(8)),
                vld1q_f32(p.add(12)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        // SAFETY: see the impl.
        unsafe {
            for i in 0..4 {
                vst1q_f32(p.add(4 * i), v[i]);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> F {
        // SAFETY: see the impl.
        unsafe {
            let [a, b] = Neon::<D>::load_f16(p.cast());
            let [c, d] = Neon::<D>::load_f16(p.add(16).cast());
            [a, b, c, d]
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        // SAFETY: see the impl.
        unsafe { all!(vaddq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        // SAFETY: see the impl.
        unsafe { all!(vsubq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        // SAFETY: see the impl.
        unsafe { all!(vmulq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        // SAFETY: see the impl.
        unsafe { all!(vfmaq_f32, c, a, b) }
    }
    #[inline(always)]
    unsafe fn fms(a: F, b: F, c: F) -> F {
        // SAFETY: see the impl.
        unsafe { all!(vfmaq_f32, all!(vnegq_f32, c), a, b) }
    }
    #[inline(always)]
    unsafe fn fnma(a: F, b: F, c: F) -> F {
        // SAFETY: see the impl.
        unsafe { all!(vfmsq_f32, c, a, b) }
    }

    #[inline(always)]
    unsafe fn izero() -> I {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_s32(0); 4] }
    }
    #[inline(always)]
    unsafe fn iload(p: *const u8) -> I {
        // SAFETY: see the impl.
        unsafe {
            let v = [
                vld1q_u8(p),
                vld1q_u8(p.add(16)),
                vld1q_u8(p.add(32)),
                vld1q_u8(p.add(48)),
            ];
            all!(vreinterpretq_s32_u8, v)
        }
    }
    #[inline(always)]
    unsafe fn istore(p: *mut u8, v: I) {
        // SAFETY: see the impl.
        unsafe {
            for i in 0..4 {
                vst1q_u8(p.add(16 * i), vreinterpretq_u8_s32(v[i]));
            }
        }
    }
    #[inline(always)]
    unsafe fn isplat(p: *const u8) -> I {
        // SAFETY: see the impl.
        unsafe { [vdupq_n_s32(p.cast::<i32>().read_unaligned()); 4] }
    }
    #[inline(always)]
    unsafe fn bytes(b: u8) -> I {
        // SAFETY: see the impl.
        unsafe { [vreinterpretq_s32_u8(vdupq_n_u8(b)); 4] }
    }
    #[inline(always)]
    unsafe fn and(a: I, b: I) -> I {
        // SAFETY: see the impl.
        unsafe { all!(vandq_s32, a, b) }
    }
    #[inline(always)]
    unsafe fn or_and(a: I, b: I, mask: I) -> I {
        // SAFETY: see the impl.
        unsafe { all!(vorrq_s32, a, all!(vandq_s32, b, mask)) }
    }
    #[inline(always)]
    unsafe fn shr<const N: u32>(a: I) -> I {
        // SAFETY: see the impl.
        unsafe { all!(shifted, a, [-(N as i16); 4]) }
    }
    #[inline(always)]
    unsafe fn shl<const N: u32>(a: I) -> I {
        // SAFETY: see the impl.
        unsafe { all!(shifted, a, [N as i16; 4]) }
    }
    #[inline(always)]
    unsafe fn table(p: *const u8) -> I {
        // SAFETY: see the impl.
        unsafe { [vreinterpretq_s32_u8(vld1q_u8(p)); 4] }
    }
    #[inline(always)]
    unsafe fn lookup(table: I, codes: I) -> I {
        // SAFETY: see the impl.
        unsafe {
            let (t, c) = (
                all!(vreinterpretq_u8_s32, table),
                all!(vreinterpretq_u8_s32, codes),
            );
            all!(vreinterpretq_s32_u8, all!(vqtbl1q_u8, t, c))
        }
    }
    #[inline(always)]
    unsafe fn dot(acc: I, w: I, x: I) -> I {
        // SAFETY: see the impl.
        unsafe { all!(D::dot, acc, w, x) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: I, w: I, x: I) -> I {
        // SAFETY: see the impl.
        unsafe {
            let w = all!(veorq_s32, w, Self::bytes(128));
            all!(D::dot_signed, acc, w, x)
        }
    }
    #[inline(always)]
    unsafe fn to_f32(x: I) -> F {
        // SAFETY: see the impl.
        unsafe { all!(vcvtq_f32_s32, x) }
    }
    #[inline(always)]
    unsafe fn byte<const J: u32>(x: I) -> F {
        // SAFETY: see the impl.
        unsafe {
            let x = all!(vreinterpretq_u32_s32, x);
            let low = all!(vshlq_u32, x, [vdupq_n_s32(-8 * J as i32); 4]);
            let low = all!(vandq_u32, low, [vdupq_n_u32(255); 4]);
            all!(vcvtq_f32_u32, low)
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> F {
        // SAFETY: see the impl.
        unsafe {
            let b = vld1q_s8(p.cast());
            let (low, high) = (vmovl_s8(vget_low_s8(b)), vmovl_high_s8(b));
            Self::to_f32([
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ])
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> F {
        // SAFETY: see the impl.
        unsafe { Self::to_f32(widened(vld1q_u8(p))) }
    }
    #[inline(always)]
    unsafe fn load_u4(p: *const u8) -> [F; 2] {
        // SAFETY: see the impl.
        unsafe {
            let b = vld1q_u8(p);
            let low = widened(vandq_u8(b, vdupq_n_u8(15)));
            [Self::to_f32(low), Self::to_f32(widened(vshrq_n_u8::<4>(b)))]
        }
    }
    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> F {
        // SAFETY: see the impl.
        unsafe {
            // Two factors, so that powers below the normal range come out too:
            // 2^(e / 2 - 64) 2^(e - e / 2 - 64).
            let e = widened(vld1q_u8(p));
            let half = all!(vshrq_n_s32::<1>, e);
            let rest = all!(vsubq_s32, e, half);
            let bias = [vdupq_n_s32(63); 4];
            let half = all!(vshlq_n_s32::<23>, all!(vaddq_s32, half, bias));
            let rest = all!(vshlq_n_s32::<23>, all!(vaddq_s32, rest, bias));
            Self::mul(
                all!(vreinterpretq_f32_s32, half),
                all!(vreinterpretq_f32_s32, rest),
            )
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> F {
        // SAFETY: see the impl.
        unsafe {
            // The bits of a float whose exponent is 120 too low, halved.
            let b = all!(vshlq_n_s32::<20>, widened(vld1q_u8(p)));
            let f = all!(vreinterpretq_f32_s32, b);
            Self::mul(f, Self::splat(f32::from_bits((127 + 119) << 23)))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        cells::prefetch(p, true);
    }
}

/// The 32 values at `x` as codes in -127..=127, four to a word; their scale; sums of the codes of
/// each half. A block with a value that is not finite gets the scale NaN.
///
/// # Safety
/// `x` holds them; the CPU has NEON.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn quantize_block<T: Elem>(x: *const T) -> ([i32; 8], f32, [i32; 2]) {
    // SAFETY: the caller promises 32 values.
    unsafe {
        let mut v = [vdupq_n_f32(0.0); 8];
        let mut top = vdupq_n_u32(0);
        for i in 0..4 {
            [v[2 * i], v[2 * i + 1]] = T::load::<Neon>(x.add(8 * i));
            for h in 0..2 {
                // As integers, so that infinities and NaN win.
                let abs = vreinterpretq_u32_f32(vabsq_f32(v[2 * i + h]));
                top = vmaxq_u32(top, abs);
            }
        }
        let max = f32::from_bits(vmaxvq_u32(top));
        let (d, inverse) = if !max.is_finite() {
            (f32::NAN, 0.0)
        } else if max < 127.0 * f32::MIN_POSITIVE {
            (0.0, 0.0)
        } else {
            (max / 127.0, 127.0 / max)
        };
        let inverse = vdupq_n_f32(inverse);
        let mut codes = [0i32; 8];
        let mut sum = [0i32; 2];
        for h in 0..2 {
            let mut q = [vdupq_n_s32(0); 4];
            for i in 0..4 {
                q[i] = vcvtnq_s32_f32(vmulq_f32(v[4 * h + i], inverse));
            }
            let low = vqmovn_high_s32(vqmovn_s32(q[0]), q[1]);
            let high = vqmovn_high_s32(vqmovn_s32(q[2]), q[3]);
            let bytes = vqmovn_high_s16(vqmovn_s16(low), high);
            let bytes = vmaxq_s8(bytes, vdupq_n_s8(-127));
            vst1q_s32(codes.as_mut_ptr().add(4 * h), vreinterpretq_s32_s8(bytes));
            sum[h] = i32::from(vaddlvq_s8(bytes));
        }
        (codes, d, sum)
    }
}
