//! Q3_K: 32 bytes of third bits, 64 bytes of 2-bit codes, 12 bytes of 6-bit scales per 16
//! elements, f16 `d`; element = `d * (sc - 32) * (q - 4)`.

use super::bits::{f16_at, put_f16};
use super::search::{self, Uniform};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q3_K",
    gguf_id: 11,
    block_len: 256,
    block_bytes: 110,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_at(b, 108);
    for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = b[96 + k % 8] >> (4 * (k / 8)) & 15;
        let high = b[104 + k % 4] >> (2 * (k / 4)) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        let shift = k % 8 / 2 * 2;
        let qs = &b[32 + 32 * (k / 8) + 16 * (k % 2)..][..16];
        let hmask = &b[16 * (k % 2)..][..16];
        for ((v, q), h) in out.iter_mut().zip(qs).zip(hmask) {
            let code = (q >> shift & 3) | (h >> (k / 2) & 1) << 2;
            *v = scale * f32::from(code as i8 - 4);
        }
    }
}

pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 110]) -> Option<()> {
    let fit = search::symmetric::<Uniform<-4, 3>, 16>(x, -32, 31)?;
    out.fill(0);
    for (i, level) in fit.levels.iter().enumerate() {
        let code = (level + 4.0) as u8;
        let (half, group, l) = (i / 128, i % 128 / 32, i % 32);
        out[l] |= (code >> 2) << (4 * half + group);
        out[32 + 32 * half + l] |= (code & 3) << (2 * group);
    }
    for (k, scale) in fit.scales.iter().enumerate() {
        let sc = (scale + 32) as u8;
        out[96 + k % 8] |= (sc & 15) << (4 * (k / 8));
        out[104 + k % 4] |= (sc >> 4) << (2 * (k / 4));
    }
    put_f16(out, 108, fit.d)
}
