//! IQ2_XXS: f16 `d`; per 32 elements 4 grid indices and a u32 of four 7-bit sign indices and a
//! 4-bit scale; element = `d * (0.5 + sc) / 4 * +-grid`.

use super::bits::{even_signs, f16_at, signed, u32_at};
use super::grids::iq2_xxs::GRID;
use super::{Format, decode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ2_XXS",
    gguf_id: 16,
    block_len: 256,
    block_bytes: 66,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: None,
};

fn decode(b: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (k, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let at = 2 + 8 * (k / 4);
        let w = u32_at(b, at + 4);
        let scale = d * (0.5 + (w >> 28) as f32) * 0.25;
        let signs = even_signs(w >> (7 * (k % 4)));
        let grid = &GRID[usize::from(b[at + k % 4])];
        for (j, v) in out.iter_mut().enumerate() {
            *v = signed(scale * f32::from(grid[j]), signs, j);
        }
    }
}
