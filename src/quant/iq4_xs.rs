//! IQ4_XS: f16 `d`, 8 6-bit scales (u16 of high pairs, 4 bytes of low nibbles), 128 bytes of
//! nibbles; element = `d * (sc - 32) * VALUES[n]` with the table of IQ4_NL.

use super::bits::{f16_at, pack_nibbles, put_f16, u16_at};
use super::iq4_nl::{Table, VALUES, code};
use super::search;
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ4_XS",
    gguf_id: 23,
    block_len: 256,
    block_bytes: 136,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 136], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    let high = u16_at(b, 2);
    for (k, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = b[4 + k / 2] >> (4 * (k % 2)) & 15;
        let sc = low | ((high >> (2 * k) & 3) as u8) << 4;
        let scale = d * f32::from(sc as i8 - 32);
        for (j, &q) in b[8 + 16 * k..][..16].iter().enumerate() {
            out[j] = scale * f32::from(VALUES[usize::from(q & 15)]);
            out[j + 16] = scale * f32::from(VALUES[usize::from(q >> 4)]);
        }
    }
}

pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 136]) -> Option<()> {
    let fit = search::symmetric::<Table, 32>(x, -32, 31)?;
    out.fill(0);
    let mut high = 0u16;
    for (k, levels) in fit.levels.as_chunks::<32>().0.iter().enumerate() {
        let sc = (fit.scales[k] + 32) as u8;
        out[4 + k / 2] |= (sc & 15) << (4 * (k % 2));
        high |= u16::from(sc >> 4) << (2 * k);
        pack_nibbles(&levels.map(code), &mut out[8 + 16 * k..]);
    }
    out[2..4].copy_from_slice(&high.to_le_bytes());
    put_f16(out, 0, fit.d)
}
