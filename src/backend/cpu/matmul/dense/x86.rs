//! x86-64: the units of dot products, the instantiations, and what packs are for.

use super::{
    acts::{self, Line, Pairs, Quads, Wide},
    amx,
    kernel::{Block, Fill, Kernel, Lines, Math, Source, block, kernel, tiles},
    panel::{self, Words},
    terms,
    tile::LINE,
    unit::{self, Bf16, F16, F32, Unit, sums_of_f32, sums_of_i32, words_of_parts},
};
use crate::backend::cpu::{
    isa::Isa,
    simd::{self, Avx2, Avx512, Simd},
};
use crate::{DType, op::PackTag};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// Pairs of bf16 by AVX512-BF16.
#[derive(Clone, Copy)]
pub(super) struct Bf16Dot;
/// Four i8 of w by i8 of x plus 128, by AVX512-VNNI.
#[derive(Clone, Copy)]
pub(super) struct I8Dot;
/// Pairs of i16 by AVX2.
#[derive(Clone, Copy)]
pub(super) struct I16Dot;

impl unit::Pairs for Avx512 {
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

impl unit::Pairs for Avx2 {
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

impl Unit for Bf16Dot {
    sums_of_f32!(Avx512);
    words_of_parts!(Avx512);
    const K: usize = 2;
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
    sums_of_i32!(Avx512);
    words_of_parts!(Avx512);
    const K: usize = 4;
    const ZERO: Option<u32> = Some(0x8080_8080);
    #[inline(always)]
    unsafe fn mac(acc: __m512i, x: __m512i, w: __m512i) -> __m512i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm512_dpbusd_epi32(acc, x, w) }
    }
}

impl Unit for I16Dot {
    sums_of_i32!(Avx2);
    words_of_parts!(Avx2);
    const K: usize = 2;
    #[inline(always)]
    unsafe fn mac(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(x, w)) }
    }
}

macro_rules! pairs {
    ($t:ty) => {
        impl Line for Pairs<$t> {
            type T = $t;
            const K: usize = 2;
            #[inline(always)]
            unsafe fn line(p: *const $t, n: usize, out: *mut u32) {
                // SAFETY: n numbers, and a line; both types are 64 bytes of any content.
                unsafe {
                    let low = acts::wide16(p, n.min(16));
                    let high = acts::wide16(p.wrapping_add(16), n.saturating_sub(16));
                    let v = _mm512_cvtne2ps_pbh(high, low);
                    let v = std::mem::transmute::<__m512bh, __m512i>(v);
                    _mm512_storeu_si512(out.cast(), v);
                }
            }
        }
    };
}
pairs!(f32);
pairs!(f16);

/// Pairs of i16 from i8.
#[derive(Clone, Copy)]
pub(super) struct Shorts;

impl Line for Shorts {
    type T = i8;
    const K: usize = 2;
    #[inline(always)]
    unsafe fn line(p: *const i8, n: usize, out: *mut u32) {
        // SAFETY: n numbers, and a line.
        unsafe {
            let out = out.cast::<i16>();
            if n < 2 * LINE {
                out.write_bytes(0, 2 * LINE);
            }
            for i in 0..n {
                *out.add(i) = i16::from(*p.add(i));
            }
        }
    }
}

impl Words for panel::Quads {
    type T = i8;
    const K: usize = 4;
    #[inline(always)]
    unsafe fn along(p: *const i8, n: usize) -> __m256i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { panel::bytes(p, n) }
    }
    #[inline(always)]
    unsafe fn across(p: *const i8, step: usize, k: usize, n: usize) -> __m256i {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let mut rows = [_mm_setzero_si128(); 4];
            for i in 0..4 {
                if i < k {
                    rows[i] = _mm256_castsi256_si128(panel::bytes(p.add(i * step), n));
                }
            }
            let low = _mm_unpacklo_epi8(rows[0], rows[1]);
            let high = _mm_unpacklo_epi8(rows[2], rows[3]);
            let first = _mm_unpacklo_epi16(low, high);
            _mm256_inserti128_si256::<1>(
                _mm256_castsi128_si256(first),
                _mm_unpackhi_epi16(low, high),
            )
        }
    }
}

impl Words for Shorts {
    type T = i8;
    const K: usize = 2;
    #[inline(always)]
    unsafe fn along(p: *const i8, n: usize) -> __m256i {
        // SAFETY: the caller's contract is the callee's.
        unsafe { _mm256_cvtepi8_epi16(_mm256_castsi256_si128(panel::bytes(p, n))) }
    }
    #[inline(always)]
    unsafe fn across(p: *const i8, step: usize, k: usize, n: usize) -> __m256i {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let low = _mm_cvtepi8_epi16(_mm256_castsi256_si128(panel::bytes(p, n)));
            let low = _mm256_cvtepu16_epi32(low);
            if k < 2 {
                return low;
            }
            let high = _mm_cvtepi8_epi16(_mm256_castsi256_si128(panel::bytes(p.add(step), n)));
            let high = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(high));
            _mm256_or_si256(low, high)
        }
    }
}

tiles!(
    tiles_avx512,
    widen_avx512,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
);
tiles!(
    tiles_bf16,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c"
);
tiles!(
    tiles_vnni,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"
);
tiles!(tiles_avx2, widen_avx2, "avx2,fma,f16c");

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn tiles_amx_bf16(b: Block<'_>) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { amx::block::<Bf16Dot, simd::amx::Bf16, 1, 1, false>(b) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn tiles_amx_i8(b: Block<'_>) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { amx::block::<I8Dot, simd::amx::Bytes, 1, 1, false>(b) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn zeros_vnni<U: Unit>(panel: *const u8, steps: usize, sums: *mut f32) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { panel::add_zeros::<U>(panel, steps, sums) }
}

/// Instruction sets of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Avx2,
    Avx512,
    Amx,
}

impl Tier {
    /// Rows from which products of so many at a time are worth it, and where numbers are split,
    /// the terms of weights of type `w`.
    pub fn least_rows(self, math: Math, w: Option<DType>) -> u64 {
        match (self, math) {
            (Tier::Amx, Math::F32) if w == Some(DType::F32) => 48,
            (Tier::Amx, Math::F32) => 24,
            // Fewer take dot products less time than tiles take to load.
            (Tier::Amx, Math::I8) => 7,
            (Tier::Amx, Math::Bf16) => 6,
            _ => 0,
        }
    }
}

static F32_AVX512: Kernel = kernel::<F32<Avx512>>(tiles_avx512::<F32<Avx512>>, None);
static F16_AVX512: Kernel = Kernel {
    wide: Some((&F32_AVX512, widen_avx512::<F16<Avx512>>)),
    ..kernel::<F16<Avx512>>(tiles_avx512::<F16<Avx512>>, None)
};
static BF16_AVX512: Kernel = Kernel {
    wide: Some((&F32_AVX512, widen_avx512::<Bf16<Avx512>>)),
    ..kernel::<Bf16<Avx512>>(tiles_avx512::<Bf16<Avx512>>, None)
};
static BF16_DOT: Kernel = kernel::<Bf16Dot>(tiles_bf16::<Bf16Dot>, None);
static I8_DOT: Kernel = kernel::<I8Dot>(tiles_vnni::<I8Dot>, Some(zeros_vnni::<I8Dot>));
static BF16_AMX: Kernel = amx::kernel(&BF16_DOT, tiles_amx_bf16);
static I8_AMX: Kernel = amx::kernel(&I8_DOT, tiles_amx_i8);
static F32_AVX2: Kernel = kernel::<F32<Avx2>>(tiles_avx2::<F32<Avx2>>, None);
static F16_AVX2: Kernel = Kernel {
    wide: Some((&F32_AVX2, widen_avx2::<F16<Avx2>>)),
    ..kernel::<F16<Avx2>>(tiles_avx2::<F16<Avx2>>, None)
};
static BF16_AVX2: Kernel = Kernel {
    wide: Some((&F32_AVX2, widen_avx2::<Bf16<Avx2>>)),
    ..kernel::<Bf16<Avx2>>(tiles_avx2::<Bf16<Avx2>>, None)
};
static I16_AVX2: Kernel = kernel::<I16Dot>(tiles_avx2::<I16Dot>, None);

/// Exact products of floats by AMX: the kernels of packed weights and of others.
macro_rules! terms {
    ($name:ident, $x:ty: $x_terms:literal, $w:ty: $w_terms:literal, $packed:ident, $split:expr) => {
        static $name: [Kernel; 2] = [
            terms::kernel(
                &$packed,
                acts::lines::<Wide<$x>>,
                ($x_terms, $w_terms),
                Source::Panel($split),
                terms::tiles::<$x_terms, $w_terms>,
            ),
            terms::kernel(
                &F32_AVX512,
                acts::lines::<Wide<$x>>,
                ($x_terms, $w_terms),
                Source::Fill(terms::fill::<$w, $w_terms>),
                terms::tiles::<$x_terms, $w_terms>,
            ),
        ];
    };
}
terms!(F32_BY_F32, f32: 3, f32: 3, F32_AVX512, terms::split::<f32, 3>);
terms!(F16_BY_F32, f16: 2, f32: 3, F32_AVX512, terms::split::<f32, 3>);
terms!(BF16_BY_F32, bf16: 1, f32: 3, F32_AVX512, terms::split::<f32, 3>);
terms!(F32_BY_F16, f32: 3, f16: 2, F16_AVX512, terms::split::<f16, 2>);
terms!(F16_BY_F16, f16: 2, f16: 2, F16_AVX512, terms::split::<f16, 2>);
terms!(BF16_BY_F16, bf16: 1, f16: 2, F16_AVX512, terms::split::<f16, 2>);
terms!(F32_BY_BF16, f32: 3, bf16: 1, BF16_AVX512, terms::copy);
terms!(F16_BY_BF16, f16: 2, bf16: 1, BF16_AVX512, terms::copy);
terms!(BF16_BY_BF16, bf16: 1, bf16: 1, BF16_AVX512, terms::copy);

/// The kernel for numbers of types `x` and `w`.
fn terms(x: DType, w: DType, packed: bool) -> Option<&'static Kernel> {
    use DType::{BF16, F16, F32};
    let both = match (x, w) {
        (F32, F32) => &F32_BY_F32,
        (F16, F32) => &F16_BY_F32,
        (BF16, F32) => &BF16_BY_F32,
        (F32, F16) => &F32_BY_F16,
        (F16, F16) => &F16_BY_F16,
        (BF16, F16) => &BF16_BY_F16,
        (F32, BF16) => &F32_BY_BF16,
        (F16, BF16) => &F16_BY_BF16,
        (BF16, BF16) => &BF16_BY_BF16,
        _ => return None,
    };
    Some(&both[usize::from(!packed)])
}

/// The kernel for weights of type `w` and x of type `x`; floats of other types than f32 become f32 when a panel is
/// filled, and in the tile when it was packed.
pub(super) fn select(
    tier: Tier,
    math: Math,
    (x, w): (DType, DType),
    packed: bool,
) -> Option<&'static Kernel> {
    use Tier::{Amx, Avx2, Avx512};
    Some(match (tier, math, w, packed) {
        (Amx, Math::Bf16, DType::BF16, _) => &BF16_AMX,
        (Amx, Math::I8, DType::I8, _) => &I8_AMX,
        (Avx512, Math::F32, DType::F16, true) => &F16_AVX512,
        (Amx, Math::F32, w, _) => return terms(x, w, packed),
        (Avx512, Math::F32, DType::BF16, true) => &BF16_AVX512,
        (Avx512, Math::F32, DType::F32 | DType::F16 | DType::BF16, _) => &F32_AVX512,
        (Avx512, Math::Bf16, DType::BF16, _) => &BF16_DOT,
        (Avx512, Math::I8, DType::I8, _) => &I8_DOT,
        (Avx2, Math::F32, DType::F16, true) => &F16_AVX2,
        (Avx2, Math::F32, DType::BF16, true) => &BF16_AVX2,
        (Avx2, Math::F32, DType::F32 | DType::F16 | DType::BF16, _) => &F32_AVX2,
        (Avx2, Math::I8, DType::I8, _) => &I16_AVX2,
        _ => return None,
    })
}

/// Fills panels of a kernel that [`select`] gives for weights that are not packed.
pub(super) fn fill(tier: Tier, math: Math, w: DType) -> Option<Fill> {
    Some(match (math, w) {
        (Math::F32, DType::F32) => panel::fill::<panel::Wide<f32>>,
        (Math::F32, DType::F16) => panel::fill::<panel::Wide<f16>>,
        (Math::F32, DType::BF16) => panel::fill::<panel::Wide<bf16>>,
        (Math::Bf16, DType::BF16) => panel::fill::<panel::Pairs>,
        (Math::I8, DType::I8) if tier == Tier::Avx2 => panel::fill::<Shorts>,
        (Math::I8, DType::I8) => panel::fill::<panel::Quads>,
        _ => return None,
    })
}

/// Makes lines of x.
pub(super) fn lines(tier: Tier, math: Math, x: DType) -> Option<Lines> {
    Some(match (math, x) {
        (Math::F32, DType::F32) if tier == Tier::Amx => terms::lines::<f32, 3>,
        (Math::F32, DType::F16) if tier == Tier::Amx => terms::lines::<f16, 2>,
        (Math::F32, DType::BF16) if tier == Tier::Amx => terms::lines::<bf16, 1>,
        (Math::F32, DType::F32) => acts::lines::<Wide<f32>>,
        (Math::F32, DType::F16) => acts::lines::<Wide<f16>>,
        (Math::F32, DType::BF16) => acts::lines::<Wide<bf16>>,
        (Math::Bf16, DType::F32) => terms::lines_of_pairs::<Pairs<f32>>,
        (Math::Bf16, DType::F16) => terms::lines_of_pairs::<Pairs<f16>>,
        (Math::Bf16, DType::BF16) => terms::lines_of_pairs::<Pairs<bf16>>,
        (Math::I8, DType::I8) if tier == Tier::Avx2 => acts::lines::<Shorts>,
        (Math::I8, DType::I8) => acts::lines::<Quads<0x80>>,
        _ => return None,
    })
}

/// Makes lines of bf16 pairs: `[k / 32][rows][32]` of rows that start at bytes of x.
pub(in crate::backend::cpu::matmul) fn lines_of_bf16(x: DType) -> Option<Lines> {
    lines(Tier::Avx512, Math::Bf16, x)
}

/// The layouts: `[panels][steps][columns]`, i8 of AVX-512 with 128 times the sums of the columns
/// after each panel.
pub(super) const TAGS: [(Tier, DType, PackTag); 12] = [
    (
        Tier::Avx512,
        DType::F32,
        PackTag::new("cpu", "dense f32 x 32", 1),
    ),
    (
        Tier::Avx512,
        DType::F16,
        PackTag::new("cpu", "dense f16 x 32", 1),
    ),
    (
        Tier::Avx512,
        DType::BF16,
        PackTag::new("cpu", "dense bf16 pairs x 32", 1),
    ),
    (
        Tier::Avx512,
        DType::I8,
        PackTag::new("cpu", "dense i8 quads x 32", 1),
    ),
    (
        Tier::Amx,
        DType::F32,
        PackTag::new("cpu", "dense f32 x 32", 1),
    ),
    (
        Tier::Amx,
        DType::F16,
        PackTag::new("cpu", "dense f16 x 32", 1),
    ),
    (
        Tier::Amx,
        DType::BF16,
        PackTag::new("cpu", "dense bf16 pairs x 32", 1),
    ),
    (
        Tier::Amx,
        DType::I8,
        PackTag::new("cpu", "dense i8 quads x 32", 1),
    ),
    (
        Tier::Avx2,
        DType::F32,
        PackTag::new("cpu", "dense f32 x 16", 1),
    ),
    (
        Tier::Avx2,
        DType::F16,
        PackTag::new("cpu", "dense f16 x 16", 1),
    ),
    (
        Tier::Avx2,
        DType::BF16,
        PackTag::new("cpu", "dense bf16 pairs x 16", 1),
    ),
    (
        Tier::Avx2,
        DType::I8,
        PackTag::new("cpu", "dense i16 pairs x 16", 1),
    ),
];

/// The instruction sets that packs are made for.
pub(super) fn tier(isa: Isa, w: DType) -> Option<Tier> {
    match w {
        DType::I8 if isa.avx512_vnni => Some(Tier::Avx512),
        DType::F32 | DType::F16 | DType::BF16 if isa.avx512 => Some(Tier::Avx512),
        DType::F32 | DType::F16 | DType::BF16 | DType::I8 if isa.avx2 => Some(Tier::Avx2),
        _ => None,
    }
}

/// Is a kernel slower than one of the same instruction sets that computes in f32?
pub(super) fn is_slow(isa: Isa, tier: Tier, math: Math) -> bool {
    (tier, math) == (Tier::Avx512, Math::Bf16) && !isa.avx512_bf16_pays
}

/// Is what a kernel needs there, and what is it?
pub(super) fn feature(isa: Isa, tier: Tier, math: Math) -> (bool, &'static str) {
    match (tier, math) {
        (Tier::Avx2, _) => (isa.avx2, "AVX2, FMA and F16C"),
        (Tier::Avx512, Math::F32) => (isa.avx512, "AVX-512 F, BW, DQ and VL"),
        (Tier::Avx512, Math::Bf16) => (isa.avx512_bf16, "AVX-512 BF16"),
        (Tier::Avx512, Math::I8) => (isa.avx512_vnni, "AVX-512 VNNI"),
        (Tier::Amx, _) => (isa.amx, "AMX with BF16 and INT8"),
    }
}
