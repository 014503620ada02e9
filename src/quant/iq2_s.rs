//! IQ2_S: f16 `d`, 32 low index bytes, 32 sign bytes, 8 bytes of index bits 8 and 9, 8 bytes of
//! 4-bit scales per 16 elements; element = `d * (0.5 + sc) / 4 * +-grid`.

use super::bits::{f16_at, put_f16, Eights, with_signs};
use super::codebook::{Codebook, Signs};
use super::grids::iq2_s::GRID;
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ2_S",
    gguf_id: 22,
    block_len: 256,
    block_bytes: 82,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 82], out: &mut [f32; 256]) {
    eights(b).decode(out);
}

#[inline(always)]
pub(crate) fn eights(b: &[u8; 82]) -> Eights {
    let d = f16_at(b, 0);
    let mut e = Eights::EMPTY;
    for k in 0..32 {
        let high = usize::from(b[66 + k / 4] >> (2 * (k % 4)) & 3);
        let sc = b[74 + k / 4] >> (4 * (k % 4 / 2)) & 15;
        e.scales[k] = d * (0.5 + f32::from(sc)) * 0.25;
        e.codes[k] = with_signs(GRID[usize::from(b[2 + k]) | high << 8], b[34 + k]);
    }
    e
}

const CODEBOOK: Codebook<8> = Codebook {
    point: |i| GRID[i].map(f32::from),
    points: GRID.len(),
    bank: GRID.len(),
    group: 16,
    scales: 16,
    factor: |sc| (0.5 + f32::from(sc)) * 0.25,
    signs: Signs::Bytes,
};


pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 82]) -> Option<()> {
    let fit = CODEBOOK.fit(x)?;
    out[34..66].copy_from_slice(&fit.signs);
    out[66..74].fill(0);
    for (k, p) in fit.points[..32].iter().enumerate() {
        out[2 + k] = *p as u8;
        out[66 + k / 4] |= ((p >> 8) as u8) << (2 * (k % 4));
    }
    for (byte, sc) in out[74..].iter_mut().zip(fit.scales.as_chunks::<2>().0) {
        *byte = sc[0] | sc[1] << 4;
    }
    put_f16(out, 0, fit.d)
}
