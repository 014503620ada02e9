//! Q4_0: f16 `d`, 16 bytes of nibbles; element = `d * (n - 8)`.

use super::bits::{f16_at, inverse, max_by_abs, pack_nibbles, put_f16};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q4_0",
    gguf_id: 2,
    block_len: 32,
    block_bytes: 18,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for j in 0..16 {
        out[j] = d * f32::from((b[2 + j] & 15) as i8 - 8);
        out[j + 16] = d * f32::from((b[2 + j] >> 4) as i8 - 8);
    }
}

#[inline(always)]
pub(crate) fn encode(x: &[f32; 32], out: &mut [u8; 18]) -> Option<()> {
    // The element of largest magnitude gets code 0, the only one with magnitude 8.
    let d = max_by_abs(x) / -8.0;
    let id = inverse(d);
    let q = x.map(|v| ((v * id + 8.5) as u8).min(15));
    pack_nibbles(&q, &mut out[2..]);
    put_f16(out, 0, d)
}
