//! Q5_K: f16 `d`, f16 `dmin`, 12 bytes of 6-bit scale and minimum per 32 elements, 32 bytes of
//! fifth bits, 128 bytes of nibbles; element = `d * sc * n - dmin * mn`.

use super::bits::{f16_at, put_f16, put_scale_min_k4, scale_min_k4};
use super::search;
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q5_K",
    gguf_id: 13,
    block_len: 256,
    block_bytes: 176,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    for (s, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (sc, mn) = scale_min_k4(&b[4..16], s);
        let scale = d * f32::from(sc);
        let min = dmin * f32::from(mn);
        let qs = &b[48 + 32 * (s / 2)..];
        let shift = 4 * (s % 2);
        for ((v, q), h) in out.iter_mut().zip(qs).zip(&b[16..48]) {
            let code = (q >> shift & 15) | (h >> s & 1) << 4;
            *v = scale * f32::from(code) - min;
        }
    }
}

pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 176]) -> Option<()> {
    let fit = search::affine::<32>(x, 31, 63)?;
    put_scale_min_k4(&fit.scales, &mut out[4..16]);
    for l in 0..32 {
        out[16 + l] = (0..8).fold(0, |h, s| h | (fit.codes[32 * s + l] >> 4) << s);
    }
    for (i, byte) in out[48..].iter_mut().enumerate() {
        let first = 64 * (i / 32) + i % 32;
        *byte = fit.codes[first] & 15 | fit.codes[first + 32] << 4;
    }
    put_f16(out, 0, fit.d)?;
    put_f16(out, 2, fit.dmin)
}
