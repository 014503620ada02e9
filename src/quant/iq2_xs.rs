//! IQ2_XS: f16 `d`, 32 u16 of 9-bit grid index and 7-bit sign index, 8 bytes of 4-bit scales per
//! 16 elements; element = `d * (0.5 + sc) / 4 * +-grid`.

use super::bits::{even_signs, f16_at, signed, u16_at};
use super::grids::iq2_xs::GRID;
use super::{Format, decode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ2_XS",
    gguf_id: 17,
    block_len: 256,
    block_bytes: 74,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: None,
};

fn decode(b: &[u8; 74], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (k, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let w = u16_at(b, 2 + 2 * k);
        let sc = b[66 + k / 4] >> (4 * (k % 4 / 2)) & 15;
        let scale = d * (0.5 + f32::from(sc)) * 0.25;
        let signs = even_signs(u32::from(w >> 9));
        let grid = &GRID[usize::from(w & 511)];
        for (j, v) in out.iter_mut().enumerate() {
            *v = signed(scale * f32::from(grid[j]), signs, j);
        }
    }
}
