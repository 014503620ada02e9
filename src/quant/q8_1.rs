//! Q8_1: f16 `d`, f16 `s = d * sum(q)`, 32 signed bytes; element = `d * q`.

use super::bits::{abs_max, f16_at, inverse, put_f16};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q8_1",
    gguf_id: 9,
    block_len: 32,
    block_bytes: 36,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 36], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for (v, &q) in out.iter_mut().zip(&b[4..]) {
        *v = d * f32::from(q as i8);
    }
}

#[inline(always)]
pub(crate) fn encode(x: &[f32; 32], out: &mut [u8; 36]) -> Option<()> {
    let d = abs_max(x) / 127.0;
    let id = inverse(d);
    let mut sum = 0i32;
    for (b, v) in out[4..].iter_mut().zip(x) {
        let q = (v * id).round() as i8;
        sum += i32::from(q);
        *b = q as u8;
    }
    put_f16(out, 0, d)?;
    // The sum takes the scale before its rounding to f16, as ggml does.
    put_f16(out, 2, d * sum as f32)
}
