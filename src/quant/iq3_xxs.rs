//! IQ3_XXS: f16 `d`, 64 grid indices of 4 elements, 8 u32 of four 7-bit sign indices and a 4-bit
//! scale per 32 elements; element = `d * (0.5 + sc) / 2 * +-grid`.

use super::bits::{even_signs, f16_at, signed, u32_at};
use super::grids::iq3_xxs::GRID;
use super::{Format, decode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ3_XXS",
    gguf_id: 18,
    block_len: 256,
    block_bytes: 98,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: None,
};

fn decode(b: &[u8; 98], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (k, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let w = u32_at(b, 66 + 4 * (k / 4));
        let scale = d * (0.5 + (w >> 28) as f32) * 0.5;
        let signs = even_signs(w >> (7 * (k % 4)));
        let (lo, hi) = (
            &GRID[usize::from(b[2 + 2 * k])],
            &GRID[usize::from(b[3 + 2 * k])],
        );
        for j in 0..4 {
            out[j] = signed(scale * f32::from(lo[j]), signs, j);
            out[j + 4] = signed(scale * f32::from(hi[j]), signs, j + 4);
        }
    }
}
