//! IQ2_XXS: f16 `d`; per 32 elements 4 grid indices and a u32 of four 7-bit sign indices and a
//! 4-bit scale; element = `d * (0.5 + sc) / 4 * +-grid`.

use super::bits::{even_signs, f16_at, pack_signs, put_f16, Eights, u32_at, with_signs};
use super::codebook::{Codebook, Signs};
use super::grids::iq2_xxs::GRID;
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ2_XXS",
    gguf_id: 16,
    block_len: 256,
    block_bytes: 66,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 66], out: &mut [f32; 256]) {
    eights(b).decode(out);
}

#[inline(always)]
pub(crate) fn eights(b: &[u8; 66]) -> Eights {
    let d = f16_at(b, 0);
    let mut e = Eights::EMPTY;
    for k in 0..32 {
        let at = 2 + 8 * (k / 4);
        let w = u32_at(b, at + 4);
        let signs = even_signs(w >> (7 * (k % 4)));
        e.scales[k] = d * (0.5 + (w >> 28) as f32) * 0.25;
        e.codes[k] = with_signs(GRID[usize::from(b[at + k % 4])], signs);
    }
    e
}

const CODEBOOK: Codebook<8> = Codebook {
    point: |i| GRID[i].map(f32::from),
    points: GRID.len(),
    bank: GRID.len(),
    group: 32,
    scales: 16,
    factor: |sc| (0.5 + f32::from(sc)) * 0.25,
    signs: Signs::EvenBytes,
};


pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 66]) -> Option<()> {
    let fit = CODEBOOK.fit(x)?;
    for k in 0..32 {
        out[2 + 8 * (k / 4) + k % 4] = fit.points[k] as u8;
    }
    for (g, signs) in fit.signs.as_chunks::<4>().0.iter().enumerate() {
        let w = pack_signs(signs, fit.scales[g]);
        out[6 + 8 * g..10 + 8 * g].copy_from_slice(&w.to_le_bytes());
    }
    put_f16(out, 0, fit.d)
}
