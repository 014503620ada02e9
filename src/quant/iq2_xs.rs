//! IQ2_XS: f16 `d`, 32 u16 of 9-bit grid index and 7-bit sign index, 8 bytes of 4-bit scales per
//! 16 elements; element = `d * (0.5 + sc) / 4 * +-grid`.

use super::bits::{even_signs, f16_at, put_f16, Eights, u16_at, with_signs};
use super::codebook::{Codebook, Signs};
use super::grids::iq2_xs::GRID;
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ2_XS",
    gguf_id: 17,
    block_len: 256,
    block_bytes: 74,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 74], out: &mut [f32; 256]) {
    eights(b).decode(out);
}

#[inline(always)]
pub(crate) fn eights(b: &[u8; 74]) -> Eights {
    let d = f16_at(b, 0);
    let mut e = Eights::EMPTY;
    for k in 0..32 {
        let w = u16_at(b, 2 + 2 * k);
        let sc = b[66 + k / 4] >> (4 * (k % 4 / 2)) & 15;
        e.scales[k] = d * (0.5 + f32::from(sc)) * 0.25;
        e.codes[k] = with_signs(GRID[usize::from(w & 511)], even_signs(u32::from(w >> 9)));
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
    signs: Signs::EvenBytes,
};


pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 74]) -> Option<()> {
    let fit = CODEBOOK.fit(x)?;
    for (k, signs) in fit.signs.iter().enumerate() {
        let w = fit.points[k] | u16::from(signs & 127) << 9;
        out[2 + 2 * k..4 + 2 * k].copy_from_slice(&w.to_le_bytes());
    }
    for (byte, sc) in out[66..].iter_mut().zip(fit.scales.as_chunks::<2>().0) {
        *byte = sc[0] | sc[1] << 4;
    }
    put_f16(out, 0, fit.d)
}
