//! Q2_0: f16 `d`, 16 bytes of four consecutive 2-bit codes; element = `d * (q - 1)`.

use super::bits::{abs_max, f16_at, inverse, put_f16};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q2_0",
    gguf_id: 42,
    block_len: 64,
    block_bytes: 18,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 18], out: &mut [f32; 64]) {
    let d = f16_at(b, 0);
    for (byte, out) in b[2..].iter().zip(out.as_chunks_mut::<4>().0) {
        for (j, v) in out.iter_mut().enumerate() {
            *v = d * f32::from((byte >> (2 * j) & 3) as i8 - 1);
        }
    }
}

#[inline(always)]
pub(crate) fn encode(x: &[f32; 64], out: &mut [u8; 18]) -> Option<()> {
    let d = abs_max(x);
    let id = inverse(d);
    for (byte, x) in out[2..].iter_mut().zip(x.as_chunks::<4>().0) {
        *byte = (0..4).fold(0, |b, j| {
            let t = (x[j] * id).round().clamp(-1.0, 2.0);
            b | ((t + 1.0) as u8) << (2 * j)
        });
    }
    put_f16(out, 0, d)
}
