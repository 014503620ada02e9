//! IQ3_XXS: f16 `d`, 64 grid indices of 4 elements, 8 u32 of four 7-bit sign indices and a 4-bit
//! scale per 32 elements; element = `d * (0.5 + sc) / 2 * +-grid`.

use super::bits::{even_signs, f16_at, join, pack_signs, put_f16, Eights, u32_at, with_signs};
use super::codebook::{Codebook, Signs};
use super::grids::iq3_xxs::GRID;
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ3_XXS",
    gguf_id: 18,
    block_len: 256,
    block_bytes: 98,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 98], out: &mut [f32; 256]) {
    eights(b).decode(out);
}

#[inline(always)]
pub(crate) fn eights(b: &[u8; 98]) -> Eights {
    let d = f16_at(b, 0);
    let mut e = Eights::EMPTY;
    for k in 0..32 {
        let w = u32_at(b, 66 + 4 * (k / 4));
        let signs = even_signs(w >> (7 * (k % 4)));
        let point = |at: usize| GRID[usize::from(b[at])];
        e.scales[k] = d * (0.5 + (w >> 28) as f32) * 0.5;
        e.codes[k] = with_signs(join(point(2 + 2 * k), point(3 + 2 * k)), signs);
    }
    e
}

const CODEBOOK: Codebook<4> = Codebook {
    point: |i| GRID[i].map(f32::from),
    points: GRID.len(),
    bank: GRID.len(),
    group: 32,
    scales: 16,
    factor: |sc| (0.5 + f32::from(sc)) * 0.5,
    signs: Signs::EvenBytes,
};


pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 98]) -> Option<()> {
    let fit = CODEBOOK.fit(x)?;
    for (byte, p) in out[2..66].iter_mut().zip(fit.points) {
        *byte = p as u8;
    }
    for (g, signs) in fit.signs.as_chunks::<4>().0.iter().enumerate() {
        let w = pack_signs(signs, fit.scales[g]);
        out[66 + 4 * g..70 + 4 * g].copy_from_slice(&w.to_le_bytes());
    }
    put_f16(out, 0, fit.d)
}
