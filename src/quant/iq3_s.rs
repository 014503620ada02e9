//! IQ3_S: f16 `d`, 64 low index bytes, 8 bytes of ninth index bits, 32 sign bytes, 4 bytes of
//! 4-bit scales per 32 elements; element = `d * (1 + 2 sc) * +-grid`.

use super::bits::{f16_at, join, put_f16, Eights, with_signs};
use super::codebook::{Codebook, Signs};
use super::grids::iq3_s::GRID;
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ3_S",
    gguf_id: 21,
    block_len: 256,
    block_bytes: 110,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 110], out: &mut [f32; 256]) {
    eights(b).decode(out);
}

#[inline(always)]
pub(crate) fn eights(b: &[u8; 110]) -> Eights {
    let d = f16_at(b, 0);
    let mut e = Eights::EMPTY;
    for k in 0..32 {
        let sc = b[106 + k / 8] >> (4 * (k / 4 % 2)) & 15;
        let high = b[66 + k / 4] >> (2 * (k % 4));
        let lo = GRID[usize::from(b[2 + 2 * k]) | usize::from(high & 1) << 8];
        let hi = GRID[usize::from(b[3 + 2 * k]) | usize::from(high >> 1 & 1) << 8];
        e.scales[k] = d * f32::from(1 + 2 * sc);
        e.codes[k] = with_signs(join(lo, hi), b[74 + k]);
    }
    e
}

const CODEBOOK: Codebook<4> = Codebook {
    point: |i| GRID[i].map(f32::from),
    points: GRID.len(),
    bank: GRID.len(),
    group: 32,
    scales: 16,
    factor: |sc| f32::from(1 + 2 * sc),
    signs: Signs::Bytes,
};


pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 110]) -> Option<()> {
    let fit = CODEBOOK.fit(x)?;
    out[66..74].fill(0);
    for (k, p) in fit.points.iter().enumerate() {
        out[2 + k] = *p as u8;
        out[66 + k / 8] |= ((p >> 8) as u8) << (k % 8);
    }
    out[74..106].copy_from_slice(&fit.signs);
    for (byte, sc) in out[106..].iter_mut().zip(fit.scales.as_chunks::<2>().0) {
        *byte = sc[0] | sc[1] << 4;
    }
    put_f16(out, 0, fit.d)
}
