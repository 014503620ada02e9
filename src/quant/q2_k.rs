//! Q2_K: 16 bytes of 4-bit scale and minimum per 16 elements, 64 bytes of 2-bit codes, f16 `d`,
//! f16 `dmin`; element = `d * sc * q - dmin * mn`.

use super::bits::{f16_at, put_f16};
use super::search;
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q2_K",
    gguf_id: 10,
    block_len: 256,
    block_bytes: 84,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 80), f16_at(b, 82));
    for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(b[k] & 15);
        let min = dmin * f32::from(b[k] >> 4);
        let shift = k % 8 / 2 * 2;
        let qs = &b[16 + 32 * (k / 8) + 16 * (k % 2)..];
        for (v, q) in out.iter_mut().zip(qs) {
            *v = scale * f32::from(q >> shift & 3) - min;
        }
    }
}

pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 84]) -> Option<()> {
    let fit = search::affine::<16>(x, 3, 15)?;
    for (byte, (sc, mn)) in out.iter_mut().zip(fit.scales) {
        *byte = sc | mn << 4;
    }
    for (i, byte) in out[16..80].iter_mut().enumerate() {
        let first = 128 * (i / 32) + i % 32;
        *byte = (0..4).fold(0, |b, j| b | fit.codes[first + 32 * j] << (2 * j));
    }
    put_f16(out, 80, fit.d)?;
    put_f16(out, 82, fit.dmin)
}
