//! Q1_0: f16 `d`, 128 sign bits; element = `d` for a set bit, `-d` for a clear one.

use super::bits::{f16_at, put_f16};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q1_0",
    gguf_id: 41,
    block_len: 128,
    block_bytes: 18,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 18], out: &mut [f32; 128]) {
    let d = f16_at(b, 0);
    for (byte, out) in b[2..].iter().zip(out.as_chunks_mut::<8>().0) {
        for (j, v) in out.iter_mut().enumerate() {
            *v = if byte >> j & 1 == 1 { d } else { -d };
        }
    }
}

#[inline(always)]
pub(crate) fn encode(x: &[f32; 128], out: &mut [u8; 18]) -> Option<()> {
    let d = x.iter().fold(0.0, |sum, v| sum + v.abs()) / 128.0;
    for (byte, x) in out[2..].iter_mut().zip(x.as_chunks::<8>().0) {
        *byte = (0..8).fold(0, |b, j| b | u8::from(x[j] >= 0.0) << j);
    }
    put_f16(out, 0, d)
}
