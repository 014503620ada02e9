//! GGUF blocks as unsigned codes and scales in AVX2 registers: one decoder per format, for the
//! tile kernels of both instruction sets.

use crate::{
    backend::cpu::convert,
    quant::{QuantFormat, bits::scale_min_k4},
};
use std::arch::x86_64::*;

/// A format whose element is `scale * (code - zero)` or `scale * code + min`, with one scale per
/// 32 codes or per 16.
///
/// # Safety
/// `block` points to a whole block; the CPU has AVX2, FMA and F16C.
pub(super) trait Codes: 'static {
    const FORMAT: QuantFormat;
    /// Scales per 32 codes: 1 or 2.
    const SUBS: usize = 1;
    /// log2 of the zero point; `None` where each scale has a minimum instead.
    const ZERO_LOG2: Option<u32>;
    /// True when the codes are signed bytes around 0 and become unsigned by flipping the top bit.
    const SIGNED: bool = false;

    /// Codes `32 i..32 i + 32` of the block in order.
    unsafe fn codes(block: *const u8, i: usize) -> __m256i;
    /// All scales of the block, and as many minima where the format has them.
    unsafe fn scales(block: *const u8, scale: *mut f32, min: *mut f32);
}

/// The f16 at `p`.
#[inline(always)]
pub(super) unsafe fn half_at(p: *const u8) -> f32 {
    // SAFETY: the caller promises two readable bytes and F16C.
    unsafe {
        let bits = i32::from(p.cast::<u16>().read_unaligned());
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))
    }
}

/// 16 bytes at `p` as 32 nibbles: low ones first.
#[inline(always)]
unsafe fn nibbles(p: *const u8) -> __m256i {
    // SAFETY: the caller promises 16 readable bytes and AVX2.
    unsafe {
        let b = _mm_loadu_si128(p.cast());
        let both = _mm256_set_m128i(_mm_srli_epi16::<4>(b), b);
        _mm256_and_si256(both, _mm256_set1_epi8(15))
    }
}

/// Bit `i` of the word at `p` as 16 in byte `i`.
#[inline(always)]
unsafe fn fifth(p: *const u8) -> __m256i {
    // SAFETY: the caller promises four readable bytes and AVX2.
    unsafe {
        let word = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
        let byte = _mm256_set_epi64x(
            0x0303_0303_0303_0303,
            0x0202_0202_0202_0202,
            0x0101_0101_0101_0101,
            0,
        );
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let hit = _mm256_and_si256(_mm256_shuffle_epi8(word, byte), bit);
        _mm256_and_si256(_mm256_cmpeq_epi8(hit, bit), _mm256_set1_epi8(16))
    }
}

pub(super) struct Q4_0;
impl Codes for Q4_0 {
    const FORMAT: QuantFormat = QuantFormat::Q4_0;
    const ZERO_LOG2: Option<u32> = Some(3);
    #[inline(always)]
    unsafe fn codes(block: *const u8, _: usize) -> __m256i {
        // SAFETY: a block has 18 bytes.
        unsafe { nibbles(block.add(2)) }
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, scale: *mut f32, _: *mut f32) {
        // SAFETY: as above; one scale is asked for.
        unsafe { *scale = half_at(block) }
    }
}

pub(super) struct Q4_1;
impl Codes for Q4_1 {
    const FORMAT: QuantFormat = QuantFormat::Q4_1;
    const ZERO_LOG2: Option<u32> = None;
    #[inline(always)]
    unsafe fn codes(block: *const u8, _: usize) -> __m256i {
        // SAFETY: a block has 20 bytes.
        unsafe { nibbles(block.add(4)) }
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, scale: *mut f32, min: *mut f32) {
        // SAFETY: as above; one scale and one minimum are asked for.
        unsafe {
            *scale = half_at(block);
            *min = half_at(block.add(2));
        }
    }
}

pub(super) struct Q5_0;
impl Codes for Q5_0 {
    const FORMAT: QuantFormat = QuantFormat::Q5_0;
    const ZERO_LOG2: Option<u32> = Some(4);
    #[inline(always)]
    unsafe fn codes(block: *const u8, _: usize) -> __m256i {
        // SAFETY: a block has 22 bytes.
        unsafe { _mm256_or_si256(nibbles(block.add(6)), fifth(block.add(2))) }
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, scale: *mut f32, _: *mut f32) {
        // SAFETY: as above; one scale is asked for.
        unsafe { *scale = half_at(block) }
    }
}

pub(super) struct Q8_0;
impl Codes for Q8_0 {
    const FORMAT: QuantFormat = QuantFormat::Q8_0;
    const ZERO_LOG2: Option<u32> = Some(7);
    const SIGNED: bool = true;
    #[inline(always)]
    unsafe fn codes(block: *const u8, _: usize) -> __m256i {
        // SAFETY: a block has 34 bytes.
        unsafe { _mm256_loadu_si256(block.add(2).cast()) }
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, scale: *mut f32, _: *mut f32) {
        // SAFETY: as above; one scale is asked for.
        unsafe { *scale = half_at(block) }
    }
}

pub(super) struct Q4K;
impl Codes for Q4K {
    const FORMAT: QuantFormat = QuantFormat::Q4_K;
    const ZERO_LOG2: Option<u32> = None;
    #[inline(always)]
    unsafe fn codes(block: *const u8, i: usize) -> __m256i {
        // SAFETY: a block has 144 bytes, 128 of them codes; i < 8.
        unsafe {
            let b = _mm256_loadu_si256(block.add(16 + 32 * (i / 2)).cast());
            let shift = _mm_cvtsi32_si128(4 * (i as i32 % 2));
            _mm256_and_si256(_mm256_srl_epi16(b, shift), _mm256_set1_epi8(15))
        }
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, scale: *mut f32, min: *mut f32) {
        // SAFETY: as above; 8 scales and minima are asked for.
        unsafe {
            let (d, dmin) = (half_at(block), half_at(block.add(2)));
            let packed = std::slice::from_raw_parts(block.add(4), 12);
            for j in 0..8 {
                let (sc, mn) = scale_min_k4(packed, j);
                *scale.add(j) = d * f32::from(sc);
                *min.add(j) = -dmin * f32::from(mn);
            }
        }
    }
}

pub(super) struct Q6K;
impl Codes for Q6K {
    const FORMAT: QuantFormat = QuantFormat::Q6_K;
    const SUBS: usize = 2;
    const ZERO_LOG2: Option<u32> = Some(5);
    #[inline(always)]
    unsafe fn codes(block: *const u8, i: usize) -> __m256i {
        // SAFETY: a block has 210 bytes, 128 of low and 64 of high bits; i < 8.
        unsafe {
            let (half, group) = (i / 4, i % 4);
            let lo = _mm256_loadu_si256(block.add(64 * half + 32 * (group % 2)).cast());
            let hi = _mm256_loadu_si256(block.add(128 + 32 * half).cast());
            let lo = _mm256_srl_epi16(lo, _mm_cvtsi32_si128(4 * (group as i32 / 2)));
            let hi = _mm256_srl_epi16(hi, _mm_cvtsi32_si128(2 * group as i32));
            let hi = _mm256_slli_epi16::<4>(_mm256_and_si256(hi, _mm256_set1_epi8(3)));
            _mm256_or_si256(_mm256_and_si256(lo, _mm256_set1_epi8(15)), hi)
        }
    }
    #[inline(always)]
    unsafe fn scales(block: *const u8, scale: *mut f32, _: *mut f32) {
        // SAFETY: as above; 16 scales are asked for.
        unsafe {
            let d = half_at(block.add(208));
            for j in 0..16 {
                *scale.add(j) = d * f32::from(*block.add(192 + j).cast::<i8>());
            }
        }
    }
}

/// Runs `$run!(Format)` for the format's [`Codes`], or `$other`.
macro_rules! with_codes {
    ($format:expr, $run:ident, $other:expr) => {{
        use crate::backend::cpu::matmul::simd::codes;
        match $format {
            crate::quant::QuantFormat::Q4_0 => $run!(codes::Q4_0),
            crate::quant::QuantFormat::Q4_1 => $run!(codes::Q4_1),
            crate::quant::QuantFormat::Q5_0 => $run!(codes::Q5_0),
            crate::quant::QuantFormat::Q8_0 => $run!(codes::Q8_0),
            crate::quant::QuantFormat::Q4_K => $run!(codes::Q4K),
            crate::quant::QuantFormat::Q6_K => $run!(codes::Q6K),
            _ => $other,
        }
    }};
}
pub(super) use with_codes;

/// Is there a [`Codes`] of this format?
pub(super) fn has(format: QuantFormat) -> bool {
    macro_rules! same {
        ($f:ty) => {
            <$f>::FORMAT == format
        };
    }
    with_codes!(format, same, false)
}

/// Decodes `len` elements, whole blocks, of one row to f32.
///
/// # Safety
/// `w` and `out` hold that many; the CPU has AVX2, FMA and F16C.
#[inline(always)]
unsafe fn decode_row<F: Codes>(w: *const u8, len: usize, out: *mut f32) {
    let (block_len, block_bytes) = (F::FORMAT.block_len(), F::FORMAT.block_bytes());
    let zero = match F::ZERO_LOG2 {
        Some(log2) if !F::SIGNED => -((1u32 << log2) as f32),
        _ => 0.0,
    };
    let (mut scale, mut min) = ([0f32; 16], [0f32; 16]);
    // SAFETY: the caller promises whole blocks at w and room at out.
    unsafe {
        for b in 0..len / block_len {
            let block = w.add(b * block_bytes);
            F::scales(block, scale.as_mut_ptr(), min.as_mut_ptr());
            for i in 0..block_len / 32 {
                let codes = F::codes(block, i);
                let halves = [
                    _mm256_castsi256_si128(codes),
                    _mm256_extracti128_si256::<1>(codes),
                ];
                for h in 0..2 {
                    let at = if F::SUBS == 2 { 2 * i + h } else { i };
                    let s = _mm256_set1_ps(scale[at & 15]);
                    let m = if F::ZERO_LOG2.is_some() {
                        zero * scale[at & 15]
                    } else {
                        min[at & 15]
                    };
                    let m = _mm256_set1_ps(m);
                    let quads = [halves[h], _mm_srli_si128::<8>(halves[h])];
                    for q in 0..2 {
                        let wide = if F::SIGNED {
                            _mm256_cvtepi8_epi32(quads[q])
                        } else {
                            _mm256_cvtepu8_epi32(quads[q])
                        };
                        let v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(wide), s, m);
                        _mm256_storeu_ps(out.add(b * block_len + 32 * i + 16 * h + 8 * q), v);
                    }
                }
            }
        }
    }
}

/// Decodes `len` elements, whole blocks of any format, of one row to f32.
///
/// # Safety
/// `w` and `out` hold that many.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn decode(format: QuantFormat, w: *const u8, len: usize, out: *mut f32) {
    macro_rules! run {
        ($f:ty) => {
            decode_row::<$f>(w, len, out)
        };
    }
    // SAFETY: the caller promises whole blocks at w and room at out.
    unsafe {
        with_codes!(format, run, {
            let bytes = len / format.block_len() * format.block_bytes();
            let bytes = std::slice::from_raw_parts(w, bytes);
            convert::decode(format, bytes, std::slice::from_raw_parts_mut(out, len));
        });
    }
}
