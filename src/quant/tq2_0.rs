//! TQ2_0: 64 bytes of 2-bit codes, f16 `d`; element = `d * (q - 1)`.

use super::bits::{abs_max, f16_at, inverse, put_f16};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "TQ2_0",
    gguf_id: 35,
    block_len: 256,
    block_bytes: 66,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(b, 64);
    for (k, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let shift = 2 * (k % 4);
        for (v, q) in out.iter_mut().zip(&b[32 * (k / 4)..]) {
            *v = d * f32::from((q >> shift & 3) as i8 - 1);
        }
    }
}

#[inline(always)]
pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 66]) -> Option<()> {
    let d = abs_max(x);
    let id = inverse(d);
    for (i, byte) in out[..64].iter_mut().enumerate() {
        let first = 128 * (i / 32) + i % 32;
        *byte = (0..4).fold(0, |b, k| {
            let t = (x[first + 32 * k] * id).round().clamp(-1.0, 1.0);
            b | ((t + 1.0) as u8) << (2 * k)
        });
    }
    put_f16(out, 64, d)
}
