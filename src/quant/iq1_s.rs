//! IQ1_S: f16 `d`, 32 low index bytes, 8 u16 of four 3-bit high index parts, 3-bit scale and shift
//! sign per 32 elements; element = `d * (2 sc + 1) * (grid +- 1/8)`.

use super::bits::{f16_at, u16_at};
use super::grids::iq1::GRID;
use super::{Format, decode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ1_S",
    gguf_id: 19,
    block_len: 256,
    block_bytes: 50,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: None,
};

fn decode(b: &[u8; 50], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (k, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let w = u16_at(b, 34 + 2 * (k / 4));
        let scale = d * f32::from(2 * (w >> 12 & 7) + 1);
        let shift = if w & 0x8000 == 0 { 0.125 } else { -0.125 };
        let grid = &GRID[usize::from(b[2 + k]) | usize::from(w >> (3 * (k % 4)) & 7) << 8];
        for (v, &g) in out.iter_mut().zip(grid) {
            *v = scale * (f32::from(g) + shift);
        }
    }
}
