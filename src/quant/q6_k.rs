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
pub(crate) fn decode(b: &[u8; 210], out: &mut [f32; 256]) {
    let d = f16_at(b, 208);
    let mut codes = [0i8; 256];
    for (half, codes) in codes.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let (low, high) = (&b[64 * half..][..64], &b[128 + 32 * half..][..32]);
        for l in 0..32 {
            let h = high[l];
            codes[l] = (low[l] & 15 | (h & 3) << 4) as i8 - 32;
            codes[l + 32] = (low[l + 32] & 15 | (h >> 2 & 3) << 4) as i8 - 32;
            codes[l + 64] = (low[l] >> 4 | (h >> 4 & 3) << 4) as i8 - 32;
            codes[l + 96] = (low[l + 32] >> 4 | (h >> 6) << 4) as i8 - 32;
        }
    }
    let groups = codes.as_chunks::<16>().0;
    for ((out, codes), sc) in out.as_chunks_mut::<16>().0.iter_mut().zip(groups).zip(&b[192..208]) {
        let scale = d * f32::from(*sc as i8);
        for (v, code) in out.iter_mut().zip(codes) {
            *v = scale * f32::from(*code);
        }
    }
}

pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 210]) -> Option<()> {
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
