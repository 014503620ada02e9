//! MXFP4: E8M0 scale byte, 16 bytes of nibbles; element = `2^(e - 127) * E2M1[n]`.
//!
//! Unlike in OCP MX files, elements `i` and `i + 16` share a byte. Scale 255 is 2^128, as in ggml,
//! where OCP has NaN.

use super::bits::{abs_max, pack_nibbles};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "MXFP4",
    gguf_id: 39,
    block_len: 32,
    block_bytes: 17,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

/// Twice the E2M1 values, to be integers. Code 8 decodes to +0.
pub(crate) const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `2^(e - 128)`, the scale for [`DOUBLED`]; subnormal for `e` of 0 and 1.
#[inline(always)]
pub(crate) fn half_scale(e: u8) -> f32 {
    f32::from_bits(match e {
        0 => 0x0020_0000,
        1 => 0x0040_0000,
        _ => (u32::from(e) - 1) << 23,
    })
}

#[inline(always)]
pub(crate) fn decode(b: &[u8; 17], out: &mut [f32; 32]) {
    let d = half_scale(b[0]);
    for j in 0..16 {
        out[j] = d * f32::from(DOUBLED[usize::from(b[1 + j] & 15)]);
        out[j + 16] = d * f32::from(DOUBLED[usize::from(b[1 + j] >> 4)]);
    }
}

#[inline(always)]
pub(crate) fn encode(x: &[f32; 32], out: &mut [u8; 17]) -> Option<()> {
    // floor(log2(max)) is the exponent field; 2 is the largest exponent of E2M1.
    let exponent = (abs_max(x).to_bits() >> 23) as u8;
    let e = exponent.saturating_sub(2);
    let d = half_scale(e);
    let q = x.map(|v| nearest(d, v));
    pack_nibbles(&q, &mut out[1..]);
    out[0] = e;
    Some(())
}

/// The code whose value is nearest to `v`, the lowest of several.
pub(crate) fn nearest(half_scale: f32, v: f32) -> u8 {
    let mut best = (f32::INFINITY, 0);
    for (code, &k) in DOUBLED.iter().enumerate() {
        let err = (half_scale * f32::from(k) - v).abs();
        if err < best.0 {
            best = (err, code as u8);
        }
    }
    best.1
}
