//! Q5_1: f16 `d`, f16 `m`, u32 of fifth bits, 16 bytes of nibbles; element = `d * n + m`.

use super::bits::{f16_at, fifth_bits, inverse, min_max, pack_nibbles, put_f16, u32_at};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q5_1",
    gguf_id: 7,
    block_len: 32,
    block_bytes: 24,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(b, 0), f16_at(b, 2));
    let high = u32_at(b, 4);
    for j in 0..16 {
        let lo = u32::from(b[8 + j] & 15) | (high >> j & 1) << 4;
        let hi = u32::from(b[8 + j] >> 4) | (high >> (j + 16) & 1) << 4;
        out[j] = d * lo as f32 + m;
        out[j + 16] = d * hi as f32 + m;
    }
}

#[inline(always)]
pub(crate) fn encode(x: &[f32; 32], out: &mut [u8; 24]) -> Option<()> {
    let (min, max) = min_max(x);
    let d = (max - min) / 31.0;
    let id = inverse(d);
    let q = x.map(|v| (((v - min) * id + 0.5) as u8).min(31));
    out[4..8].copy_from_slice(&fifth_bits(&q).to_le_bytes());
    pack_nibbles(&q, &mut out[8..]);
    put_f16(out, 0, d)?;
    put_f16(out, 2, min)
}
