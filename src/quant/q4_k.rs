//! Q4_K: f16 `d`, f16 `dmin`, 12 bytes of 6-bit scale and minimum per 32 elements, 128 bytes of
//! nibbles; element = `d * sc * n - dmin * mn`.

use super::bits::{f16_at, put_f16, put_scale_min_k4, scale_min_k4};
use super::search;
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q4_K",
    gguf_id: 12,
    block_len: 256,
    block_bytes: 144,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    for (s, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (sc, mn) = scale_min_k4(&b[4..16], s);
        let scale = d * f32::from(sc);
        let min = dmin * f32::from(mn);
        let qs = &b[16 + 32 * (s / 2)..];
        let shift = 4 * (s % 2);
        for (v, q) in out.iter_mut().zip(qs) {
            *v = scale * f32::from(q >> shift & 15) - min;
        }
    }
}

pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 144]) -> Option<()> {
    let fit = search::affine::<32>(x, 15, 63)?;
    put_scale_min_k4(&fit.scales, &mut out[4..16]);
    for (i, byte) in out[16..].iter_mut().enumerate() {
        let first = 64 * (i / 32) + i % 32;
        *byte = fit.codes[first] | fit.codes[first + 32] << 4;
    }
    put_f16(out, 0, fit.d)?;
    put_f16(out, 2, fit.dmin)
}
