//! AArch64: the units of dot products, the instantiations, and what packs are for.

use super::{
    acts::{self, Line, Pairs, Quads, Wide},
    kernel::{Block, Fill, Kernel, Lines, Math, block, kernel, tiles},
    mmla,
    panel::{self, Words},
    tile::LINE,
    unit::{self, Bf16, F16, F32, Unit, sums_of_f32, sums_of_i32, words_of_parts},
};
use crate::backend::cpu::{
    isa::Isa,
    matmul::simd::MAX_M,
    simd::{
        Dots, Elem, Neon, Sdot, Simd, Widening,
        cells::{self, Cells},
    },
};
use crate::{DType, op::PackTag};
use half::{bf16, f16};
use std::{
    arch::{aarch64::*, asm},
    marker::PhantomData,
};

/// Pairs of bf16 by BFDOT.
#[derive(Clone, Copy)]
pub(super) struct Bfdot;
/// Four i8 of w by as many of x.
#[derive(Clone, Copy)]
pub(super) struct I8Dot<D>(PhantomData<D>);

type Words2 = [int32x4_t; 2];

impl unit::Pairs for Neon {
    #[inline(always)]
    unsafe fn pairs(p: *const u8) -> [Self::F; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let a = vreinterpretq_u32_u8(vld1q_u8(p));
            let b = vreinterpretq_u32_u8(vld1q_u8(p.add(16)));
            let high = vdupq_n_u32(0xffff_0000);
            [
                [
                    vreinterpretq_f32_u32(vshlq_n_u32::<16>(a)),
                    vreinterpretq_f32_u32(vshlq_n_u32::<16>(b)),
                ],
                [
                    vreinterpretq_f32_u32(vandq_u32(a, high)),
                    vreinterpretq_f32_u32(vandq_u32(b, high)),
                ],
            ]
        }
    }
}

impl Unit for Bfdot {
    sums_of_f32!(Neon);
    words_of_parts!(Neon);
    const K: usize = 2;
    #[inline(always)]
    unsafe fn mac(acc: [float32x4_t; 2], x: Words2, w: Words2) -> [float32x4_t; 2] {
        let mut acc = acc;
        for i in 0..2 {
            // SAFETY: only registers; the caller promises `bf16`. The intrinsic is not stable.
            unsafe {
                asm!(
                    "bfdot {r:v}.4s, {w:v}.8h, {x:v}.8h",
                    r = inout(vreg) acc[i], w = in(vreg) w[i], x = in(vreg) x[i],
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
        }
        acc
    }
}

impl<D: Dots> Unit for I8Dot<D> {
    sums_of_i32!(Neon<D>);
    words_of_parts!(Neon<D>);
    const K: usize = 4;
    #[inline(always)]
    unsafe fn mac(acc: Words2, x: Words2, w: Words2) -> Words2 {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            [
                D::dot_any(acc[0], w[0], x[0]),
                D::dot_any(acc[1], w[1], x[1]),
            ]
        }
    }
}

impl Words for panel::Quads {
    type T = i8;
    const K: usize = 4;
    #[inline(always)]
    unsafe fn along(p: *const i8, n: usize) -> Cells {
        // SAFETY: the caller's contract is the callee's.
        unsafe { panel::bytes(p, n) }
    }
    #[inline(always)]
    unsafe fn across(p: *const i8, step: usize, k: usize, n: usize) -> Cells {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let mut words = cells::zero();
            for i in 0..k {
                let row = cells::from_u8(panel::bytes(p.add(i * step), n));
                words = cells::or(words, cells::shl(row, 8 * i as u32));
            }
            words
        }
    }
}

macro_rules! pairs {
    ($t:ty) => {
        impl Line for Pairs<$t> {
            type T = $t;
            const K: usize = 2;
            #[inline(always)]
            unsafe fn line(p: *const $t, n: usize, out: *mut u32) {
                let out = out.cast::<bf16>();
                // SAFETY: n numbers, and a line.
                unsafe {
                    for i in (0..2 * LINE).step_by(8) {
                        let some = n.saturating_sub(i).min(8);
                        let v = <$t as Elem>::load_n::<Neon>(p.wrapping_add(i), some);
                        Neon::<Widening>::store_bf16_n(out.add(i), 8, v);
                    }
                }
            }
        }
    };
}
pairs!(f32);
pairs!(f16);

tiles!(tiles_neon, widen_neon, "neon");
tiles!(tiles_dotprod, "neon,dotprod");
tiles!(tiles_bf16, "neon,bf16");

/// Instruction sets of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Neon,
    Dotprod,
    /// Two rows by two columns at a time.
    Mmla,
}

impl Tier {
    /// Rows from which products of so many at a time are worth it.
    pub fn least_rows(self, _: Math, _: Option<DType>) -> u64 {
        match self {
            Tier::Mmla => MAX_M as u64 + 1,
            _ => 0,
        }
    }
}

static BF16_MMLA: Kernel = mmla::kernel(&BF16_DOT, mmla::tiles_bfmmla);
static I8_MMLA: Kernel = mmla::kernel(&I8_SDOT, mmla::tiles_i8mm);
static F32_NEON: Kernel = kernel::<F32<Neon>>(tiles_neon::<F32<Neon>>, None);
static F16_NEON: Kernel = Kernel {
    wide: Some((&F32_NEON, widen_neon::<F16<Neon>>)),
    ..kernel::<F16<Neon>>(tiles_neon::<F16<Neon>>, None)
};
static BF16_NEON: Kernel = Kernel {
    wide: Some((&F32_NEON, widen_neon::<Bf16<Neon>>)),
    ..kernel::<Bf16<Neon>>(tiles_neon::<Bf16<Neon>>, None)
};
static BF16_DOT: Kernel = kernel::<Bfdot>(tiles_bf16::<Bfdot>, None);
static I8_NEON: Kernel = kernel::<I8Dot<Widening>>(tiles_neon::<I8Dot<Widening>>, None);
static I8_SDOT: Kernel = kernel::<I8Dot<Sdot>>(tiles_dotprod::<I8Dot<Sdot>>, None);

/// The kernel for weights of type `w`; floats of other types than f32 become f32 when a panel is
/// filled, and in the tile when it was packed.
pub(super) fn select(
    tier: Tier,
    math: Math,
    (_, w): (DType, DType),
    packed: bool,
) -> Option<&'static Kernel> {
    Some(match (tier, math, w, packed) {
        (Tier::Neon, Math::F32, DType::F16, true) => &F16_NEON,
        (Tier::Neon, Math::F32, DType::BF16, true) => &BF16_NEON,
        (Tier::Neon, Math::F32, DType::F32 | DType::F16 | DType::BF16, _) => &F32_NEON,
        (Tier::Neon, Math::Bf16, DType::BF16, _) => &BF16_DOT,
        (Tier::Neon, Math::I8, DType::I8, _) => &I8_NEON,
        (Tier::Dotprod, Math::I8, DType::I8, _) => &I8_SDOT,
        (Tier::Mmla, Math::F32, DType::BF16, true) => &BF16_NEON,
        (Tier::Mmla, Math::Bf16, DType::BF16, _) => &BF16_MMLA,
        (Tier::Mmla, Math::I8, DType::I8, _) => &I8_MMLA,
        _ => return None,
    })
}

/// Fills panels of a kernel that [`select`] gives for weights that are not packed.
pub(super) fn fill(_: Tier, math: Math, w: DType) -> Option<Fill> {
    Some(match (math, w) {
        (Math::F32, DType::F32) => panel::fill::<panel::Wide<f32>>,
        (Math::F32, DType::F16) => panel::fill::<panel::Wide<f16>>,
        (Math::F32, DType::BF16) => panel::fill::<panel::Wide<bf16>>,
        (Math::Bf16, DType::BF16) => panel::fill::<panel::Pairs>,
        (Math::I8, DType::I8) => panel::fill::<panel::Quads>,
        _ => return None,
    })
}

/// Makes lines of x.
pub(super) fn lines(_: Tier, math: Math, x: DType) -> Option<Lines> {
    Some(match (math, x) {
        (Math::F32, DType::F32) => acts::lines::<Wide<f32>>,
        (Math::F32, DType::F16) => acts::lines::<Wide<f16>>,
        (Math::F32, DType::BF16) => acts::lines::<Wide<bf16>>,
        (Math::Bf16, DType::F32) => acts::lines::<Pairs<f32>>,
        (Math::Bf16, DType::F16) => acts::lines::<Pairs<f16>>,
        (Math::Bf16, DType::BF16) => acts::lines::<Pairs<bf16>>,
        (Math::I8, DType::I8) => acts::lines::<Quads<0>>,
        _ => return None,
    })
}

const PAIRS: PackTag = PackTag::new("cpu", "dense bf16 pairs x 16", 1);
const QUADS: PackTag = PackTag::new("cpu", "dense i8 quads x 16", 1);

/// The layouts: `[panels][steps][columns]`.
#[rustfmt::skip]
pub(super) const TAGS: [(Tier, DType, PackTag); 7] = [
    (Tier::Neon, DType::F32, PackTag::new("cpu", "dense f32 x 16", 1)),
    (Tier::Neon, DType::F16, PackTag::new("cpu", "dense f16 x 16", 1)),
    (Tier::Neon, DType::BF16, PAIRS),
    (Tier::Neon, DType::I8, QUADS),
    (Tier::Dotprod, DType::I8, QUADS),
    (Tier::Mmla, DType::BF16, PAIRS),
    (Tier::Mmla, DType::I8, QUADS),
];

/// The instruction sets that packs are made for.
pub(super) fn tier(isa: Isa, w: DType) -> Option<Tier> {
    match w {
        DType::I8 if isa.dotprod => Some(Tier::Dotprod),
        DType::F32 | DType::F16 | DType::BF16 | DType::I8 if isa.neon => Some(Tier::Neon),
        _ => None,
    }
}

/// Is a kernel slower than one of the same instruction sets that computes in f32?
pub(super) fn is_slow(_: Isa, _: Tier, _: Math) -> bool {
    false
}

/// Is what a kernel needs there, and what is it?
pub(super) fn feature(isa: Isa, tier: Tier, math: Math) -> (bool, &'static str) {
    match (tier, math) {
        (Tier::Neon, Math::Bf16) => (isa.bf16, "NEON with BF16"),
        (Tier::Neon, _) => (isa.neon, "NEON"),
        (Tier::Dotprod, _) => (isa.dotprod, "NEON with DOTPROD"),
        (Tier::Mmla, Math::Bf16) => (isa.bf16, "NEON with BF16"),
        (Tier::Mmla, _) => (isa.i8mm, "NEON with I8MM"),
    }
}
