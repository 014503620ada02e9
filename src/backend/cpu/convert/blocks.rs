//! Blocks of quantized formats to f32 and back.

use super::NATIVE;
#[cfg(target_arch = "x86_64")]
use super::by_parts;
use crate::{
    backend::cpu::isa::multiversion,
    quant::{QuantError, QuantFormat, decode_inline},
};

#[inline(always)]
fn decode_body<const FMA: bool>(format: QuantFormat, bytes: &[u8], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if FMA {
        // Arms of their own: only these decoders are compiled for these instruction sets.
        macro_rules! own {
            ($($format:ident)*) => {
                match format {
                    $(QuantFormat::$format => decode_inline(QuantFormat::$format, bytes, out),)*
                    _ => {
                        // SAFETY: this is compiled for AVX2 and F16C.
                        let done = unsafe { by_parts::decode::<false>(format, bytes, out) };
                        debug_assert!(done, "{format} has its decoder there");
                    }
                }
            };
        }
        own!(Q5_0 Q5_1 Q8_1 Q8_K Q1_0 Q2_0);
        return;
    }
    decode_inline(format, bytes, out);
}
multiversion! {
    /// As [`decode`], compiled for the instruction sets of `isa`.
    fn decode_for = decode_body(format: QuantFormat, bytes: &[u8], out: &mut [f32])
}

/// Whole blocks to f32. The products are rounded one by one, so that every instruction set gives
/// the same bits.
#[inline]
pub(crate) fn decode(format: QuantFormat, bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(
        bytes.len() / format.block_bytes() * format.block_len(),
        out.len()
    );
    decode_for(*NATIVE, format, bytes, out);
}

/// As [`decode`], past the caches where the processor and the place of `out` allow it.
pub(crate) fn decode_far(format: QuantFormat, bytes: &[u8], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if NATIVE.avx2 && out.as_ptr().addr().is_multiple_of(32) {
        // SAFETY: the flag says that this machine has these instruction sets.
        let done = unsafe { by_parts::decode::<true>(format, bytes, out) };
        if done {
            return;
        }
    }
    decode(format, bytes, out);
}

#[inline(always)]
fn encode_body<const FMA: bool>(
    format: QuantFormat,
    x: &[f32],
    out: &mut [u8],
) -> Result<(), usize> {
    crate::quant::encode_inline(format, x, out)
}
multiversion! {
    /// Whole blocks of finite numbers, compiled for the instruction sets of `isa`.
    fn encode_for = encode_body(format: QuantFormat, x: &[f32], out: &mut [u8]) -> Result<(), usize>
}

/// [`QuantFormat::encode`], with the same bytes on every instruction set.
pub(crate) fn encode(format: QuantFormat, x: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    let run = |x: &[f32], out: &mut [u8]| encode_for(*NATIVE, format, x, out);
    format.encode_by(x, out, format.can_encode().then_some(run))
}

#[cfg(test)]
mod tests {
    use super::super::stream_end;
    use super::*;
    use crate::backend::cpu::isa::Level;

    #[test]
    fn every_instruction_set_decodes_to_the_bits_of_the_formats() {
        let mut seed = 1u32;
        for &format in QuantFormat::ALL {
            let blocks = 37;
            let bytes: Vec<u8> = (0..blocks * format.block_bytes())
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            let mut want = vec![0.0; blocks * format.block_len()];
            format.decode(&bytes, &mut want).unwrap();
            let same = |got: &[f32]| {
                let mut pairs = got.iter().zip(&want);
                pairs.all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
            };
            let mut got = vec![0.0; want.len()];
            for level in [Level::Portable, Level::Avx2, Level::Avx512] {
                got.fill(1.0);
                decode_for(NATIVE.masked(level), format, &bytes, &mut got);
                assert!(same(&got), "{} at {level:?}", format.name());
            }
            got.fill(1.0);
            decode(format, &bytes, &mut got);
            assert!(same(&got), "{}", format.name());
            // To a cache line, and beside one.
            let mut room = vec![1.0f32; want.len() + 17];
            let line = room.as_ptr().align_offset(64);
            for start in [line, line + 1] {
                let got = &mut room[start..][..want.len()];
                decode_far(format, &bytes, got);
                stream_end();
                assert!(same(got), "{} from {start} on", format.name());
            }
        }
    }

    #[test]
    fn every_instruction_set_encodes_to_the_same_bytes() {
        let mut seed = 7u32;
        for &format in QuantFormat::ALL {
            // Those that search take their time, and are not compiled anew.
            let blocks = 3;
            let x: Vec<f32> = (0..blocks * format.block_len())
                .map(|i| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Zeros, ties and a block of zeros among them.
                    let v = (seed >> 20) as f32 / 256.0 - 8.0;
                    if i / format.block_len() == 1 { 0.0 } else { v }
                })
                .collect();
            let mut want = vec![0; blocks * format.block_bytes()];
            format.encode(&x, &mut want).unwrap();
            for level in [Level::Portable, Level::Avx2, Level::Avx512] {
                let mut got = vec![0xaa; want.len()];
                encode_for(NATIVE.masked(level), format, &x, &mut got).unwrap();
                assert_eq!(got, want, "{} at {level:?}", format.name());
            }
            let mut bad = x.clone();
            bad[format.block_len() + 1] = f32::NAN;
            assert_eq!(
                encode(format, &bad, &mut want),
                format.encode(&bad, &mut vec![0; want.len()]),
            );
        }
    }
}
