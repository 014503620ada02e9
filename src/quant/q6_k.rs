//! Q6_K: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales (one per 16
//! elements), f16 `d`; element = `d * sc * (q - 32)`.

use super::bits::{f16_at, put_f16};
use super::search::{self, Uniform};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q6_K",
    gguf_id: 14,
    block_len: 256,
    block_bytes: 210,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
fn decode(b: &[u8; 210], out: &mut [f32; 256]) {
    let d = f16_at(b, 208);
    for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(b[192 + k] as i8);
        let (half, group, l) = (k / 8, k % 8 / 2, 16 * (k % 2));
        let ql = &b[64 * half + 32 * (group % 2) + l..][..16];
        let qh = &b[128 + 32 * half + l..][..16];
        let (low, high) = (4 * (group / 2), 2 * group);
        for ((v, q), h) in out.iter_mut().zip(ql).zip(qh) {
            let code = (q >> low & 15) | (h >> high & 3) << 4;
            *v = scale * f32::from(code as i8 - 32);
        }
    }
}

fn encode(x: &[f32; 256], out: &mut [u8; 210]) -> Option<()> {
    let fit = search::symmetric::<Uniform<-32, 31>, 16>(x, -128, 127)?;
    out.fill(0);
    for (i, level) in fit.levels.iter().enumerate() {
        let code = (level + 32.0) as u8;
        let (half, group, l) = (i / 128, i % 128 / 32, i % 32);
        out[64 * half + 32 * (group % 2) + l] |= (code & 15) << (4 * (group / 2));
        out[128 + 32 * half + l] |= (code >> 4) << (2 * group);
    }
    for (byte, scale) in out[192..].iter_mut().zip(fit.scales) {
        *byte = scale as u8;
    }
    put_f16(out, 208, fit.d)
}
