//! NVFP4: 4 unsigned E4M3 scales, one per 16 elements, 32 bytes of nibbles;
//! element = `scale * E2M1[n]`. A per-tensor scale, where a model has one, is a tensor of its own.

use super::bits::abs_max;
use super::mxfp4::{DOUBLED, nearest};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "NVFP4",
    gguf_id: 40,
    block_len: 64,
    block_bytes: 36,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

/// Half the value of an unsigned E4M3 code, the scale for [`DOUBLED`]. The sign bit is ignored;
/// 0x7F (NaN in E4M3) is 0, as in ggml.
#[inline(always)]
pub(crate) fn half_scale(code: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(code >> 3 & 15), u32::from(code & 7));
    if code == 0x7F {
        0.0
    } else if exponent == 0 {
        mantissa as f32 * (1.0 / 1024.0)
    } else {
        f32::from_bits((exponent + 119) << 23 | mantissa << 20)
    }
}

#[inline(always)]
pub(crate) fn decode(b: &[u8; 36], out: &mut [f32; 64]) {
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let d = half_scale(b[g]);
        for (j, &q) in b[4 + 8 * g..][..8].iter().enumerate() {
            out[j] = d * f32::from(DOUBLED[usize::from(q & 15)]);
            out[j + 8] = d * f32::from(DOUBLED[usize::from(q >> 4)]);
        }
    }
}

/// Largest scale code; 0x7F is no number.
const TOP_SCALE: u8 = 0x7E;

pub(crate) fn encode(x: &[f32; 64], out: &mut [u8; 36]) -> Option<()> {
    for (g, x) in x.as_chunks::<16>().0.iter().enumerate() {
        let max = abs_max(x);
        if max > 12.0 * half_scale(TOP_SCALE) {
            return None;
        }
        // The first scale under which nothing is clipped; a few smaller ones may round better.
        let first = (0..TOP_SCALE).find(|&c| 12.0 * half_scale(c) >= max);
        let first = first.unwrap_or(TOP_SCALE);
        let mut best = (f32::INFINITY, 0);
        for code in (first.saturating_sub(4)..=first + 4).take_while(|c| *c <= TOP_SCALE) {
            let d = half_scale(code);
            let error = x.iter().fold(0.0, |sum, &v| {
                let e = v - d * f32::from(DOUBLED[usize::from(nearest(d, v))]);
                sum + e * e
            });
            if error < best.0 {
                best = (error, code);
            }
        }
        out[g] = best.1;
        let d = half_scale(best.1);
        for (j, byte) in out[4 + 8 * g..][..8].iter_mut().enumerate() {
            *byte = nearest(d, x[j]) | nearest(d, x[j + 8]) << 4;
        }
    }
    Some(())
}
