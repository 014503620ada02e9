//! Q5_0: f16 `d`, u32 of fifth bits, 16 bytes of nibbles; element = `d * (n - 16)`.

use super::bits::{f16_at, fifth_bits, inverse, max_by_abs, pack_nibbles, put_f16, u32_at};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q5_0",
    gguf_id: 6,
    block_len: 32,
    block_bytes: 22,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    let high = u32_at(b, 2);
    for j in 0..16 {
        let lo = u32::from(b[6 + j] & 15) | (high >> j & 1) << 4;
        let hi = u32::from(b[6 + j] >> 4) | (high >> (j + 16) & 1) << 4;
        out[j] = d * (lo as i32 - 16) as f32;
        out[j + 16] = d * (hi as i32 - 16) as f32;
    }
}

#[inline(always)]
pub(crate) fn encode(x: &[f32; 32], out: &mut [u8; 22]) -> Option<()> {
    // The element of largest magnitude gets code 0, the only one with magnitude 16.
    let d = max_by_abs(x) / -16.0;
    let id = inverse(d);
    let q = x.map(|v| ((v * id + 16.5) as u8).min(31));
    out[2..6].copy_from_slice(&fifth_bits(&q).to_le_bytes());
    pack_nibbles(&q, &mut out[6..]);
    put_f16(out, 0, d)
}
