//! NVFP4: 4 unsigned E4M3 scales, one per 16 elements, 32 bytes of nibbles;
//! element = `scale * E2M1[n]`. A per-tensor scale, where a model has one, is a tensor of its own.

use super::mxfp4::DOUBLED;
use super::{Format, decode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "NVFP4",
    gguf_id: 40,
    block_len: 64,
    block_bytes: 36,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: None,
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
fn decode(b: &[u8; 36], out: &mut [f32; 64]) {
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let d = half_scale(b[g]);
        for (j, &q) in b[4 + 8 * g..][..8].iter().enumerate() {
            out[j] = d * f32::from(DOUBLED[usize::from(q & 15)]);
            out[j + 8] = d * f32::from(DOUBLED[usize::from(q >> 4)]);
        }
    }
}
