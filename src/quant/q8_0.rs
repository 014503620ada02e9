//! Q8_0: f16 `d`, 32 signed bytes; element = `d * q`.

use super::bits::{abs_max, f16_at, inverse, put_f16};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q8_0",
    gguf_id: 8,
    block_len: 32,
    block_bytes: 34,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for (v, &q) in out.iter_mut().zip(&b[2..]) {
        *v = d * f32::from(q as i8);
    }
}

#[inline(always)]
pub(crate) fn encode(x: &[f32; 32], out: &mut [u8; 34]) -> Option<()> {
    let d = abs_max(x) / 127.0;
    let id = inverse(d);
    for (q, v) in out[2..].iter_mut().zip(x) {
        *q = (v * id).round() as i8 as u8;
    }
    put_f16(out, 0, d)
}
