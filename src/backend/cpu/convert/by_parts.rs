//! Blocks as codes and then as runs of numbers that share a scale: of the formats' own decoders,
//! compilers make slower code on x86-64.

use crate::{
    backend::cpu::{
        parts::{self, Head, Traits},
        view::Lines,
    },
    quant::{self, QuantFormat, bits::Eights, mxfp4, nvfp4},
};
use std::arch::x86_64::*;

/// Whole blocks; `FAR`: past the caches, to a multiple of 32 bytes. False for the formats whose own
/// decoders are as fast: nothing is done.
///
/// # Safety
/// The CPU has AVX2 and F16C; so for all that follow.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn decode<const FAR: bool>(
    format: QuantFormat,
    bytes: &[u8],
    out: &mut [f32],
) -> bool {
    /// What `$run` makes of each block of `$format`.
    macro_rules! each {
        ($format:ident, |$block:ident, $out:ident| $run:expr) => {{
            const LEN: usize = QuantFormat::$format.block_len();
            const BYTES: usize = QuantFormat::$format.block_bytes();
            let (blocks, _) = bytes.as_chunks::<BYTES>();
            let (outs, _) = out.as_chunks_mut::<LEN>();
            for ($block, $out) in blocks.iter().zip(outs) {
                // SAFETY: the caller's contract is the callee's.
                unsafe { $run }
            }
        }};
    }
    macro_rules! formats {
        (short: [$($short:ident)*] long: [$($long:ident $run:literal)*] eights: [$($eights:ident $module:ident)*] others: [$($other:ident)*]) => {
            match format {
                $(QuantFormat::$short => {
                    let traits = parts::traits(QuantFormat::$short);
                    each!($short, |block, out| {
                        let mut codes = Lines([0; LEN]);
                        let head = parts::read(QuantFormat::$short, block, &mut codes.0);
                        let (scales, mins) = scales::<1>(QuantFormat::$short, &traits, &head);
                        scaled::<FAR>(QuantFormat::$short, &traits, &codes.0, scales[0], mins[0], out);
                    });
                })*
                $(QuantFormat::$long => {
                    let traits = parts::traits(QuantFormat::$long);
                    each!($long, |block, out| {
                        let mut codes = Lines([0; LEN]);
                        let head = parts::read(QuantFormat::$long, block, &mut codes.0);
                        let (scales, mins) = scales::<{ LEN / $run }>(QuantFormat::$long, &traits, &head);
                        runs::<FAR>(QuantFormat::$long, &traits, &codes.0, &scales, &mins, out);
                    });
                })*
                $(QuantFormat::$eights => each!($eights, |block, out| {
                    shifted::<FAR>(&quant::$module::eights(block), out);
                }),)*
                $(QuantFormat::$other)|* => return false,
            }
        };
    }
    formats! {
        short: [Q4_0 Q4_1 Q8_0 IQ4_NL MXFP4]
        long: [
            Q2_K 16 Q3_K 16 Q4_K 32 Q5_K 32 Q6_K 16 IQ4_XS 32 TQ1_0 256 TQ2_0 256 NVFP4 16
        ]
        eights: [
            IQ1_S iq1_s IQ1_M iq1_m IQ2_XXS iq2_xxs IQ2_XS iq2_xs IQ2_S iq2_s
            IQ3_XXS iq3_xxs IQ3_S iq3_s
        ]
        others: [Q5_0 Q5_1 Q8_1 Q8_K Q1_0 Q2_0]
    }
    true
}

/// Runs of eight. Not a part of the caller, of which there are many; so is [`runs`].
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn shifted<const FAR: bool>(e: &Eights, out: &mut [f32; 256]) {
    for k in 0..32 {
        // SAFETY: eight numbers of the block.
        unsafe {
            let codes = _mm_cvtsi64_si128(e.codes[k] as i64);
            let level = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
            let v = _mm256_add_ps(level, _mm256_set1_ps(e.shifts[k]));
            let v = _mm256_mul_ps(v, _mm256_set1_ps(e.scales[k]));
            store::<FAR>(out.as_mut_ptr().add(8 * k), v);
        }
    }
}

#[inline(always)]
unsafe fn store<const FAR: bool>(to: *mut f32, v: __m256) {
    // SAFETY: the caller's.
    unsafe {
        if FAR {
            _mm256_stream_ps(to, v);
        } else {
            _mm256_storeu_ps(to, v);
        }
    }
}

/// f16 by its bits.
#[inline(always)]
unsafe fn half(bits: u16) -> f32 {
    // SAFETY: the CPU has F16C.
    unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits)))) }
}

/// What each of `RUNS` equal runs of a block is scaled with, and what is taken off after that.
#[inline(always)]
unsafe fn scales<const RUNS: usize>(
    format: QuantFormat,
    traits: &Traits,
    head: &Head,
) -> ([f32; RUNS], [f32; RUNS]) {
    use QuantFormat::*;
    // SAFETY: the CPU has F16C.
    let (d, min) = unsafe { (half(head.d as u16), half(head.min)) };
    let mut mins = [0.0; RUNS];
    let mut scales = [d; RUNS];
    match format {
        Q4_0 | Q5_0 | Q8_0 | Q8_1 | IQ4_NL | Q1_0 | Q2_0 => {}
        Q4_1 | Q5_1 => mins = [min; RUNS],
        Q8_K | TQ1_0 | TQ2_0 => scales = [f32::from_bits(head.d); RUNS],
        Q2_K => {
            for i in 0..RUNS {
                scales[i] = d * f32::from(head.scales[i] & 15);
                mins[i] = min * f32::from(head.scales[i] >> 4);
            }
        }
        Q4_K | Q5_K => {
            for i in 0..RUNS {
                scales[i] = d * f32::from(head.scales[i]);
                mins[i] = min * f32::from(head.mins[i]);
            }
        }
        Q3_K | Q6_K | IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | IQ4_XS => {
            let d = d * traits.factor;
            for i in 0..RUNS {
                scales[i] = d * f32::from(head.scales[i] as i8);
            }
        }
        MXFP4 => scales = [mxfp4::half_scale(head.scales[0]); RUNS],
        NVFP4 => {
            for i in 0..RUNS {
                // What is no number is 0 there: 0x7f is what 0xff stands for.
                scales[i] = nvfp4::half_scale(head.scales[i] | 0x80);
            }
        }
    }
    (scales, mins)
}

/// Numbers of runs that each have a scale, one after the other.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn runs<const FAR: bool>(
    format: QuantFormat,
    traits: &Traits,
    codes: &[u8],
    scales: &[f32],
    mins: &[f32],
    out: &mut [f32],
) {
    let run = codes.len() / scales.len();
    let all = codes.chunks_exact(run).zip(out.chunks_exact_mut(run));
    for ((codes, out), (&scale, &min)) in all.zip(scales.iter().zip(mins)) {
        // SAFETY: the caller's contract is the callee's.
        unsafe { scaled::<FAR>(format, traits, codes, scale, min, out) };
    }
}

/// Numbers of a run, of a multiple of 16, behind its codes.
#[inline(always)]
unsafe fn scaled<const FAR: bool>(
    format: QuantFormat,
    traits: &Traits,
    codes: &[u8],
    scale: f32,
    min: f32,
    out: &mut [f32],
) {
    // SAFETY: vectors of 16 codes and of 8 numbers inside the run.
    unsafe {
        let table = _mm_loadu_si128(traits.table.as_ptr().cast());
        let zero = _mm256_set1_ps(f32::from(traits.zero));
        let (scale, min) = (_mm256_set1_ps(scale), _mm256_set1_ps(min));
        for (codes, out) in codes
            .as_chunks::<16>()
            .0
            .iter()
            .zip(out.as_chunks_mut::<16>().0)
        {
            let mut code = _mm_loadu_si128(codes.as_ptr().cast());
            if is_listed(traits) {
                code = _mm_shuffle_epi8(table, code);
            }
            let halves = [code, _mm_unpackhi_epi64(code, code)];
            for (half, code) in halves.into_iter().enumerate() {
                let level = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(code));
                let mut v = _mm256_mul_ps(scale, _mm256_sub_ps(level, zero));
                if has_mins(format) {
                    v = _mm256_sub_ps(v, min);
                }
                store::<FAR>(out.as_mut_ptr().add(8 * half), v);
            }
        }
    }
}

/// Are codes entries of the table?
#[inline(always)]
fn is_listed(traits: &Traits) -> bool {
    traits.table != [0; 16]
}

/// Is something taken off each number of the format?
#[inline(always)]
fn has_mins(format: QuantFormat) -> bool {
    use QuantFormat::*;
    matches!(format, Q4_1 | Q5_1 | Q2_K | Q4_K | Q5_K)
}
