//! Q4_1: f16 `d`, f16 `m`, 16 bytes of nibbles; element = `d * n + m`.

use super::bits::{f16_at, inverse, min_max, pack_nibbles, put_f16};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q4_1",
    gguf_id: 3,
    block_len: 32,
    block_bytes: 20,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(b, 0), f16_at(b, 2));
    for j in 0..16 {
        out[j] = d * f32::from(b[4 + j] & 15) + m;
        out[j + 16] = d * f32::from(b[4 + j] >> 4) + m;
    }
}

#[inline(always)]
pub(crate) fn encode(x: &[f32; 32], out: &mut [u8; 20]) -> Option<()> {
    let (min, max) = min_max(x);
    let d = (max - min) / 15.0;
    let id = inverse(d);
    let q = x.map(|v| (((v - min) * id + 0.5) as u8).min(15));
    pack_nibbles(&q, &mut out[4..]);
    put_f16(out, 0, d)?;
    put_f16(out, 2, min)
}
