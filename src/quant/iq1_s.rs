//! IQ1_S: f16 `d`, 32 low index bytes, 8 u16 of four 3-bit high index parts, 3-bit scale and shift
//! sign per 32 elements; element = `d * (2 sc + 1) * (grid +- 1/8)`.

use super::bits::{f16_at, put_f16, Eights, u16_at};
use super::codebook::{Codebook, Signs};
use super::grids::iq1::GRID;
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ1_S",
    gguf_id: 19,
    block_len: 256,
    block_bytes: 50,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 50], out: &mut [f32; 256]) {
    eights(b).decode(out);
}

#[inline(always)]
pub(crate) fn eights(b: &[u8; 50]) -> Eights {
    let d = f16_at(b, 0);
    let mut e = Eights::EMPTY;
    for k in 0..32 {
        let w = u16_at(b, 34 + 2 * (k / 4));
        e.scales[k] = d * f32::from(2 * (w >> 12 & 7) + 1);
        e.shifts[k] = if w & 0x8000 == 0 { 0.125 } else { -0.125 };
        let point = GRID[usize::from(b[2 + k]) | usize::from(w >> (3 * (k % 4)) & 7) << 8];
        e.codes[k] = u64::from_le_bytes(point.map(|g| g as u8));
    }
    e
}

/// Each shift of the grid is a bank, since a group of 32 has one shift.
const CODEBOOK: Codebook<8> = Codebook {
    point: shifted,
    points: 2 * GRID.len(),
    bank: GRID.len(),
    group: 32,
    scales: 8,
    factor: |sc| f32::from(2 * sc + 1),
    signs: Signs::Points,
};

/// Point `i` of the grid shifted up, followed by the grid shifted down.
pub(crate) fn shifted(i: usize) -> [f32; 8] {
    let shift = if i < GRID.len() { 0.125 } else { -0.125 };
    GRID[i % GRID.len()].map(|g| f32::from(g) + shift)
}

pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 50]) -> Option<()> {
    let fit = CODEBOOK.fit(x)?;
    for (g, points) in fit.points[..32].as_chunks::<4>().0.iter().enumerate() {
        let mut w = u16::from(fit.scales[g]) << 12 | (points[0] >> 11) << 15;
        for (k, p) in points.iter().enumerate() {
            out[2 + 4 * g + k] = *p as u8;
            w |= (p >> 8 & 7) << (3 * k);
        }
        out[34 + 2 * g..36 + 2 * g].copy_from_slice(&w.to_le_bytes());
    }
    put_f16(out, 0, fit.d)
}
